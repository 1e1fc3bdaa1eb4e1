"""Which route NCCL takes from GPU to GPU, as its recent releases decide."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

import msgspec

from calibration.doctor.findings import Finding, Severity
from calibration.host import Host
from sim.inputs.units import show_bytes

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


class Route(msgspec.Struct, frozen=True):
    """How NCCL moves data from one GPU to another, and why so."""

    kind: Literal["NVLink", "PCIe, peer to peer", "host memory", "network"]
    why: str


def check_collectives(host: Host) -> Iterator[Finding]:
    """The routes of all pairs, and what goes with them."""
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
    switched = (
        len(host.gpus) > 2
        and kinds == {"NVLink"}
        and all(re.search(r"[HB][1238]00|H20\b", gpu.name) for gpu in host.gpus)
    )
    if switched and host.environment.get("NCCL_NVLS_ENABLE") != "0":
        seen = "all-reduces may be summed in the NVSwitch (NVLS)"
        yield Finding("note", "NCCL's path", seen, "NCCL_NVLS_ENABLE=0 turns that off")
    free = host.shared_memory
    if "host memory" in kinds and free is not None and free < ENOUGH_SHARED:
        seen = f"{show_bytes(free)} free in /dev/shm, where NCCL's buffers may lie"
        yield Finding("warning", "NCCL's path", seen, "start the container with --shm-size=8g or --ipc=host")


def route(host: Host, a: int, b: int) -> Route:
    """How NCCL goes from the a-th to the b-th GPU, as its recent releases decide."""
    link = link_between(host, a, b)
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


def link_between(host: Host, a: int, b: int) -> str:
    """How the a-th GPU reaches the b-th, as nvidia-smi says; empty where it does not."""
    return _cell(host.links, a, b) or ""


def _cell(matrix: Sequence[Sequence[Any]], a: int, b: int) -> Any:
    return matrix[a][b] if a < len(matrix) and b < len(matrix[a]) else None


def _pairs(which: Sequence[tuple[int, int]]) -> str:
    shown = ", ".join(f"{a}-{b}" for a, b in which[:4])
    return shown if len(which) <= 4 else f"{shown} and {len(which) - 4} more"
