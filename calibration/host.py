"""What a host is, as far as it shows itself: GPUs and their links, processor, memory, software, and clocks over time.

Every piece may be missing (containers and virtual machines show little): a missing piece is None, never an error.
Nothing here changes a setting.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import msgspec

GPU_FIELDS = (
    "index", "name", "uuid", "pci.bus_id", "pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current",
    "pcie.link.width.max", "power.limit", "power.default_limit", "power.draw", "clocks.sm", "clocks.max.sm",
    "temperature.gpu", "persistence_mode", "memory.total", "driver_version", "clocks.mem", "clocks.max.mem",
    "ecc.mode.current", "mig.mode.current", "clocks_event_reasons.active", "clocks_throttle_reasons.active",
)  # fmt: skip
"""What nvidia-smi is asked of each GPU; the last has two names, the older one for drivers before 535."""

ENVIRONMENT = ("NCCL_", "CUDA_", "PYTORCH_", "TORCH_NCCL_")
"""Beginnings of the environment variables that matter."""

PCI = Path("/sys/bus/pci/devices")
NODES = Path("/sys/devices/system/node")
CONTROL_GROUPS = Path("/sys/fs/cgroup")

IDLE = 1
"""The bit of clock event reasons that says that there is nothing to do."""

PACKAGES = ("torch", "triton", "cuda-bindings", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "chunkflow-sim")


TORCH = """
import json, os
os.environ.pop("CUDA_VISIBLE_DEVICES", None)
os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
import torch
count = torch.cuda.device_count()
print(json.dumps({
    "gpus": count,
    "cuda": torch.version.cuda,
    "nccl": ".".join(map(str, torch.cuda.nccl.version())) if count else None,
    "peers": [[a == b or torch.cuda.can_device_access_peer(a, b) for b in range(count)] for a in range(count)],
}))
"""
"""Asked in a process of its own: torch would keep a context on every GPU."""


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a PCIe link. Speeds in GT/s, widths in lanes; None where the kernel does not say."""

    bus: str
    speed: float | None = None
    speed_max: float | None = None
    width: int | None = None
    width_max: int | None = None


class Torch(msgspec.Struct, frozen=True, kw_only=True):
    """What torch sees with no GPU hidden, GPUs in the order of their bus addresses."""

    gpus: int
    cuda: str | None = None
    """CUDA that torch was built for; None: built for processors alone."""
    nccl: str | None = None
    peers: tuple[tuple[bool, ...], ...] = ()
    """Whether GPU a may access the memory of GPU b."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. Power in W, clocks in MHz, temperature in C, memory in MiB; None where it is not said."""

    index: int
    name: str
    uuid: str | None = None
    bus: str | None = None
    link_generation: int | None = None
    link_generation_max: int | None = None
    link_width: int | None = None
    link_width_max: int | None = None
    power_limit: float | None = None
    power_default: float | None = None
    power: float | None = None
    clock: float | None = None
    clock_max: float | None = None
    temperature: float | None = None
    persistence: bool | None = None
    memory: float | None = None
    memory_clock: float | None = None
    memory_clock_max: float | None = None
    ecc: bool | None = None
    mig: bool | None = None
    """Whether it is split into instances."""
    throttle: int | None = None
    """Why the clocks are not higher just now: NVML's bits of clock event reasons."""
    driver: str | None = None
    ports: tuple[Port, ...] = ()
    """The way to the root complex: both ends of each link, the GPU first."""
    iommu: str | None = None
    """What the IOMMU does to its transfers: identity, or DMA and DMA-FQ (it translates)."""
    processes: tuple[int, ...] = ()
    """Process numbers that use it."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host. Memory in bytes. `links[a][b]` is how GPU a reaches GPU b, as nvidia-smi says: NV18, PIX, PHB, SYS."""

    gpus: tuple[Gpu, ...] = ()
    links: tuple[tuple[str, ...], ...] = ()
    peers: tuple[tuple[str, ...], ...] = ()
    """Whether GPU a may read GPU b, as nvidia-smi says: OK, or CNS, GNS, TNS, NS, DR, U."""
    gpu_nodes: tuple[int | None, ...] = ()
    """NUMA node of each GPU."""
    cpu: str | None = None
    sockets: int | None = None
    cores: int | None = None
    cpus: int = 1
    """Processors that this process may use."""
    cpu_limit: float | None = None
    """Processors' time that the control group may use, s a second."""
    numa_nodes: int = 1
    own_nodes: tuple[int, ...] = ()
    """NUMA nodes whose processors this process may use."""
    memory_total: int | None = None
    memory_available: int | None = None
    memory_limit: int | None = None
    """Of the control group."""
    lock_limit: int | None = None
    """Bytes that may be locked in memory; None: no limit."""
    shared_memory: int | None = None
    """Free bytes in /dev/shm."""
    kernel: str = ""
    virtual: bool = False
    iommu: bool = False
    acs: bool | None = None
    """Whether a port above a GPU sends peer-to-peer traffic up to the root complex; None: not known."""
    torch: Torch | None = None
    cuda: str | None = None
    """The newest CUDA that the driver supports."""
    nccl: str | None = None
    packages: dict[str, str] = {}
    environment: dict[str, str] = {}


