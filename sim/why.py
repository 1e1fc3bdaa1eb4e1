"""Why a step takes as long as it does: its critical path, and the way from the resident step to it.

The walk starts at the end of the last step on the compute stream and goes back to its start. At each moment it is on
one stream; where that stream was held by an event of another one, or dry because its host thread was held, the walk
goes on there. Every piece of time gets one cause, so the causes sum to the step time.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from sim.hardware import Profile
from sim.program import Collective, Copy, Kernel, RecordEvent, WaitEvent, WaitFlag
from sim.timeline import HostSpan, Span, Timeline

WORDS = {
    "compute": "compute",
    "collective_alone": "collectives alone",
    "exposed_h2d": "exposed H2D transfer",
    "copy_overhead": "set-up of copies",
    "copy_contention": "copies slowed by other traffic",
    "collective_contention": "collectives slowed by other traffic",
    "kernel_slowdown": "kernels slowed by copies",
    "skew": "waiting for peers",
    "yield_wait": "waiting at gates",
    "stream_overhead": "events and flags",
    "host_issue": "host issue",
    "hidden": "compute and collectives hidden behind copies",
}
"""Causes, and the waterfall's extra part, for people."""

CAUSES = tuple(cause for cause in WORDS if cause != "hidden")
"""What time on the critical path is spent on.

`exposed_h2d` is the transfer of bytes at the rate of a copy alone, `copy_overhead` the set-up of copies, and
`copy_contention` what other traffic adds. `yield_wait` is a stream held by a flag: copies at a gate, collectives that
drain. `stream_overhead` is events, flag writes and wake-ups. `host_issue` is a stream that ran dry while the host was
busy; where the host was held by an event, another thread or a full queue, the walk goes on there.
"""


class Segment(NamedTuple):
    """A piece of the critical path: from `start` to `end` (s) on `stream`, for one cause."""

    start: float
    end: float
    stream: str
    cause: str


class _Rank:
    """The spans of one rank by stream and by host thread, to be looked up by time; who recorded which event."""

    def __init__(self, timeline: Timeline, rank: int) -> None:
        self.spans: dict[str, list[Span]] = {}
        self.recorded: dict[int, Span] = {}
        for span in timeline.of(rank):
            self.spans.setdefault(span.command.stream, []).append(span)
            if isinstance(span.command, RecordEvent):
                self.recorded[span.command.event] = span
        self.ends = {stream: [s.end for s in spans] for stream, spans in self.spans.items()}
        self.held: dict[int, list[HostSpan]] = {}
        for held in timeline.host:
            if held.rank == rank:
                self.held.setdefault(held.thread, []).append(held)
        self.held_ends = {thread: [h.end for h in spans] for thread, spans in self.held.items()}
        self.feeder = timeline.program.ranks[rank].feeders()

    def before(self, stream: str, time: float) -> Span | None:
        """The last span on `stream` that ended at or before `time`."""
        i = bisect_right(self.ends.get(stream, []), time)
        return self.spans[stream][i - 1] if i else None

    def held_before(self, thread: int, time: float) -> HostSpan | None:
        """The last time that host thread `thread` was held before `time`."""
        i = bisect_right(self.held_ends.get(thread, []), time)
        return self.held[thread][i - 1] if i else None


class _Walk:
    """The walk back through the last step of one rank."""

    def __init__(self, timeline: Timeline, profile: Profile, rank: int) -> None:
        self.profile = profile
        self.rank = _Rank(timeline, rank)
        self.begin, self.time = timeline.steps[rank][-2:]
        self.path: list[Segment] = []
        self.stream = timeline.program.ranks[rank].step_stream()

    def run(self) -> list[Segment]:
        """All segments, latest first."""
        while self.time > self.begin:
            span = self.rank.before(self.stream, self.time)
            if span is None or span.end < self.time:
                self._through_host(self.begin if span is None else span.end)
                continue
            command = span.command
            if isinstance(command, WaitEvent) and (record := self.rank.recorded.get(command.event)):
                self._back(record.end, "stream_overhead")
                self.stream = record.command.stream
                continue
            *later, (first, _) = _parts(span, self.profile)
            for cause, seconds in later:
                self._back(max(self.time - seconds, span.start), cause)
            self._back(span.start, first)
        return self.path

    def _back(self, to: float, cause: str) -> None:
        to = max(to, self.begin)
        if to < self.time:
            self.path.append(Segment(to, self.time, self.stream, cause))
            self.time = to

    def _through_host(self, idle_since: float) -> None:
        """The stream was dry: go back over what the host thread that feeds it did, to what held that thread."""
        thread = self.rank.feeder[self.stream]
        while self.time > max(idle_since, self.begin):
            held = self.rank.held_before(thread, self.time)
            if held is None or held.end <= idle_since:
                self._back(idle_since, "host_issue")
                return
            self._back(held.end, "host_issue")
            if held.by is not None and held.by != thread:
                thread = held.by
            elif held.event is not None and (record := self.rank.recorded.get(held.event)):
                self._back(record.end, "host_issue")  # a polling thread sees it late
                self.stream = record.command.stream
                return
            elif held.stream and held.stream != self.stream:
                self.stream = held.stream
                return
            else:
                self._back(held.start, "host_issue")


def critical_path(timeline: Timeline, profile: Profile, rank: int = 0) -> list[Segment]:
    """The critical path of the last step on `rank`, latest piece first; the pieces tile the step."""
    return _Walk(timeline, profile, rank).run()


def _parts(span: Span, profile: Profile) -> list[tuple[str, float]]:
    """Causes of a span's time and their seconds, latest first; the walk gives the last one the rest."""
    command, extra = span.command, max(span.end - span.ready - span.alone, 0.0)
    if isinstance(command, Kernel):
        return [("kernel_slowdown", extra), ("compute", span.alone)]
    if isinstance(command, Collective):
        parts = [("collective_contention", extra), ("collective_alone", span.alone)]
        return [*parts, ("skew", span.ready - span.start)] if span.ready > span.start else parts
    if isinstance(command, Copy):
        moving = min(command.bytes / profile.copy_class(command.kind).cap.value, span.alone)
        return [("copy_contention", extra), ("exposed_h2d", moving), ("copy_overhead", span.alone - moving)]
    if isinstance(command, WaitFlag):
        return [("yield_wait", extra), ("stream_overhead", span.alone)]
    return [("stream_overhead", span.end - span.start)]


def causes(timeline: Timeline, profile: Profile, rank: int = 0) -> dict[str, float]:
    """Seconds of the last step by cause, in the order of `CAUSES`; they sum to the step time."""
    total = dict.fromkeys(CAUSES, 0.0)
    for segment in critical_path(timeline, profile, rank):
        total[segment.cause] += segment.end - segment.start
    return total


class Waterfall(NamedTuple):
    """The way from the resident step to this one: `resident_s` plus all of `parts` (s) is `step_s`."""

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
    return Waterfall(sum(resident.values()), tuple((c, s) for c, s in parts if s != 0.0), sum(by_cause.values()))
