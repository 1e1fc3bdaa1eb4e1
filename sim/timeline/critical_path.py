"""Why a step takes as long as it does: its critical path, and what adds up from the resident step to it.

The walk starts at the end of the last step on the compute stream and goes back to its start, or to that of the first
step of the last period where steps differ (`Timeline.shown`); causes are then means a step. At each moment it is on
one stream; where that stream was blocked by an event of another one, or idle because its host thread was blocked, the
walk continues there. Every piece of time gets one cause, so the causes sum to the step time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from sim.hardware import Profile
from sim.program import Communication, Copy, Kernel, RecordEvent, WaitEvent, WaitFlag
from sim.timeline import HostSpan, Repeat, Span, Timeline

S = TypeVar("S", Span, HostSpan)

CAUSE_LABELS = {
    "compute": "compute",
    "collective_alone": "isolated collectives",
    "exposed_h2d": "H2D transfer",
    "exposed_gather": "gathers of weights",
    "exposed_copy": "other copies",
    "engine_wait": "copies waiting for a copy engine",
    "copy_overhead": "set-up of copies",
    "copy_contention": "copies slowed by other traffic",
    "collective_contention": "collectives slowed by other traffic",
    "kernel_slowdown": "kernels slowed by transfers",
    "skew": "waiting for peers",
    "yield_wait": "waiting at gates",
    "stream_overhead": "events and flags",
    "host_issue": "host issue",
    "hidden": "compute and collectives off the path",
}
"""Labels of causes, and of the waterfall's extra part."""

LABEL_FOOTNOTES = {
    "exposed_h2d": "also where kernels run at the same time",
    "hidden": "run during copies that are on it",
}
"""Footnotes of labels. The two together are about the time that the compute stream waits for prefetched weights."""

CAUSES = tuple(cause for cause in CAUSE_LABELS if cause != "hidden")
"""What time on the critical path is spent on.

`exposed_h2d` is the transfer of bytes at the rate of an isolated copy, `exposed_copy` that of copies of
anything but layers' weights from pinned memory,
`exposed_gather` the isolated time of a collective that fills a slot. `copy_overhead` is the set-up of copies,
`copy_contention` what other traffic adds, `engine_wait` a copy that waits until one of another stream leaves the copy
engine. `yield_wait` is a stream blocked by a flag of the device: copies at a gate, collectives that drain. `skew` is
waiting for peers, also at a flag in host memory. `stream_overhead` is events, flag writes and wake-ups. `host_issue` is
a stream that was idle while the host was busy; where the host was blocked by an event, another thread or a full queue,
the walk continues there.
"""


WEIGHT_COPIES = "copies"
CAUSE_GROUPS = {
    WEIGHT_COPIES: ("exposed_h2d", "exposed_gather", "exposed_copy", "engine_wait", "copy_overhead", "copy_contention"),
    "compute and collectives": ("compute", "collective_alone", "kernel_slowdown", "collective_contention"),
    "host issue": ("host_issue",),
    "waits at gates and for peers": ("yield_wait", "skew"),
    "events and flags": ("stream_overhead",),
}
"""Causes grouped by what a user can change: copies of weights, the work, the host, gates, the schedule's events.

Each cause is in one group. The largest group is what binds.
"""


ROUNDING = 1e-12
"""Share of a step below which a difference is one of rounded times."""


class Segment(NamedTuple):
    """A piece of the critical path: from `start` to `end` (s) on `stream`, for one cause."""

    start: float
    end: float
    stream: str
    cause: str


class _Backwards(Generic[S]):
    """Spans of one stream or thread, ordered by their ends, to be taken from the last to the first, each once.

    At one moment there may be several spans without length: taking each once is what lets the walk end.
    """

    def __init__(self) -> None:
        self.spans: list[S] = []
        self.ends: list[float] = []

    def add(self, span: S) -> None:
        """Append the span that ends next."""
        self.spans.append(span)
        self.ends.append(span.end)

    def end_before(self, time: float) -> float | None:
        """When the last span left that ended at or before `time` did so."""
        i = bisect_right(self.ends, time)
        return self.ends[i - 1] if i else None

    def take(self, time: float) -> S:
        """The last span left that ended at or before `time`; it and later ones are gone."""
        i = bisect_right(self.ends, time) - 1
        del self.ends[i:]
        return self.spans[i]

    def forget_after(self, span: S) -> None:
        """Leave nothing later than `span`."""
        i = bisect_left(self.ends, span.end)
        while i < len(self.ends) and self.spans[i] is not span:
            i += 1
        del self.ends[i + 1 :]


