"""A host's rates as the first-order model takes them: isolated, and with copies on all ranks, from its profile's flows.

Ranks are taken to be alike and in step. All rates are max-min fair rates of the flows that are in flight together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import msgspec

from sim.fluid import FlowSpec, rates_together
from sim.hardware import Profile, collectives
from sim.inputs.units import Bandwidth, Bytes, FlopRate, Number, Seconds
from sim.isolated_runs import times_together
from sim.machine import SimulatedMachine
from sim.policies.host_rates import CollectiveRates, HostRates, PhaseRates
from sim.program import CollectiveKind
from sim.workloads.block_items import CollectiveOp, Exchange, Groups, Shift, Transfers
from sim.workloads.engine_collectives import EngineCollective
from sim.workloads.workload import Workload


class PhaseTimes(NamedTuple):
    """A phase: its latency, s of its bytes uncontended and with copies on all ranks, B/s of a copy meanwhile."""

    latency: float
    isolated: float
    beside_copies: float
    copy_rate: float


def copy_rate(profile: Profile, gpus: Sequence[int]) -> float:
    """B/s of an H2D copy while all of `gpus` copy and do nothing else."""
    return min(rates_together([profile.copy_flow("h2d", gpu) for gpu in gpus], profile.capacities))


def launch_delay(profile: Profile, gpu: int, rate: float) -> float:
    """What copies at `rate` B/s add to each launch of a kernel on `gpu`, s: by the load of the GPU's link."""
    flow = profile.kernel_flow(gpu, 1.0)
    assert flow.drag is not None
    link = flow.drag[0]
    load = sum(m * rate for resource, m in profile.copy_flow("h2d", gpu).route if resource == link)
    return profile.streams.launch_delay.value * load / profile.capacities[link]


def phases(
    profile: Profile, kind: CollectiveKind, size: int, groups: Groups, gpus: Sequence[int]
) -> Iterator[PhaseTimes]:
    """The phases of a collective of `size` bytes per rank among `groups` of ranks (all of them unless given).

    Rank r is on GPU `gpus[r]`.
    """
    placed = [[gpus[rank] for rank in group] for group in groups] or [list(gpus)]
    found = [collectives.flows(profile, kind, size, group) for group in placed]
    for together in zip_longest(*found):
        flows = tuple(flow for phase in together if phase is not None for flow in phase.flows)
        yield _beside_copies(profile, max(p.latency for p in together if p is not None), flows, gpus)


def _beside_copies(
    profile: Profile, latency: float, flows: tuple[tuple[FlowSpec, collectives.Part], ...], gpus: Sequence[int]
) -> PhaseTimes:
    copies = [profile.copy_flow("h2d", gpu) for gpu in gpus]
    contended = rates_together([*copies, *(spec for spec, _ in flows)], profile.capacities)
    phase = collectives.PhaseFlows(latency, flows)
    return PhaseTimes(
        latency,
        collectives.phase_time(phase, profile.capacities),
        max(part.size / rate for rate, (_, part) in zip(contended[len(gpus) :], flows, strict=True)),
        min(contended[: len(gpus)]),
    )


