"""Input that is deep, long or endless: read without recursion, or refused at once and with a figure."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Command
from strategies import Plain

from sim.cli import main
from sim.hardware import load_profile, to_plain
from sim.inputs.atomic_files import cut_torn_line, open_alone
from sim.inputs.config import InputError
from sim.inputs.input_files import MAX_BYTES, read_bytes
from sim.inputs.yaml_files import MAX_VALUES, parse_yaml
from sim.policies import count_commands, load_policies
from sim.report.hardware_page import hardware_page
from sim.scenario import COMMAND_BYTES, MAX_COMMANDS, Scenario
from sim.sweeps.results_file import MAX_BYTES as MAX_ROWS_BYTES

SCENARIO: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {"layers": 2, "layer_bytes": 10**6, "block": [{"compute": {"name": "a", "seconds": 1}}]},
    "policy": {"kind": "chunked", "chunk_bytes": 500000},
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, data: object) -> str:
    Path(name).write_text(json.dumps(data))
    return name


# ---- profiles like others ------------------------------------------------------------------------------------------


def test_a_chain_of_1200_inheriting_profiles_is_loaded() -> None:
    for i in range(1200):
        write(f"p{i}.yaml", {"like": f"p{i + 1}.yaml" if i < 1199 else "h200x2-hostpath", "name": f"p{i}"})
    write("p600.yaml", {"like": "p601.yaml", "streams": {"wake": {"value": 1e-6, "source": "here"}}})
    profile = load_profile("p0.yaml")
    wake = profile.streams.wake
    assert (profile.name, wake.value, wake.source, wake.inherited_from) == ("p0", 1e-6, "here", "p600")
    assert profile.h2d.cap.value == load_profile("h200x2-hostpath").h2d.cap.value


@pytest.mark.parametrize("last", ["a.yaml", "b.yaml", "./b.yaml", "link.yaml"])
def test_inheritance_cycles_are_refused(last: str) -> None:
    write("a.yaml", {"like": "b.yaml"})
    write("b.yaml", {"like": "c.yaml"})
    write("c.yaml", {"like": last})
    Path("link.yaml").symlink_to("b.yaml")
    with pytest.raises(InputError, match=r"^c\.yaml: like: is a cycle: [ab]\.yaml -> "):
        load_profile("a.yaml")


def test_an_unknown_base_profile_is_named_with_its_file_and_key() -> None:
    write("a.yaml", {"like": "b.yaml"})
    write("b.yaml", {"like": "h200x2-hostpth"})
    with pytest.raises(InputError) as caught:
        load_profile("a.yaml")
    assert (caught.value.source, caught.value.path) == ("b.yaml", "like")
    assert "did you mean 'h200x2-hostpath'" in caught.value.problem


def test_a_fabric_of_3000_nodes_in_a_row_is_read_and_drawn() -> None:
    plain: Any = to_plain(load_profile("h200x2-hostpath"))
    switches = [f"s{i}" for i in range(3000)]
    plain["topology"] = {
        "nodes": {"memory": {"kind": "memory"}, **{name: {"kind": "switch"} for name in switches}},
        "links": [
            *({"ends": list(ends)} for ends in zip(["memory", *switches], switches, strict=False)),
            {"ends": [switches[-1], "gpu{gpu}"], "each_way": {"value": 50e9, "source": "x"}},
        ],
    }
    profile = load_profile(write("row.yaml", plain))
    assert profile.graph.distances("gpu0")["memory"] == 3001
    assert set(re.findall(r">(s\d+)<", hardware_page(profile))) == set(switches)


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "hardware", "experiment"])
@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/stdin", "pipe", "socket", "link"])
def test_devices_and_pipes_are_refused_without_opening_them(command: str, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo("pipe")
    elif kind == "link":
        Path("link").symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket")
    elif kind == "/dev/stdin" and Path(kind).is_file():
        pytest.skip("standard input is a file here")
    done = CliRunner().invoke(main, [command, kind])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Error: {kind}: is not a regular file" in done.stderr


@pytest.mark.parametrize("command", ["run", "hardware", "experiment"])
def test_files_that_are_too_large_are_refused_with_their_size(command: str) -> None:
    with Path("large.yaml").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    done = CliRunner().invoke(main, [command, "large.yaml"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"Error: large.yaml: has {MAX_BYTES + 1} bytes, at most {MAX_BYTES} are read\n"


def test_files_without_a_true_size_are_read_up_to_the_limit() -> None:
    file = Path("/proc/self/environ")  # says that it has 0 bytes
    if not file.exists() or len(file.read_bytes()) < 2:
        pytest.skip("no such file here")
    with pytest.raises(InputError, match="has more than 1 bytes"):
        read_bytes(file, 1)
    Path("small").write_bytes(b"ab")
    assert read_bytes(Path("small"), 2) == b"ab"
    with pytest.raises(InputError, match="has 2 bytes, at most 1 are read"):
        read_bytes(Path("small"), 1)


def test_reading_allocates_for_the_content_and_not_for_the_limit() -> None:
    Path("small").write_bytes(b"ab")
    tracemalloc.start()
    try:
        assert read_bytes(Path("small"), 2**31) == b"ab"
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["rows", "policies"])
def test_rows_and_policies_that_are_too_large_are_refused(kind: str) -> None:
    write("s.yaml", SCENARIO)
    if kind == "policies":
        with Path("own.py").open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        with pytest.raises(InputError, match=r"own\.py: has \d+ bytes, at most"):
            load_policies("own.py")
        return
    with Path("rows.csv").open("wb") as file:
        file.write(b"scenario_v")
        file.truncate(MAX_ROWS_BYTES + 1)
    done = CliRunner().invoke(main, ["sweep", "s.yaml", "--set", "world_size=1", "--out", "rows.csv", "--workers", "1"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"Error: rows.csv: has {MAX_ROWS_BYTES + 1} bytes, at most {MAX_ROWS_BYTES} are read\n"


@pytest.mark.parametrize("before", [0, 1, 2**16 - 2, 2**16 - 1, 2**16, 2**17])
@pytest.mark.parametrize("torn", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 200_000])
def test_a_torn_line_is_cut_off_however_long_it_is(before: int, torn: int) -> None:
    whole = b"x" * before + b"\n" if before else b""
    Path("rows.csv").write_bytes(whole + b"y" * torn)
    with open_alone(Path("rows.csv")) as out:
        cut_torn_line(out, Path("rows.csv"))
    assert Path("rows.csv").read_bytes() == whole


def test_text_of_too_many_values_is_refused() -> None:
    assert len(parse_yaml("[" + "1," * 1000 + "]", "x")) == 1000
    with pytest.raises(InputError, match=f"holds more than {MAX_VALUES} keys and values"):
        parse_yaml("[" + "1," * MAX_VALUES + "]", "x")


def test_too_many_commands_are_refused_with_their_memory() -> None:
    """By hand: 10^6 chunks a layer, 2 layers of 10 steps and the next one's, on 2 ranks."""
    workload = {**SCENARIO["workload"], "steps": 10}
    data = {**SCENARIO, "workload": workload, "policy": {"kind": "chunked", "chunk_bytes": 1}}
    with pytest.raises(
        InputError, match=r"at most 10000000 are simulated: it would take about (\d+(\.\d+)?) GB of"
    ) as told:
        Scenario.from_plain(data)
    commands, gigabytes = (float(x) for x in re.findall(r"about ([\d.]+) (?:commands|GB)", str(told.value)))
    assert commands >= 2.1e7 and 300 <= gigabytes * 1e9 / commands <= 1000


