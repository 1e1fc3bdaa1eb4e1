"""Host threads that are so far ahead that nothing waits for them.

A run with endless queues is the run of real ones if no command is issued later than its stream looks at it. A thread
that blocks until a place is free goes on when an earlier command of that stream has ended, and issues what follows at
the cost of each command. So a command is issued by the latest of such ends, plus what issuing costs from there on: the
recursion that `ahead` goes through, for blocks of commands that follow each other. It stands on the times of the run
with endless queues: the first command that came late would be one that it finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple

from sim.machine import Issued
from sim.program import Kernel, Program, RankProgram, RecordEvent, WaitEvent

BLOCK = 128
"""Commands of a block at most: what is free for the last of them is taken to be needed for the first one."""


class Piece(NamedTuple):
    """Commands of a thread from number `first` to before `stop`, their times later by `shift` s than simulated."""

    first: int
    stop: int
    shift: float


def unobserved(program: Program) -> bool:
    """Whether each rank has one host thread, which only enqueues: the GPU's state changes nothing but when it does."""
    return all(
        len(rank.threads) == 1
        and all(command.stream for command in rank.threads[0])
        and not any(buffer.memory == "pageable" for buffer in rank.host_memory.values())
        for rank in {id(rank): rank for rank in program.ranks}.values()
    )


class _Block(NamedTuple):
    """Commands that follow each other: what issuing them costs, s, and places they take on each stream.

    `look` is when a stream gets to the first of them, `ends` when the last one of each stream has ended, s.
    """

    cost: float
    issued: float
    places: dict[str, int]
    look: float
    ends: dict[str, float]


def ahead(rank: RankProgram, issued: Issued, pieces: Sequence[Piece], since: int, depth: int) -> bool:
    """Whether the thread of a rank that issues `pieces` one after the other keeps ahead, with queues of `depth`.

    From command `since` on nothing may wait for it, nor after the first time that it has to wait for a place: before,
    it issues as with endless queues.
    """
    blocks = _Blocks(rank, issued)
    played = [(block, piece.shift, first) for piece in pieces for first, block in blocks.of(piece, since)]
    looks = list(accumulate((b.look + shift for b, shift, _ in reversed(played)), min))
    looks.reverse()
    queues: dict[str, _Queue] = {}
    clock, waited, late = 0.0, False, False
    for number, (block, shift, first) in enumerate(played):
        for stream, places in block.places.items():
            if stream not in queues:
                queues[stream] = _Queue()
            free = queues[stream].take(places, block.ends[stream] + shift, depth)
            if free is not None:
                waited = True
                clock = max(clock, free)
        clock += block.cost
        late = late or first >= since
        if (waited or late) and max(clock, block.issued) > looks[number]:
            return False
    return True


class _Queue:
    """A stream's places, block by block."""

    def __init__(self) -> None:
        self.taken = 0
        self.blocks: list[tuple[int, float]] = []
        """Places taken in all up to each block, and when all of them are free again."""
        self.at = 0

    def take(self, places: int, end: float, depth: int) -> float | None:
        """When so many more places are free, s, which are free again at `end`; None if they always were."""
        self.taken += places
        self.blocks.append((self.taken, max(end, self.blocks[-1][1]) if self.blocks else end))
        needed = self.taken - depth
        if needed <= 0:
            return None
        while self.blocks[self.at][0] < needed:
            self.at += 1
        return self.blocks[self.at][1]


class _Blocks:
    """The blocks of the commands of a rank's only thread, made once."""

    def __init__(self, rank: RankProgram, issued: Issued) -> None:
        self.commands = rank.threads[0]
        self.clocks = issued.clocks[0]
        self.looks: list[float] = []
        self.ends: list[float] = []
        next_of = dict.fromkeys(issued.ends, 0)
        look_of = dict.fromkeys(issued.ends, 0.0)
        for command in self.commands:
            stream = command.stream
            ends = issued.ends[stream]
            at = next_of[stream]
            next_of[stream] = at + 1
            end = ends[at] if at < len(ends) else inf
            self.looks.append(look_of[stream])
            self.ends.append(end)
            # a copy's engine looks at what follows it, past events
            if not isinstance(command, RecordEvent | WaitEvent):
                look_of[stream] = end
        self.known: dict[int, _Block] = {}

    def of(self, piece: Piece, since: int) -> Iterator[tuple[int, _Block]]:
        """The blocks of a piece, and the number of each one's first command; one begins at command `since`."""
        first = piece.first
        while first < piece.stop:
            stop = min(first - first % BLOCK + BLOCK, piece.stop, since if first < since else piece.stop)
            key = first * (len(self.commands) + 1) + stop
            if key not in self.known:
                self.known[key] = self._block(first, stop)
            yield first, self.known[key]
            first = stop

    def _block(self, first: int, stop: int) -> _Block:
        places: dict[str, int] = {}
        ends: dict[str, float] = {}
        for number in range(first, stop):
            command = self.commands[number]
            size = command.launches if isinstance(command, Kernel) else 1
            places[command.stream] = places.get(command.stream, 0) + size
            ends[command.stream] = self.ends[number]
        before = self.clocks[first - 1] if first else 0.0
        return _Block(self.clocks[stop - 1] - before, self.clocks[stop - 1], places, min(self.looks[first:stop]), ends)
