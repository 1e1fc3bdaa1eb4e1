"""Proof that ranks use memory that they share in a certain order, whatever the times are.

Every stream has a vector clock: how many commands of each stream of every rank surely end before its next one starts.
Clocks are merged where one command waits for another: at events, where ranks meet, where a host thread waits, and at
flags in host memory that follow the protocol of a sequence (`RankProgram.sequences`). Two accesses to the same bytes,
one of which writes, must be ordered by those clocks. Flags of the device, host flags that are no sequence, counters and
locks order nothing here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from sim.program.commands import (
    WORD,
    AnyCommand,
    Collective,
    Communicator,
    Copy,
    HostWaitEvent,
    PointToPoint,
    ProgramError,
    RecordEvent,
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
    at_least,
)
from sim.program.rank_program import RankProgram
from sim.program.shared_memory import Access, Clock, Memory, accesses, shared_memory, still_in_use


class _Write(NamedTuple):
    """A value of a sequence, and the clock of the stream once it is written."""

    value: int
    clock: Clock


class _Stream:
    """Commands issued and not ended, each with the clock of the host thread that issued it."""

    def __init__(self, rank: int, name: str) -> None:
        self.at = (rank, name)
        self.pending: deque[tuple[AnyCommand, Clock, int]] = deque()
        self.clock: Clock = {}
        self.ended = 0
        self.arrived = False


def check_order(ranks: Sequence[RankProgram]) -> None:
    """Raise ProgramError where ranks may use the same bytes at once, or where each waits for another."""
    if not any(map(_looks_at_others, {id(rank): rank for rank in ranks}.values())):
        return
    for rank, program in enumerate(ranks):
        _check_flags(rank, program, ranks)
    _Proof(ranks, shared_memory(ranks)).run()


def _looks_at_others(rank: RankProgram) -> bool:
    """Whether anything but collectives lets ranks see each other."""
    return any(buffer.shared for buffer in rank.host_memory.values()) or any(
        isinstance(c, PointToPoint)
        or (isinstance(c, Copy) and c.kind == "p2p")
        or (isinstance(c, WriteFlag | WaitFlag) and c.on_host)
        for c in rank.commands()
    )


def _check_flags(rank: int, program: RankProgram, ranks: Sequence[RankProgram]) -> None:
    """Flags in host memory that `rank` waits for are written by someone, its sequences by nobody else."""
    if program.sequences is not msgspec.UNSET:
        for other, theirs in enumerate(ranks):
            for command in theirs.commands() if other != rank else ():
                if isinstance(command, WriteFlag) and command.on_host and command.flag in program.sequences:
                    raise ProgramError(
                        f"flag {command.flag!r} is a sequence of rank {rank}, but rank {other} writes it"
                    )
    waits = [c for c in program.commands() if isinstance(c, WaitFlag) and c.on_host and not c.holds(0)]
    if waits:
        written = [c for r in ranks for c in r.commands() if isinstance(c, WriteFlag) and c.on_host]
        values = {(c.flag, c.value) for c in written}
        for wait in waits:
            if (wait.flag, wait.value) not in values and not any(
                flag == wait.flag and wait.holds(value) for flag, value in values
            ):
                raise ProgramError(
                    f"rank {rank} stream {wait.stream!r} waits for host flag {wait.flag!r} to be "
                    f"{'at least ' * (wait.test == 'at_least')}{wait.value}, which nobody writes"
                )


class _Proof:
    """Runs all streams without times, in any order that their waits allow."""

    def __init__(self, ranks: Sequence[RankProgram], shared: set[Memory]) -> None:
        self.ranks = ranks
        self.shared = shared
        self.streams = {(r, name): _Stream(r, name) for r, program in enumerate(ranks) for name in program.streams}
        self.issued = {(r, t): 0 for r, program in enumerate(ranks) for t in range(len(program.threads))}
        self.host_clock: dict[tuple[int, int], Clock] = {key: {} for key in self.issued}
        self.feeders = [program.feeders() for program in ranks]
        self.events: dict[tuple[int, int], Clock] = {}
        self.arrived: dict[tuple[Communicator, int], dict[int, Clock]] = {}
        self.calls: dict[tuple[int, Communicator], int] = {}
        self.posted: dict[tuple[int, int, Communicator, int], dict[int, Clock]] = {}
        """(from, to, communicator, number) -> clock of each side."""
        self.transfers: dict[tuple[bool, int, int, Communicator], int] = {}
        self.meeting: dict[tuple[int, str], list[tuple[int, int, Communicator, int]]] = {}
        self.sequences = {
            name: (rank, [_Write(0, {})])
            for rank, program in enumerate(ranks)
            for name in (() if program.sequences is msgspec.UNSET else program.sequences)
        }
        self.waits: dict[str, list[tuple[WaitFlag, tuple[int, str], int]]] = {}
        self.accesses: dict[Memory, list[Access]] = {}
        self.held: dict[tuple[int, int], int] = {}
        """Host thread -> commands of its last copy's stream that must end before the copy returns to it."""

    def run(self) -> None:
        """Run to the end. Raises ProgramError if that is not reached, or for two accesses in no certain order."""
        moved = True
        while moved:
            moved = False
            for key in self.issued:
                moved |= self._issue(*key)
            for stream in self.streams.values():
                while stream.pending and self._ends(stream):
                    moved = True
        stuck = [s for s in self.streams.values() if s.pending]
        if stuck:
            lines = [f"rank {s.at[0]} stream {s.at[1]!r} waits for {self._awaited(s)}" for s in stuck]
            raise ProgramError("the program never ends:\n  " + "\n  ".join(lines))
        for flag, waits in self.waits.items():
            self._check_wraps(flag, waits)

    def _issue(self, rank: int, thread: int) -> bool:
        """Issue what host thread `thread` can; whether it was anything."""
        commands, clock = self.ranks[rank].threads[thread], self.host_clock[rank, thread]
        first = self.issued[rank, thread]
        for command in commands[first:]:
            if (until := self.held.pop((rank, thread), None)) is not None:
                stream = self.streams[rank, commands[self.issued[rank, thread] - 1].stream]
                if stream.ended < until:
                    self.held[rank, thread] = until
                    break
                _merge(clock, stream.clock)
            if isinstance(command, HostWaitEvent):
                if (rank, command.event) not in self.events:
                    break
                _merge(clock, self.events[rank, command.event])
            elif command.stream:
                stream = self.streams[rank, command.stream]
                stream.pending.append((command, dict(clock), thread))
                if isinstance(command, Copy) and self.ranks[rank].returns_when_complete(command):
                    self.held[rank, thread] = stream.ended + len(stream.pending)
            self.issued[rank, thread] += 1
        return self.issued[rank, thread] > first

    def _ends(self, stream: _Stream) -> bool:
        """Let the first pending command of `stream` end; whether it could."""
        command, issued, thread = stream.pending[0]
        rank = stream.at[0]
        if not stream.arrived:
            _merge(stream.clock, issued)
            stream.arrived = True
            self._arrives(rank, command, stream)
        if not self._continues(rank, command, stream):
            return False
        for key, access in accesses(command, stream.at, stream.ended + 1):
            if key in self.shared:
                self.accesses[key] = still_in_use(key, access, self.accesses.get(key, ()), stream.clock)
        stream.pending.popleft()
        stream.arrived = False
        stream.ended += 1
        stream.clock[stream.at] = stream.ended
        if isinstance(command, RecordEvent):
            # on a stream that another thread feeds, how much comes before it is up to the race
            mine = self.feeders[rank].get(command.stream, thread) == thread
            self.events[rank, command.event] = dict(stream.clock) if mine else {}
        elif isinstance(command, WriteFlag) and command.on_host and command.flag in self.sequences:
            self.sequences[command.flag][1].append(_Write(command.value, dict(stream.clock)))
        return True

    def _continues(self, rank: int, command: AnyCommand, stream: _Stream) -> bool:
        """Whether what `command` waits for has come."""
        if isinstance(command, WaitEvent):
            if (rank, command.event) not in self.events:
                return False
            _merge(stream.clock, self.events[rank, command.event])
        elif isinstance(command, Collective):
            return self._meets(rank, command, stream)
        elif isinstance(command, PointToPoint):
            return self._transferred(rank, stream)
        elif isinstance(command, WaitFlag):
            return self._sees(command, stream)
        return True

    def _arrives(self, rank: int, command: AnyCommand, stream: _Stream) -> None:
        """Note that `stream` has got to a command at which ranks meet."""
        if isinstance(command, Collective):
            on = command.meets_on
            number = self.calls.get((rank, on), 0)
            self.calls[rank, on] = number + 1
            self.arrived.setdefault((on, number), {})[rank] = dict(stream.clock)
        elif isinstance(command, PointToPoint):
            keys = []
            for t in command.transfers:
                sends = isinstance(t, Send)
                count = sends, rank, t.peer, command.meets_on
                number = self.transfers[count] = self.transfers.get(count, 0) + 1
                ends = (rank, t.peer) if sends else (t.peer, rank)
                keys.append((*ends, command.meets_on, number))
                self.posted.setdefault(keys[-1], {})[rank] = dict(stream.clock)
            self.meeting[stream.at] = keys

    def _meets(self, rank: int, command: Collective, stream: _Stream) -> bool:
        members = command.members(len(self.ranks))
        number = self.calls[rank, command.meets_on] - 1
        arrived = self.arrived[command.meets_on, number]
        if len(arrived) < len(members):
            return False
        # who only gets something from the rank before it knows nothing of the others
        place = members.index(rank)
        heard = members if command.kind != "send_recv" else (members[place - 1],)
        for member in heard:
            _merge(stream.clock, arrived[member])
        return True

    def _transferred(self, rank: int, stream: _Stream) -> bool:
        keys = self.meeting[stream.at]
        if any(len(self.posted[key]) < 2 for key in keys):
            return False
        for source, target, on, number in keys:
            if target == rank:  # a send may end before its receive starts: what is short waits in a buffer
                _merge(stream.clock, self.posted[source, target, on, number][source])
        return True

    def _sees(self, command: WaitFlag, stream: _Stream) -> bool:
        """Whether a wait can end; one for a sequence is ordered after the first write that ends it."""
        if not command.on_host or command.test != "at_least" or command.flag not in self.sequences:
            return True
        write = next((w for w in self.sequences[command.flag][1] if at_least(w.value, command.value)), None)
        if write is None:
            return False
        _merge(stream.clock, write.clock)
        self.waits.setdefault(command.flag, []).append((command, stream.at, stream.ended + 1))
        return True

    def _check_wraps(self, flag: str, waits: Sequence[tuple[WaitFlag, tuple[int, str], int]]) -> None:
        """No wait may be overtaken by half of all values: it would not see that its value has been reached."""
        writes = self.sequences[flag][1]
        if sum((b.value - a.value) % WORD for a, b in pairwise(writes)) < WORD // 2:
            return
        for wait, at, number in waits:
            reached = next(i for i, w in enumerate(writes) if at_least(w.value, wait.value))
            for write in writes[reached:]:
                if write.clock.get(at, 0) < number and not at_least(write.value, wait.value):
                    raise ProgramError(
                        f"rank {at[0]} stream {at[1]!r} waits for host flag {flag!r} to be at least {wait.value}, but "
                        f"it may have become {write.value} by then: no event orders them"
                    )

    def _awaited(self, stream: _Stream) -> str:
        command, rank = stream.pending[0][0], stream.at[0]
        if isinstance(command, WaitEvent):
            return f"event {command.event}"
        if isinstance(command, WaitFlag):
            return (
                f"host flag {command.flag!r} of rank {self.sequences[command.flag][0]} to be at least {command.value}"
            )
        if isinstance(command, Collective):
            arrived = self.arrived[command.meets_on, self.calls[rank, command.meets_on] - 1]
            missing = [m for m in command.members(len(self.ranks)) if m not in arrived]
            return f"ranks {missing} to arrive at {command.kind} {command.name!r}"
        unmet = [key for key in self.meeting[stream.at] if len(self.posted[key]) < 2]
        missing = sorted(rank for key in unmet for rank in key[:2] if rank not in self.posted[key])
        return f"ranks {missing} to post their side of {getattr(command, 'name', '')!r}"


def _merge(clock: Clock, other: Clock) -> None:
    for key, value in other.items():
        if value > clock.get(key, 0):
            clock[key] = value
