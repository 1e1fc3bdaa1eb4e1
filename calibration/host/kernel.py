"""What the kernel shows in /proc and /sys: processors, memory, control groups, PCIe ports."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from calibration.host.facts import Gpu, Port
from calibration.host.shell import read

PCI = Path("/sys/bus/pci/devices")

NODES = Path("/sys/devices/system/node")

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def parse_cpuinfo(text: str) -> tuple[int | None, int | None]:
    """(sockets, cores) from /proc/cpuinfo; None where it does not number them."""
    found = set(re.findall(r"physical id\s*: (\d+)(?:.*\n)+?core id\s*: (\d+)", text))
    return (len({socket for socket, _ in found}), len(found)) if found else (None, None)


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name, from /proc/meminfo."""
    return {m[1]: int(m[2]) * 1024 for m in re.finditer(r"(\w+): +(\d+) kB", text)}


def parse_list(text: str) -> set[int]:
    """Numbers of a list such as 0-3,8."""
    ranges = (part.split("-") for part in text.strip().split(",") if part)
    return {n for ends in ranges for n in range(int(ends[0]), int(ends[-1]) + 1)}


def parse_acs(text: str, ports: set[str]) -> bool | None:
    """Whether one of `ports` redirects requests of peers, from `lspci -D -vvv`; None where it shows none of them."""
    found = [
        "ReqRedir+" in control[1]
        for device in re.split(r"\n\s*\n", text)
        if device.split(" ", 1)[0].strip() in ports and (control := re.search(r"ACSCtl:(.*)", device))
    ]
    return any(found) if found else None


def with_ports(gpu: Gpu) -> Gpu:
    """`gpu` with what the kernel says about its route to the root complex."""
    device = _device(gpu)
    if device is None:
        return gpu
    route = [part for part in device.parts if re.fullmatch(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", part)]
    ports = tuple(_port(Path(*device.parts[: device.parts.index(part) + 1])) for part in reversed(route))
    iommu = read(device / "iommu_group" / "type").strip() or None
    return msgspec.structs.replace(gpu, ports=ports, iommu=iommu)


def _device(gpu: Gpu) -> Path | None:
    """The GPU's folder in /sys, all links followed."""
    domain, _, rest = (gpu.bus or "").lower().partition(":")
    folder = PCI / f"{domain[-4:]}:{rest}"
    return folder.resolve() if rest and folder.exists() else None


def _port(folder: Path) -> Port:
    def number(name: str) -> float | None:
        found = re.match(r"([\d.]+)", read(folder / name))
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


def numa_node(gpu: Gpu) -> int | None:
    """NUMA node of a GPU."""
    device = _device(gpu)
    said = read(device / "numa_node").strip() if device else ""
    return int(said) if said.isdigit() else None


def own_nodes() -> tuple[int, ...]:
    """NUMA nodes whose processors this process may use."""
    allowed = os.sched_getaffinity(0)
    folders = {int(folder.name.removeprefix("node")): folder for folder in NODES.glob("node[0-9]*")}
    return tuple(node for node in sorted(folders) if parse_list(read(folders[node] / "cpulist")) & allowed)


def _groups(controller: str, file: str, old: str) -> list[str]:
    """What `file` (`old` in version 1) of a controller says in this process's control group and in those above."""
    said: list[str] = []
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", controller) or controller in controllers.split(","):
            root = CONTROL_GROUPS if not controllers else CONTROL_GROUPS / controller
            below = root / path.strip("/")
            folders = (folder for folder in (below, *below.parents) if folder.is_relative_to(root))
            said += [read(folder / (old if controllers else file)).strip() for folder in folders]
    return [text for text in said if text]


def memory_limit() -> int | None:
    """Bytes that this process's control groups may use."""
    limits = [int(said) for said in _groups("memory", "memory.max", "memory.limit_in_bytes") if said.isdigit()]
    return min((limit for limit in limits if limit < 2**60), default=None)  # version 1 says 2^63 for none


def cpu_limit() -> float | None:
    """Processors' time that they may use, s a second."""
    quotas = _groups("cpu", "cpu.max", "cpu.cfs_quota_us")
    periods = _groups("cpu", "cpu.max", "cpu.cfs_period_us")
    pairs = ((quota.split()[0], period.split()[-1]) for quota, period in zip(quotas, periods, strict=False))
    return min((int(quota) / int(period) for quota, period in pairs if quota.isdigit()), default=None)


def free_bytes(folder: str) -> int | None:
    """Free bytes of the file system of a folder."""
    try:
        said = os.statvfs(folder)
    except OSError:
        return None
    return said.f_bavail * said.f_frsize