def inspect() -> Host:
    """This host."""
    fields = _known(GPU_FIELDS)
    listed = _run("nvidia-smi", *_query(fields))
    busy = _run("nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader,nounits")
    gpus = tuple(_with_ports(gpu) for gpu in parse_gpus(listed, busy, fields))
    links, nodes = parse_topology(_run("nvidia-smi", "topo", "-m"), len(gpus))
    version = re.search(r"CUDA (?:UMD )?Version: *([\d.]+)", _run("nvidia-smi"))
    torch = _torch() if gpus else None
    sockets, cores = parse_cpuinfo(_read("/proc/cpuinfo"))
    memory = parse_meminfo(_read("/proc/meminfo"))
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    processor = _read("/proc/cpuinfo")
    model = re.search(r"model name\s*: *(.+)", processor)
    return Host(
        gpus=gpus,
        links=links,
        peers=parse_peers(_run("nvidia-smi", "topo", "-p2p", "r"), len(gpus)),
        gpu_nodes=nodes or tuple(_node(gpu) for gpu in gpus),
        cpu=model[1].strip() if model else platform.processor() or None,
        sockets=sockets,
        cores=cores,
        cpus=len(os.sched_getaffinity(0)),
        cpu_limit=_cpu_limit(),
        numa_nodes=max(len(list(NODES.glob("node[0-9]*"))), 1),
        own_nodes=_own_nodes(),
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        memory_limit=_memory_limit(),
        lock_limit=None if locked == resource.RLIM_INFINITY else locked,
        shared_memory=_free("/dev/shm"),
        kernel=platform.release(),
        virtual="hypervisor" in processor,
        iommu=any(Path("/sys/class/iommu").glob("*")),
        acs=parse_acs(_run("lspci", "-D", "-vvv"), {port.bus for gpu in gpus for port in gpu.ports[1:]}),
        torch=torch,
        cuda=version[1] if version else None,
        nccl=(torch and torch.nccl) or _nccl(),
        packages=_packages(),
        environment={k: v for k, v in sorted(os.environ.items()) if k.startswith(ENVIRONMENT)},
    )


def parse_gpus(listed: str, busy: str, fields: Sequence[str] = GPU_FIELDS) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's lists of `fields` and of (uuid, pid) of processes."""
    users: dict[str, list[int]] = {}
    for row in _rows(busy, 2):
        if row[1].isdigit():
            users.setdefault(row[0], []).append(int(row[1]))
    gpus = []
    for row in _rows(listed, len(fields)):
        said = dict.fromkeys(GPU_FIELDS, "") | dict(zip(fields, row, strict=True))
        if not said["index"].isdigit():
            continue

        def number(field: str, said: dict[str, str] = said) -> float | None:
            try:
                return float(said[field])
            except ValueError:
                return None

        def whole(field: str, said: dict[str, str] = said) -> int | None:
            return int(said[field]) if said[field].isdigit() else None

        def enabled(field: str, said: dict[str, str] = said) -> bool | None:
            return {"Enabled": True, "Disabled": False}.get(said[field])

        reasons = [_mask(said[f"clocks_{name}_reasons.active"]) for name in ("event", "throttle")]
        gpus.append(
            Gpu(
                index=int(said["index"]),
                name=said["name"],
                uuid=_said(said["uuid"]),
                bus=_said(said["pci.bus_id"]),
                link_generation=whole("pcie.link.gen.current"),
                link_generation_max=whole("pcie.link.gen.max"),
                link_width=whole("pcie.link.width.current"),
                link_width_max=whole("pcie.link.width.max"),
                power_limit=number("power.limit"),
                power_default=number("power.default_limit"),
                power=number("power.draw"),
                clock=number("clocks.sm"),
                clock_max=number("clocks.max.sm"),
                temperature=number("temperature.gpu"),
                persistence=enabled("persistence_mode"),
                memory=number("memory.total"),
                memory_clock=number("clocks.mem"),
                memory_clock_max=number("clocks.max.mem"),
                ecc=enabled("ecc.mode.current"),
                mig=enabled("mig.mode.current"),
                throttle=next((mask for mask in reasons if mask is not None), None),
                driver=_said(said["driver_version"]),
                processes=tuple(users.get(said["uuid"], ())),
            )
        )
    return tuple(gpus)


