"""What a timeline means: step time, traffic, overlap, inflation, memory, and a floor that no schedule can beat.

Figures are of the last step and rank 0; definitions are in docs/modelling.md. All seconds and bytes.
"""

from __future__ import annotations

from statistics import median
from typing import TypedDict

from sim import collectives
from sim.hardware import Profile
from sim.program import Collective, Copy, Kernel, Program, RecordEvent, WaitEvent
from sim.timeline import Timeline, clip, measure, overlap, union

SCHEMA_VERSION = 1


class Metrics(TypedDict):
    """The figures of a run, s and bytes; the same keys as `run --json` prints."""

    schema_version: int
    step_time_s: float
    step_times_s: list[float]
    peak_memory_bytes: int
    h2d_bytes_per_step: int
    h2d_busy_s: float
    h2d_uncovered_s: float
    collective_time_s: float
    collective_inflation_s: float
    skew_s: float
    contention_s: float
    h2d_collective_overlap_s: float
    exposed_prefetch_s: float
    lower_bound_s: float


def metrics(timeline: Timeline, profile: Profile, rank: int = 0) -> Metrics:
    """The figures that `run --json` prints, for `rank`."""
    steps = timeline.step_times(rank)
    last = len(steps) - 1
    start, end = timeline.steps[rank][-2:]
    copies = [(s, c) for s, c in timeline.commands(rank, Copy) if c.kind == "h2d"]
    in_flight = clip(union((s.ready, s.end) for s, _ in copies), start, end)
    kernels = clip(union((s.start, s.end) for s, _ in timeline.commands(rank, Kernel)), start, end)
    calls = [s for s, c in timeline.commands(rank, Collective) if c.step == last]
    communicating = union((s.start, s.end) for s in calls)
    prefetched = prefetch_events(timeline.program, rank)
    exposed = [(s.start, s.end) for s, c in timeline.commands(rank, WaitEvent) if c.event in prefetched]
    skew = sum(s.ready - s.start for s in calls)
    contention = sum(s.end - s.ready - s.alone for s in calls)
    return {
        "schema_version": SCHEMA_VERSION,
        "step_time_s": median(steps[1:] or steps),
        "step_times_s": steps,
        "peak_memory_bytes": max(level for _, level in timeline.memory(rank)),
        "h2d_bytes_per_step": sum(c.bytes for _, c in copies if c.step == last),
        "h2d_busy_s": measure(in_flight),
        "h2d_uncovered_s": measure(in_flight) - overlap(in_flight, kernels),
        "collective_time_s": measure(communicating),
        "collective_inflation_s": skew + contention,
        "skew_s": skew,
        "contention_s": contention,
        "h2d_collective_overlap_s": overlap(in_flight, communicating),
        "exposed_prefetch_s": measure(clip(exposed, start, end)),
        "lower_bound_s": lower_bound(timeline, profile, rank),
    }


def prefetch_events(program: Program, rank: int) -> set[int]:
    """Events recorded on streams that copy: to wait for one is to wait for a prefetch."""
    commands = list(program.ranks[rank].commands())
    streams = {c.stream for c in commands if isinstance(c, Copy)}
    return {c.event for c in commands if isinstance(c, RecordEvent) and c.stream in streams}


def lower_bound(timeline: Timeline, profile: Profile, rank: int = 0) -> float:
    """A floor of the last step, s: the largest of

    - compute and collectives of `rank` alone, one after the other, as they are on its stream;
    - its copied bytes at the copies' demand cap;
    - for each resource, what all ranks' copies and collectives take of it, at its capacity.
    """
    last = len(timeline.steps[rank]) - 2
    calls = [(s, c) for s, c in timeline.commands(rank, Collective) if c.step == last]
    kernels = [s for s, c in timeline.commands(rank, Kernel) if c.step == last]
    alone = sum(s.alone for s in kernels) + sum(s.alone for s, _ in calls)
    copied = 0.0
    taken = [0.0] * len(profile.capacities)
    for other, program in enumerate(timeline.program.ranks):
        for command in program.commands():
            if isinstance(command, Copy) and command.step == last:
                spec = profile.copy_flow(command.kind, other)
                copied += command.bytes / spec.cap if other == rank else 0.0
                for resource, multiplier in spec.route:
                    taken[resource] += multiplier * command.bytes
    for _, call in calls:
        for spec, part in collectives.flows(profile, call.kind, call.bytes, timeline.program.world_size):
            for resource, multiplier in spec.route:
                taken[resource] += multiplier * part.size
    return max(alone, copied, *(t / c for t, c in zip(taken, profile.capacities, strict=True)))
