"""What the command line changes in a scenario: its keys, its hardware, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from small_scenario import SMALL
from strategies import tiny_profile

from sim import simulate
from sim.cli import main
from sim.hardware import to_plain
from sim.scenario import Scenario

TEXT = yaml.safe_dump(SMALL)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(TEXT)


def invoke(*args: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, args, input=stdin)


def figures(*args: str, stdin: str | None = None) -> dict[str, object]:
    done = invoke("run", *args, "--json", stdin=stdin)
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_set_key_is_as_in_the_file() -> None:
    plain = {**SMALL, "workload": {**SMALL["workload"], "layers": 3, "layer_bytes": "3 MiB"}}
    expected = simulate(Scenario.from_plain(plain)).metrics["step_time_s"]
    given = figures("s.yaml", "--set", "workload.layers=3", "--set", "workload.layer_bytes=3 MiB")
    assert given["step_time_s"] == expected
    assert given["step_time_s"] != figures("s.yaml")["step_time_s"]


def test_an_entry_of_a_list_is_set() -> None:
    longer = figures("s.yaml", "--set", "workload.block[0].compute.seconds=2 ms")["step_time_s"]
    assert isinstance(longer, float) and longer > 2e-3


def test_keys_that_another_kind_of_policy_has_are_left_out_with_a_note() -> None:
    done = invoke("run", "s.yaml", "--set", "policy.kind=resident")
    assert done.exit_code == 0 and "resident" in done.stdout
    assert done.stderr == "note: policy.chunk_bytes is left out where policy.kind is resident, which has no such key\n"


def test_hardware_by_name_and_by_file_in_the_working_directory() -> None:
    slow = figures("s.yaml", "--hardware", "h200x2-gen3")
    assert slow["h2d_busy_s"] == figures("s.yaml", "--set", "hardware=h200x2-gen3")["h2d_busy_s"]
    assert slow["h2d_busy_s"] != figures("s.yaml")["h2d_busy_s"]
    Path("mine.yaml").write_text(yaml.safe_dump(to_plain(tiny_profile())))
    assert figures("s.yaml", "--hardware", "mine.yaml", "--set", "world_size=1") != slow


@pytest.mark.parametrize("hardware", ["nowhere", None])
def test_the_hardware_asked_for_stands_in_for_any_in_the_file(hardware: str | None) -> None:
    plain = {key: value for key, value in SMALL.items() if key != "hardware"}
    Path("s.yaml").write_text(yaml.safe_dump(plain | ({"hardware": hardware} if hardware else {})))
    assert invoke("run", "s.yaml").exit_code == 2
    assert invoke("run", "s.yaml", "--hardware", "h200x2-hostpath").exit_code == 0


@pytest.mark.parametrize("command", [["run"], ["explain"], ["sweep", "--set", "world_size=1,2"]])
def test_a_scenario_on_standard_input(command: list[str]) -> None:
    piped, read = invoke(*command, "-", stdin=TEXT), invoke(*command, "s.yaml")
    assert piped.exit_code == 0, piped.output
    tidy = [" ".join(text.replace("standard input", "s.yaml").split()) for text in (piped.stdout, read.stdout)]
    assert tidy[0] == tidy[1] and "standard input" in piped.stdout


def test_sensitivity_of_standard_input_on_other_hardware() -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(to_plain(tiny_profile())))
    args = ["-", "--json", "--set", "world_size=1", "--hardware", "mine.yaml", "--workers", "1"]
    done = invoke("sensitivity", *args, stdin=TEXT)
    assert done.exit_code == 0 and json.loads(done.stdout)


WRONG: dict[str, tuple[list[str], str]] = {
    "several values": (
        ["s.yaml", "--set", "policy.chunk_bytes=1MiB,2MiB"],
        "--set: policy.chunk_bytes=1MiB,2MiB: expected one value for policy.chunk_bytes, got 2",
    ),
    "no value": (["s.yaml", "--set", "world_size"], "--set: world_size: expected key.path=value"),
    "twice": (["s.yaml", "--set", "world_size=1", "--set", "world_size=2"], "world_size is given twice"),
    "unknown key": (["s.yaml", "--set", "policy.chunk_byte=3"], "policy.chunk_byte: unknown key; did you mean"),
    "no such list": (["s.yaml", "--set", "workload.blocks[0].repeat=3"], "there is no 'blocks' in the scenario"),
    "wrong value": (["s.yaml", "--set", "world_size=two"], "world_size: expected a whole number"),
    "unknown hardware": (["s.yaml", "--hardware", "h200x2"], "--hardware: 'h200x2' is not a hardware profile; did you"),
    "too few GPUs": (["s.yaml", "--hardware", "h200x1"], "s.yaml: world_size: is 2, but h200x1 has 1 GPUs"),
    "empty hardware": (["s.yaml", "--hardware", ""], "--hardware: '' is not a hardware profile"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_one_line_and_exit_code_2(name: str) -> None:
    args, told = WRONG[name]
    done = invoke("run", *args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "standard input: expected a mapping"),
        (b"a: [", "standard input: line 2, column 1: is not YAML"),
        (b"\xff\xfe", "standard input: is not a text file"),
        (b'{"traceEvents": []}', "standard input: is a profiler's trace"),
        (b"hardware: h200x1\nworld_size: 1\n", "standard input: workload: is missing"),
    ],
)
def test_what_is_wrong_on_standard_input_is_said_so(content: bytes, told: str) -> None:
    done = invoke("run", "-", stdin=content)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr
