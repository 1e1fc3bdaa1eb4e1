"""What is wrong with a host before anything is measured on it, and which path its collectives will take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

import msgspec

from calibration.host import IDLE, Gpu, Host
from sim.units import show_bytes

Severity = Literal["ok", "note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "error")
"""From harmless to what makes measuring impossible or its numbers wrong."""

HOT = 85.0
"""GPUs slow down not far above this temperature, C."""

STREAMS = 4
"""Streams of a rank that must not share a queue: compute, copies, collectives, and one to spare."""

ENOUGH_SHARED = 2**30
"""Bytes in /dev/shm that NCCL never runs out of on one host."""

PEERS = {
    "CNS": "the chipset does not support it",
    "GNS": "these GPUs, or their driver, do not support it",
    "TNS": "the topology does not support it",
    "NS": "not supported",
    "DR": "disabled in the driver's registry",
}
"""What nvidia-smi says where one GPU cannot read another."""

LEVELS = ("LOC", "NVL", "PIX", "PXB", "PHB", "SYS")
"""NCCL's distances, near to far."""
OLD_LEVELS = ("LOC", "PIX", "PXB", "PHB", "SYS", "SYS")
"""What NCCL_P2P_LEVEL means as a number."""

SLOWED: dict[int, tuple[Severity, str]] = {
    0x2: ("note", "clocks are set by hand (application clocks)"),
    0x4: ("note", "at the power cap"),
    0x8: ("warning", "hardware slowdown"),
    0x20: ("warning", "too hot (software slowdown)"),
    0x40: ("warning", "too hot (hardware slowdown)"),
    0x80: ("warning", "power brake: the host cuts the GPU's power"),
}
"""NVML's bits of clock event reasons."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was seen and, unless all is well, what to do."""

    severity: Severity
    topic: str
    seen: str
    advice: str = ""


class Route(msgspec.Struct, frozen=True):
    """How NCCL moves data from one GPU to another, and why so."""

    kind: Literal["NVLink", "PCIe, peer to peer", "host memory", "network"]
    why: str


def examine(host: Host) -> list[Finding]:
    """Everything that `host` shows, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(host)]


def worst(findings: Iterable[Finding]) -> Severity:
    """The gravest severity; ok if there is nothing."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def to_plain(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """For JSON."""
    plain: list[dict[str, str]] = msgspec.to_builtins(findings)
    return plain


def print_findings(findings: Sequence[Finding]) -> None:
    """A table, the gravest last, where a terminal shows it."""
    from rich.markup import escape

    from sim.report.tables import show, table

    styles = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
    made = table("", "topic", title="this host")
    for column in ("seen", "what to do"):
        made.add_column(column, overflow="fold")
    made.columns[1].justify = "left"
    for finding in sorted(findings, key=lambda f: SEVERITIES.index(f.severity)):
        severity = f"[{styles[finding.severity]}]{finding.severity}[/]"
        made.add_row(severity, *(escape(text) for text in (finding.topic, finding.seen, finding.advice)))
    show(made)


def _gpus(host: Host) -> Iterator[Finding]:
    if not host.gpus:
        yield Finding(
            "error",
            "GPUs",
            "none: nvidia-smi is missing or lists none",
            "simulating needs none; to measure, install NVIDIA's driver, or start the container with --gpus all",
        )
        return
    first, count = host.gpus[0], len(host.gpus)
    yield Finding("ok", "GPUs", f"{count} x {first.name}, driver {first.driver or 'unknown'}")
    same: dict[str, Callable[[Gpu], Any]] = {
        "names": lambda g: g.name,
        "memories": lambda g: g.memory,
        "PCIe links": lambda g: (g.link_generation_max, g.link_width_max),
        "power limits": lambda g: g.power_limit,
        "highest clocks": lambda g: (g.clock_max, g.memory_clock_max),
        "ECC modes": lambda g: g.ecc,
    }
    if differing := [what for what, of in same.items() if len({of(g) for g in host.gpus}) > 1]:
        yield Finding(
            "warning",
            "GPUs",
            f"they differ in {', '.join(differing)}",
            "a profile describes equal GPUs: choose some with CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER=PCI_BUS_ID",
        )
    if split := [g for g in host.gpus if g.mig]:
        yield Finding("error", "GPUs", f"{_names(split)} split into instances (MIG)", "measure on whole GPUs")
    if (chosen := host.environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        seen = f"CUDA_VISIBLE_DEVICES={chosen}"
        yield Finding("note", "GPUs", seen, "measuring uses these alone; what is said here is about all")


def _processes(host: Host) -> Iterator[Finding]:
    for gpu in host.gpus:
        if others := [pid for pid in gpu.processes if pid != os.getpid()]:
            yield Finding(
                "error",
                "other processes",
                f"GPU{gpu.index} is used by {', '.join(map(str, others))}",
                "wait until they end, or choose other GPUs: their kernels and copies would be measured too",
            )


def _links(host: Host) -> Iterator[Finding]:
    lowered: dict[tuple[int, int, bool], list[Gpu]] = {}
    for gpu in host.gpus:
        now, most = gpu.link_width, gpu.link_width_max
        if now and most and now < most:
            yield Finding(
                "warning",
                "PCIe link",
                f"GPU{gpu.index}: x{now} of x{most}",
                "a width is not saved for power: look at the slot, riser or cable; copies have "
                f"{now / most:.2g} of the bandwidth",
            )
        generation, best = gpu.link_generation, gpu.link_generation_max
        if generation and best and generation < best:
            idle = gpu.throttle is None or bool(gpu.throttle & IDLE)
            lowered.setdefault((generation, best, idle), []).append(gpu)
        # both ends of each link, from the GPU up; ends of different abilities meet at the lesser
        ends = list(zip(gpu.ports[::2], gpu.ports[1::2], strict=False))
        for i, (lower, upper) in enumerate(ends):
            width = min(lower.width_max or 0, upper.width_max or 0)
            if i and lower.width and lower.width < width:
                seen = f"above GPU{gpu.index}: x{lower.width} of x{width} from {lower.bus} to {upper.bus}"
                yield Finding("warning", "PCIe link", seen, "a switch's uplink is not trained: cold-start the host")
            if i == 0 and lower.width_max and upper.width_max and upper.width_max < lower.width_max:
                seen = f"GPU{gpu.index}: an x{lower.width_max} GPU in an x{upper.width_max} slot ({upper.bus})"
                yield Finding("note", "PCIe link", seen, "another slot may have more lanes")
    look = "nvidia-smi --query-gpu=index,pcie.link.gen.current --format=csv"
    for (generation, best, idle), gpus in lowered.items():
        seen = f"{_names(gpus)}: Gen{generation} of Gen{best}"
        if idle:
            advice = f"an idle GPU lowers its link to save power; look again while something copies: {look}"
            yield Finding("note", "PCIe link", f"{seen}, idle", advice)
        else:
            advice = (
                f"look at the slot, riser or cable, and the firmware's settings; again while something copies: {look}"
            )
            yield Finding("warning", "PCIe link", f"{seen}, though not idle", advice)
    trained = host.gpus and all(g.link_width and g.link_width == g.link_width_max for g in host.gpus)
    if trained and not lowered:
        first = host.gpus[0]
        yield Finding("ok", "PCIe link", f"Gen{first.link_generation_max} x{first.link_width_max}, as it should be")
    if silent := [g for g in host.gpus if g.link_width is None or g.link_generation is None]:
        yield Finding("note", "PCIe link", f"{_names(silent)}: not said", "only measuring copies can tell")


def _uplinks(host: Host) -> Iterator[Finding]:
    above: dict[str, list[Gpu]] = {}
    for gpu in host.gpus:
        for port in gpu.ports[2:]:
            above.setdefault(port.bus, []).append(gpu)
    groups = {tuple(g.index for g in gpus) for gpus in above.values() if len(gpus) > 1}
    if not above:
        for a in range(len(host.gpus)):
            near = [g.index for b, g in enumerate(host.gpus) if b == a or _link(host, a, b) in ("PIX", "PXB")]
            groups |= {tuple(near)} if len(near) > 1 else set()
    for group in sorted(groups):
        yield Finding(
            "note",
            "shared uplink",
            f"{', '.join(f'GPU{i}' for i in group)} are behind one PCIe switch",
            "their copies share its uplink: calibrate with all of them, not with one",
        )


def _collectives(host: Host) -> Iterator[Finding]:
    pairs: dict[Route, list[tuple[int, int]]] = {}
    for a, b in combinations(range(len(host.gpus)), 2):
        pairs.setdefault(route(host, a, b), []).append((a, b))
    for found, which in pairs.items():
        where = f" ({_pairs(which)})" if len(pairs) > 1 else ""
        severity: Severity = "warning" if found.kind == "network" else "note" if found.kind == "host memory" else "ok"
        advice = {
            "NVLink": "NCCL_P2P_DISABLE=1 measures the path through host memory instead",
            "PCIe, peer to peer": "NCCL_DEBUG=INFO shows what it really takes",
            "host memory": "a profile is for one path; NCCL_DEBUG=INFO shows what it really takes",
            "network": "unset NCCL_SHM_DISABLE: ranks of one host should not use the network",
        }[found.kind]
        yield Finding(severity, "NCCL's path", f"{found.kind}{where}: {found.why}", advice)
    if len(pairs) > 1:
        advice = "collectives go at the pace of the slowest pair; a profile may fit GPUs of one kind of pair better"
        yield Finding("note", "NCCL's path", "pairs of GPUs differ", advice)
    kinds = {found.kind for found in pairs}
    switched = len(host.gpus) > 2 and kinds == {"NVLink"} and re.search(r"[HB][1238]00|H20\b", host.gpus[0].name)
    if switched and host.environment.get("NCCL_NVLS_ENABLE") != "0":
        seen = "all-reduces may be summed in the NVSwitch (NVLS)"
        yield Finding("note", "NCCL's path", seen, "NCCL_NVLS_ENABLE=0 turns that off")
    free = host.shared_memory
    if "host memory" in kinds and free is not None and free < ENOUGH_SHARED:
        seen = f"{show_bytes(free)} free in /dev/shm, where NCCL's buffers may lie"
        yield Finding("warning", "NCCL's path", seen, "start the container with --shm-size=8g or --ipc=host")


def route(host: Host, a: int, b: int) -> Route:
    """How NCCL goes from the a-th to the b-th GPU, as its recent releases decide."""
    link = _link(host, a, b)
    blocked = _blocked(host, a, b, link)
    if blocked is None:
        if link.startswith("NV"):
            return Route("NVLink", f"{link} between them")
        return Route("PCIe, peer to peer", f"{link} between them, no farther than NCCL's limit {_limit(host)[0]}")
    if host.environment.get("NCCL_SHM_DISABLE", "0") != "0":
        return Route("network", f"{blocked}, and NCCL_SHM_DISABLE is set; newer releases fail instead")
    return Route("host memory", blocked)


def _blocked(host: Host, a: int, b: int, link: str) -> str | None:
    """Why NCCL does not let GPUs access each other; None if it does."""
    if host.environment.get("NCCL_P2P_DISABLE") == "1":
        return "NCCL_P2P_DISABLE=1"
    said = _cell(host.peers, a, b)
    if said in PEERS:
        return f"GPUs cannot read each other: {PEERS[said]} ({said})"
    if host.torch and _cell(host.torch.peers, a, b) is False:
        return "CUDA says that the GPUs cannot access each other"
    limit, why = _limit(host)
    if not link:
        return "nvidia-smi does not say how the GPUs are connected, so this is a guess"
    distance = "NVL" if link.startswith("NV") else {"NODE": "PHB"}.get(link, link)
    if distance not in LEVELS or LEVELS.index(distance) > LEVELS.index(limit):
        return f"{link} between them is farther than {limit}, {why}"
    return None


def _limit(host: Host) -> tuple[str, str]:
    """(the distance up to which NCCL goes from GPU to GPU, why)."""
    asked = host.environment.get("NCCL_P2P_LEVEL", "").upper()
    if asked in LEVELS:
        return asked, "set by NCCL_P2P_LEVEL"
    if asked.isdigit():
        return OLD_LEVELS[min(int(asked), len(OLD_LEVELS) - 1)], "set by NCCL_P2P_LEVEL"
    if "AMD" in (host.cpu or "") and len(host.gpus) <= 2:
        return "SYS", "NCCL's limit for two GPUs on an AMD processor"
    return "PXB", "NCCL's limit unless NCCL_P2P_LEVEL is set"


def _link(host: Host, a: int, b: int) -> str:
    return _cell(host.links, a, b) or ""


def _cell(matrix: Sequence[Sequence[Any]], a: int, b: int) -> Any:
    return matrix[a][b] if a < len(matrix) and b < len(matrix[a]) else None


def _isolation(host: Host) -> Iterator[Finding]:
    near = any(_link(host, a, b) in ("PIX", "PXB") for a, b in combinations(range(len(host.gpus)), 2))
    if near and host.acs:
        yield Finding(
            "warning",
            "ACS",
            "ports above the GPUs send peer-to-peer traffic up to the root complex",
            "disable ACS in the firmware: traffic between GPUs behind one switch should stay there",
        )
    if near and host.acs is None:
        seen = "not known: lspci is missing or shows it to root alone"
        yield Finding("note", "ACS", seen, "sudo lspci -vvv | grep ACSCtl: no ReqRedir+ above the GPUs")
    if translated := [g for g in host.gpus if (g.iommu or "").startswith("DMA")]:
        yield Finding(
            "warning",
            "IOMMU",
            f"translates the transfers of {_names(translated)}",
            "copies may be slower and peer-to-peer fail: boot with iommu=pt, if only trusted devices are in there",
        )
    elif host.gpus and host.iommu and all(g.iommu is None for g in host.gpus):
        yield Finding("note", "IOMMU", "there is one; its mode is not said", "iommu=pt in /proc/cmdline is best")
    if host.gpus and host.virtual:
        yield Finding(
            "note",
            "virtual machine",
            "PCIe and NUMA are what the hypervisor shows",
            "measure twice: neighbours on the same host are seen as spread alone",
        )


def _power(host: Host) -> Iterator[Finding]:
    for gpu in host.gpus:
        limit, default = gpu.power_limit, gpu.power_default
        if limit and default and limit < default:
            seen = f"GPU{gpu.index}: capped at {limit:g} of {default:g} W"
            yield Finding("warning", "power", seen, "compute will be slower; right only if it is to run so")
        for bit, (severity, words) in SLOWED.items():
            if gpu.throttle and gpu.throttle & bit:
                advice = "let it cool, or look at its power and cooling" if severity == "warning" else ""
                yield Finding(severity, "clocks", f"GPU{gpu.index}: {words}", advice)
        if gpu.temperature and gpu.temperature >= HOT:
            yield Finding("warning", "temperature", f"GPU{gpu.index}: {gpu.temperature:g} C", "let it cool")
    if lazy := [g for g in host.gpus if g.persistence is False]:
        advice = "the driver unloads between runs, and the first of each is slow: nvidia-smi -pm 1, as root"
        yield Finding("note", "persistence", f"off on {_names(lazy)}", advice)


def _memory(host: Host) -> Iterator[Finding]:
    from sim.models import load_model, parameters, shipped

    room = min((m for m in (host.memory_available, host.memory_limit) if m is not None), default=None)
    ranks = max(len(host.gpus), 1)
    if room is None:
        yield Finding("note", "host memory", "not said", "each rank pins a copy of the model's weights")
    else:
        sizes = {name: 2 * parameters(load_model(name)) * ranks for name in shipped()}
        large = sorted((size, name) for name, size in sizes.items() if size > room)
        limited = " (the control group's limit)" if room == host.memory_limit else " available"
        if large:
            needs = ", ".join(f"{name} {show_bytes(size)}" for size, name in large)
            seen = f"{show_bytes(room)}{limited}: too little for a pinned copy on each rank of {needs}"
            severity: Severity = "warning" if len(large) == len(sizes) else "note"
            yield Finding(severity, "host memory", seen, "measure with fewer layers or ranks, or another model")
        else:
            yield Finding("ok", "host memory", f"{show_bytes(room)}{limited}: enough to pin every shipped model")
    if host.lock_limit is not None:
        seen = f"no more than {show_bytes(host.lock_limit)} may be locked (ulimit -l)"
        yield Finding("note", "host memory", seen, "CUDA's pinned memory does not count; InfiniBand's does")


def _processors(host: Host) -> Iterator[Finding]:
    ranks = len(host.gpus)
    usable = min(float(host.cpus), host.cpu_limit or float(host.cpus))
    if usable < 2 * ranks:
        advice = "a rank keeps two busy, issuing and polling: late launches would be measured"
        yield Finding("warning", "processors", f"{usable:g} for {ranks} ranks", advice)
    nodes = dict(zip((f"GPU{g.index}" for g in host.gpus), host.gpu_nodes, strict=False))
    known = {node for node in nodes.values() if node is not None}
    if host.numa_nodes < 2 or not ranks:
        return
    if not known:
        advice = "pinned memory may lie far from its GPU: repeat measurements and compare"
        yield Finding("note", "NUMA", f"{host.numa_nodes} nodes; which GPU is at which is not said", advice)
        return
    where = ", ".join(f"{gpu} at {'?' if node is None else node}" for gpu, node in nodes.items())
    bind = f"numactl --cpunodebind={min(known)} --membind={min(known)} chunkflow-sim ..."
    if len(known) > 1:
        advice = (
            "pinned memory may lie at another node than its GPU: repeat and compare, or take the GPUs of one node: "
        )
        yield Finding("warning", "NUMA", f"GPUs at several nodes ({where})", advice + bind)
    elif not known & set(host.own_nodes):
        yield Finding("warning", "NUMA", f"{where}; this process is bound to others", bind)
    elif set(host.own_nodes) != known:
        yield Finding("note", "NUMA", f"{where}; this process may run at any", bind)
    else:
        yield Finding("ok", "NUMA", f"{where}, and so is this process")


def _software(host: Host) -> Iterator[Finding]:
    version = host.packages.get("torch")
    if version is None:
        advice = "pip install 'chunkflow-sim[torch]', or a build of torch for these GPUs"
        yield Finding("error", "software", "torch is not installed", advice)
        return
    if not host.gpus:
        return
    if host.torch is None:
        advice = "python -c 'import torch; print(torch.cuda.device_count())' says why"
        yield Finding("error", "software", f"torch {version} could not be asked for its GPUs", advice)
    elif host.torch.cuda is None:
        seen = f"torch {version} is built for processors alone"
        yield Finding("error", "software", seen, "install a build of torch for CUDA")
    elif host.cuda and _number(host.torch.cuda) > _number(host.cuda):
        seen = f"torch {version} needs CUDA {host.torch.cuda}, the driver supports {host.cuda}"
        yield Finding("error", "software", seen, "install a newer driver, or a build of torch for an older CUDA")
    elif host.torch.gpus < len(host.gpus):
        seen = f"torch sees {host.torch.gpus} of {len(host.gpus)} GPUs"
        yield Finding("error", "software", seen, "dmesg and nvidia-smi -q may say why")
    else:
        seen = f"torch {version}, CUDA {host.torch.cuda}, NCCL {host.nccl or 'unknown'}"
        yield Finding("ok", "software", seen)
    if missing := [name for name in ("cuda-bindings", "triton") if name not in host.packages]:
        seen = f"{' and '.join(missing)} not installed"
        yield Finding("error", "software", seen, f"pip install {' '.join(missing)}: nothing starts on a GPU without")


def _environment(host: Host) -> Iterator[Finding]:
    said = host.environment
    if said.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        seen = "CUDA_LAUNCH_BLOCKING: every launch waits for its kernel, nothing overlaps"
        yield Finding("error", "environment", seen, "unset it")
    queues = said.get("CUDA_DEVICE_MAX_CONNECTIONS", "")
    if queues.isdigit() and int(queues) < STREAMS:
        seen = f"CUDA_DEVICE_MAX_CONNECTIONS={queues}: streams share a queue, and one that waits on a flag holds others"
        yield Finding("error", "environment", seen, "unset it (8): the gates of `yielding` can hang otherwise")
    if said.get("PYTORCH_NO_CUDA_MEMORY_CACHING", "0") not in ("", "0"):
        seen = "PYTORCH_NO_CUDA_MEMORY_CACHING: every allocation synchronises the device"
        yield Finding("error", "environment", seen, "unset it")
    if "NCCL_LAUNCH_MODE" in said:
        seen = f"NCCL_LAUNCH_MODE={said['NCCL_LAUNCH_MODE']}"
        yield Finding("note", "environment", seen, "collectives start otherwise than by default: unset it")
    if said.get("CUDA_MODULE_LOADING", "LAZY").upper() != "EAGER" and host.gpus:
        seen = "kernels are loaded when first used, which synchronises the device"
        yield Finding(
            "ok", "environment", seen, "all are warmed up before; CUDA_MODULE_LOADING=EAGER for your own code"
        )
    quiet = {"NCCL_LAUNCH_MODE", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE", "NCCL_NVLS_ENABLE"}
    quiet |= {"NCCL_VERSION"}  # of the container image, not a setting
    if others := [f"{k}={v}" for k, v in said.items() if k.startswith("NCCL_") and k not in quiet]:
        yield Finding("note", "environment", ", ".join(others), "what is measured so holds for these settings alone")


CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    _gpus, _processes, _links, _uplinks, _collectives, _isolation,
    _power, _memory, _processors, _software, _environment,
)  # fmt: skip


def _names(gpus: Iterable[Gpu]) -> str:
    return ", ".join(f"GPU{gpu.index}" for gpu in gpus)


def _pairs(which: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(f"{a}-{b}" for a, b in which[:4])
    return shown if len(which) <= 4 else f"{shown} and {len(which) - 4} more"


def _number(version: str) -> tuple[int, ...]:
    """The major version alone: CUDA's minor ones run on older drivers of the same major."""
    found = re.match(r"\d+", version)
    return (int(found[0]),) if found else ()
