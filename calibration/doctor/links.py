"""PCIe: links, shared uplinks, what keeps GPUs from each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from calibration.doctor.findings import Finding, names
from calibration.doctor.nccl import link_between
from calibration.host import IDLE, Gpu, Host


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
        first = host.gpus[0]
        yield Finding("ok", "PCIe link", f"Gen{first.link_generation_max} x{first.link_width_max}, as it should be")
    if silent := [g for g in host.gpus if g.link_width is None or g.link_generation is None]:
        yield Finding("note", "PCIe link", f"{names(silent)}: not said", "only measuring copies can tell")


def check_uplinks(host: Host) -> Iterator[Finding]:
    """GPUs whose copies share a switch's uplink."""
    above: dict[str, list[Gpu]] = {}
    for gpu in host.gpus:
        for port in gpu.ports[2:]:
            above.setdefault(port.bus, []).append(gpu)
    groups = {tuple(g.index for g in gpus) for gpus in above.values() if len(gpus) > 1}
    if not above:
        for a in range(len(host.gpus)):
            near = [g.index for b, g in enumerate(host.gpus) if b == a or link_between(host, a, b) in ("PIX", "PXB")]
            groups |= {tuple(near)} if len(near) > 1 else set()
    for group in sorted(groups):
        yield Finding(
            "note",
            "shared uplink",
            f"{', '.join(f'GPU{i}' for i in group)} are behind one PCIe switch",
            "their copies share its uplink: calibrate with all of them, not with one",
        )


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
        seen = "not known: lspci is missing or shows it to root alone"
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
            "measure twice: neighbours on the same host are seen as spread alone",
        )
