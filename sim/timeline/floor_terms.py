"""Terms of the proved floor of a step: copies that overlap with what they slow, and the chain of slots.

**Overlap.** The compute stream runs its kernels and collectives one after the other, and so many bytes are copied
meanwhile. Beside each of them copies cost time, at least so much a byte:

- A kernel of c s whose launches lose d s in all while copies fill the link takes d / c longer at full rate.
- Beside a collective the bytes that come to the GPU, g B/s of G alone, each take o of the link's capacity c. If copies
  go at r < their cap, the max-min certificate says that on a full resource of theirs no flow has more for its weight,
  so g <= w r where the incoming bytes cross it, too. With g <= (c - r) / o a byte copied delays them by
  (1 - g / G) / r, which is least at r = c / (1 + w o), or at the cap of copies, where the certificate says nothing.
- Nothing else runs while a copy is waited for: 1 / cap.

Copies are cheapest where that is least, so the floor fills these places in that order.

**Chain.** A layer starts after the one before and after its own copy; a copy starts after the one before and after the
layer that leaves its slot. In the steady state a pass takes at least the mean of any cycle of these; the critical path
of many passes has the one that binds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from sim.fluid import FlowSpec
from sim.hardware import Profile, collectives
from sim.hardware.host_flows import Group, HostFlows
from sim.program import CollectiveKind

MIN_PASSES = 4
"""Passes whose critical path is looked at, at least."""


class Segment(NamedTuple):
    """A part of the compute stream: `seconds` isolated; beside it `most` bytes are copied for `cost` s each."""

    seconds: float
    cost: float
    most: float


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """Segments of one cost as one."""
    found: dict[float, Segment] = {}
    for seconds, cost, most in segments:
        known = found.get(cost, Segment(0.0, cost, 0.0))
        found[cost] = Segment(known.seconds + seconds, cost, known.most + most)
    return list(found.values())


def overlap_floor(segments: Iterable[Segment], copied: float, rate: float) -> float:
    """Seconds of all segments with `copied` bytes copied beside them or, at `rate` B/s, after them."""
    segments = sorted(segments, key=lambda segment: segment.cost)
    total, left = sum(segment.seconds for segment in segments), copied
    for segment in segments:
        if left <= 0:
            return total
        moved = min(segment.most, left)
        total += segment.cost * moved
        left -= moved
    return total + left / rate


def kernel_segment(profile: Profile, gpu: int, seconds: float, launches: int) -> Segment:
    """A kernel of `seconds`, isolated."""
    if seconds <= 0:
        return Segment(0.0, 0.0, 0.0)
    copy, flow = profile.copy_flow("h2d", gpu), profile.kernel_flow(gpu, seconds, launches)
    assert flow.drag is not None
    link, slowdown = flow.drag
    full = sum(m * copy.cap for resource, m in copy.route if resource == link) / profile.capacities[link]
    most = copy.cap * seconds * (1 + slowdown * full)
    return Segment(seconds, slowdown * full * seconds / most, most)


def collective_segments(
    flows: HostFlows, kind: CollectiveKind, size: int, group: Group, rank: int
) -> Iterator[Segment]:
    """What a collective of the ranks of a group is on `rank`, one after the other."""
    whole = flows.isolated(kind, size, group)[flows.place(group, rank)]
    copy = flows.profile.copy_flow("h2d", flows.gpus[rank])
    latencies = 0.0
    found: list[Segment] = []
    phases = flows.collective(kind, size, group)
    for number, (phase, incoming) in enumerate(zip(phases, flows.incoming(kind, size, group, rank), strict=True)):
        latencies += phase.latency
        lasts = collectives.phase_time(phase, flows.capacities)
        if number == len(phases) - 1:
            lasts = max(whole - sum(s.seconds for s in found) - latencies, 0.0)
        cost, most = _beside(flows.profile, copy, incoming, lasts)
        found.append(Segment(lasts, cost, most))
    yield Segment(latencies, 0.0, copy.cap * latencies)
    yield from found


def _beside(
    profile: Profile, copy: FlowSpec, incoming: Sequence[tuple[FlowSpec, float]], lasts: float
) -> tuple[float, float]:
    """The least cost, s a byte, of copies beside the incoming flows of a phase of `lasts` s, and for how many bytes."""
    free = 0.0, math.inf
    if not incoming or lasts <= 0:
        return free
    routes = [dict(spec.route if spec.alternate_route is None else spec.alternate_route[1]) for spec, _ in incoming]
    if any(resource not in route for resource, _ in copy.route for route in routes):
        return free  # copies may be held up where these flows are not: then they cost nothing
    alone = sum(size for _, size in incoming) / lasts
    weight = sum(spec.weight for spec, _ in incoming) / copy.weight
    limits = [(profile.capacities[r], m, min(route[r] for route in routes)) for r, m in copy.route]

    def incoming_at(rate: float) -> float:
        """B/s that come, at most, while copies move at `rate`."""
        left = min((capacity - m * rate) / overhead for capacity, m, overhead in limits)
        return max(min(left, alone, weight * rate if rate < copy.cap else math.inf), 0.0)

    # between the rates at which another limit binds the cost rises or falls all the way
    rates = {copy.cap}
    rates |= {capacity / (m + weight * overhead) for capacity, m, overhead in limits}
    rates |= {(capacity - overhead * alone) / m for capacity, m, overhead in limits} | {alone / weight}
    for (c1, m1, o1), (c2, m2, o2) in combinations(limits, 2):
        if slope := m1 / o1 - m2 / o2:
            rates.add((c1 / o1 - c2 / o2) / slope)
    costs = [((1 - incoming_at(rate) / alone) / rate, rate) for rate in rates if 0 < rate <= copy.cap]
    cost, rate = min(costs)
    return cost, rate * lasts / (1 - cost * rate) if cost * rate < 1 else math.inf


def rest_rate(profile: Profile, gpu: int) -> float:
    """B/s of copies that are neither beside kernels nor in the cheapest place beside a collective, at most."""
    copy = profile.copy_flow("h2d", gpu)
    return max(copy.cap, *(profile.capacities[resource] / m for resource, m in copy.route))


class Turn(NamedTuple):
    """One layer executed: seconds of its copy, of its kernels and collectives until its slot is free, and of all."""

    copy: float
    held: float
    whole: float


def chain_floor(turns: Sequence[Turn], slots: int) -> float:
    """Seconds of a pass through `turns` with `slots` slots, in the steady state: the mean of a cycle of what waits.

    Layers without a copy take no slot.
    """
    if not turns or slots < 1 or not any(turn.copy for turn in turns):
        return sum(turn.whole for turn in turns)
    if len(set(turns)) == 1:
        return len(turns) * max(turns[0].copy, turns[0].whole, (turns[0].copy + turns[0].held) / slots)
    count = len(turns)
    total = count * max(MIN_PASSES, 2 + 4 * (slots + 1) // count)
    starts: list[float] = []
    ends: dict[int, float] = {}
    came: dict[tuple[str, int], tuple[str, int]] = {}
    copied: list[int] = []
    for n in range(total):
        turn = turns[n % count]
        start, before = (starts[-1] + turns[(n - 1) % count].whole, ("start", n - 1)) if n else (0.0, ("", 0))
        if turn.copy:
            begin, cause = (ends[copied[-1]], ("end", copied[-1])) if copied else (0.0, ("", 0))
            if len(copied) >= slots:
                held = copied[-slots]
                freed = starts[held] + turns[held % count].held
                if freed > begin:
                    begin, cause = freed, ("start", held)
            copied.append(n)
            ends[n], came["end", n] = begin + turn.copy, cause
            if ends[n] > start:
                start, before = ends[n], ("end", n)
        starts.append(start)
        came["start", n] = before
    return _mean_of_cycle(came, starts, ends, count)


def _mean_of_cycle(
    came: dict[tuple[str, int], tuple[str, int]], starts: Sequence[float], ends: dict[int, float], count: int
) -> float:
    """Seconds a pass of the cycle that the critical path to the last start goes through."""
    at = ("start", len(starts) - 1)
    seen: dict[tuple[str, int], tuple[int, float]] = {}
    best = 0.0
    while at[0]:
        what, n = at
        time = starts[n] if what == "start" else ends[n]
        key = what, n % count
        if key in seen:
            later, then = seen[key]
            best = max(best, (then - time) / ((later - n) // count))
        else:
            seen[key] = n, time
        at = came[at]
    return best
