"""A run with the parts that stand for more like them, as the timeline that it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from sim.program import RecordEvent, WaitEvent
from sim.timeline import HostSpan, Repeat, Span, Timeline

ROUNDING = 1e-10
"""Seconds that times may differ by what adding durations to them rounds."""

FURTHEST = 16
"""Periods that a wait looks back at most: slots are waited for some layers later."""


def lengthened(timeline: Timeline, repeats: tuple[Repeat, ...]) -> Timeline:
    """`timeline` with the steps that it stands for; its spans are still those that were simulated."""
    added = [(r.end, r.copies * (r.end - r.start)) for r in repeats]
    steps = tuple(
        tuple(time + sum(length for end, length in added if end <= time) for time in times) for times in timeline.steps
    )
    return timeline._replace(steps=steps, repeats=tuple(sorted(repeats)), simulated_steps=timeline.steps)


def expanded(timeline: Timeline) -> Timeline:
    """`timeline`, as `lengthened` gives it, with all spans of the steps shown; there are gaps before them.

    Copies of events have numbers of their own.
    """
    if not timeline.repeats:
        return timeline
    since = min(times[timeline.shown.start] for times in timeline.steps)
    if timeline.shown.start > 0:  # what was prefetched for these steps in the one before
        since = min(times[timeline.shown.start - 1] for times in timeline.steps)
    spans: list[Span] = []
    host: list[HostSpan] = []
    numbers, shift, at, at_host = _Numbers(timeline), 0.0, 0, 0
    for repeat in timeline.repeats:
        spans += numbers.spans(timeline.spans[at : repeat.spans[1]], shift)
        host += numbers.host(timeline.host[at_host : repeat.host[1]], shift)
        at, at_host = repeat.spans[1], repeat.host[1]
        length = repeat.end - repeat.start
        part, host_part = timeline.spans[slice(*repeat.spans)], timeline.host[slice(*repeat.host)]
        numbers.begin(repeat, part)
        for copy in range(1, repeat.copies + 1):
            numbers.copy = copy
            if repeat.end + shift + copy * length > since:
                spans += numbers.spans(part, shift + copy * length)
                host += numbers.host(host_part, shift + copy * length)
        shift += repeat.copies * length
    spans += numbers.spans(timeline.spans[at:], shift)
    host += numbers.host(timeline.host[at_host:], shift)
    return timeline._replace(spans=tuple(spans), host=tuple(host), repeats=(), simulated_steps=())


class _View(NamedTuple):
    """The events that a repeat records on each rank, and the number of copies made before its own."""

    events: dict[int, set[int]]
    last: dict[int, int]
    period: int
    made: int


class _Numbers:
    """Which number an event of the simulated run has in the run that it stands for, as spans are gone through.

    An event of copy number `copy` of a repeat has a number of its own. One that was recorded a period before the repeat
    is, seen from a copy, what the copy before recorded.
    """

    def __init__(self, timeline: Timeline) -> None:
        recorded = (s.command.event for s in timeline.spans if isinstance(s.command, RecordEvent))
        self.most = max(recorded, default=0) + 1
        self.views: list[tuple[_View, int]] = []
        """Repeats gone through, the latest first, and the copy at which each is."""
        self.made = 0
        self.ends: dict[tuple[int, str], float] = {}
        """(rank, stream) -> when its last span ends."""

    def begin(self, repeat: Repeat, part: Sequence[Span]) -> None:
        """Go on with the first copy of a repeat."""
        events: dict[int, set[int]] = {}
        for span in part:
            if isinstance(span.command, RecordEvent):
                events.setdefault(span.rank, set()).add(span.command.event)
        last = {rank: max(of) for rank, of in events.items()}
        self.views.insert(0, (_View(events, last, repeat.events, self.made), 0))
        self.made += repeat.copies

    @property
    def copy(self) -> int:
        """Number of the copy that is gone through: 0 where it is the simulated part itself."""
        return self.views[0][1]

    @copy.setter
    def copy(self, copy: int) -> None:
        self.views[0] = self.views[0][0], copy

    def of(self, rank: int, event: int) -> int:
        """The number of an event of the simulated run."""
        for view, copy in self.views:
            if event > view.last.get(rank, -1):
                continue
            for back in range(FURTHEST if view.period else 1):
                there = event + back * view.period
                if there in view.events[rank]:
                    of = copy - back
                    return there + (view.made + of) * self.most if of > 0 else there + of * view.period
        return event

    def spans(self, spans: Sequence[Span], shift: float) -> Iterator[Span]:
        """`spans` later by `shift` s, with the numbers of now."""
        for s in spans:
            command = s.command
            if self.views and isinstance(command, RecordEvent | WaitEvent):
                command = msgspec.structs.replace(command, event=self.of(s.rank, command.event))
            at = s.rank, command.stream
            start, ready, end = s.start + shift, s.ready + shift, s.end + shift
            before = self.ends.get(at, start)
            if abs(start - before) < ROUNDING:  # what follows at once in the simulated run does so here too
                ready, end = (before if time == s.start else moved for time, moved in ((s.ready, ready), (s.end, end)))
                start = before
            self.ends[at] = end
            yield Span(s.rank, command, start, ready, end, s.isolated_time)

    def host(self, spans: Sequence[HostSpan], shift: float) -> Iterator[HostSpan]:
        """As `spans`, of host threads."""
        for h in spans:
            event = None if h.event is None else self.of(h.rank, h.event)
            yield h._replace(start=h.start + shift, end=h.end + shift, event=event)
