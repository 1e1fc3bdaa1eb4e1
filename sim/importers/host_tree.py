"""What a dump says of a host's GPUs: where each sits under PCIe bridges, its memory, its links, what is assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from sim.importers.nvidia_topo import NEAR, Matrix, numa_of
from sim.importers.pci_links import PciLink


class Place(NamedTuple):
    """Where a GPU sits. `bridges` lead from the root port down: GPUs that have one in common share its link."""

    name: str
    """Of the GPU, as the dump has it; "" if it has none."""
    domain: int
    """Number of the group of GPUs next to one memory."""
    root: str
    """Its host bridge."""
    bridges: tuple[str, ...]
    link: PciLink | None = None


class HostTree(NamedTuple):
    """A host's GPUs in their order."""

    places: tuple[Place, ...]
    nvlinks: Mapping[tuple[int, int], int]
    """Pairs of GPUs, the smaller number first, and how many NVLinks join them."""
    remarks: tuple[str, ...]
    """What was assumed or is odd, in sentences."""
    uplinks: Mapping[str, PciLink]
    """Bridges whose own link is known."""
    domains: str = ""
    """By what GPUs were told to be next to one memory."""


def groups_of(items: Sequence[str], joined: Callable[[str, str], bool]) -> list[tuple[str, ...]]:
    """`items` in groups: what is `joined` to one of a group is in it; groups in the order of their first."""
    groups: list[list[str]] = []
    for item in items:
        near = [group for group in groups if any(joined(other, item) for other in group)]
        merged = [other for group in near for other in group] + [item]
        groups = [group for group in groups if group not in near] + [merged]
    order = {item: i for i, item in enumerate(items)}
    return sorted((tuple(sorted(g, key=order.__getitem__)) for g in groups), key=lambda g: order[g[0]])


def tree_of(matrix: Matrix) -> HostTree:
    """The tree that `nvidia-smi topo -m` describes. PIX and PXB to one NIC also tell which GPUs share a switch."""
    devices = (*matrix.gpus, *matrix.others)

    def reach(a: str, b: str) -> str:
        try:
            return matrix.between(a, b)
        except KeyError:
            return ""

    def near(limit: str) -> Callable[[str, str], bool]:
        codes = NEAR[: NEAR.index(limit) + 1]
        return lambda a, b: reach(a, b) in codes

    levels = {limit: groups_of(devices, near(limit)) for limit in ("PIX", "PXB", "PHB", "NODE")}
    domains, how, remarks = _domains(matrix, levels["NODE"])
    nvlinks = {}
    for (i, a), (j, b) in combinations(enumerate(matrix.gpus), 2):
        if reach(a, b).startswith("NV"):
            nvlinks[i, j] = int(reach(a, b)[2:])
    places = []
    for gpu in matrix.gpus:
        switches = [f"{limit} {_of(gpu, levels[limit])[0]}" for limit in ("PXB", "PIX")]
        domain = next(i for i, group in enumerate(domains) if gpu in group)
        places.append(Place("", domain, f"PHB {_of(gpu, levels['PHB'])[0]}", tuple(switches)))
    if nvlinks and not matrix.others and len(matrix.gpus) > 1:
        remarks.append(
            "NVLink hides how GPUs sit on PCIe, and no NIC tells: each is taken to have a root port of its own"
        )
    return HostTree(tuple(places), nvlinks, tuple(remarks), {}, how)


def _of(item: str, groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return next(group for group in groups if item in group)


def _domains(matrix: Matrix, node: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], str, list[str]]:
    """(GPUs next to one memory, by what they were told, remarks)."""
    gpus = matrix.gpus
    remarks: list[str] = []
    together = [tuple(g for g in group if g in gpus) for group in node]
    numa = {gpu: numa_of(matrix, gpu) for gpu in gpus}
    if all(value is not None for value in numa.values()):
        said, how = {gpu: str(value) for gpu, value in numa.items()}, "NUMA Affinity"
    elif all(matrix.affinity.get(gpu, {}).get("CPU Affinity", "N/A") != "N/A" for gpu in gpus):
        said, how = {gpu: matrix.affinity[gpu]["CPU Affinity"] for gpu in gpus}, "CPU Affinity"
    else:
        told = any(_reach(matrix, a, b) in NEAR for a, b in combinations(gpus, 2))
        if told:
            return [group for group in together if group], "SYS between GPUs", remarks
        if len(gpus) > 1:
            remarks.append("no affinity is printed: all GPUs are taken to be next to one memory")
        return [gpus], "nothing", remarks

    def joined(a: str, b: str) -> bool:
        return said[a] == said[b] or any(a in group and b in group for group in together)

    domains = groups_of(gpus, joined)
    for group in domains:
        if len({said[gpu] for gpu in group}) > 1:
            names = ", ".join(group)
            remarks.append(f"{names} differ in {how}, but reach each other within one NUMA node: taken as one")
    apart = [(a, b) for group in domains for a, b in combinations(group, 2) if _reach(matrix, a, b) == "SYS"]
    if apart:
        a, b = apart[0]
        remarks.append(f"{a} and {b} are SYS to each other with one {how}: taken to be next to one memory, as it says")
    return domains, how, remarks


def _reach(matrix: Matrix, a: str, b: str) -> str:
    return matrix.between(a, b)
