"""What the command line prints, and the pages it writes, for the host and scenarios of tests/golden.

Other tests say what single figures and drawings must be; this one notices when any other word, number or place changes.
`pytest tests/test_golden_pages.py --update-golden` writes tests/golden/printed anew; look at the difference before you
keep it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from conftest import Command, Golden

from sim import Scenario, load_profile, simulate
from sim.datasets.cases import Operation
from sim.hardware.profile_check import check_profile
from sim.hardware.profile_parameters import changed
from sim.report import figures, tables
from sim.sweeps.grid import points, sweep
from validation import comparison_tables, report
from validation.bounds import Bound, Fallback, Limits, judge
from validation.compare import Compared, Side
from validation.datasets import load_set
from validation.prediction_intervals import Covered, Deviations
from validation.run import Plan, Validation
from validation.terminal import print_validation

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


def compared(number: int, group: str, step_s: float, error: float, **other: Any) -> Compared:
    """A case of a set of its own, whose collectives and copies are longer the later it is."""

    def side(factor: float) -> Side:
        longer = factor * (1 + 0.1 * number)
        operations = {("Kernel", "k"): 2e-3 * factor, ("Collective", "c"): 1e-3 * longer, ("Copy", ""): 3e-4 * longer}
        busy = (step_s * factor, 0.5 * step_s, 0.4 * step_s * longer, 0.3 * step_s * longer)
        return Side(step_s * factor, number << 28, *busy, 1e-3 * factor, 0.1 * step_s * factor, operations)

    policy = "resident" if group == "resident" else "chunked" if number < 4 else "yielding"
    chunk = None if group == "resident" else number << 20
    given = {
        "set": "h9x2-20261121a", "profile": "h9x2-20261121a", "number": number, "workload": "w", "schedule": f"{policy} {number}", "policy": policy,
        "chunk_bytes": chunk, "resident_fraction": 0.0, "prefetch_layers": 1, "group": group, "spread": 0.01 * number, "disturbed": number == 5,
        "program": "0" * 64, "measured": side(1.0), "predicted": side(1 + error),
    }  # fmt: skip
    return Compared(**(given | other))


def test_the_page_and_tables_of_a_validation_are_golden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, golden: Golden
) -> None:
    """Of made cases: resident, fitted and unseen ones of one set, and some of another."""
    monkeypatch.setenv("COLUMNS", "120")
    groups = ("resident", "resident", "fitted", "unseen", "unseen", "fitted", "unseen")
    errors = (0.001, -0.002, 0.03, -0.08, 0.015, 0.2, 0.0)
    cases = [compared(n, g, 0.1 + 0.02 * n, e) for n, (g, e) in enumerate(zip(groups, errors, strict=True))]
    cases += [c._replace(set="h9x4-20261122b", workload="v") for c in cases[:1] + cases[3:5]]
    limits = {"median": 1.0, "p95": 9.0, "max": 7.0}
    bounds = [
        Bound(name="steps", sets=("h9x2-20261121a",), target=Limits(**limits), known=Fallback(median=5.0, why="Of this.")),
        Bound(name="memory", of="peak memory", sets=("h9x4-20261122b", "not here"), target=Limits(median=1.0, max=1.0)),
        Bound(name="choice", of="choice", sets=("h9x2-20261121a",), target=Limits(max=3.0)),
    ]  # fmt: skip
    covered = [
        Covered(c, 0.98 * c.predicted.step_s, 1.03 * c.predicted.step_s, Deviations(1e-3, 2e-3, 3e-3, 4e-3))
        for c in cases
        if c.group != "resident"
    ]
    found = Validation(Plan([], [], []), cases, cases[2:4], judge(bounds, cases), (), covered)
    ran = [
        Operation(stream, kind, name, layer, size, at, at + wait, at + wait + 500)
        for layer in range(5)
        for stream, kind, name, size, at, wait in (
            ("compute", "Kernel", "k", 0, 2000 * layer, 0),
            ("compute", "Collective", "c", 1000, 2000 * layer + 700, 300),
            ("copy", "Copy", "w", 5000, 2000 * layer + 900, 0),
        )
    ]
    later = [msgspec.structs.replace(op, start=op.start + 50, ready=op.ready + 50, end=op.end + 80) for op in ran]
    report.write_page(tmp_path / "page.html", found, [report.Worst(cases[3], ran, later)])
    golden("validation_page", readable((tmp_path / "page.html").read_text()))
    print(comparison_tables.markdown(cases, found.judged, covered))
    print_validation(found, with_cases=True)
    golden("validation", capsys.readouterr().out)
