"""The command as a user runs it: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from click import Command as Click
from conftest import Command, small_files
from strategies import tiny_profile

from sim.cli import main
from sim.hardware import Profile, is_session, load_profile, shipped, to_plain
from sim.inputs.atomic_files import write_atomically
from sim.inputs.config import convert
from sim.inputs.overwriting import Kind
from sim.workloads import named

LAYERS, STEPS, LAYER_BYTES = 3, 4, 32 * 2**20
TEXT = f"""
hardware: h200x2-hostpath
world_size: 2
workload:
  layers: {LAYERS}
  steps: {STEPS}
  layer_bytes: {LAYER_BYTES}
  block:
    - compute: {{name: qkv, seconds: 500 us}}
    - collective: {{kind: all_to_all, bytes: 8 MiB}}
    - compute: {{name: rest, seconds: 300 us}}
policy: {{kind: yielding, chunk_bytes: 4 MiB}}
"""
HEAVY = ("simpy", "numpy", "pandas", "plotly", "scipy", "rich", "msgspec", "yaml", "torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a scenario, a file of random bytes, and a folder."""
    (tmp_path / "s.yaml").write_text(TEXT)
    (tmp_path / "junk").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    return tmp_path


def strict(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# ---- what it prints ------------------------------------------------------------------------------------------------


def test_run_prints_a_table_with_the_figures(folder: Path, chunkflow: Command) -> None:
    done = chunkflow("run", "s.yaml", cwd=folder)
    figures = strict(chunkflow("run", "s.yaml", "--json", cwd=folder).stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert "s.yaml on h200x2-hostpath: yielding" in done.stdout
    lines = {line.strip()[:16].strip(): line for line in done.stdout.splitlines()}
    assert f"{figures['step_time_s'] * 1e3:.4g} ms" in lines["step time"]
    assert f"{100 * figures['lower_bound_s'] / figures['step_time_s']:.1f} %" in lines["lower bound"]
    assert lines["lower bound"].rstrip().endswith("no schedule with these copies takes less")
    assert "96 MiB" in lines["H2D bytes a step"]
    assert "resident step" in lines and "this step" in lines


def test_json_has_the_promised_keys(folder: Path, chunkflow: Command) -> None:
    done = chunkflow("run", "s.yaml", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    figures = strict(done.stdout)
    for key in ("schema_version", "peak_memory_bytes", "h2d_bytes_per_step"):
        assert type(figures[key]) is int, key
    seconds = {
        "step_time_s",
        "h2d_busy_s",
        "h2d_uncovered_s",
        "collective_time_s",
        "collective_inflation_s",
        "skew_s",
        "contention_s",
        "h2d_collective_overlap_s",
        "exposed_prefetch_s",
        "lower_bound_s",
    }
    for key in seconds:
        assert type(figures[key]) in (int, float) and 0 <= figures[key] < 1, key
    steps = figures["step_times_s"]
    assert len(steps) == STEPS and all(type(s) is float for s in steps)
    assert figures["step_time_s"] == median(steps[1:])
    assert figures["h2d_bytes_per_step"] == LAYERS * LAYER_BYTES
    assert figures["peak_memory_bytes"] == 2 * LAYER_BYTES + 2 * 8 * 2**20  # two slots; input and output
    assert figures["collective_inflation_s"] == pytest.approx(figures["skew_s"] + figures["contention_s"])
    assert 0 < figures["lower_bound_s"] <= figures["step_time_s"]
    assert sum(figures["causes_s"].values()) == pytest.approx(steps[-1])
    fall = figures["waterfall"]
    assert fall["resident_s"] + sum(s for _, s in fall["parts"]) == pytest.approx(fall["step_s"])
    assert fall["step_s"] == pytest.approx(steps[-1])


def test_the_trace_is_json_of_every_rank(folder: Path, chunkflow: Command) -> None:
    done = chunkflow("run", "s.yaml", "--json", "--trace", "t.json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    events = strict((folder / "t.json").read_text())["traceEvents"]
    complete = [e for e in events if e["ph"] == "X"]
    assert {e["pid"] for e in complete} == {0, 1}
    copies = [e for e in complete if e["cat"] == "Copy" and e["pid"] == 0 and e["args"]["step"] == STEPS - 1]
    assert sum(e["args"]["bytes"] for e in copies) == LAYERS * LAYER_BYTES
    steps = [e["dur"] * 1e-6 for e in complete if e["cat"] == "Step" and e["pid"] == 0]
    assert steps == pytest.approx(strict(done.stdout)["step_times_s"])


def test_explain_says_what_run_says(folder: Path, chunkflow: Command) -> None:
    said = chunkflow("explain", "s.yaml", cwd=folder)
    plain = strict(chunkflow("explain", "s.yaml", "--json", cwd=folder).stdout)
    figures = strict(chunkflow("run", "s.yaml", "--json", cwd=folder).stdout)
    assert (said.returncode, said.stderr) == (0, "")
    assert plain["waterfall"] == figures["waterfall"]
    flat = " ".join(said.stdout.split())
    assert all(" ".join(sentence.split()) in flat for sentence in plain["sentences"])
    gains = [change["gain_s"] for change in plain["changes"]]
    assert gains == sorted(gains, reverse=True)
    for change in plain["changes"]:
        assert change["step_s"] + change["gain_s"] == pytest.approx(figures["step_time_s"])


def test_profiles_are_listed_and_shown_with_the_source_of_every_number(chunkflow: Command, tmp_path: Path) -> None:
    listed = chunkflow("hardware")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert all(name in listed.stdout for name in shipped())
    assert strict(chunkflow("hardware", "--json").stdout) == [
        n for dated in (False, True) for n in shipped() if is_session(n) is dated
    ]
    name = "h200x2-hostpath"
    shown = " ".join(chunkflow("hardware", name).stdout.split())
    for path in ("h2d.cap", "collectives.all_to_all.weight", "streams.wait_flag", "host.queue_depth", "device.memory"):
        assert f" {path} " in shown
    for source in ("vendor datasheet", "1950 yielding 1 MiB, step time", "links, bidir row: 52.0 / 38.8"):
        assert source in shown
    plain = chunkflow("hardware", name, "--json").stdout
    assert convert(strict(plain), Profile, "printed") == load_profile(name)
    (tmp_path / "mine.yaml").write_text(plain)
    assert chunkflow("hardware", "mine.yaml", "--json", cwd=tmp_path).stdout == plain


def test_sessions_are_listed_apart_from_the_hosts_that_users_mean(chunkflow: Command) -> None:
    hosts, sessions = chunkflow("hardware").stdout.split("measurement sessions")
    dated = [name for name in shipped() if is_session(name)]
    assert "h200x4-hostpath-20261121g" in dated
    assert all(name in sessions and name not in hosts for name in dated)
    assert all(f" {name} " in hosts for name in ("h100x1", "h200x1", "h200x2-nvlink", "h200x4-hostpath"))
    said = chunkflow("hardware", "gb300").stderr
    assert "`chunkflow-sim hardware` lists all" in said
    assert not [name for name in dated if name in said]


def test_models_are_listed_and_shown(chunkflow: Command) -> None:
    listed = chunkflow("models")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert all(name in listed.stdout for name in named.shipped())
    assert strict(chunkflow("models", "--json").stdout) == list(named.shipped())
    shown = chunkflow("models", "wan2.2-14b").stdout
    assert "transformer.hidden" in shown and "5120" in shown and "transformer/config.json" in shown
    assert strict(chunkflow("models", "wan2.2-14b", "--json").stdout)["transformer"]["ffn"] == 13824


def test_a_sweep_prints_one_line_a_point(folder: Path, chunkflow: Command) -> None:
    axes = ["--set", "policy.kind=resident,chunked", "--set", "policy.chunk_bytes=4MiB..16MiB:x2"]
    done = chunkflow("sweep", "s.yaml", *axes, "--workers", "1", cwd=folder)
    note = "note: policy.chunk_bytes is left out where policy.kind is resident, which has no such key\n"
    assert (done.returncode, done.stderr) == (0, note)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines if line and line[0] == "resident"] == [["resident", "-"]]
    assert [line[1:3] for line in lines if line and line[0] == "chunked"] == [[n, "MiB"] for n in ("4", "8", "16")]
    assert sorted(f.name for f in folder.iterdir()) == ["folder", "junk", "s.yaml"]


def test_version_and_help(chunkflow: Command) -> None:
    assert chunkflow("--version").stdout == "chunkflow-sim, version 0.2.0\n"
    text = chunkflow("--help").stdout
    assert set(main.commands) >= {"run", "explain", "hardware", "models", "sweep", "validate"}  # type: ignore[attr-defined]
    for name, command in main.commands.items():  # type: ignore[attr-defined]
        assert isinstance(command, Click) and command.help, f"{name} says nothing of what it does"
        assert f"  {name} " in text


def test_help_loads_nothing_that_is_slow(chunkflow: Command) -> None:
    program = f"""
import sys
import sim.cli
heavy = lambda: [name for name in {HEAVY!r} if name in sys.modules]
print("import", heavy())
from click.testing import CliRunner
for args in ([], *([name] for name in sim.cli.main.commands)):
    done = CliRunner().invoke(sim.cli.main, [*args, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output, args
    assert heavy() == [], (args, heavy())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=chunkflow.environment)
    assert (done.stdout, done.stderr) == ("import []\n", "")


def test_the_module_runs_as_the_command_does(folder: Path, chunkflow: Command) -> None:
    as_module = [sys.executable, "-m", "sim.cli", "run", str(folder / "s.yaml"), "--json"]
    done = subprocess.run(as_module, capture_output=True, text=True, env=chunkflow.environment)
    assert (done.returncode, done.stdout) == (0, chunkflow("run", "s.yaml", "--json", cwd=folder).stdout)


@pytest.mark.parametrize("args", [["run", "s.yaml"], ["run", "s.yaml", "--json"], ["hardware"]], ids=" ".join)
def test_a_reader_that_goes_away_gets_no_traceback(args: list[str], folder: Path, chunkflow: Command) -> None:
    gone, out = os.pipe()
    os.close(gone)
    done = chunkflow(*args, cwd=folder, capture_output=False, stdout=out, stderr=subprocess.PIPE)
    os.close(out)
    assert "Traceback" not in done.stderr


# ---- how it fails --------------------------------------------------------------------------------------------------


def assert_one_message(done: subprocess.CompletedProcess[str], code: int, *wanted: str) -> None:
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("Error: ") == 1
    usage, _, message = done.stderr.partition("Error: ")
    assert not usage or usage.startswith("Usage: "), "nothing else, but for wrong options"
    message = f"Error: {message}"
    for text in wanted:
        assert text in message


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


SCENARIOS = {
    "wrong key": (changed("chunk_bytes", "chunk_byte"), "policy.chunk_byte: unknown key; did you mean 'chunk_bytes'?"),
    "wrong unit": (
        changed("4 MiB", "4 ms"),
        "policy.chunk_bytes: expected a size, such as 16777216 (bytes) or \"16 MiB\", got '4 ms'",
    ),
    "wrong kind": (changed("yielding", "yeilding"), "policy.kind: is 'yeilding'; did you mean 'yielding'?"),
    "deep key": (
        changed("seconds: 500 us", "secs: 1"),
        "workload.block[0].compute.secs: unknown key; did you mean 'seconds'?",
    ),
    "missing key": (changed("world_size: 2\n", ""), "world_size: is missing"),
    "unknown profile": (
        changed("h200x2-hostpath", "h200x2-hostpth"),
        "hardware: 'h200x2-hostpth' is not a hardware profile; did you mean 'h200x2-hostpath'",
    ),
    "unknown model": (
        "hardware: h200x2-hostpath\nworld_size: 2\n"
        "workload: {model: wan2.2-14, frames: 81, height: 480, width: 832}\npolicy: {kind: resident}\n",
        "workload.model: 'wan2.2-14' is not a known model; did you mean 'wan2.2-14b'",
    ),
    "a list": ("[]", "expected a mapping of keys to values"),
    "nothing": ("", "expected a mapping of keys to values"),
}


@pytest.mark.parametrize(("text", "problem"), SCENARIOS.values(), ids=SCENARIOS)
def test_a_wrong_scenario_is_reported_with_place_and_problem(
    text: str, problem: str, folder: Path, chunkflow: Command
) -> None:
    (folder / "wrong.yaml").write_text(text)
    done = chunkflow("run", "wrong.yaml", "--trace", "t.json", cwd=folder)
    assert_one_message(done, 2, "Error: wrong.yaml: ", problem)
    assert not (folder / "t.json").exists()


@pytest.mark.parametrize("command", ["run", "explain", "sweep"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing.yaml", "cannot be read: No such file or directory"),
        ("folder", "cannot be read: Is a directory"),
        ("junk", "is not a text file"),
    ],
)
def test_a_file_that_cannot_be_read(name: str, problem: str, command: str, folder: Path, chunkflow: Command) -> None:
    more = ["--set", "world_size=1"] if command == "sweep" else []
    assert_one_message(chunkflow(command, name, *more, cwd=folder), 2, f"Error: {name}: {problem}")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[]", id="list"),
        pytest.param("", id="nothing"),
        pytest.param("word", id="word"),
    ],
)
def test_a_sweep_of_a_file_without_a_scenario_is_refused(text: str, folder: Path, chunkflow: Command) -> None:
    (folder / "wrong.yaml").write_text(text)
    assert_one_message(chunkflow("sweep", "wrong.yaml", "--set", "world_size=1", cwd=folder), 2, "Error: wrong.yaml")


def test_more_ranks_than_gpus(folder: Path, chunkflow: Command) -> None:
    (folder / "wrong.yaml").write_text(changed("world_size: 2", "world_size: 3"))
    done = chunkflow("run", "wrong.yaml", cwd=folder)
    assert_one_message(done, 2, "wrong.yaml: world_size: is 3, but h200x2-hostpath has 2 GPUs")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["hardware", "gb300"], "'gb300' is not a hardware profile; "),
        (["hardware", "junk"], "Error: junk: is not a text file"),
        (["hardware", "s.yaml"], "Error: s.yaml: is a scenario, no hardware profile"),
        (["models", "flux"], "'flux' is not a known model"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing argument 'FILE'"),
        (["run", "s.yaml", "--frobnicate"], "--frobnicate"),
        (["sweep", "s.yaml"], "Missing option '--set'"),
        (["sweep", "s.yaml", "--set", "policy.kind"], "Error: --set: policy.kind: expected key.path=value"),
        (["sweep", "s.yaml", "--set", "policy.chunk_byte=1"], "policy.chunk_byte: unknown key; did you mean 'chunk_"),
        (["sweep", "s.yaml", "--set", "world_size=1", "--workers", "0"], "'--workers': 0 is not in the range"),
        (
            ["sweep", "s.yaml", "--set", "world_size=1", "--out", "s.yaml"],
            "s.yaml: --out would overwrite a file that this",
        ),
        pytest.param(
            ["sweep", "s.yaml", "--set", "policy.kind=[chunked"],
            "policy.kind=[chunked",
        ),
        pytest.param(
            ["sweep", "s.yaml", "--set", "world_size=1", "--out", "junk"],
            "Error: junk: ",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments(args: list[str], problem: str, folder: Path, chunkflow: Command) -> None:
    before = contents(folder)
    assert_one_message(chunkflow(*args, cwd=folder), 2, problem)
    assert contents(folder) == before


WRITES = {
    "trace": ["run", "s.yaml", "--json", "--trace"],
    "out": ["sweep", "s.yaml", "--set", "world_size=1,2", "--workers", "1", "--out"],
    "html": ["sweep", "s.yaml", "--set", "world_size=2", "--workers", "1", "--html"],
}


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("trace", "s.yaml/t.json"),
        ("trace", "folder"),
        ("out", "s.yaml/rows.csv"),
        ("out", "folder"),
        ("html", "s.yaml/page.html"),
        ("html", "folder"),
    ],
)
def test_an_unwritable_output_exits_with_1_and_leaves_no_file(
    option: str, name: str, folder: Path, chunkflow: Command
) -> None:
    before = contents(folder)
    done = chunkflow(*WRITES[option], name, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"Error: {name}: cannot be written: ")
    late = option == "html" and name != "folder"  # a folder is refused before anything is simulated
    assert ("sweep of s.yaml" in done.stdout) == late, "the table of a finished sweep is not lost"
    assert contents(folder) == before


@pytest.mark.parametrize("option", WRITES)
def test_missing_folders_are_made(option: str, folder: Path, chunkflow: Command) -> None:
    assert chunkflow(*WRITES[option], "new/folder/file", cwd=folder).returncode == 0
    assert (folder / "new" / "folder" / "file").stat().st_size > 100


@pytest.mark.parametrize("option", ["trace", "html"])
def test_a_full_disk_leaves_the_old_file_as_it_was(option: str, folder: Path, chunkflow: Command) -> None:
    (folder / "old").write_bytes({"trace": Kind.TRACE, "html": Kind.PAGE}[option].value)
    before = contents(folder)
    done = chunkflow(*WRITES[option], "old", cwd=folder, preexec_fn=small_files)
    assert (done.returncode, done.stderr) == (1, "Error: old: cannot be written: File too large\n")
    assert contents(folder) == before


def test_a_new_file_has_the_modes_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    write_atomically(tmp_path / "new", "text")
    os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert [f.name for f in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("there", [True, False], ids=["file", "nothing"])
def test_a_link_stays_a_link_to_what_is_written(there: bool, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    if there:
        target.write_text("old")
    link.symlink_to("target")
    write_atomically(link, "new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["link", "target"]


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    # as root, `--trace /dev/null` would do away with /dev/null
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # neither side blocks
    try:
        write_atomically(Path(f"/dev/fd/{reader}"), "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("costless", [False, True], ids=["one rank", "no costs"])
def test_commands_that_take_no_time_do_not_stop_the_run(costless: bool, folder: Path, chunkflow: Command) -> None:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(to_plain(tiny_profile())))
    text = changed("h200x2-hostpath", "tiny.yaml") if costless else changed("world_size: 2", "world_size: 1")
    (folder / "s.yaml").write_text(text)  # a collective of one rank takes no time
    done = chunkflow("run", "s.yaml", "--json", cwd=folder)
    assert (strict(done.stdout)["collective_time_s"] > 0) == costless


def test_a_profile_is_looked_for_beside_the_scenario(folder: Path, chunkflow: Command) -> None:
    host = to_plain(load_profile("h200x2-hostpath"))
    (folder / "folder" / "mine.yaml").write_text(yaml.safe_dump(host | {"name": "mine"}))
    (folder / "folder" / "s.yaml").write_text(changed("h200x2-hostpath", "mine.yaml"))
    assert "s.yaml on mine: yielding" in chunkflow("run", "folder/s.yaml", cwd=folder).stdout
    shutil.move(folder / "folder" / "s.yaml", folder / "moved.yaml")
    assert_one_message(
        chunkflow("run", "moved.yaml", cwd=folder), 2, "moved.yaml: hardware: 'mine.yaml' is not a hardware profile"
    )
