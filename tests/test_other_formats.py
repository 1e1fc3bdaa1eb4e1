"""What is given in place of a scenario is recognised, and a profile with tables of another host is told of."""

from __future__ import annotations

import bz2
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
NCCL = """\
#       size         count      type   redop    root     time   algbw   busbw #wrong
    33554432       8388608     float     sum      -1   3966.7    8.46   12.69      0
"""
P2P = "[P2P (Peer-to-Peer) GPU Bandwidth Latency Test]\nP2P Connectivity Matrix\n     D\\D     0     1\n"
TOPO = "\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\nGPU0\t X \tPXB\t0-31\t0\nGPU1\tPXB\t X \t0-31\t0\n"
GIVEN: dict[str, tuple[str | bytes, str]] = {
    "nvbandwidth": ('{"nvbandwidth": {"git_version": "v0.8", "testcases": []}}', "nvbandwidth (JSON), no scenario"),
    "nvbandwidth text": ("nvbandwidth Version: v0.8\nBuilt from Git\n", "nvbandwidth (text), no scenario"),
    "nccl-tests": (NCCL, "nccl-tests, no scenario: import it with `chunkflow-sim import nccl-tests given -o OUT.yaml`"),
    "nccl-tests with its settings": ("# nThread 1 nGpus 8 minBytes 8\n#\n# Using devices\n" + NCCL, "of nccl-tests"),
    "topo": (TOPO, "nvidia-smi topo -m, no scenario: import it with `chunkflow-sim import topo given -o OUT.yaml`"),
    "topo with spaces": (TOPO.replace("\t", "     "), "nvidia-smi topo -m"),
    "topo with colours": (TOPO.replace("GPU0\tGPU1", "\x1b[4mGPU0\tGPU1", 1), "nvidia-smi topo -m"),
    "trace": (
        TRACE,
        "a profiler's trace (Kineto, Chrome trace format), no scenario: import it with `chunkflow-sim import trace given",
    ),
    "trace.gz": (gzip.compress(TRACE.encode(), mtime=0), "a profiler's trace"),
    "events alone": ('[{"name": "a", "ph": "X", "ts": 1}]', "a profiler's trace"),
    "long trace": (TRACE + " " * 2**27, "a profiler's trace"),
    "p2p": (P2P, "p2pBandwidthLatencyTest, no scenario: import it with `chunkflow-sim import p2p given -o OUT.yaml`"),
    "lspci": (
        "16:01.0 PCI bridge: Intel Corporation Device 347a (rev 04)\n\tBus: primary=16\n",
        "is the output of lspci,",
    ),
    "lspci tree": (
        "-[0000:00]-+-00.0  Intel Corporation\n           \\-01.0-[01]----00.0  NVIDIA\n",
        "of lspci -tv, no",
    ),
    "lstopo": (
        '<?xml version="1.0"?>\n<topology version="2.0"></topology>\n',
        "lstopo (XML), no scenario: import it with",
    ),
    "NCCL topology": (
        '<system version="1">\n<!-- of a cloud -->\n<cpu numaid="0">\n',
        "a topology of NCCL (XML), no scenario: import it with `chunkflow-sim import topo given -o OUT.yaml`",
    ),
    "nccl-tests JSON": (
        '{"version":1,"start_time":"2026","args":["./build/alltoall_perf","-g","2"],"env":["A=b"],"results":[]}',
        "nccl-tests (JSON), no scenario: import it with `chunkflow-sim import nccl-tests given -o OUT.yaml`",
    ),
    "rccl-tests JSON": ('[{"name":"AllReduce", "ranks":2, "inPlace":0, "time":1}]', "nccl-tests (JSON), no scenario"),
    "plan": ('{"schema_version": 1, "best": {}, "pareto": []}', "the result of `chunkflow-sim plan --json`, no scen"),
    "run": ('{"step_time_s": 1.0, "step_times_s": [1.0]}', "the result of `chunkflow-sim run --json`, no scenario"),
    "explanation": (
        '{"sentences": [], "waterfall": [], "changes": []}',
        "the result of `chunkflow-sim explain --json`",
    ),
    "serving": (
        "gpus: 8\nclasses: {}\narrivals: {}\n",
        "is a serving scenario, no scenario: run it with `chunkflow-sim serve",
    ),
    "simulated trace": (
        '{"displayTimeUnit":"ms","otherData":{"generator":"chunkflow-sim"},"traceEvents":[{"ph":"X"}]}',
        "a trace of a simulated run of ours, no scenario: open it in Perfetto",
    ),
    "lstopo text": ("Machine (62GB total)\n  Package L#0\n", "give `lstopo --of xml` to `chunkflow-sim import topo`"),
    "nvbandwidth as a mapping": ("nvbandwidth Version: v0.8\nDriver Version: 1\n", "nvbandwidth (text), no scenario"),
    "nvidia-smi": ("| NVIDIA-SMI 580.1  Driver Version: 580.1 |\n", "give `nvidia-smi topo -m` to"),
    "NCCL": ("box:12:34 [0] NCCL INFO Bootstrap\n", "a log of NCCL, no scenario: it holds no times"),
    "nsys": (b"SQLite format 3\0" + bytes(99), "a database (SQLite), perhaps of nsys export"),
    "perfetto": (b"\x0a\x10\0\0" + bytes(99), "perhaps a trace of Perfetto (protobuf)"),
    "zip": (b"PK\x03\x04" + bytes(99), "a zip archive"),
    "tar": (bytes(257) + b"ustar" + bytes(99), "a tar archive"),
    "pickle": (b"\x80\x04\x95" + bytes(99), "a pickle of Python, no scenario: it is not opened"),
    "bzip2": (bz2.compress(b"world_size: 2\n"), "a file packed with bzip2, no scenario: unpack it"),
    "Parquet": (b"PAR1\x15\x04\x15\x10" + bytes(99), "a table (Parquet), no scenario"),
    "rows": ("scenario_v3,world_size\n1,2\n", "rows of a sweep of ours (CSV)"),
    "page": ('<!doctype html><meta name="generator" content="chunkflow-sim">', "a page that chunkflow-sim wrote"),
    "web page": ("<html><body></body></html>", "a web page (HTML)"),
    "settings": ('[project]\nname = "a"\n', "a project's settings (TOML)"),
    "cases": ('{"schema":1,"number":0,"scenario":{}}\n', "rows of probes or measured cases of ours"),
    "recorded program": ('{"generator":"chunkflow-sim recorded program"}', "a scenario names it as workload.program"),
    "config": ('{"_class_name": "FluxTransformer2DModel"}', "the configuration of a published model"),
    "program": ("import torch\ntorch.cuda.init()\n", "a Python program"),
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
        assert done.stderr.startswith("Error: given: ") and done.stderr.count("\n") == 1
        # what `explain` is given may be a trace, of which it says what is wrong
        is_trace = "profiler's trace" in told or name == "tar"
        assert (told in done.stderr and ": is " in done.stderr) or (args == ["explain"] and is_trace)


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


NEWER = ("NCCL topology", "nccl-tests JSON", "rccl-tests JSON")


@pytest.mark.parametrize(
    "name",
    ["p2p", "nccl-tests", "topo", "nvbandwidth text", "lspci tree", "lstopo", "trace", "trace.gz", *NEWER],
)
@pytest.mark.parametrize("command", ["topo", "nvbandwidth", "nccl-tests", "p2p", "trace"])
def test_an_import_of_another_kind_of_file_names_the_right_one(name: str, command: str) -> None:
    content = GIVEN[name][0]
    Path("given").write_bytes(content if isinstance(content, bytes) else content.encode())
    kinds = {"nvbandwidth text": "nvbandwidth", "trace.gz": "trace", "nccl-tests JSON": "nccl-tests"}
    kinds |= {"rccl-tests JSON": "nccl-tests", **dict.fromkeys(("lspci tree", "lstopo", "NCCL topology"), "topo")}
    right = kinds.get(name, name)
    done = invoke("import", command, "given", "-o", "out.yaml")
    if right == command:
        assert "chunkflow-sim import" not in done.stderr
        return
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert (
        done.stderr.startswith("Error: given: is ")
        and f"`chunkflow-sim import {right} given -o OUT.yaml`" in done.stderr
    )


def test_an_import_of_our_own_files_says_what_they_are() -> None:
    Path("s.yaml").write_text(yaml.safe_dump(SMALL))
    assert "is a scenario: run it with" in invoke("import", "topo", "s.yaml", "-o", "out.yaml").stderr
    Path("p.yaml").write_text("name: a\nlike: h200x2-hostpath\n")
    assert "give it as --into" in invoke("import", "nccl-tests", "p.yaml", "-o", "out.yaml").stderr
    Path("z.gz").write_bytes(gzip.compress(b"PK\x03\x04" + bytes(99)))
    assert "is a zip archive" in invoke("import", "p2p", "z.gz", "-o", "out.yaml").stderr


OTHER_KINDS = {
    "hardware profile": (["run", "s.yaml", "--hardware", "given"], ["hardware", "given"], ["import", "p2p", "p2p.txt", "--into", "given"]),
    "model's shapes": (["models", "given"],),
    "experiment": (["experiment", "given"],),
    "serving scenario": (["serve", "given"],),
}  # fmt: skip
"""What commands want, and commands that are given another file."""
AS_OTHERS = ["topo", "nvbandwidth", "nccl-tests", "nccl-tests JSON", "NCCL topology", "trace.gz", "p2p", "zip", "rows"]
AS_OTHERS += ["recorded program", "page", "plan", "run", "explanation", "simulated trace", "config"]
OWN = {
    "model": "model's shapes",
    "experiment": "experiment",
    "serving": "serving scenario",
    "profile": "hardware profile",
}


@pytest.mark.parametrize("name", [*AS_OTHERS, *OWN, "scenario"])
def test_a_file_given_as_another_kind_is_named_with_what_to_do(name: str) -> None:
    content, told = GIVEN[name] if name != "scenario" else (yaml.safe_dump(SMALL), "is a scenario, no")
    Path("given").write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("s.yaml").write_text(yaml.safe_dump(SMALL))
    Path("p2p.txt").write_text(P2P + "     0     1     0\n     1     0     1\n")
    what = told.split(", no ")[0].removeprefix("the output of ")
    for wanted, commands in OTHER_KINDS.items():
        if OWN.get(name) == wanted:
            continue
        for args in commands:
            done = invoke(*args)
            assert (done.exit_code, done.stderr.count("\n")) == (2, 1), (args, done.stderr)
            assert what in done.stderr and f"no {wanted}: " in done.stderr, (args, done.stderr)


@pytest.mark.parametrize("name", ["plan", "run", "explanation", "model", "experiment", "serving", "simulated trace"])
def test_an_import_of_our_own_results_says_what_they_are(name: str) -> None:
    content, told = GIVEN[name]
    Path("given").write_text(str(content))
    for command in ("topo", "nvbandwidth", "nccl-tests", "p2p", "trace", "host"):
        done = invoke("import", command, "given", "-o", "out.yaml")
        assert (done.exit_code, done.stderr.count("\n"), Path("out.yaml").exists()) == (2, 1, False), done.stderr
        assert told.split(", no ")[0].removeprefix("is ") in done.stderr


OURS = {
    "scenario": (["run"], "hardware: h200x1\nworld_size: 1\nworkload: {}\npolicy: {kind: resident}\n"),
    "serving scenario": (["serve"], (SHIPPED / "serving" / "two-groups.yaml").read_text()),
    "grid": (["serve"], (SHIPPED / "serving" / "genserve-grid.yaml").read_text()),
    "experiment": (["experiment"], (SHIPPED / "experiments" / "aces.yaml").read_text()),
    "model": (["models"], (SHIPPED / "models" / "wan2.2-5b.yaml").read_text()),
    "profile": (["hardware"], (SHIPPED / "hardware" / "h200x2-gen4.yaml").read_text()),
}
READERS = [["run"], ["plan"], ["explain"], ["serve"], ["experiment"], ["models"], ["hardware"], ["import", "topo"]]


@pytest.mark.parametrize("name", OURS)
def test_our_own_files_are_named_by_every_command_that_reads_another_kind(name: str) -> None:
    own, content = OURS[name]
    Path("given").write_text(content)
    for args in READERS:
        if args == own or (own == ["run"] and args in (["plan"], ["explain"])):
            continue
        done = invoke(*args, "given", *(["-o", "out.yaml"] if args[0] == "import" else []))
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), (args, done.stderr)
        kind = {"grid": "serving scenario", "profile": "hardware profile"}.get(name, name)
        assert done.stderr.startswith(f"Error: given: is a{'n' * (name == 'experiment')} {kind}"), (args, done.stderr)
        assert own[0] in done.stderr, (args, done.stderr)
