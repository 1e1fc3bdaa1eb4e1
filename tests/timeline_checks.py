"""What holds of every timeline, whatever the program and the host."""

from __future__ import annotations

import itertools

from sim.program import Command, Program, RecordEvent, WaitEvent
from sim.timeline import Span, Timeline

SLACK = 1 + 1e-9
TIE = 1e-9


def by_command(timeline: Timeline, rank: int) -> dict[int, Span]:
    """Spans by the identity of their command: no rank runs a command object twice."""
    return {id(s.command): s for s in timeline.of(rank)}


def streams_of(program: Program, rank: int) -> dict[tuple[int, str], list[Command]]:
    """What each host thread enqueues on each stream."""
    streams: dict[tuple[int, str], list[Command]] = {}
    for number, thread in enumerate(program.ranks[rank].threads):
        for command in thread:
            if command.stream:
                streams.setdefault((number, command.stream), []).append(command)
    return streams


def check_order(timeline: Timeline) -> None:
    """Every command runs once; streams are FIFO; waits end after their records; nothing ends before it could."""
    assert [s.end for s in timeline.spans] == sorted(s.end for s in timeline.spans)
    for span in timeline.spans:
        assert 0 <= span.start <= span.ready <= span.end
        assert (span.end - span.ready) * SLACK + TIE >= span.isolated_time >= 0
    for rank in range(timeline.program.world_size):
        spans = by_command(timeline, rank)
        recorded = {s.command.event: s.end for s in spans.values() if isinstance(s.command, RecordEvent)}
        for commands in streams_of(timeline.program, rank).values():
            now = 0.0
            for command in commands:
                if isinstance(command, WaitEvent):
                    span = spans.get(id(command))
                    if span is not None:
                        assert now <= span.start < recorded[command.event] <= span.end
                    now = max(now, recorded[command.event])
                else:
                    span = spans.pop(id(command))
                    assert span.start >= now
                    now = span.end
        assert {type(s.command) for s in spans.values()} <= {WaitEvent}
        for stream in timeline.program.ranks[rank].streams:
            executed = [s for s in timeline.of(rank) if s.command.stream == stream]
            assert all(a.end <= b.start for a, b in itertools.pairwise(executed)), "one command at a time"
