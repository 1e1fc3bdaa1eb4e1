"""Finding what repeats in a run, by the machine's states after each layer's first kernel or collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

LONGEST = 4
"""Layers that a period has at most: slots come in turns."""


class Region(NamedTuple):
    """Equal layers that follow each other in a pass: `kept` are simulated, the first is number `first` of those.

    `removed` ones are not simulated.
    """

    first: int
    kept: int
    removed: int


class Found(NamedTuple):
    """What repeats: between the states of numbers `first` and `last`; the run has `copies` more of it."""

    first: int
    last: int
    copies: int


class Marks(NamedTuple):
    """The states of a run after each layer's first command on rank 0, and where these commands are issued.

    `places` holds, by the `id` of each different rank's program, the number of each layer's first command in its only
    thread; it is empty for a run with real queues. `layers` is how many layers a step has. With `jitter` host threads
    that wait take different times.
    """

    states: Sequence[Snapshot]
    places: Mapping[int, Sequence[int]]
    layers: int
    jitter: bool


class Repeats:
    """Finds repeats in a run of `program`."""

    def __init__(self, program: Program, marks: Marks) -> None:
        self.program = program
        self.marks = marks
        self.streams: dict[int, dict[str, list[tuple[int, int]]]] = {}
        """Of each different rank: stream -> (thread, place there) of its commands."""
        self._records: dict[int, dict[int, tuple[str, int]]] = {}
        """Of each different rank: event -> the stream that records it, and its place there."""
        for rank in program.ranks:
            if id(rank) not in self.streams:
                self.streams[id(rank)] = streams = _by_stream(rank)
                self._records[id(rank)] = {
                    command.event: (stream, at)
                    for stream, places in streams.items()
                    for at, (thread, place) in enumerate(places)
                    if isinstance(command := rank.threads[thread][place], RecordEvent)
                }

    def of_layers(self, regions: Sequence[Region]) -> list[Found] | None:
        """A repeat for every region with removed layers in every step; None where one has none."""
        found = []
        for begin in range(0, len(self.marks.states), self.marks.layers):
            for region in regions:
                if region.removed:
                    repeat = self._first(begin + region.first, region)
                    if repeat is None:
                        return None
                    found.append(repeat)
        return found

    def _first(self, begin: int, region: Region) -> Found | None:
        """The first repeat in a region whose first layer is number `begin`.

        One from its first layer on is the last that is taken: there host threads may not be ahead yet.
        """
        for earliest in (begin + 1, begin):
            for last in range(earliest + 1, begin + region.kept):
                for period in range(1, min(LONGEST, last - earliest) + 1):
                    if region.removed % period == 0 and self.same(last - period, last):
                        return Found(last - period, last, region.removed // period)
        return None

    def of_steps(self, layer: int, steps: int) -> Found | None:
        """The repeat from layer `layer` of the first step to that of the next one, `steps` times more, if it is one."""
        last = layer + self.marks.layers
        return Found(layer, last, steps) if self.same(layer, last, 1) else None

    def in_both_steps(self, first: Sequence[Found]) -> list[Found] | None:
        """The repeats `first`, those of the first step, with the same ones of the second step, if these are repeats."""
        count = self.marks.layers
        second = [Found(a + count, b + count, copies) for a, b, copies in first]
        return [*first, *second] if all(self.same(a, b) for a, b, _ in second) else None

    def same(self, first: int, last: int, steps: int = 0) -> bool:
        """Whether the same follows on two states, `steps` steps later: equal states, and the same commands to come.

        From the first command that has not ended at the first state on, each command issued before the second one is
        like the one a period later: to issue one period more between them changes nothing but how often that is done.
        """
        states = self.marks.states
        a, b = states[first], states[last]
        if not a.equals(b):
            return False
        done: set[tuple[int, tuple[int, ...]]] = set()
        for number, rank in enumerate(self.program.ranks):
            if self.marks.places:
                places = self.marks.places[id(rank)]
                issued = [(places[first], places[last])]
            else:
                issued = [(a.issued[number, t], b.issued[number, t]) for t in range(len(rank.threads))]
            ended = [(a.ended[number, s], b.ended[number, s]) for s in rank.streams]
            key = id(rank), tuple(x for pair in (*issued, *ended) for x in pair)
            if key not in done:
                done.add(key)
                if not self._same_of(rank, issued, dict(zip(rank.streams, ended, strict=True)), steps):
                    return False
        return True

    def unfinished(self, number: int, state: int) -> int:
        """The place in the thread of rank `number`, which has one, of the first command that has not ended."""
        rank, ended = self.program.ranks[number], self.marks.states[state].ended
        places = (
            of[ended[number, name]][1] for name, of in self.streams[id(rank)].items() if ended[number, name] < len(of)
        )
        return min(places, default=len(rank.threads[0]))

    def _same_of(
        self, rank: RankProgram, issued: list[tuple[int, int]], ended: dict[str, tuple[int, int]], steps: int
    ) -> bool:
        streams, records = self.streams[id(rank)], self._records[id(rank)]
        first = [at for at, _ in issued]
        stop = [at for _, at in issued]
        for name, (before, after) in ended.items():
            places = streams[name]
            if before < len(places):
                thread, place = places[before]
                first[thread] = min(first[thread], place)
            if sum(a <= place < b for thread, place in places for a, b in [issued[thread]]) != after - before:
                return False
            if self.marks.places:  # queues have no end: what was executed, and looked at beyond, counts
                stop[0] = max(stop[0], self._looked_at(rank, places, after))
        for thread, (low, high) in enumerate(issued):
            commands, length = rank.threads[thread], high - low
            end = stop[thread]
            if self.marks.jitter and any(isinstance(c, HostWaitEvent) for c in commands[first[thread] : end]):
                return False
            if end + length > len(commands):
                if not steps:
                    return False
                end = len(commands) - length  # beyond, only what steps are like by themselves can be compared
            events = sum(isinstance(c, RecordEvent) for c in commands[low:high])
            for i in range(first[thread], end if length else 0):
                command = commands[i]
                if not alike(command, commands[i + length], events, steps):
                    return False
                if isinstance(command, WaitEvent | HostWaitEvent):  # of what has been recorded at both states, or none
                    (stream, place), (other, later) = records[command.event], records[command.event + events]
                    if (place < ended[stream][0]) != (later < ended[other][1]):
                        return False
        return True

    def _looked_at(self, rank: RankProgram, places: list[tuple[int, int]], ended: int) -> int:
        """One more than the place of the last command that a stream has got to, or looks at past events."""
        commands = rank.threads[0]
        while ended < len(places) and isinstance(commands[places[ended][1]], RecordEvent | WaitEvent):
            ended += 1
        return places[min(ended, len(places) - 1)][1] + 1 if places else 0


def _by_stream(rank: RankProgram) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in rank.streams}
    for thread, commands in enumerate(rank.threads):
        for place, command in enumerate(commands):
            if command.stream:
                found[command.stream].append((thread, place))
    return found


def alike(a: AnyCommand, b: AnyCommand, events: int, steps: int = 0) -> bool:
    """Whether `b` does what `a` does, of another layer, `steps` later, with numbers of events larger by `events`."""
    if type(a) is not type(b) or a.stream != b.stream:
        return False
    match a, b:
        case (Kernel(), Kernel()):
            return (a.name, a.seconds, a.flops, a.hbm_bytes, a.launches, a.step + steps, a.attention) == (
                b.name,
                b.seconds,
                b.flops,
                b.hbm_bytes,
                b.launches,
                b.step,
                b.attention,
            )
        case (Copy(), Copy()):
            return (a.bytes, a.kind, a.step + steps, a.other, a.peer) == (b.bytes, b.kind, b.step, b.other, b.peer)
        case (Collective(), Collective()):
            return (a.kind, a.bytes, a.step + steps, a.communicates_on) == (b.kind, b.bytes, b.step, b.communicates_on)
        case (PointToPoint(), PointToPoint()):
            return (a.transfers, a.step + steps, a.communicates_on) == (b.transfers, b.step, b.communicates_on)
        case (RecordEvent() | WaitEvent(), RecordEvent() | WaitEvent()):
            return b.event - a.event == events
        case (HostWaitEvent(), HostWaitEvent()):
            return b.event - a.event == events and a.poll == b.poll
        case _:
            return bool(msgspec.structs.asdict(a) == msgspec.structs.asdict(b))
