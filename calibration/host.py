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
import threading
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import TracebackType

import msgspec

GPU_FIELDS = (
    "index", "name", "uuid", "pci.bus_id", "pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current",
    "pcie.link.width.max", "power.limit", "power.default_limit", "power.draw", "clocks.sm", "clocks.max.sm",
    "temperature.gpu", "persistence_mode", "memory.total", "driver_version",
)  # fmt: skip
"""What nvidia-smi is asked of each GPU."""

ENVIRONMENT = ("NCCL_", "CUDA_", "PYTORCH_", "TORCH_NCCL_")
"""Beginnings of the environment variables that matter."""

PACKAGES = ("torch", "triton", "cuda-bindings", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "chunkflow-sim")


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
    driver: str | None = None
    processes: tuple[int, ...] = ()
    """Process numbers that use it."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host. Memory in bytes. `links[a][b]` is how GPU a reaches GPU b, as nvidia-smi says: NV18, PIX, PHB, SYS."""

    gpus: tuple[Gpu, ...] = ()
    links: tuple[tuple[str, ...], ...] = ()
    gpu_nodes: tuple[int | None, ...] = ()
    """NUMA node of each GPU."""
    cpu: str | None = None
    cpus: int = 1
    """Processors that this process may use."""
    numa_nodes: int = 1
    memory_total: int | None = None
    memory_available: int | None = None
    memory_limit: int | None = None
    """Of the control group."""
    lock_limit: int | None = None
    """Bytes that may be locked in memory; None: no limit."""
    kernel: str = ""
    virtual: bool = False
    iommu: bool = False
    cuda: str | None = None
    """The newest CUDA that the driver supports."""
    nccl: str | None = None
    packages: dict[str, str] = {}
    environment: dict[str, str] = {}


def inspect() -> Host:
    """This host."""
    listed = _run("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits")
    busy = _run("nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader,nounits")
    gpus = parse_gpus(listed, busy)
    links, nodes = parse_topology(_run("nvidia-smi", "topo", "-m"), len(gpus))
    version = re.search(r"CUDA Version: *([\d.]+)", _run("nvidia-smi"))
    memory = parse_meminfo(_read("/proc/meminfo"))
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    processor = _read("/proc/cpuinfo")
    model = re.search(r"model name\s*: *(.+)", processor)
    return Host(
        gpus=gpus,
        links=links,
        gpu_nodes=nodes,
        cpu=model[1].strip() if model else platform.processor() or None,
        cpus=len(os.sched_getaffinity(0)),
        numa_nodes=max(len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))), 1),
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        memory_limit=_memory_limit(),
        lock_limit=None if locked == resource.RLIM_INFINITY else locked,
        kernel=platform.release(),
        virtual="hypervisor" in processor,
        iommu=any(Path("/sys/class/iommu").glob("*")),
        cuda=version[1] if version else None,
        nccl=_nccl(),
        packages=_packages(),
        environment={k: v for k, v in sorted(os.environ.items()) if k.startswith(ENVIRONMENT)},
    )


def parse_gpus(listed: str, busy: str) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's lists of `GPU_FIELDS` and of (uuid, pid) of processes."""
    users: dict[str, list[int]] = {}
    for row in _rows(busy, 2):
        if row[1].isdigit():
            users.setdefault(row[0], []).append(int(row[1]))
    gpus = []
    for row in _rows(listed, len(GPU_FIELDS)):
        said = dict(zip(GPU_FIELDS, row, strict=True))

        def number(field: str, said: dict[str, str] = said) -> float | None:
            try:
                return float(said[field])
            except ValueError:
                return None

        def whole(field: str, said: dict[str, str] = said) -> int | None:
            return int(said[field]) if said[field].isdigit() else None

        persistence = {"Enabled": True, "Disabled": False}.get(said["persistence_mode"])
        gpus.append(
            Gpu(
                index=int(said["index"]),
                name=said["name"],
                uuid=said["uuid"],
                bus=said["pci.bus_id"],
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
                persistence=persistence,
                memory=number("memory.total"),
                driver=said["driver_version"],
                processes=tuple(users.get(said["uuid"], ())),
            )
        )
    return tuple(gpus)


def parse_topology(text: str, gpus: int) -> tuple[tuple[tuple[str, ...], ...], tuple[int | None, ...]]:
    """(how each GPU reaches each, NUMA node of each) from `nvidia-smi topo -m`; empty where it says nothing."""
    plain = re.sub(r"\x1b\[\d*m", "", text)
    header = next((line for line in plain.splitlines() if re.match(r"\s+GPU0\b", line)), None)
    if header is None:
        return (), ()
    numa = [c.strip() for c in header.split("\t")]
    column = numa.index("NUMA Affinity") if "NUMA Affinity" in numa else None
    links, nodes = [], []
    for line in plain.splitlines():
        cells = [c.strip() for c in line.split("\t")]
        if re.fullmatch(r"GPU\d+", cells[0]) and len(cells) > gpus:
            links.append(tuple(cells[1 : 1 + gpus]))
            node = cells[column] if column is not None and column < len(cells) else ""
            nodes.append(int(node) if node.isdigit() else None)
    return tuple(links[:gpus]), tuple(nodes[:gpus])


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

    QUERY = ("index", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")
    UNITS = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")

    def __init__(self, period_s: float = 0.2) -> None:
        self._period_s = period_s
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.throttled: set[str] = set()
        """Masks of reasons why clocks were held down, as nvidia-smi gives them; 0 and idle left out."""

    def __enter__(self) -> Sampler:
        if program := shutil.which("nvidia-smi"):
            command = [program, f"--query-gpu={','.join(self.QUERY)}", "--format=csv,noheader,nounits"]
            command.append(f"--loop-ms={round(self._period_s * 1e3)}")
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._process and self._reader:
            self._process.terminate()
            self._process.wait()
            self._reader.join()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.add(line)

    def add(self, line: str) -> None:
        """Take one line of nvidia-smi's answer."""
        cells = [c.strip() for c in line.split(",")]
        if len(cells) != len(self.QUERY):
            return
        for name, cell in zip(self.UNITS, cells[1:], strict=False):
            try:
                self._samples.setdefault((f"gpu{cells[0]}", name), []).append(float(cell))
            except ValueError:
                continue
        if cells[-1].startswith("0x") and int(cells[-1], 16) & ~1:  # bit 0: idle
            self.throttled.add(cells[-1])

    def summary(self) -> dict[str, dict[str, float]]:
        """GPU and quantity -> least, median and most; empty without a GPU."""
        return {
            f"{gpu} {name}": {"min": min(values), "median": median(values), "max": max(values)}
            for (gpu, name), values in sorted(self._samples.items())
        }


def _run(program: str, *arguments: str) -> str:
    """What a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def _rows(text: str, columns: int) -> Sequence[list[str]]:
    rows = ([c.strip() for c in row] for row in csv.reader(io.StringIO(text)))
    return [row for row in rows if len(row) == columns]


def _memory_limit() -> int | None:
    said = _read("/sys/fs/cgroup/memory.max").strip()
    return int(said) if said.isdigit() else None


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