class _Walk:
    """The walk back through the steps shown of one rank, in the times of the simulated run."""

    def __init__(self, timeline: Timeline, profile: Profile, rank: int) -> None:
        rank = timeline.simulated_as(rank)
        program = timeline.program.ranks[rank]
        self.profile = profile
        self.begin, self.time = timeline.simulated_window(rank)
        self.path: list[Segment] = []
        self.stream = program.step_stream()
        self.slots = {b.name for b in program.buffers if b.kind == "slot"}
        self.feeder = program.feeders()
        self.spans: defaultdict[str, _Backwards[Span]] = defaultdict(_Backwards)
        self.blocked: defaultdict[int, _Backwards[HostSpan]] = defaultdict(_Backwards)
        self.recorded: dict[int, Span] = {}
        self.composed: dict[int, tuple[Span, int]] = {}
        """Event that ends a composed collective -> its span, and the event that it begins with."""
        spans = {id(s.command): s for s in timeline.composed if s.rank == rank}
        for whole in program.composed_collectives:
            self.composed |= {end: (spans[id(whole.call)], whole.begins) for end in whole.ends}
        for span in timeline.of(rank):
            self.spans[span.command.stream].add(span)
            if isinstance(span.command, RecordEvent):
                self.recorded[span.command.event] = span
        for blocked in sorted((h for h in timeline.host if h.rank == rank), key=lambda h: h.end):
            self.blocked[blocked.thread].add(blocked)

    def run(self, until: float) -> list[Segment]:
        """All segments back to the first one that starts at or before `until`, latest first."""
        self.path = []
        while self.time > until:
            end = self.spans[self.stream].end_before(self.time)
            if end is None or end < self.time:
                self._through_host(self.begin if end is None else end)
                continue
            span = self.spans[self.stream].take(self.time)
            command = span.command
            if isinstance(command, WaitEvent) and self._composed(command):
                continue
            if isinstance(command, WaitEvent) and (record := self.recorded.get(command.event)):
                self._to_record(record, "stream_overhead")
                continue
            *later, (first, _) = self._parts(span)
            for cause, seconds in later:
                self._back(max(self.time - seconds, span.start), cause)
            self._back(span.start, first)
        return self.path

    def _parts(self, span: Span) -> list[tuple[str, float]]:
        """Causes of a span's time and their seconds, latest first; the walk gives the last one the rest."""
        command, extra = span.command, max(span.end - span.ready - span.isolated_time, 0.0)
        if isinstance(command, Kernel):
            return [("kernel_slowdown", extra), ("compute", span.isolated_time)]
        if isinstance(command, Communication):
            cause = "exposed_gather" if self.slots.intersection(command.writes) else "collective_alone"
            parts = [("collective_contention", extra), (cause, span.isolated_time)]
            return [*parts, ("skew", span.ready - span.start)] if span.ready > span.start else parts
        if isinstance(command, Copy):
            moving = min(command.bytes / self.profile.copy_class(command.kind).cap.value, span.isolated_time)
            cause = "exposed_h2d" if command.brings_weights else "exposed_copy"
            parts = [("copy_contention", extra), (cause, moving), ("copy_overhead", span.isolated_time - moving)]
            return [*parts, ("engine_wait", span.ready - span.start)] if span.ready > span.start else parts
        if isinstance(command, WaitFlag):
            waited = "skew" if command.on_host else "yield_wait"
            return [(waited, extra), ("stream_overhead", span.isolated_time)]
        return [("stream_overhead", span.end - span.start)]

    def _composed(self, wait: WaitEvent) -> bool:
        """Go back through the composed collective whose end its own stream waited for, if `wait` did that."""
        span, begins = self.composed.get(wait.event, (None, 0))
        if span is None or span.command.stream != wait.stream or (record := self.recorded.get(begins)) is None:
            return False
        self._back(span.end, "stream_overhead")
        if math.isnan(span.isolated_time):
            span = span._replace(isolated_time=span.end - span.ready)
        *later, (first, _) = self._parts(span)
        for cause, seconds in later:
            self._back(max(self.time - seconds, span.start), cause)
        self._back(span.start, first)
        self.spans[self.stream].forget_after(record)
        return True

    def _to_record(self, record: Span, cause: str) -> None:
        """Go on where an event was recorded; what passed since is for `cause`."""
        self._back(record.end, cause)
        self.stream = record.command.stream
        self.spans[self.stream].forget_after(record)

    def _back(self, to: float, cause: str) -> None:
        to = max(to, self.begin)
        if to < self.time:
            self.path.append(Segment(to, self.time, self.stream, cause))
            self.time = to

    def _through_host(self, idle_since: float) -> None:
        """The stream was idle: go back over what the host thread that feeds it did, to what blocked that thread."""
        thread = self.feeder.get(self.stream, 0)
        while self.time > max(idle_since, self.begin):
            end = self.blocked[thread].end_before(self.time)
            if end is None or end <= idle_since:
                self._back(idle_since, "host_issue")
                return
            blocked = self.blocked[thread].take(self.time)
            self._back(blocked.end, "host_issue")
            if blocked.by is not None and blocked.by != thread:
                thread = blocked.by
            elif blocked.event is not None and (record := self.recorded.get(blocked.event)):
                self._to_record(record, "host_issue")  # a polling thread sees it late
                return
            elif blocked.stream and blocked.stream != self.stream:
                self.stream = blocked.stream
                return
            else:
                self._back(blocked.start, "host_issue")


