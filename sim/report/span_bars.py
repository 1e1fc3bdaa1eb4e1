"""What a figure of a timeline draws: spans by kind, adjacent ones too narrow to see merged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, assert_never

from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    HostWork,
    Kernel,
    PointToPoint,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import Span

Kind = Literal["wait", "flag", "kernel", "copy", "collective"]
WORK: tuple[Kind, ...] = ("kernel", "copy", "collective")

RESOLUTION = 2000
"""Bars narrower than this part of the window are merged."""


class Bar(NamedTuple):
    """One or more adjacent spans of one kind and layer of a stream. Times in s, clipped to the window.

    `busy` is the measure of the spans, less than `end` - `start` where there are gaps; `excess` the part of it beyond
    the isolated time, at the end of the bar; `waiting` a collective's wait for its peers, at its start.
    """

    stream: str
    kind: Kind
    layer: int
    start: float
    end: float
    busy: float
    excess: float
    waiting: float
    spans: tuple[Span, ...]


def bars(spans: Iterable[Span], start_s: float, end_s: float) -> list[Bar]:
    """What is to be drawn of one rank's `spans` between two times (s), adjacent ones too narrow to see merged."""
    narrow = (end_s - start_s) / RESOLUTION
    done: list[Bar] = []
    open_: dict[tuple[str, Kind, int], Bar] = {}
    for span in sorted(spans, key=lambda s: (s.start, s.end)):
        if span.end <= start_s or span.start >= end_s:
            continue
        bar = _bar(span, max(span.start, start_s), min(span.end, end_s))
        key = bar.stream, bar.kind, bar.layer
        last = open_.get(key)
        if last and bar.end - last.start <= narrow:
            open_[key] = last._replace(
                end=bar.end,
                busy=last.busy + bar.busy,
                excess=last.excess + bar.excess,
                waiting=last.waiting + bar.waiting,
                spans=last.spans + bar.spans,
            )
        else:
            if last:
                done.append(last)
            open_[key] = bar
    return sorted([*done, *open_.values()], key=lambda b: b.start)


def _bar(span: Span, start: float, end: float) -> Bar:
    command = span.command
    # a machine that does not know the isolated time reports none
    alone_end = span.ready + span.isolated_time if span.isolated_time > 0 else end
    return Bar(
        command.stream,
        _kind(command),
        getattr(command, "layer", -1),
        start,
        end,
        end - start,
        max(end - max(alone_end, start), 0.0),
        max(min(span.ready, end) - start, 0.0),
        (span,),
    )


def _kind(command: AnyCommand) -> Kind:
    match command:
        case Kernel():
            return "kernel"
        case Copy():
            return "copy"
        case Collective() | PointToPoint():
            return "collective"
        case WriteFlag():
            return "flag"
        case RecordEvent() | WaitEvent() | WaitFlag() | HostWaitEvent() | HostAdd() | HostWait():
            return "wait"
        case HostAcquire() | HostRelease() | HostWork():
            return "wait"
        case _:
            assert_never(command)
