"""What is given in place of a scenario is recognised, and a profile with tables of another host is told of."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from small_scenario import SMALL

import scenarios
from sim.cli import main
from sim.hardware import load_profile, to_plain

SHIPPED = Path(scenarios.__file__).parent
TRACE = json.dumps({"schemaVersion": 1, "deviceProperties": [{"id": 0}], "traceEvents": [{"ph": "X", "ts": 1}]})
LATER = "it cannot be imported yet: write a scenario by hand"
NCCL = """\
#       size         count      type   redop    root     time   algbw   busbw #wrong
    33554432       8388608     float     sum      -1   3966.7    8.46   12.69      0
"""
TOPO = "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\nGPU0\t X \tPXB\t0-31\t0\nGPU1\tPXB\t X \t0-31\t0\n"
GIVEN: dict[str, tuple[str | bytes, str]] = {
    "nvbandwidth": ('{"nvbandwidth": {"git_version": "v0.8", "testcases": []}}', "nvbandwidth (JSON), no scenario"),
    "nvbandwidth text": ("nvbandwidth Version: v0.8\nBuilt from Git\n", "nvbandwidth (text), no scenario"),
    "nccl-tests": (NCCL, f"nccl-tests, no scenario: {LATER}"),
    "nccl-tests with its settings": ("# nThread 1 nGpus 8 minBytes 8\n#\n# Using devices\n" + NCCL, "of nccl-tests"),
    "topo": (TOPO, f"nvidia-smi topo -m, no scenario: {LATER}"),
    "topo with spaces": (TOPO.replace("\t", "     "), "nvidia-smi topo -m"),
    "topo with colours": (TOPO.replace("GPU0\tGPU1", "\x1b[4mGPU0\tGPU1", 1), "nvidia-smi topo -m"),
    "trace": (TRACE, f"a profiler's trace (Kineto, Chrome trace format), no scenario: {LATER}"),
    "trace.gz": (gzip.compress(TRACE.encode(), mtime=0), "a profiler's trace"),
    "events alone": ('[{"name": "a", "ph": "X", "ts": 1}]', "a profiler's trace"),
    "long trace": (TRACE + " " * 2**27, "a profiler's trace"),
    "profile": (
        "name: a\nlike: h200x2-hostpath\n",
        "hardware profile, no scenario: give it as `hardware` in a scenario",
    ),
    "full profile": (yaml.safe_dump(to_plain(load_profile("h200x2-hostpath"))), "is a hardware profile"),
    "experiment": ((SHIPPED / "experiments" / "aces.yaml").read_text(), "run it with `chunkflow-sim experiment given`"),
    "model": ((SHIPPED / "models" / "wan2.2-5b.yaml").read_text(), "is a model's shapes, no scenario"),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.mark.parametrize("name", GIVEN)
def test_other_file_formats_are_named(name: str) -> None:
    content, told = GIVEN[name]
    Path("given").write_bytes(content if isinstance(content, bytes) else content.encode())
    for args in (["run"], ["explain"], ["sweep", "--set", "world_size=1"]):
        done = invoke(*args, "given")
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: given: is ") and done.stderr.count("\n") == 1
        # what `explain` is given may be a trace, of which it says what is wrong
        assert told in done.stderr or (args == ["explain"] and "is a trace in which" in done.stderr)


def test_a_scenario_may_cite_other_formats() -> None:
    cited = "".join(f"# {line}\n" for line in (NCCL + TOPO).replace("#", "").splitlines())
    Path("s.yaml").write_text(cited + yaml.safe_dump(SMALL))
    assert invoke("run", "s.yaml").exit_code == 0
    Path("s.json").write_text(json.dumps(SMALL))
    assert invoke("run", "s.json").exit_code == 0


@pytest.mark.parametrize(
    "content", ["a: [", "notes", gzip.compress(b"notes", mtime=0), b"\x1f\x8bnotes", "[1, 2]", "{}"]
)
def test_unknown_formats_are_not_named(content: str | bytes) -> None:
    Path("given").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = invoke("run", "given")
    assert done.exit_code == 2 and "no scenario:" not in done.stderr


# ---- tables of another topology ------------------------------------------------------------------------------------

TOLD = (
    "note: {0} keeps tables of isolated times measured on another topology ({1}): `chunkflow-sim hardware {0} --check`"
)


def on(hardware: str, ranks: int = 2) -> None:
    Path("s.yaml").write_text(yaml.safe_dump(SMALL | {"hardware": hardware, "world_size": ranks}))


COMMANDS = (["run", "--json"], ["explain"], ["sweep", "--set", "policy.chunk_bytes=1MiB,2MiB", "--workers", "1"])


def test_a_profile_that_keeps_tables_of_another_host_is_told_of_once() -> None:
    own = to_plain(load_profile("h200x2-hostpath"))["topology"]
    Path("mine.yaml").write_text(yaml.safe_dump({"name": "mine", "like": "h200x2-hostpath", "topology": own}))
    path = str(Path("mine.yaml").resolve())
    nvlink = "h100x8-nvlink", "h100x8-nvlink", "h200x2-nvlink-20261121c"
    for hardware, name, base in (nvlink, ("mine.yaml", path, "h200x2-hostpath")):
        on(hardware)
        for args in COMMANDS:
            done = invoke(*args, "s.yaml")
            assert done.exit_code == 0
            assert done.stderr == f"{TOLD.format(name, base)} names what contradicts\n"


def test_nothing_is_told_of_tables_that_are_not_used_or_are_the_host_s_own() -> None:
    for hardware, ranks in (("h100x8-nvlink", 1), ("h200x2-hostpath", 2)):
        on(hardware, ranks)
        assert [invoke(*args, "s.yaml").stderr for args in COMMANDS] == [""] * 3
