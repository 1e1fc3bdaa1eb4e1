"""Finding what repeats in a run, by the machine's states at the ends of layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from sim.machine.snapshot import Snapshot
from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    HostWaitEvent,
    Kernel,
    PointToPoint,
    Program,
    RankProgram,
    RecordEvent,
    WaitEvent,
)
from sim.timeline import Repeat

LONGEST = 4
"""Layers that a period has at most: slots come in turns."""


class Region(NamedTuple):
    """Equal layers that follow each other in a pass: `kept` are simulated, the first is number `first` of those.

    `removed` ones are not simulated.
    """

    first: int
    kept: int
    removed: int


def find(
    program: Program, states: Sequence[Snapshot], regions: Sequence[Region], layers: int, jitter: bool
) -> list[Repeat] | None:
    """A repeat for every region with removed layers in every pass; None where one has none.

    `states` are those at the ends of layers on rank 0, `layers` how many a pass has. With `jitter` host threads that
    wait take different times.
    """
    lists = _Lists(program)
    found = []
    for begin in range(0, len(states), layers):
        for region in regions:
            if region.removed:
                inside = states[begin + region.first : begin + region.first + region.kept]
                repeat = next(_repeats(lists, inside, region.removed, jitter), None)
                if repeat is None:
                    return None
                found.append(repeat)
    return found


def _repeats(lists: _Lists, states: Sequence[Snapshot], removed: int, jitter: bool) -> Iterator[Repeat]:
    for last in range(1, len(states)):
        for period in range(1, min(LONGEST, last) + 1):
            a, b = states[last - period], states[last]
            if removed % period == 0 and a.equals(b) and (events := lists.period(a, b, jitter)) is not None:
                parts = (a.spans, b.spans), (a.blocked, b.blocked)
                yield Repeat(a.time, b.time, *parts, removed // period, events)


class _Lists:
    """A program's commands by host thread and by stream."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.streams: dict[int, dict[str, list[tuple[int, int]]]] = {}
        """Of each different rank: stream -> (thread, place there) of its commands."""
        for rank in program.ranks:
            if id(rank) not in self.streams:
                self.streams[id(rank)] = _by_stream(rank)

    def period(self, a: Snapshot, b: Snapshot, jitter: bool) -> int | None:
        """How many events each rank records between two states after which the same commands come; None if others do.

        From the first command that has not ended at `a` on, each command issued before `b` is like the one a period
        later: to issue one period more between them changes nothing but how often that is done.
        """
        events: set[int] = set()
        done: set[tuple[int, tuple[int, ...]]] = set()
        for number, rank in enumerate(self.program.ranks):
            issued = [(a.issued[number, t], b.issued[number, t]) for t in range(len(rank.threads))]
            ended = [(a.ended[number, s], b.ended[number, s]) for s in rank.streams]
            key = id(rank), tuple(x for pair in (*issued, *ended) for x in pair)
            if key in done:
                continue
            done.add(key)
            recorded = self._of_rank(rank, issued, dict(zip(rank.streams, ended, strict=True)), jitter)
            if recorded is None:
                return None
            events.add(recorded)
        return events.pop() if len(events) == 1 else None

    def _of_rank(
        self, rank: RankProgram, issued: list[tuple[int, int]], ended: dict[str, tuple[int, int]], jitter: bool
    ) -> int | None:
        streams = self.streams[id(rank)]
        first = [at for at, _ in issued]
        for name, (before, after) in ended.items():
            places = streams[name]
            if before < len(places):
                thread, place = places[before]
                first[thread] = min(first[thread], place)
            if sum(a <= place < b for thread, place in places for a, b in [issued[thread]]) != after - before:
                return None
        recorded = 0
        for thread, (start, (low, high)) in enumerate(zip(first, issued, strict=True)):
            commands, length = rank.threads[thread], high - low
            recorded += sum(isinstance(c, RecordEvent) for c in commands[low:high])
            if jitter and any(isinstance(c, HostWaitEvent) for c in commands[start:high]):
                return None
            if high + length > len(commands):
                return None
        for thread, (start, (low, high)) in enumerate(zip(first, issued, strict=True)):
            commands, length = rank.threads[thread], high - low
            if length and not all(alike(commands[i], commands[i + length], recorded) for i in range(start, high)):
                return None
        return recorded


def _by_stream(rank: RankProgram) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in rank.streams}
    for thread, commands in enumerate(rank.threads):
        for place, command in enumerate(commands):
            if command.stream:
                found[command.stream].append((thread, place))
    return found


def alike(a: AnyCommand, b: AnyCommand, events: int) -> bool:
    """Whether `b` does what `a` does, with events whose numbers are larger by `events`, of another layer."""
    if type(a) is not type(b) or a.stream != b.stream:
        return False
    match a, b:
        case (Kernel(), Kernel()):
            return (a.name, a.seconds, a.flops, a.hbm_bytes, a.launches, a.step, a.attention) == (
                b.name,
                b.seconds,
                b.flops,
                b.hbm_bytes,
                b.launches,
                b.step,
                b.attention,
            )
        case (Copy(), Copy()):
            return (a.bytes, a.kind, a.step, a.other, a.peer) == (b.bytes, b.kind, b.step, b.other, b.peer)
        case (Collective(), Collective()):
            return (a.kind, a.bytes, a.step, a.communicates_on) == (b.kind, b.bytes, b.step, b.communicates_on)
        case (PointToPoint(), PointToPoint()):
            return (a.transfers, a.step, a.communicates_on) == (b.transfers, b.step, b.communicates_on)
        case (RecordEvent() | WaitEvent(), RecordEvent() | WaitEvent()):
            return b.event - a.event == events
        case (HostWaitEvent(), HostWaitEvent()):
            return b.event - a.event == events and a.poll == b.poll
        case _:
            return bool(msgspec.structs.asdict(a) == msgspec.structs.asdict(b))
