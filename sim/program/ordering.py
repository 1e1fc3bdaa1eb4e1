"""Proof that ranks use memory that they share in a certain order, whatever the times are.

Every stream has a vector clock: how many commands of each stream of every rank surely end before its next one starts.
Clocks are merged where one command waits for another: at events, where ranks meet, where a host thread waits, and at
flags in host memory that follow the protocol of a sequence (`RankProgram.sequences`). Two accesses to the same bytes,
one of which writes, must be ordered by those clocks. Flags of the device, host flags that are no sequence, counters and
locks order nothing here. A host thread that waits for a counter that only grows issues nothing before it is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sim.program.commands import (
    AnyCommand,
    Collective,
    Communicator,
    Copy,
    HostAdd,
    HostWait,
    HostWaitEvent,
    PointToPoint,
    ProgramError,
    RecordEvent,
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.program.rank_program import RankProgram
from sim.program.sequences import Written, check_flags
from sim.program.shared_memory import Clock, Memory, Uses, accesses, shared_memory


class _Stream:
    """Commands issued and not ended, each with the clock of the host thread that issued it."""

    def __init__(self, rank: int, name: str) -> None:
        self.at = (rank, name)
        self.pending: deque[tuple[AnyCommand, Clock, int]] = deque()
        self.clock: Clock = {}
        self.ended = 0
        self.arrived = False


_FLAGS = (WriteFlag, WaitFlag)


def check_order(ranks: Sequence[RankProgram]) -> None:
    """Raise ProgramError where ranks may use the same bytes at once, or where each waits for another."""
    if any(map(_needs_proof, {id(rank): rank for rank in ranks}.values())):
        _Proof(ranks, shared_memory(ranks), check_flags(ranks)).run()


def _needs_proof(rank: RankProgram) -> bool:
    """Whether ranks see each other otherwise than by collectives whose order their host threads make certain."""
    if any(buffer.shared for buffer in rank.host_memory.values()):
        return True
    callers = 0
    for thread in rank.threads:
        kinds = set(map(type, thread))
        if PointToPoint in kinds:
            return True
        if Copy in kinds and any(type(c) is Copy and c.kind == "p2p" for c in thread):
            return True
        if kinds & {WriteFlag, WaitFlag} and any(isinstance(c, _FLAGS) and c.on_host for c in thread):
            return True
        callers += Collective in kinds
    return callers > 1


class _Proof:
    """Runs all streams without times, in any order that their waits allow."""

    def __init__(self, ranks: Sequence[RankProgram], shared: set[Memory], sequences: dict[str, int]) -> None:
        self.ranks = ranks
        self.streams = {(r, name): _Stream(r, name) for r, program in enumerate(ranks) for name in program.streams}
        self.issued = {(r, t): 0 for r, program in enumerate(ranks) for t in range(len(program.threads))}
        self.host_clock: dict[tuple[int, int], Clock] = {key: {} for key in self.issued}
        self.feeders = [program.feeders() for program in ranks]
        self.counters: dict[tuple[int, str], int] = {}
        """(rank, counter) -> its value; of counters that only grow."""
        for r, program in enumerate(ranks):
            deltas = [(c.counter, c.delta) for c in program.commands() if isinstance(c, HostAdd)]
            shrink = {name for name, delta in deltas if delta < 0}
            self.counters |= {(r, name): 0 for name, _ in deltas if name not in shrink}
        self.events: dict[tuple[int, int], Clock] = {}
        self.arrived: dict[tuple[Communicator, int], dict[int, Clock]] = {}
        self.calls: dict[tuple[int, Communicator], int] = {}
        self.posted: dict[tuple[int, int, Communicator, int], dict[int, Clock]] = {}
        """(from, to, communicator, number) -> clock of each side."""
        self.transfers: dict[tuple[bool, int, int, Communicator], int] = {}
        self.transfer_keys: dict[tuple[int, str], list[tuple[int, int, Communicator, int]]] = {}
        self.sequences = {flag: Written(rank) for flag, rank in sequences.items()}
        self.uses = {memory: Uses(memory) for memory in shared}
        self.blocked: dict[tuple[int, int], tuple[Copy, int]] = {}
        """Host thread -> the staged copy that blocks it, and how many commands of its stream end with that."""

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
            # worst case: an event recorded by another thread comes after all that the stream's own thread can issue
            moved = moved or any(self._issue(*key, anywhere=True) for key in self.issued)
        stuck = [s for s in self.streams.values() if s.pending]
        blocked = [key for key, issued in self.issued.items() if issued < len(self._commands(key))]
        if stuck or blocked:
            lines = [f"rank {key[0]} host thread {key[1]} waits for {self._awaited_by_host(key)}" for key in blocked]
            lines += [f"rank {s.at[0]} stream {s.at[1]!r} waits for {self._awaited(s)}" for s in stuck]
            raise ProgramError("the program never ends:\n  " + "\n  ".join(lines))
        for written in self.sequences.values():
            written.check_wraps()

    def _commands(self, key: tuple[int, int]) -> tuple[AnyCommand, ...]:
        return self.ranks[key[0]].threads[key[1]]

    def _issue(self, rank: int, thread: int, anywhere: bool = False) -> bool:
        """Issue what host thread `thread` can; whether it was anything.

        That is what it issues on streams of its own, or with `anywhere` one command on whatever stream.
        """
        key = rank, thread
        commands, first = self._commands(key), self.issued[key]
        while self.issued[key] < len(commands):
            if key in self.blocked:
                copy, until = self.blocked[key]
                stream = self.streams[rank, copy.stream]
                if stream.ended < until:
                    break
                del self.blocked[key]
                if copy.kind == "d2h":
                    self.host_clock[key] = _merged(self.host_clock[key], stream.clock)
            command = commands[self.issued[key]]
            if isinstance(command, HostWaitEvent):
                if (rank, command.event) not in self.events:
                    break
                self.host_clock[key] = _merged(self.host_clock[key], self.events[rank, command.event])
            elif isinstance(command, HostAdd | HostWait):
                if not self._counts(rank, command):
                    break
            elif command.stream:
                mine = self.feeders[rank].get(command.stream, thread) == thread
                if not mine and (not anywhere or self.issued[key] > first):
                    break
                stream = self.streams[rank, command.stream]
                stream.pending.append((command, self.host_clock[key], thread))
                if isinstance(command, Copy) and self.ranks[rank].is_staged(command):
                    self.blocked[key] = command, stream.ended + len(stream.pending)
            self.issued[key] += 1
        return self.issued[key] > first

    def _counts(self, rank: int, command: HostAdd | HostWait) -> bool:
        """Change a counter that only grows, or say whether it is as large as is waited for; others hold nobody."""
        key = rank, command.counter
        if key not in self.counters:
            return True
        if isinstance(command, HostAdd):
            self.counters[key] += command.delta
            return True
        return command.least is None or self.counters[key] >= command.least

    def _ends(self, stream: _Stream) -> bool:
        """Let the first pending command of `stream` end; whether it could."""
        command, issued, thread = stream.pending[0]
        rank = stream.at[0]
        # what another thread records on a stream has no certain place among its commands
        mine = self.feeders[rank].get(command.stream) == thread
        if not stream.arrived:
            if mine:
                _merge(stream.clock, issued)
            stream.arrived = True
            self._arrives(rank, command, stream)
        if not self._continues(rank, command, stream):
            return False
        for key, access in accesses(command, stream.at, stream.ended + 1):
            if key in self.uses:
                self.uses[key].add(access, stream.clock)
        stream.pending.popleft()
        stream.arrived = False
        stream.ended += 1
        stream.clock[stream.at] = stream.ended
        if isinstance(command, RecordEvent):
            self.events[rank, command.event] = dict(stream.clock) if mine else issued
        elif isinstance(command, WriteFlag) and command.on_host and command.flag in self.sequences:
            self.sequences[command.flag].write(command.value, stream.at, dict(stream.clock))
        return True

    def _continues(self, rank: int, command: AnyCommand, stream: _Stream) -> bool:
        """Whether what `command` waits for has happened."""
        if isinstance(command, WaitEvent):
            if (rank, command.event) not in self.events:
                return False
            _merge(stream.clock, self.events[rank, command.event])
        elif isinstance(command, Collective):
            return self._all_arrived(rank, command, stream)
        elif isinstance(command, PointToPoint):
            return self._transferred(rank, stream)
        elif isinstance(command, WaitFlag):
            return self._sees(command, stream)
        return True

    def _arrives(self, rank: int, command: AnyCommand, stream: _Stream) -> None:
        """Note that `stream` has reached a collective or transfers."""
        if isinstance(command, Collective):
            on = command.communicates_on
            number = self.calls.get((rank, on), 0)
            self.calls[rank, on] = number + 1
            self.arrived.setdefault((on, number), {})[rank] = dict(stream.clock)
        elif isinstance(command, PointToPoint):
            keys = []
            for t in command.transfers:
                sends = isinstance(t, Send)
                count = sends, rank, t.peer, command.communicates_on
                number = self.transfers[count] = self.transfers.get(count, 0) + 1
                ends = (rank, t.peer) if sends else (t.peer, rank)
                keys.append((*ends, command.communicates_on, number))
                self.posted.setdefault(keys[-1], {})[rank] = dict(stream.clock)
            self.transfer_keys[stream.at] = keys

    def _all_arrived(self, rank: int, command: Collective, stream: _Stream) -> bool:
        members = command.members(len(self.ranks))
        number = self.calls[rank, command.communicates_on] - 1
        arrived = self.arrived[command.communicates_on, number]
        if len(arrived) < len(members):
            return False
        # a rank that only receives from the one before it is not ordered after the others
        place = members.index(rank)
        senders = members if command.kind != "send_recv" else (members[place - 1],)
        for member in senders:
            _merge(stream.clock, arrived[member])
        return True

    def _transferred(self, rank: int, stream: _Stream) -> bool:
        keys = self.transfer_keys[stream.at]
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
        clock = self.sequences[command.flag].reached(command, stream.at, stream.ended + 1, stream.clock)
        if clock is None:
            return False
        _merge(stream.clock, clock)
        return True

    def _awaited_by_host(self, key: tuple[int, int]) -> str:
        if key in self.blocked:
            copy = self.blocked[key][0]
            return f"copy {copy.name!r} of pageable memory on stream {copy.stream!r}"
        command = self._commands(key)[self.issued[key]]
        if isinstance(command, HostWait):
            return f"counter {command.counter!r} to be at least {command.least}"
        assert isinstance(command, HostWaitEvent), "all else is issued"
        return f"event {command.event}"

    def _awaited(self, stream: _Stream) -> str:
        command, rank = stream.pending[0][0], stream.at[0]
        if isinstance(command, WaitEvent):
            return f"event {command.event}"
        if isinstance(command, WaitFlag):
            owner = self.sequences[command.flag].rank
            return f"host flag {command.flag!r} of rank {owner} to be at least {command.value}"
        if isinstance(command, Collective):
            arrived = self.arrived[command.communicates_on, self.calls[rank, command.communicates_on] - 1]
            missing = [m for m in command.members(len(self.ranks)) if m not in arrived]
            return f"ranks {missing} to arrive at {command.kind} {command.name!r}"
        incomplete = [key for key in self.transfer_keys[stream.at] if len(self.posted[key]) < 2]
        missing = sorted(rank for key in incomplete for rank in key[:2] if rank not in self.posted[key])
        return f"ranks {missing} to post their side of {getattr(command, 'name', '')!r}"


def _merged(clock: Clock, other: Clock) -> Clock:
    """The later of both, as a new clock: clocks of host threads are kept by what they have issued."""
    clock = dict(clock)
    _merge(clock, other)
    return clock


def _merge(clock: Clock, other: Clock) -> None:
    for key, value in other.items():
        if value > clock.get(key, 0):
            clock[key] = value
