"""Spans of a program whose commands lie between events, as a machine without a clock of its own sees them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sim.program import AnyCommand, Collective, PointToPoint, Send
from sim.timeline.spans import Span


def between_events(
    brackets: Sequence[Sequence[tuple[AnyCommand, int, int]]], times: Sequence[Mapping[int, float]]
) -> tuple[Span, ...]:
    """Spans of an instrumented program's commands as its events see them, in order of their ends.

    `brackets` holds each rank's (command, event before, event after), `times` when each of its events was recorded, s.
    A collective is `ready` when the last rank of its group has started it, sends and receives when their last peer has
    started its own. Isolated times are not known: nan.
    """
    called: Counter[tuple[object, ...]] = Counter()
    arrivals: dict[tuple[object, ...], float] = {}
    meets: list[list[list[tuple[object, ...]]]] = []
    """For each command of each rank: what it meets others at."""
    for rank, found in enumerate(brackets):
        meets.append([])
        for command, before, _ in found:
            keys: list[tuple[object, ...]] = []
            for key, side in _rendezvous(rank, command):
                called[key, side] += 1
                keys.append((*key, called[key, side]))
                arrivals[keys[-1]] = max(arrivals.get(keys[-1], -math.inf), times[rank][before])
            meets[-1].append(keys)
    spans = []
    for rank, found in enumerate(brackets):
        for (command, before, after), keys in zip(found, meets[rank], strict=True):
            start, end = times[rank][before], times[rank][after]
            ready = min(max((arrivals[key] for key in keys), default=start), end)
            spans.append(Span(rank, command, start, ready, end, math.nan))
    return tuple(sorted(spans, key=lambda s: s.end))


def _rendezvous(rank: int, command: AnyCommand) -> Iterable[tuple[tuple[object, ...], object]]:
    """(where it is, on which side) of each rendezvous of a command of `rank` with others.

    The n-th commands of all sides meet.
    """
    if isinstance(command, Collective):
        yield ("collective", command.communicates_on), rank
    elif isinstance(command, PointToPoint):
        for t in command.transfers:
            ends = (rank, t.peer) if isinstance(t, Send) else (t.peer, rank)
            yield (*ends, command.communicates_on), isinstance(t, Send)