def parse_topology(text: str, gpus: int) -> tuple[tuple[tuple[str, ...], ...], tuple[int | None, ...]]:
    """(how each GPU reaches each, NUMA node of each) from `nvidia-smi topo -m`; empty where it says nothing."""
    header, rows = _matrix(text, gpus)
    column = header.index("NUMA Affinity") if "NUMA Affinity" in header else None
    nodes = [row[column] if column is not None and column < len(row) else "" for row in rows]
    return tuple(tuple(row[1 : 1 + gpus]) for row in rows), tuple(int(n) if n.isdigit() else None for n in nodes)


def parse_peers(text: str, gpus: int) -> tuple[tuple[str, ...], ...]:
    """Whether each GPU may read each, from `nvidia-smi topo -p2p r`; empty where it says nothing."""
    return tuple(tuple(row[1 : 1 + gpus]) for row in _matrix(text, gpus)[1])


def _matrix(text: str, gpus: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a matrix as nvidia-smi prints it: cells between tabs, the header underlined."""
    lines = [[c.strip() for c in line.split("\t")] for line in re.sub(r"\x1b\[\d*m", "", text).splitlines()]
    header = next((cells for cells in lines if cells[:2] == ["", "GPU0"]), [])
    rows = [cells for cells in lines if re.fullmatch(r"GPU\d+", cells[0]) and len(cells) > gpus]
    return (header, rows) if header and len(rows) == gpus else ([], [])


def parse_acs(text: str, ports: set[str]) -> bool | None:
    """Whether one of `ports` redirects requests of peers, from `lspci -D -vvv`; None where it shows none of them."""
    found = [
        "ReqRedir+" in control[1]
        for device in re.split(r"\n\s*\n", text)
        if device.split(" ", 1)[0].strip() in ports and (control := re.search(r"ACSCtl:(.*)", device))
    ]
    return any(found) if found else None


def parse_cpuinfo(text: str) -> tuple[int | None, int | None]:
    """(sockets, cores) from /proc/cpuinfo; None where it does not number them."""
    found = set(re.findall(r"physical id\s*: (\d+)(?:.*\n)+?core id\s*: (\d+)", text))
    return (len({socket for socket, _ in found}), len(found)) if found else (None, None)


def parse_list(text: str) -> set[int]:
    """Numbers of a list such as 0-3,8."""
    ranges = (part.split("-") for part in text.strip().split(",") if part)
    return {n for ends in ranges for n in range(int(ends[0]), int(ends[-1]) + 1)}


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name, from /proc/meminfo."""
    return {m[1]: int(m[2]) * 1024 for m in re.finditer(r"(\w+): +(\d+) kB", text)}


def fingerprint(host: Host) -> dict[str, str]:
    """What tells this host and its software from others, as a profile's `fingerprint` holds it."""
    first = host.gpus[0] if host.gpus else None
    hardware = {
        "gpu": f"{len(host.gpus)} x {first.name}" if first else "none",
        "link": f"PCIe Gen{first.link_generation_max} x{first.link_width_max}" if first else "none",
        "peers": " / ".join(sorted({c for row in host.links for c in row if c != "X"})) or "none",
        "power limit": " / ".join(sorted({f"{g.power_limit:g} W" for g in host.gpus if g.power_limit})) or "unknown",
        "cpu": f"{host.cpu or 'unknown'}, {host.cpus} processors, {host.numa_nodes} NUMA nodes",
    }
    ids = [g.uuid or g.name for g in host.gpus]
    digest = hashlib.sha256(msgspec.json.encode([hardware, ids, [g.bus for g in host.gpus]])).hexdigest()[:12]
    software = {
        "driver": first.driver if first and first.driver else "unknown",
        "cuda": host.cuda or "unknown",
        "nccl": host.nccl or "unknown",
        "kernel": host.kernel + (", virtual machine" if host.virtual else ""),
        **{name: version for name, version in host.packages.items() if "nccl" not in name},
        "environment": " ".join(f"{k}={v}" for k, v in host.environment.items() if k.startswith("NCCL_")) or "default",
    }
    return {**hardware, "host": digest, **software}


class Sampler:
    """Samples clocks, power and temperature of all GPUs while it is entered; `summary` says what they were."""

    QUERY = ("index", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
    REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
    UNITS = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")

    def __init__(self, period_s: float = 0.2) -> None:
        self._period_s = period_s
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.throttled: set[str] = set()
        """Masks of reasons why clocks were held down, in hexadecimal; 0 and idle left out."""
        self.source: str | None = None
        """What is asked: pynvml, nvidia-smi, or None where there is no GPU and nothing is sampled."""

    def __enter__(self) -> Sampler:
        work: Callable[[], None] | None = None
        if poll := self._nvml():
            self.source, work = "pynvml", poll
        elif (program := shutil.which("nvidia-smi")) and (known := _known((*self.QUERY, *self.REASONS))):
            self.source, work = "nvidia-smi", self._read
            command = [program, *_query((*self.QUERY, *known[len(self.QUERY) :][:1]))]
            command.append(f"--loop-ms={round(self._period_s * 1e3)}")
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if work:
            self._over.clear()
            self._thread = threading.Thread(target=work, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._process:
            self._process.terminate()
            self._process.wait()
        if self._thread:
            self._thread.join()

    def _nvml(self) -> Callable[[], None] | None:
        """What samples through NVML until it is over; None where that cannot be done."""
        try:
            import pynvml

            pynvml.nvmlInit()
            gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except Exception:  # its own errors, or none of its library's functions in an old driver
            return None
        asked: list[Callable[[Any], float]] = [
            lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
            lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
            lambda gpu: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        ]

        def answer(ask: Callable[[Any], float], gpu: Any) -> float | None:
            try:
                return ask(gpu)
            except (pynvml.NVMLError, AttributeError):  # this GPU, or this version of pynvml, does not say
                return None

        def poll() -> None:
            while True:
                for i, gpu in enumerate(gpus):
                    *values, mask = (answer(ask, gpu) for ask in asked)
                    self._take(str(i), values, None if mask is None else int(mask))
                if self._over.wait(self._period_s):
                    break
            pynvml.nvmlShutdown()

        return poll if gpus else None

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.add(line)

    def add(self, line: str) -> None:
        """Take one line of nvidia-smi's answer."""
        cells = [c.strip() for c in line.split(",")]
        if len(cells) >= len(self.QUERY) and cells[0].isdigit():
            self._take(cells[0], [_number(c) for c in cells[1 : len(self.QUERY)]], _mask(cells[-1]))

    def _take(self, gpu: str, values: Sequence[float | None], mask: int | None) -> None:
        for name, value in zip(self.UNITS, values, strict=True):
            if value is not None:
                self._samples.setdefault((f"gpu{gpu}", name), []).append(value)
        if mask and mask & ~IDLE:
            self.throttled.add(f"0x{mask:016x}")

    def summary(self) -> dict[str, dict[str, float]]:
        """GPU and quantity -> least, median and most; empty without a GPU."""
        return {
            f"{gpu} {name}": {"min": min(values), "median": median(values), "max": max(values)}
            for (gpu, name), values in sorted(self._samples.items())
        }


def _query(fields: Sequence[str]) -> tuple[str, str]:
    return f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"


@cache
def _known(fields: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `fields` that this nvidia-smi knows: for one that it does not, it refuses the whole question."""
    known = list(fields)
    while known:
        wrong = re.search(r'Field "([^"]+)" is not a valid', _run("nvidia-smi", *_query(known), failing=True))
        if wrong is None or wrong[1] not in known:
            break
        known.remove(wrong[1])
    return tuple(known)


def _run(program: str, *arguments: str, failing: bool = False, timeout_s: float = 30) -> str:
    """What a program prints; nothing where it is missing, or fails (unless `failing`), or takes too long."""
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if failing or done.returncode == 0 else ""


def _read(file: str | Path) -> str:
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _rows(text: str, columns: int) -> Sequence[list[str]]:
    rows = ([c.strip() for c in row] for row in csv.reader(io.StringIO(text)))
    return [row for row in rows if len(row) == columns]


def _said(cell: str) -> str | None:
    return None if cell.strip("[]") in {"", "N/A", "Not Supported", "Unknown Error"} else cell


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _mask(cell: str) -> int | None:
    return int(cell, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", cell) else None


def _with_ports(gpu: Gpu) -> Gpu:
    """`gpu` with what the kernel says about its way to the root complex."""
    device = _device(gpu)
    if device is None:
        return gpu
    way = [part for part in device.parts if re.fullmatch(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", part)]
    ports = tuple(_port(Path(*device.parts[: device.parts.index(part) + 1])) for part in reversed(way))
    iommu = _read(device / "iommu_group" / "type").strip() or None
    return msgspec.structs.replace(gpu, ports=ports, iommu=iommu)


def _device(gpu: Gpu) -> Path | None:
    """The GPU's folder in /sys, all links followed."""
    domain, _, rest = (gpu.bus or "").lower().partition(":")
    folder = PCI / f"{domain[-4:]}:{rest}"
    return folder.resolve() if rest and folder.exists() else None


def _port(folder: Path) -> Port:
    def number(name: str) -> float | None:
        found = re.match(r"([\d.]+)", _read(folder / name))
        return float(found[1]) if found else None

    def lanes(name: str) -> int | None:
        width = number(name)
        return int(width) if width and width <= 32 else None  # 255: not known

    return Port(
        bus=folder.name,
        speed=number("current_link_speed"),
        speed_max=number("max_link_speed"),
        width=lanes("current_link_width"),
        width_max=lanes("max_link_width"),
    )


def _node(gpu: Gpu) -> int | None:
    device = _device(gpu)
    said = _read(device / "numa_node").strip() if device else ""
    return int(said) if said.isdigit() else None


def _own_nodes() -> tuple[int, ...]:
    allowed = os.sched_getaffinity(0)
    folders = {int(folder.name.removeprefix("node")): folder for folder in NODES.glob("node[0-9]*")}
    return tuple(node for node in sorted(folders) if parse_list(_read(folders[node] / "cpulist")) & allowed)


def _groups(controller: str, file: str, old: str) -> list[str]:
    """What `file` (`old` in version 1) of a controller says in this process's control group and in those above."""
    said: list[str] = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", controller) or controller in controllers.split(","):
            root = CONTROL_GROUPS if not controllers else CONTROL_GROUPS / controller
            below = root / path.strip("/")
            folders = (folder for folder in (below, *below.parents) if folder.is_relative_to(root))
            said += [_read(folder / (old if controllers else file)).strip() for folder in folders]
    return [text for text in said if text]


def _memory_limit() -> int | None:
    limits = [int(said) for said in _groups("memory", "memory.max", "memory.limit_in_bytes") if said.isdigit()]
    return min((limit for limit in limits if limit < 2**60), default=None)  # version 1 says 2^63 for none


def _cpu_limit() -> float | None:
    quotas = _groups("cpu", "cpu.max", "cpu.cfs_quota_us")
    periods = _groups("cpu", "cpu.max", "cpu.cfs_period_us")
    pairs = ((quota.split()[0], period.split()[-1]) for quota, period in zip(quotas, periods, strict=False))
    return min((int(quota) / int(period) for quota, period in pairs if quota.isdigit()), default=None)


def _free(folder: str) -> int | None:
    try:
        said = os.statvfs(folder)
    except OSError:
        return None
    return said.f_bavail * said.f_frsize


def _torch() -> Torch | None:
    """What torch says; None where it is not installed or cannot."""
    if find_spec("torch") is None:
        return None
    said = _run(sys.executable, "-c", TORCH, timeout_s=120)
    try:
        return msgspec.json.decode(said.strip().rpartition("\n")[2], type=Torch)
    except msgspec.MsgspecError:
        return None


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _nccl() -> str | None:
    for name, version in _packages().items():
        if "nccl" in name:
            return version
    return None
