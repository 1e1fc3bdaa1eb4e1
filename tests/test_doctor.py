"""What a host says of itself, and what the doctor makes of it.

tests/hosts/*.txt hold what nvidia-smi prints, after the command that asked: its formats, with hosts made up.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from calibration.doctor import Finding, examine, print_findings, to_plain, worst
from calibration.doctor.nccl import route
from calibration.host import Host, Port, Sampler, Torch, fingerprint, inspect, inspection, kernel, nvidia_smi
from calibration.host.kernel import parse_acs, parse_cpuinfo, parse_list
from calibration.host.nvidia_smi import GPU_FIELDS, parse_gpus, parse_peers, parse_topology

HOSTS = Path(__file__).parent / "hosts"
NAMES = sorted(file.stem for file in HOSTS.glob("*.txt"))
GIB = 2**30

FAKE = '''#!{python}
"""Answers as the nvidia-smi of a file in tests/hosts; it refuses fields that the file does not have."""
import re, sys, time
parts = re.split(r"^\\$ (.*)\\n", open({file!r}).read(), flags=re.M)
said = dict(zip(parts[1::2], parts[2::2]))
asked = [a for a in sys.argv[1:] if not a.startswith("--loop-ms")]
if asked and asked[0].startswith("--query-gpu="):
    known, text = next((k.split("=")[1].split()[0].split(","), v) for k, v in said.items() if "--query-gpu" in k)
    fields = asked[0].split("=")[1].split(",")
    for field in fields:
        if field not in known:
            print(f'Field "{{field}}" is not a valid field to query.')
            sys.exit(2)
    rows = [dict(zip(known, line.split(", "))) for line in text.splitlines()]
    while True:
        print("\\n".join(", ".join(row[f] for f in fields) for row in rows), flush=True)
        if asked == sys.argv[1:]:
            break
        time.sleep(0.02)
else:
    print(said[" ".join(["nvidia-smi", *asked])], end="")
'''


def said(name: str) -> dict[str, str]:
    """Command -> what it prints."""
    parts = re.split(r"^\$ (.*)\n", (HOSTS / f"{name}.txt").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def host(name: str, **changes: Any) -> Host:
    """A host with the GPUs of a file, on which nothing else is wrong."""
    texts = said(name)
    query = next(k for k in texts if "--query-gpu" in k)
    fields = query.split("=")[1].split()[0].split(",")
    busy = texts["nvidia-smi --query-compute-apps=gpu_uuid,pid --format=csv,noheader,nounits"]
    gpus = parse_gpus(texts[query], busy, fields)
    links, nodes = parse_topology(texts["nvidia-smi topo -m"], len(gpus))
    several = len(set(nodes)) > 1
    good: dict[str, Any] = {
        "gpus": gpus,
        "links": links,
        "peers": parse_peers(texts["nvidia-smi topo -p2p r"], len(gpus)),
        "gpu_nodes": nodes,
        "cpu": "Intel(R) Xeon(R) Platinum 8558",
        "cpus": 64,
        "numa_nodes": 2 if several else 1,
        "own_nodes": (0, 1) if several else (0,),
        "memory_available": 2000 * GIB,
        "shared_memory": 64 * GIB,
        "acs": False,
        "cuda": "12.8",
        "nccl": "2.27.3",
        "torch": Torch(gpus=len(gpus), cuda="12.8", nccl="2.27.3"),
        "packages": {"torch": "2.8.0+cu128", "cuda-bindings": "12.9.0", "triton": "3.4.0"},
    }
    return Host(**(good | changes))


def found(of: Host, topic: str) -> list[Finding]:
    """Findings of a topic, those that say that all is well left out."""
    return [f for f in examine(of) if f.topic == topic and f.severity != "ok"]


def only(of: Host, topic: str) -> Finding:
    findings = found(of, topic)
    assert len(findings) == 1, findings
    return findings[0]


def test_gpus_from_what_nvidia_smi_lists() -> None:
    first, second = host("h200x2-nvlink").gpus
    assert (first.index, first.name, first.bus) == (0, "NVIDIA H200", "00000000:18:00.0")
    assert (first.link_generation, first.link_generation_max) == (5, 5)
    assert (first.link_width, first.link_width_max) == (16, 16)
    assert (first.power_limit, first.power, first.clock, first.clock_max) == (700.0, 76.84, 345.0, 1980.0)
    assert (first.memory_clock, first.temperature, first.memory) == (3201.0, 29.0, 143771.0)
    assert (first.ecc, first.mig, first.persistence, first.throttle) == (True, False, True, 1)
    assert first.driver == "570.133.20"
    assert second.index == 1
    assert second.uuid != first.uuid


def test_values_that_nvidia_smi_leaves_out_are_none() -> None:
    gpu = host("vm-a10").gpus[0]
    assert gpu.name == "NVIDIA A10-24Q"
    for field in ("link_generation", "link_width", "power_limit", "clock", "temperature", "ecc", "throttle"):
        assert getattr(gpu, field) is None, field
    assert gpu.memory == 24576


def test_processes_belong_to_the_gpu_with_their_uuid() -> None:
    assert [g.processes for g in host("a100x2-busy").gpus] == [(41213, 41877), ()]


@pytest.mark.parametrize(
    ("name", "row", "nodes"),
    [
        ("h200x2-nvlink", ("X", "NV18"), (0, 0)),
        ("dgx-h100", ("X", *["NV18"] * 7), (0, 0, 0, 0, 1, 1, 1, 1)),
        ("rtx4090x4", ("X", "PHB", "SYS", "SYS"), (0, 0, 1, 1)),
        ("vm-a10", ("X",), (None,)),
    ],
)
def test_topology(name: str, row: tuple[str, ...], nodes: tuple[int | None, ...]) -> None:
    made = host(name)
    assert made.links[0] == row
    assert made.gpu_nodes == nodes
    assert len(made.links) == len(made.gpus) == len(made.peers)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "\tGPU0\tGPU1\nGPU0\t X \tPIX\n", "a\tb\nc\td\n"])
def test_a_matrix_that_is_none_is_empty(text: str) -> None:
    assert parse_topology(text, 2) == ((), ())
    assert parse_peers(text, 2) == ()


def test_rows_that_are_no_gpus_are_left_out() -> None:
    assert parse_gpus("No devices were found\n", "") == ()
    assert parse_gpus("Unable to determine the device handle for GPU0000:18:00.0: Unknown Error\n", "") == ()
    assert parse_gpus(", ".join(["?"] * len(GPU_FIELDS)), "") == ()


def test_peers_are_read_from_a_topology_matrix() -> None:
    assert host("rtx4090x4").peers[1] == ("CNS", "X", "CNS", "CNS")


LSPCI = """0000:20:01.1 PCI bridge: Advanced Micro Devices, Inc. [AMD] Starship/Matisse GPP Bridge
\tCapabilities: [2a0 v1] Access Control Services
\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans+
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir{} CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-

