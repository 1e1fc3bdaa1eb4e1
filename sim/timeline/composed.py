"""Collectives that are made of other commands: when they ran, as spans like those of collectives.

A machine runs the copies, kernels and flags of which they are made, and knows of nothing else
(`sim.program.ComposedCollective`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from sim.hardware import Profile
from sim.program import Collective, Copy, CopyKind, Kernel, Program, RankProgram, RecordEvent
from sim.timeline.spans import Span, Timeline


def composed_spans(program: Program, times: Sequence[Mapping[int, float]]) -> tuple[Span, ...]:
    """A span for each composed collective of each rank, in order of their ends; `times` are those of its events, s.

    `start` is when its own stream got to it, `ready` when the last rank's did, `end` when all that it is made of has
    ended. Isolated times are not known: nan.
    """
    arrivals: dict[object, float] = {}
    found: list[tuple[object, Span]] = []
    for rank, of in enumerate(program.ranks):
        called: Counter[object] = Counter()
        for whole in of.composed_collectives:
            on = whole.call.communicates_on
            called[on] += 1
            start, end = times[rank][whole.begins], max(times[rank][event] for event in whole.ends)
            key = on, called[on]
            arrivals[key] = max(arrivals.get(key, start), start)
            found.append((key, Span(rank, whole.call, start, start, end, math.nan)))
    spans = (span._replace(ready=min(arrivals[key], span.end)) for key, span in found)
    return tuple(sorted(spans, key=lambda span: span.end))


def _copied_by(rank: RankProgram) -> dict[int, dict[CopyKind, int]]:
    """Event that ends a composed collective on a stream of its own -> bytes of each kind of copy that it has waited
    for there.
    """
    streams, ends = rank.composed_streams, {e for whole in rank.composed_collectives for e in whole.ends}
    found: dict[int, dict[CopyKind, int]] = {}
    moved: dict[str, dict[CopyKind, int]] = {}
    for command in rank.commands():
        if command.stream not in streams:
            continue
        if isinstance(command, Copy):
            of = moved.setdefault(command.stream, {})
            of[command.kind] = of.get(command.kind, 0) + command.bytes
        elif isinstance(command, RecordEvent) and command.event in ends:
            found[command.event] = moved.pop(command.stream, {})
    return found


def least_held(timeline: Timeline, profile: Profile, rank: int, spans: Iterable[Span]) -> Iterator[tuple[str, float]]:
    """For each of `spans` that is a composed collective: its stream, and at least how long that is held by its copies.

    Not counted is how long kernels of the stream run meanwhile, which count themselves.
    """
    program = timeline.program.ranks[rank]
    wholes = {id(whole.call): whole for whole in program.composed_collectives}
    if not wholes:
        return
    copied = _copied_by(program)
    kernels = [(s, k) for s, k in timeline.commands(rank, Kernel)]
    starts = [s.start for s, _ in kernels]
    for span in spans:
        if (whole := wholes.get(id(span.command))) is None:
            continue
        moved = [pair for event in whole.ends for pair in copied.get(event, {}).items()]
        least = max((size / profile.copy_class(kind).cap.value for kind, size in moved), default=0.0)
        inside = kernels[bisect_left(starts, span.start) : bisect_left(starts, span.end)]
        adds = sum(s.isolated_time for s, k in inside if k.stream == whole.call.stream)
        yield whole.call.stream, max(least - adds, 0.0)


IsolatedKey = tuple[int, Collective]
"""A rank, and a collective of no step and layer."""


def isolated_key(span: Span) -> IsolatedKey:
    """What decides the isolated time of a composed collective."""
    call = span.command
    assert isinstance(call, Collective), "composed collectives are spans of one"
    return span.rank, msgspec.structs.replace(call, step=-1, layer=-1)


def with_isolated(timeline: Timeline, isolated: Mapping[IsolatedKey, float]) -> Timeline:
    """`timeline` with the isolated times of its composed collectives, s."""
    spans = (span._replace(isolated_time=isolated[isolated_key(span)]) for span in timeline.composed)
    return timeline._replace(composed=tuple(spans))
