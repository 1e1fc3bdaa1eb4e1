"""What the command line prints, and the pages it writes, for the host and scenarios of tests/golden.

Other tests say what single figures and drawings must be; this one notices when any other word, number or place changes.
`pytest tests/test_golden_pages.py --update-golden` writes tests/golden/printed anew; look at the difference before you
keep it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import yaml
from conftest import Command, Golden

from sim import Scenario, load_profile, simulate
from sim.hardware.profile_check import check_profile
from sim.hardware.profile_parameters import changed
from sim.report import figures, tables
from sim.sweeps.grid import points, sweep
from validation.datasets import load_set

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "run": ["run", "yielding_gate.yaml"],
    "run_kernel_window": ["run", "yielding_kernel.yaml"],
    "explain": ["explain", "yielding_launch.yaml"],
    "explain_sharded": ["explain", "sharded.yaml"],
    "explain_model": ["explain", "model.yaml"],
    "sensitivity": ["sensitivity", "resident.yaml"],
    "experiment_curves": ["experiment", "printed/curves.yaml", "--html", "PAGE"],
    "experiment_bars": ["experiment", "printed/bars.yaml", "--html", "PAGE"],
    "hardware": ["hardware", "host.yaml"],
    "hardware_check": ["hardware", "host.yaml", "--check"],
    "hardware_page": ["hardware", "host.yaml", "--html", "PAGE"],
    "models": ["models"],
    "model": ["models", "hunyuanvideo"],
    "sweep": ["sweep", "chunked.yaml", "--set", "policy.chunk_bytes=4MiB,64MiB", "--set", "policy.resident_fraction=0,0.5"],
    "sweep_page": ["sweep", "yielding_gate.yaml", "--set", "policy.chunk_bytes=4MiB..64MiB:x4", "--html", "PAGE"],
    "sweep_over_kinds": ["sweep", "chunked.yaml", "--set", "policy.kind=resident,chunked", "--set", "world_size=1,4"],
}  # fmt: skip
TOPOLOGY = """{nodes: {memory: {kind: memory}}, peers: host,
  links: [{ends: [memory, "gpu{gpu}"], each_way: {value: 25 GB/s, source: kin}}]}"""


def readable(page: str) -> str:
    """A page without its style and programs, an element a line."""
    bare = re.sub(r"<style.*?</style>|<script>.*?</script>", "", page, flags=re.DOTALL)
    same = re.sub(r"(<dt>chunkflow-sim</dt><dd>)[^<]*", r"\1VERSION", bare)
    return re.sub(r"(?<=[>}])(?=[<{])|(?<=\]),(?=\"|\{)", "\n", same)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_printed_and_drawn_is_golden(name: str, chunkflow: Command, tmp_path: Path, golden: Golden) -> None:
    page = tmp_path / "page.html"
    args = [str(page) if arg == "PAGE" else arg for arg in COMMANDS[name]]
    done = chunkflow(*args, cwd=GOLDEN, env=chunkflow.environment | {"COLUMNS": "120"})
    assert done.returncode == 0, done.stderr
    golden(name, readable(page.read_text()) if page.exists() else done.stdout)


@pytest.mark.parametrize("name", ["yielding_kernel", "sharded"])
def test_timelines_are_drawn_as_golden(name: str, golden: Golden) -> None:
    timeline = simulate(Scenario.load(GOLDEN / f"{name}.yaml")).timeline
    start, end = timeline.window(1)
    plain = json.loads(figures.timeline(timeline, 1, start, (start + end) / 2).to_json())
    del plain["layout"]["template"]
    golden(f"timeline_{name}", readable(json.dumps(plain)))


def test_what_notebooks_show_is_golden(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    file = Path("yielding_gate.yaml")
    result = simulate(Scenario.load(file))
    rows = sweep(points(yaml.safe_load(file.read_text()), {"world_size": [1, 2]}))
    shown = [thing._repr_html_() for thing in (result.scenario, result, result.timeline, rows)]
    golden("notebook", readable("\n".join(shown)).replace(str(GOLDEN), "GOLDEN"))


def test_tables_of_cases_profiles_and_checks_are_golden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, golden: Golden
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "kin.yaml").write_text(f"{{name: kin, like: {GOLDEN / 'host.yaml'}, topology: {TOPOLOGY}}}")
    profile = load_profile(str(GOLDEN / "host.yaml"))
    slow = changed(profile, {"collectives.all_to_all.alone": lambda seconds: seconds / 1.5})
    like = load_profile(str(tmp_path / "kin.yaml"))
    cases = load_set("h100x1-20261121e").cases[:6]
    failed = msgspec.structs.replace(cases[1], error="it failed", output=())
    wrong = msgspec.structs.replace(cases[2], output=("other",))
    tables.print_measured([*cases, failed, wrong])
    tables.print_profiles([profile, msgspec.structs.replace(profile, name="h9x4-20261121e")])
    tables.print_check(slow, check_profile(slow))
    tables.print_kept(like)
    golden("tables", capsys.readouterr().out)