0000:60:01.1 PCI bridge: Advanced Micro Devices, Inc. [AMD] Starship/Matisse GPP Bridge
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-

0000:61:00.0 VGA compatible controller: NVIDIA Corporation GA102GL [RTX A6000]
\tCapabilities: <access denied>
"""


def test_acs_of_the_ports_above_the_gpus_alone() -> None:
    assert parse_acs(LSPCI.format("+"), {"0000:20:01.1"}) is True
    assert parse_acs(LSPCI.format("-"), {"0000:20:01.1"}) is False
    assert parse_acs(LSPCI, {"0000:61:00.0"}) is None
    assert parse_acs("", {"0000:20:01.1"}) is None


def test_sockets_and_cores() -> None:
    processors = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (1, 1)]
    text = "".join(
        f"processor\t: {i}\nphysical id\t: {socket}\nsiblings\t: 4\ncore id\t\t: {core}\ncpu cores\t: 2\n\n"
        for i, (socket, core) in enumerate(processors)
    )
    assert parse_cpuinfo(text) == (2, 4)
    assert parse_cpuinfo("processor\t: 0\nmodel name\t: x\n") == (None, None)


def test_lists_of_processors_are_parsed() -> None:
    assert parse_list("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert parse_list("") == set()


def test_ports_from_the_gpu_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = tmp_path / "devices" / "pci0000:20"
    speeds = {"0000:20:01.1": 32, "0000:21:00.0": 32, "0000:22:00.0": 16, "0000:23:00.0": 16}
    for bus, speed in speeds.items():
        way /= bus
        way.mkdir(parents=True)
        (way / "current_link_speed").write_text(f"{speed}.0 GT/s PCIe\n")
        (way / "max_link_speed").write_text("Unknown\n")
        (way / "current_link_width").write_text("16\n")
        (way / "max_link_width").write_text("255\n")
    (way / "numa_node").write_text("-1\n")
    (way / "iommu_group").mkdir()
    (way / "iommu_group" / "type").write_text("DMA-FQ\n")
    (tmp_path / "0000:23:00.0").symlink_to(way)
    monkeypatch.setattr(kernel, "PCI", tmp_path)
    gpu = kernel.with_ports(msgspec.structs.replace(host("vm-a10").gpus[0], bus="00000000:23:00.0"))
    assert [(port.bus, port.speed) for port in gpu.ports] == list(reversed(speeds.items()))
    assert {(port.speed_max, port.width, port.width_max) for port in gpu.ports} == {(None, 16, None)}
    assert gpu.iommu == "DMA-FQ"
    assert kernel.numa_node(gpu) is None


@pytest.mark.parametrize(
    ("groups", "files", "limit", "processors"),
    [
        ("0::/a/b\n", {"memory.max": "9\n", "a/memory.max": "7\n", "a/b/memory.max": "max\n"}, 7, None),
        ("0::/a\n", {"cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n"}, None, 2.5),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "5\n", "memory.max": "6\n"}, 5, None),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None, None),
        ("2:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, None, 0.5),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ("", {}, None, None),
    ],
)  # fmt: skip
def test_limits_of_control_groups(
    groups: str,
    files: dict[str, str],
    limit: int | None,
    processors: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    read = kernel.read
    monkeypatch.setattr(kernel, "read", lambda file: groups if file == "/proc/self/cgroup" else read(file))
    monkeypatch.setattr(kernel, "CONTROL_GROUPS", tmp_path)
    assert kernel.memory_limit() == limit
    assert kernel.cpu_limit() == processors


def test_this_host_can_be_inspected() -> None:
    here = inspect()
    assert here.memory_total is not None
    assert here.memory_available is not None
    assert 0 < here.memory_available <= here.memory_total
    assert here.cpus >= 1
    assert here.own_nodes
    assert all(isinstance(v, str) and v for v in fingerprint(here).values())
    assert msgspec.json.decode(msgspec.json.encode(here), type=Host) == here


def test_inspecting_imports_no_torch() -> None:
    code = "import sys; from calibration import doctor, host; doctor.examine(host.inspect()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts the nvidia-smi of a file before any other."""

    def put(name: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(FAKE.format(python=sys.executable, file=str(HOSTS / f"{name}.txt")))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(inspection, "torch_facts", lambda: None)
    nvidia_smi.known_fields.cache_clear()
    yield put
    nvidia_smi.known_fields.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_inspect_asks_nvidia_smi_for_what_it_knows(name: str, smi: Any) -> None:
    smi(name)
    here, expected = inspect(), host(name)
    assert here.gpus == expected.gpus
    assert here.links == expected.links
    assert here.peers == expected.peers
    assert here.cuda == {"h200x2-nvlink": "12.8", "rtx4090x4": "12.0", "vm-a10": "13.3"}.get(name, here.cuda)
    assert here.cuda


@pytest.mark.parametrize(("name", "throttled"), [("a6000x2-degraded", {"0x0000000000000024"}), ("rtx4090x4", set())])
def test_sampler_reads_nvidia_smi(name: str, throttled: set[str], smi: Any) -> None:
    smi(name)
    gpus = host(name).gpus
    with Sampler(0.02) as sampler:
        while len(sampler.summary()) < 4 * len(gpus):
            time.sleep(0.02)
    assert sampler.source == "nvidia-smi"
    assert len(sampler.summary()) == 4 * len(gpus)
    assert sampler.summary()["gpu1 power_w"] == dict.fromkeys(("min", "median", "max"), gpus[1].power)
    assert sampler.throttled == throttled


def test_sampler_prefers_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    power = itertools.count(100_000, 10_000)

    class NVMLError(Exception):
        pass

    def temperature(gpu: int, kind: int) -> int:
        raise NVMLError

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetClockInfo=lambda gpu, kind: {1: 1980, 2: 3201}[kind],
        nvmlDeviceGetPowerUsage=lambda gpu: next(power),
        nvmlDeviceGetTemperature=temperature,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 4,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with Sampler(0.01) as sampler:
        while sampler.summary().get("gpu0 power_w", {}).get("max", 0) < 120:
            time.sleep(0.01)
    said = sampler.summary()
    assert sampler.source == "pynvml"
    assert said["gpu0 sm_mhz"] == {"min": 1980, "median": 1980, "max": 1980}
    assert said["gpu0 power_w"]["min"] == 100
    assert said["gpu0 power_w"]["max"] >= 120
    assert "gpu0 temperature_c" not in said
    assert sampler.throttled == {"0x0000000000000004"}


def test_sampler_without_a_gpu_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Sampler() as sampler:
        pass
    assert sampler.source is None
    assert sampler.summary() == {}
    assert not sampler.throttled


def test_fingerprint_names_the_host() -> None:
    print_ = fingerprint(host("h200x2-nvlink"))
    assert print_["gpu"] == "2 x NVIDIA H200"
    assert print_["link"] == "PCIe Gen5 x16"
    assert print_["peers"] == "NV18"
    assert re.fullmatch(r"[0-9a-f]{12}", print_["host"])


def test_the_hash_is_of_hardware() -> None:
    one = host("h200x2-nvlink")
    replace = msgspec.structs.replace
    idle = [
        replace(g, clock=1980.0, power=600.0, temperature=70.0, link_generation=1, processes=(7,)) for g in one.gpus
    ]
    same = replace(one, gpus=tuple(idle), memory_available=1, environment={"NCCL_DEBUG": "INFO"}, nccl="9")
    other = replace(one, gpus=(replace(one.gpus[0], uuid="GPU-another"), one.gpus[1]))
    assert fingerprint(same)["host"] == fingerprint(one)["host"]
    assert fingerprint(other)["host"] != fingerprint(one)["host"]
    assert fingerprint(replace(one, cpu="another"))["host"] != fingerprint(one)["host"]


def test_a_good_host_has_nothing_wrong() -> None:
    findings = examine(host("h200x2-nvlink"))
    assert worst(findings) == "ok", [f for f in findings if f.severity != "ok"]
    assert {"GPUs", "PCIe link", "NCCL's path", "host memory", "software"} <= {f.topic for f in findings}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_ok_says_what_was_seen(name: str) -> None:
    findings = examine(host(name))
    assert all(f.seen for f in findings)
    assert all(f.advice for f in findings if f.severity in ("warning", "error"))


def test_no_gpu() -> None:
    here = Host(packages={"torch": "2.13.0+cpu"}, memory_available=4 * GIB)
    assert only(here, "GPUs").severity == "error"
    assert worst(examine(here)) == "error"


@pytest.mark.parametrize(
    ("name", "topic", "severity", "words"),
    [
        ("a6000x2-degraded", "PCIe link", "warning", "GPU1: x8 of x16"),
        ("a6000x2-degraded", "PCIe link", "warning", "GPU1: Gen1 of Gen4, though not idle"),
        ("a6000x2-degraded", "power", "warning", "GPU1: capped at 200 of 300 W"),
        ("a6000x2-degraded", "clocks", "note", "GPU1: at the power cap"),
        ("a6000x2-degraded", "clocks", "warning", "GPU1: too hot (software slowdown)"),
        ("a6000x2-degraded", "temperature", "warning", "GPU1: 88 C"),
        ("a6000x2-degraded", "GPUs", "warning", "they differ in power limits"),
        ("a6000x2-degraded", "shared uplink", "note", "GPU0, GPU1 are behind one PCIe switch"),
        ("rtx4090x4", "PCIe link", "note", "GPU0, GPU1, GPU2, GPU3: Gen1 of Gen4, idle"),
        ("rtx4090x4", "persistence", "note", "off on GPU0, GPU1, GPU2, GPU3"),
        ("rtx4090x4", "NUMA", "warning", "GPUs at several nodes (GPU0 at 0, GPU1 at 0, GPU2 at 1, GPU3 at 1)"),
        ("a100x2-busy", "other processes", "error", "GPU0 is used by 41213, 41877"),
        ("vm-a10", "PCIe link", "note", "GPU0: link not reported"),
        ("dgx-h100", "NUMA", "warning", "GPU7 at 1"),
        ("dgx-h100", "NCCL's path", "note", "all-reduces may be summed in the NVSwitch (NVLS)"),
    ],
)
def test_findings_of_recorded_hosts(name: str, topic: str, severity: str, words: str) -> None:
    assert [f for f in found(host(name), topic) if f.severity == severity and words in f.seen], found(host(name), topic)


@pytest.mark.parametrize("topic", ["PCIe link", "power", "temperature", "other processes", "ACS", "IOMMU", "clocks"])
def test_a_good_host_is_not_accused(topic: str) -> None:
    assert found(host("h200x2-nvlink"), topic) == []


def test_unknown_values_are_no_finding() -> None:
    gpus = host("h200x2-nvlink").gpus
    quiet = tuple(msgspec.structs.replace(g, persistence=None, temperature=70.0, throttle=None) for g in gpus)
    assert worst(examine(host("h200x2-nvlink", gpus=quiet))) == "ok"


def test_an_own_process_is_no_other() -> None:
    gpus = host("h200x2-nvlink").gpus
    own = (msgspec.structs.replace(gpus[0], processes=(os.getpid(),)), gpus[1])
    assert found(host("h200x2-nvlink", gpus=own), "other processes") == []


def ports(*widths: tuple[int, int], above: str = "0") -> tuple[Port, ...]:
    """From the GPU to the root, (width, greatest width) each."""
    return tuple(
        Port(bus=f"0000:{i if i > 1 else above + str(i)}", width=now, width_max=most)
        for i, (now, most) in enumerate(widths)
    )


def test_both_ends_of_every_link() -> None:
    gpus = host("h200x2-nvlink").gpus

    def seen(*widths: tuple[int, int]) -> list[str]:
        changed = (msgspec.structs.replace(gpus[0], ports=ports(*widths)), gpus[1])
        return [f.seen for f in found(host("h200x2-nvlink", gpus=changed), "PCIe link")]

    assert seen((16, 16), (16, 16)) == []
    assert seen((8, 16), (8, 16)) == []  # the GPU's own link: nvidia-smi's word counts, once
    assert seen((8, 16), (8, 8)) == ["GPU0: an x16 GPU in an x8 slot (0000:01)"]
    assert seen((16, 16), (16, 16), (16, 16), (16, 16)) == []
    assert seen((16, 16), (16, 16), (8, 16), (8, 16)) == ["above GPU0: x8 of x16 from 0000:2 to 0000:3"]
    assert seen((16, 16), (16, 16), (8, 16), (8, 8)) == []


def test_gpus_under_one_switch_share_its_uplink() -> None:
    gpus = host("h200x2-nvlink").gpus
    below = tuple(msgspec.structs.replace(g, ports=ports(*[(16, 16)] * 4, above=str(i))) for i, g in enumerate(gpus))
    assert only(host("h200x2-nvlink", gpus=below), "shared uplink").seen == "GPU0, GPU1 are behind one PCIe switch"
    apart = tuple(msgspec.structs.replace(g, ports=g.ports[:2]) for g in below)
    assert found(host("h200x2-nvlink", gpus=apart), "shared uplink") == []


AMD = "AMD EPYC 9554 64-Core Processor"
INTEL = "Intel(R) Xeon(R) Platinum 8480C"


@pytest.mark.parametrize(
    ("name", "pair", "changes", "kind", "why"),
    [
        ("h200x2-nvlink", (0, 1), {}, "NVLink", "NV18"),
        ("h200x2-nvlink", (0, 1), {"environment": {"NCCL_P2P_DISABLE": "1"}}, "host memory", "NCCL_P2P_DISABLE=1"),
        ("h200x2-nvlink", (0, 1), {"environment": {"NCCL_P2P_DISABLE": "0"}}, "NVLink", "NV18"),
        ("h200x2-nvlink", (0, 1), {"environment": {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}}, "network", "NCCL_SHM_DISABLE"),
        ("h200x2-nvlink", (0, 1), {"environment": {"NCCL_P2P_LEVEL": "LOC"}}, "host memory", "farther than LOC"),
        ("h200x2-nvlink", (0, 1), {"environment": {"NCCL_P2P_LEVEL": "nvl"}}, "NVLink", "NV18"),
        ("dgx-h100", (0, 7), {}, "NVLink", "NV18"),
        ("rtx4090x4", (0, 1), {}, "host memory", "CNS"),
        ("rtx4090x4", (0, 1), {"environment": {"NCCL_P2P_LEVEL": "SYS"}}, "host memory", "CNS"),
        ("rtx4090x4", (0, 1), {"peers": ()}, "host memory", "PHB between them is farther than PXB"),
        ("rtx4090x4", (0, 1), {"peers": (), "cpu": AMD}, "host memory", "PHB between them is farther than PXB"),
        ("rtx4090x4", (0, 1), {"peers": (), "environment": {"NCCL_P2P_LEVEL": "PHB"}}, "PCIe, peer to peer", "PHB"),
        ("rtx4090x4", (0, 2), {"peers": (), "environment": {"NCCL_P2P_LEVEL": "PHB"}}, "host memory", "SYS"),
        ("rtx4090x4", (0, 2), {"peers": (), "environment": {"NCCL_P2P_LEVEL": "3"}}, "host memory", "SYS"),
        ("rtx4090x4", (0, 2), {"peers": (), "environment": {"NCCL_P2P_LEVEL": "9"}}, "PCIe, peer to peer", "SYS"),
        ("a6000x2-degraded", (0, 1), {"cpu": INTEL}, "PCIe, peer to peer", "PIX"),
        ("a6000x2-degraded", (0, 1), {"links": (("X", "NODE"), ("NODE", "X"))}, "host memory", "NODE"),
        ("a6000x2-degraded", (0, 1), {"links": ()}, "host memory", "guess"),
        ("a100x2-busy", (0, 1), {"cpu": INTEL}, "host memory", "SYS between them is farther than PXB"),
        ("a100x2-busy", (0, 1), {"cpu": AMD}, "PCIe, peer to peer", "SYS"),
        ("a100x2-busy", (0, 1), {"cpu": AMD, "torch": Torch(gpus=2, cuda="12.8", peers=((True, False), (False, True)))}, "host memory", "CUDA says"),
    ],
)  # fmt: skip
def test_route(name: str, pair: tuple[int, int], changes: dict[str, Any], kind: str, why: str) -> None:
    taken = route(host(name, **changes), *pair)
    assert taken.kind == kind
    assert why in taken.why


def test_pairs_that_differ_are_named() -> None:
    bridged = (
        ("X", "NV4", "SYS", "SYS"),
        ("NV4", "X", "SYS", "SYS"),
        ("SYS", "SYS", "X", "NV4"),
        ("SYS", "SYS", "NV4", "X"),
    )
    seen = [f.seen for f in examine(host("rtx4090x4", links=bridged, peers=())) if f.topic == "NCCL's path"]
    assert seen[0] == "NVLink (0-1, 2-3): NV4 between them"
    assert seen[1].startswith("host memory (0-2, 0-3, 1-2, 1-3): SYS between them")
    assert "pairs of GPUs differ" in seen


@pytest.mark.parametrize(
    ("name", "changes", "topic", "severity", "words"),
    [
        ("rtx4090x4", {"shared_memory": 64 * 2**20}, "NCCL's path", "warning", "64 MiB free in /dev/shm"),
        ("h200x2-nvlink", {"memory_limit": 40 * GIB}, "host memory", "note", "40 GiB (the control group's limit)"),
        ("h200x2-nvlink", {"memory_available": GIB}, "host memory", "warning", "wan2.2-14b"),
        ("h200x2-nvlink", {"memory_available": None}, "host memory", "note", "not said"),
        ("h200x2-nvlink", {"lock_limit": 65536}, "host memory", "note", "64 KiB may be locked"),
        ("h200x2-nvlink", {"cpu_limit": 3.5}, "processors", "warning", "3.5 for 2 ranks"),
        ("h200x2-nvlink", {"numa_nodes": 2, "own_nodes": (0, 1)}, "NUMA", "note", "may run at any"),
        ("h200x2-nvlink", {"numa_nodes": 2, "own_nodes": (1,)}, "NUMA", "warning", "bound to others"),
        ("vm-a10", {"numa_nodes": 2}, "NUMA", "note", "not said"),
        ("a6000x2-degraded", {"acs": True}, "ACS", "warning", "up to the root complex"),
        ("a6000x2-degraded", {"acs": None}, "ACS", "note", "not known"),
        ("h200x2-nvlink", {"iommu": True}, "IOMMU", "note", "not said"),
        ("h200x2-nvlink", {"virtual": True}, "virtual machine", "note", "hypervisor"),
        ("h200x2-nvlink", {"packages": {}}, "software", "error", "torch is not installed"),
        ("h200x2-nvlink", {"torch": None}, "software", "error", "could not be asked"),
        ("h200x2-nvlink", {"torch": Torch(gpus=0)}, "software", "error", "built for CPUs only"),
        ("h200x2-nvlink", {"torch": Torch(gpus=1, cuda="12.8")}, "software", "error", "1 of 2 GPUs"),
        ("h200x2-nvlink", {"torch": Torch(gpus=0, cuda="13.0")}, "software", "error", "the driver supports 12.8"),
        ("h200x2-nvlink", {"packages": {"torch": "2", "triton": "3"}}, "software", "error", "cuda-bindings not installed"),
        ("h200x2-nvlink", {"environment": {"CUDA_LAUNCH_BLOCKING": "1"}}, "environment", "error", "nothing overlaps"),
        ("h200x2-nvlink", {"environment": {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}}, "environment", "error", "share a queue"),
        ("h200x2-nvlink", {"environment": {"NCCL_LAUNCH_MODE": "GROUP"}}, "environment", "note", "GROUP"),
        ("h200x2-nvlink", {"environment": {"NCCL_ALGO": "Ring"}}, "environment", "note", "NCCL_ALGO=Ring"),
        ("h200x2-nvlink", {"environment": {"CUDA_VISIBLE_DEVICES": "1"}}, "GPUs", "note", "CUDA_VISIBLE_DEVICES=1"),
    ],
)  # fmt: skip
def test_one_thing_wrong(name: str, changes: dict[str, Any], topic: str, severity: str, words: str) -> None:
    before, after = found(host(name), topic), found(host(name, **changes), topic)
    new = [f for f in after if f not in before]
    assert len(new) == 1, new
    assert new[0].severity == severity
    assert words in new[0].seen


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": {"CUDA_LAUNCH_BLOCKING": "0", "CUDA_DEVICE_MAX_CONNECTIONS": "8"}},
        {"environment": {"NCCL_VERSION": "2.28.3-1", "NCCL_NVLS_ENABLE": "0"}},
        {"torch": Torch(gpus=2, cuda="12.9")},
        {"numa_nodes": 2, "own_nodes": (0,)},
        {"cpu_limit": 4.0},
        {"shared_memory": 0},
        {"acs": None},
        {"acs": True},
    ],
)
def test_harmless_settings_are_not_blamed(changes: dict[str, Any]) -> None:
    assert worst(examine(host("h200x2-nvlink", **changes))) == "ok"


