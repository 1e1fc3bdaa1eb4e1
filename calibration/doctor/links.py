"""PCIe: links, shared uplinks, what keeps GPUs from each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from calibration.doctor.findings import Finding, names
from calibration.doctor.nccl import link_between
from calibration.host import IDLE, Gpu, Host, by_kind


def check_links(host: Host) -> Iterator[Finding]:
    """Links that run below what both ends can."""
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
        seen = f"{names(gpus)}: Gen{generation} of Gen{best}"
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
        kinds = by_kind(host.gpus, lambda gpu: f"Gen{gpu.link_generation_max} x{gpu.link_width_max}")
        said = [link + (f" ({names(gpus)})" if len(kinds) > 1 else "") for link, gpus in kinds.items()]
        yield Finding("ok", "PCIe link", f"{', '.join(said)}, as it should be")
    if silent := [g for g in host.gpus if g.link_width is None or g.link_generation is None]:
        yield Finding("note", "PCIe link", f"{names(silent)}: link not reported", "measure copies to find out")


SHARED: tuple[tuple[str, str, str, str], ...] = (
    (
        "PIX",
        "shared uplink",
        "are behind one PCIe switch",
        "their copies share its uplink: calibrate with all of them, not with one",
    ),
    (
        "PXB",
        "shared uplink",
        "are behind PCIe switches of one root port (PXB)",
        "their copies share its uplink: calibrate with all of them, not with one",
    ),
    (
        "PHB",
        "shared root complex",
        "share a PCIe host bridge (PHB)",
        "their copies may share what it moves: calibrate with all of them, not with one",
    ),
    (
        "NODE",
        "shared NUMA node",
        "are at host bridges of one NUMA node (NODE)",
        "their copies share its memory; traffic between them goes from bridge to bridge",
    ),
    (
        "SYS",
        "shared host",
        "reach each other over the link between NUMA nodes (SYS)",
        "traffic between them shares that link: place the ranks that talk most on one side",
    ),
)
"""How near two GPUs are in nvidia-smi's words, nearest first; the topic, what is seen and what to do."""


def check_uplinks(host: Host) -> Iterator[Finding]:
    """GPUs that share a switch's uplink, a host bridge, a NUMA node or the link between nodes."""
    above: dict[str, list[int]] = {}
    for i, gpu in enumerate(host.gpus):
        for port in gpu.ports[2:]:
            above.setdefault(port.bus, []).append(i)
    reported = {tuple(gpus) for gpus in above.values() if len(gpus) > 1}
    for group in sorted(reported):
        yield _shared(host, [group], *SHARED[0][1:])
    inside: list[tuple[int, ...]] = [(i,) for i in range(len(host.gpus))]
    for near, topic, seen, advice in SHARED:
        groups = _groups(host, inside, near)
        if near == "SYS":
            for group in groups:
                if group not in inside:
                    yield _shared(host, [side for side in inside if {*side} <= {*group}], topic, seen, advice)
            return
        for group in groups:
            behind_switches = near in ("PIX", "PXB") and above  # the kernel's list of ports says more
            if group not in inside and group not in reported and not behind_switches:
                yield _shared(host, [group], topic, seen, advice)
        inside = groups


def _groups(host: Host, inside: Sequence[tuple[int, ...]], near: str) -> list[tuple[int, ...]]:
    """The groups `inside`, those joined of which some pair is as `near`."""
    groups = list(inside)
    for a, b in combinations(range(len(host.gpus)), 2):
        if near in (link_between(host, a, b), link_between(host, b, a)):
            joined = [g for g in groups if a in g or b in g]
            groups = [g for g in groups if g not in joined] + [tuple(sorted(i for g in joined for i in g))]
    return sorted(groups)


def _shared(host: Host, sides: Sequence[Sequence[int]], topic: str, seen: str, advice: str) -> Finding:
    """A note about the GPUs of one group, or of several that meet."""
    shown = " and ".join(names(host.gpus[i] for i in side) for side in sides)
    return Finding("note", topic, f"{shown} {seen}", advice)


def check_isolation(host: Host) -> Iterator[Finding]:
    """ACS, the IOMMU, and hypervisors."""
    near = any(link_between(host, a, b) in ("PIX", "PXB") for a, b in combinations(range(len(host.gpus)), 2))
    if near and host.acs:
        yield Finding(
            "warning",
            "ACS",
            "ports above the GPUs send peer-to-peer traffic up to the root complex",
            "disable ACS in the firmware: traffic between GPUs behind one switch should stay there",
        )
    if near and host.acs is None:
        seen = "not known: lspci is missing or shows it only to root"
        yield Finding("note", "ACS", seen, "sudo lspci -vvv | grep ACSCtl: no ReqRedir+ above the GPUs")
    if translated := [g for g in host.gpus if (g.iommu or "").startswith("DMA")]:
        yield Finding(
            "warning",
            "IOMMU",
            f"translates the transfers of {names(translated)}",
            "copies may be slower and peer-to-peer fail: boot with iommu=pt, if only trusted devices are in there",
        )
    elif host.gpus and host.iommu and all(g.iommu is None for g in host.gpus):
        yield Finding("note", "IOMMU", "there is one; its mode is not said", "iommu=pt in /proc/cmdline is best")
    if host.gpus and host.virtual:
        yield Finding(
            "note",
            "virtual machine",
            "PCIe and NUMA are what the hypervisor shows",
            "measure twice: neighbours on the same host are seen only as spread",
        )