def test_a_simulation_stays_within_the_estimated_memory(chunkflow: Command) -> None:
    """Measured in processes of their own, beside one of hardly any commands."""
    policy = {"kind": "yielding", "chunk_bytes": 10**4}
    peaks, counts = [], []
    for steps, layers in ((2, 1), (10, 40)):
        write(
            "s.yaml",
            {**SCENARIO, "workload": {**SCENARIO["workload"], "steps": steps, "layers": layers}, "policy": policy},
        )
        code = "import resource, sys; from sim.cli import main; main(['run', 's.yaml'], standalone_mode=False); "
        code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=chunkflow.environment, capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
        scenario = Scenario.load("s.yaml")
        counts.append(count_commands(scenario.workload.resolve(2), scenario.policy, 2))
    assert counts[1] > 10**5 > 100 * counts[0] / 20
    assert (peaks[1] - peaks[0]) / (counts[1] - counts[0]) < COMMAND_BYTES


def test_commands_are_counted_over_all_ranks() -> None:
    """A program that is small enough for one rank may be too large for twelve."""
    one = {**SCENARIO["workload"], "layer_bytes": 10**6, "steps": 1, "layers": 1}
    data = {**SCENARIO, "hardware": "aurora-12tiles", "workload": one, "policy": {"kind": "chunked", "chunk_bytes": 1}}
    assert Scenario.from_plain({**data, "world_size": 1}).world_size == 1
    with pytest.raises(InputError, match=f"commands on 12 ranks, at most {MAX_COMMANDS} are simulated"):
        Scenario.from_plain({**data, "world_size": 12})