def test_translated_transfers() -> None:
    gpus = host("h200x2-nvlink").gpus
    for kind, severities in (("DMA", ["warning"]), ("DMA-FQ", ["warning"]), ("identity", [])):
        changed = tuple(msgspec.structs.replace(g, iommu=kind) for g in gpus)
        assert [f.severity for f in found(host("h200x2-nvlink", gpus=changed, iommu=True), "IOMMU")] == severities


def test_the_worst_severity_is_that_of_the_worst_finding() -> None:
    order = [Finding(s, "t", "s") for s in ("ok", "note", "warning", "error")]
    assert worst([]) == "ok"
    assert [worst(order[: n + 1][::-1]) for n in range(4)] == ["ok", "note", "warning", "error"]


def test_printed_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("error", "GPUs", "[bold]none", "look"), Finding("ok", "NUMA", "fine")]
    print_findings(findings)
    printed = capsys.readouterr().out
    assert "[bold]none" in printed
    assert printed.index("fine") < printed.index("none")
    assert to_plain(findings)[0] == {"severity": "error", "topic": "GPUs", "seen": "[bold]none", "advice": "look"}


# ---- hosts of several kinds of GPU, and what GPUs share ------------------------------------------------------------

MIXED = ("RTX 5090", "RTX 5060 Ti", "RTX 5070 Ti", "RTX 5060 Ti")