def host_rates(profile: Profile, workloads: Iterable[Workload], gpus: Sequence[int]) -> HostRates:
    """The rates of `profile` for what any of `workloads` does; rank r is on GPU `gpus[r]`."""
    device, streams, host = profile.device_of(gpus[0]), profile.streams, profile.host
    rate = copy_rate(profile, gpus)
    attention = device.attention_efficiency or device.compute_efficiency
    factor = 1.0 if profile.compute_factor is msgspec.UNSET else profile.compute_factor.value
    return HostRates(
        copy_rate=Bandwidth(rate),
        d2h_rate=Bandwidth(min(rates_together([profile.copy_flow("d2h", gpu) for gpu in gpus], profile.capacities))),
        flops=FlopRate(device.peak_flops.value * device.compute_efficiency.value),
        attention_flops=FlopRate(device.peak_flops.value * attention.value),
        memory_bandwidth=Bandwidth(device.hbm_bandwidth.value * device.hbm_efficiency.value),
        collectives=tuple(dict.fromkeys(c for workload in workloads for c in _collectives(profile, workload, gpus))),
        compute_factor=Number(factor),
        setup=profile.h2d.setup.value,
        minimum=profile.h2d.minimum.value,
        wait_flag=streams.wait_flag.value,
        write_flag=streams.write_flag.value,
        flag_wake=streams.flag_wake.value,
        event=streams.event.value,
        wake=streams.wake.value,
        beside_kernel=streams.beside_kernel.value,
        launch_delay=Seconds(launch_delay(profile, gpus[0], rate)),
        crowd_delay=streams.crowd_delay.value,
        beside_collective=device.beside_collective.value,
        host_kernel=host.kernel.value,
        host_copy=host.copy.value,
        host_collective=host.collective.value,
        host_event=host.event.value,
        host_memop=host.memop.value,
        queue_depth=max(int(host.queue_depth.value), 1),
    )


def _collectives(profile: Profile, workload: Workload, gpus: Sequence[int]) -> Iterator[CollectiveRates]:
    """Those of every size and number of ranks in the blocks, the slowest group of each."""
    found: dict[tuple[CollectiveKind, int, int], list[PhaseTimes]] = {}
    for key, groups in _asked(workload, len(gpus)):
        kind, size, ranks = key
        if ranks < 2:
            continue
        times = list(phases(profile, kind, size, groups, gpus))
        if key not in found or sum(t.isolated for t in times) > sum(t.isolated for t in found[key]):
            found[key] = times
    for (kind, size, ranks), times in found.items():
        rates = (
            PhaseRates(Seconds(t.latency), Seconds(t.isolated), Seconds(t.beside_copies), Bandwidth(t.copy_rate))
            for t in times
        )
        start = profile.collective_class(kind).copy_start.value
        yield CollectiveRates(kind, Bytes(size), ranks, tuple(rates), start)
    yield from _by_copy_engines(profile, workload, gpus)


def _by_copy_engines(profile: Profile, workload: Workload, gpus: Sequence[int]) -> Iterator[CollectiveRates]:
    """Those of collectives by copy engines: each is simulated alone, and lasts as long as on its slowest rank."""
    asked = {op for op in workload.entries() if isinstance(op, EngineCollective)}
    found: dict[tuple[CollectiveKind, int, int, int], float] = {}
    for op in asked:
        times = times_together(SimulatedMachine(profile), op, len(gpus), gpus)
        key = op.kind, op.bytes, len(op.groups[0]), op.piece_bytes
        found[key] = max(found.get(key, 0.0), *times.values())
    rate = Bandwidth(copy_rate(profile, gpus))
    for (kind, size, ranks, piece), seconds in found.items():
        received = collectives.sent_per_rank(kind, size, ranks)
        one = Seconds(seconds * min(piece / received, 1.0) if received else 0.0)
        phase = PhaseRates(Seconds(0.0), Seconds(seconds), Seconds(0.0), rate, one)
        yield CollectiveRates(kind, Bytes(size), ranks, (phase,), piece_bytes=Bytes(piece))


def _asked(workload: Workload, world_size: int) -> Iterator[tuple[tuple[CollectiveKind, int, int], Groups]]:
    seen = set[object]()
    for op in workload.entries():
        if isinstance(op, CollectiveOp | Exchange):
            ranks = len(op.groups[0]) if op.groups else world_size
            asked = (op.kind, int(op.bytes), ranks), op.groups
        elif isinstance(op, Shift):
            asked = ("send_recv", op.bytes, len(op.groups[0])), op.groups
        elif isinstance(op, Transfers):
            # sends between two of the ranks: as those of the first pair
            asked = ("send_recv", max(t.bytes for t in op.transfers), 2), ((0, 1),)
        else:
            continue
        if asked not in seen:
            seen.add(asked)
            yield asked