def critical_path(timeline: Timeline, profile: Profile, rank: int = 0) -> list[Segment]:
    """The critical path of the steps shown on `rank`, latest piece first; the pieces tile the steps."""
    walk = _Walk(timeline, profile, rank)
    return walk.run(walk.begin)


def causes(timeline: Timeline, profile: Profile, rank: int = 0) -> dict[str, float]:
    """Seconds a step by cause, in the order of `CAUSES`; they sum to the mean of the steps shown."""
    total = dict.fromkeys(CAUSES, 0.0)
    walk = _Walk(timeline, profile, rank)
    for repeat in reversed(timeline.repeats):
        if repeat.end > walk.begin:
            _add(total, walk.run(repeat.start))
            walk = _through_copies(total, walk, repeat, lambda: _Walk(timeline, profile, rank))
    _add(total, walk.run(walk.begin))
    return {cause: seconds / len(timeline.shown) for cause, seconds in total.items()}


def _add(total: dict[str, float], path: list[Segment], times: int = 1) -> None:
    for segment in path:
        total[segment.cause] += times * (segment.end - segment.start)


def _through_copies(total: dict[str, float], walk: _Walk, repeat: Repeat, new: Callable[[], _Walk]) -> _Walk:
    """Add what the copies of `repeat` add to `total`. `walk` has gone through the repeat itself; another goes on.

    A walk that leaves the repeat on a stream, so long before its start, enters the copy before on that stream, so long
    before its end. One that leaves a copy as it entered it leaves all others so.
    """
    left = repeat.copies
    while left:
        entered = repeat.start - walk.time, walk.stream
        one = new()
        one.stream, one.time = walk.stream, repeat.end - entered[0]
        path = one.run(repeat.start)
        alike = (repeat.start - one.time, one.stream) == entered
        _add(total, path, left if alike else 1)
        left = 0 if alike else left - 1
        walk = one
    return walk


class Waterfall(NamedTuple):
    """What adds up from the resident step to this one: `resident_s` plus all of `parts` (s) is `step_s`."""

    resident_s: float
    parts: tuple[tuple[str, float], ...]
    step_s: float


def waterfall(by_cause: dict[str, float], resident: dict[str, float]) -> Waterfall:
    """How the causes of a step differ from those of the resident step.

    Compute and collectives off the critical path are one negative part, "hidden": they run while copies are waited for.
    """
    kept = ("compute", "collective_alone")
    hidden = sum(by_cause[c] - resident[c] for c in kept)
    parts = [("hidden", hidden)] + [(c, by_cause[c] - resident[c]) for c in CAUSES if c not in kept]
    step = sum(by_cause.values())
    return Waterfall(sum(resident.values()), tuple((c, s) for c, s in parts if abs(s) > ROUNDING * step), step)