def mixed(**changes: Any) -> Host:
    gpus = host("rtx4090x4").gpus
    named = [msgspec.structs.replace(g, name=name) for g, name in zip(gpus, MIXED, strict=True)]
    named[0] = msgspec.structs.replace(named[0], link_generation_max=5)
    return host("rtx4090x4", gpus=tuple(named), **changes)


def test_every_kind_of_gpu_is_named_with_its_gpus() -> None:
    [seen, *_] = [f.seen for f in examine(mixed()) if f.topic == "GPUs"]
    assert seen.startswith("1 x RTX 5090 (GPU0), 2 x RTX 5060 Ti (GPU1, GPU3), 1 x RTX 5070 Ti (GPU2), driver 525")
    [alike, *_] = [f.seen for f in examine(host("rtx4090x4")) if f.topic == "GPUs"]
    assert alike == "4 x NVIDIA GeForce RTX 4090, driver 525.147.05"


def test_the_fingerprint_of_a_mixed_host_names_all_of_it() -> None:
    print_ = fingerprint(mixed())
    assert print_["gpu"] == "1 x RTX 5090 + 2 x RTX 5060 Ti + 1 x RTX 5070 Ti"
    assert print_["link"] == "PCIe Gen5 x16 / PCIe Gen4 x16"
    assert print_["memory"] == "24564 MiB"


def test_links_of_several_kinds_are_told_apart() -> None:
    gpus = [msgspec.structs.replace(g, link_generation=g.link_generation_max) for g in mixed().gpus]
    found = [f.seen for f in examine(host("rtx4090x4", gpus=tuple(gpus))) if f.topic == "PCIe link"]
    assert found == ["Gen5 x16 (GPU0), Gen4 x16 (GPU1, GPU2, GPU3), as it should be"]


A100 = """
        GPU0    GPU1    GPU2    GPU3    CPU Affinity    NUMA Affinity
GPU0     X      PXB     NODE    SYS     0-31,64-95      0
GPU1    PXB      X      NODE    SYS     0-31,64-95      0
GPU2    NODE    NODE     X      SYS     0-31,64-95      0
GPU3    SYS     SYS     SYS      X      32-63,96-127    1
"""


def test_a_topology_is_read_with_spaces_for_tabs() -> None:
    links, nodes = parse_topology(A100, 4)
    assert links[0] == ("X", "PXB", "NODE", "SYS")
    assert links[3] == ("SYS", "SYS", "SYS", "X")
    assert nodes == (0, 0, 0, 1)
    tabs = said("rtx4090x4")["nvidia-smi topo -m"]
    spaces = "\n".join("  ".join(cell.strip().ljust(6) for cell in line.split("\t")) for line in tabs.splitlines())
    assert parse_topology(spaces, 4) == parse_topology(tabs, 4)


def shares(of: Host) -> list[tuple[str, str]]:
    return [
        (f.topic, f.seen.split(" are ")[0].split(" share ")[0].split(" reach ")[0])
        for f in examine(of)
        if "shared" in f.topic
    ]


@pytest.mark.parametrize(
    ("links", "shared"),
    [
        (
            parse_topology(A100, 4)[0],
            [
                ("shared uplink", "GPU0, GPU1"),
                ("shared NUMA node", "GPU0, GPU1, GPU2"),
                ("shared host", "GPU0, GPU1, GPU2 and GPU3"),
            ],
        ),
        (
            host("rtx4090x4").links,
            [
                ("shared root complex", "GPU0, GPU1"),
                ("shared root complex", "GPU2, GPU3"),
                ("shared host", "GPU0, GPU1 and GPU2, GPU3"),
            ],
        ),
        # two on each switch, both switches on one root port
        (
            (("X", "PIX", "PXB", "PXB"), ("PIX", "X", "PXB", "PXB"), ("PXB", "PXB", "X", "PIX"), ("PXB", "PXB", "PIX", "X")),
            [("shared uplink", "GPU0, GPU1"), ("shared uplink", "GPU2, GPU3"), ("shared uplink", "GPU0, GPU1, GPU2, GPU3")],
        ),
        (tuple(tuple("X" if a == b else "NV18" for a in range(4)) for b in range(4)), []),
        ((), []),
    ],
    ids=["switches", "host bridges", "switches of switches", "NVLink hides them", "not said"],
)  # fmt: skip
def test_shared_links_are_found_in_the_topology(
    links: tuple[tuple[str, ...], ...], shared: list[tuple[str, str]]
) -> None:
    assert shares(host("rtx4090x4", links=links)) == shared


def test_ports_say_more_of_switches_than_the_topology_does() -> None:
    gpus = host("a6000x2-degraded").gpus
    below = tuple(msgspec.structs.replace(g, ports=ports(*[(16, 16)] * 4, above=str(i))) for i, g in enumerate(gpus))
    assert shares(host("a6000x2-degraded", gpus=below)) == [("shared uplink", "GPU0, GPU1")]
