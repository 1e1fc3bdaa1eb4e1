"""Every interleaving of a small program, found by trying them all: an oracle for what `Program` proves.

It knows no clocks. Host threads issue, streams are FIFO, waits block; a command that uses memory starts in one step and
ends in another. What only lets others go on happens at once (issuing, recording, starting: that makes accesses as long
as they can be); when commands end, and all that cannot be taken back, is tried in every order.

Flags that are no sequence let everybody pass, as do counters and locks: nothing is to follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    HostWaitEvent,
    Kernel,
    PointToPoint,
    RankProgram,
    RecordEvent,
    Recv,
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)

ALL = 2**63
HALF = 2**31


class Use(NamedTuple):
    """Bytes that a command uses: whose memory ("host" for what ranks share), which buffer, from where to where."""

    owner: int | str
    buffer: str
    start: int
    end: int
    writes: bool

    def conflicts(self, other: Use) -> bool:
        return (
            (self.owner, self.buffer) == (other.owner, other.buffer)
            and self.start < other.end
            and other.start < self.end
            and (self.writes or other.writes)
        )


def uses(program: RankProgram, rank: int, command: AnyCommand) -> list[Use]:
    """What `command` of `rank` uses."""
    if isinstance(command, Copy):
        into = command.kind in ("h2d", "d2d")
        found = [Use(rank, command.buffer, command.offset, command.offset + command.bytes, into)]
        if command.other is not msgspec.UNSET:
            host = [] if program.host_buffers is msgspec.UNSET else program.host_buffers
            owner: int | str = "host" if any(b.shared and b.name == command.other for b in host) else rank
            if command.kind == "p2p" and command.peer is not msgspec.UNSET:
                owner = command.peer
            found.append(Use(owner, command.other, command.other_start, command.other_start + command.bytes, not into))
        return found
    if isinstance(command, Kernel | Collective):
        span = (0, ALL)
        if isinstance(command, Collective) and command.offset is not msgspec.UNSET:
            twice = command.kind in ("all_to_all", "send_recv")
            span = (command.offset, command.offset + command.bytes * (1 + twice))
        reads = [Use(rank, b, 0, ALL, False) for b in command.reads]
        return reads + [Use(rank, b, *span, True) for b in command.writes]
    if isinstance(command, PointToPoint):
        return [Use(rank, t.buffer, t.offset, t.offset + t.bytes, isinstance(t, Recv)) for t in command.transfers]
    return []


class Outcome(NamedTuple):
    """What was found: two commands at the same bytes, whether nothing could go on, and whether all was looked at."""

    conflict: tuple[str, str] | None
    stuck: bool
    complete: bool


Id = tuple[int, int, int]
"""(rank, host thread, number in the thread) of a command."""
Place = tuple[int, str]
"""(rank, stream)."""


class _State:
    """Where a run is. `copy` and `key` make it one that is tried and remembered."""

    def __init__(self) -> None:
        self.issued: dict[tuple[int, int], int] = {}
        self.blocked: dict[tuple[int, int], Id] = {}
        """Host thread -> the command that has to end before its call returns."""
        self.staging: set[Id] = set()
        self.queues: dict[Place, tuple[Id, ...]] = {}
        self.running: set[Id] = set()
        self.ended: set[Id] = set()
        self.flags: dict[str, int] = {}

    def copy(self) -> _State:
        other = _State()
        for name, value in vars(self).items():
            setattr(other, name, value.copy())
        return other

    def key(self) -> tuple[object, ...]:
        return (
            tuple(self.issued.values()),
            tuple(self.queues.values()),
            frozenset(self.staging),
            frozenset(self.running),
            tuple(sorted(self.flags.items())),
        )


def explore(ranks: Sequence[RankProgram], *, eager: bool, shared_only: bool = False, limit: int = 20_000) -> Outcome:
    """Try all interleavings of `ranks`, `limit` states at most, until one shows a conflict or gets stuck.

    With `eager` a send does not wait for its receive, and a send_recv only for the rank before: all that a program may
    rely on. Without, they wait for everybody, and a copy from pageable memory holds
    its host thread until its stream gets to it: all that a program may have to wait for. With `shared_only`, memory that only one rank uses does not count.
    """
    return _Explorer(ranks, eager, shared_only).run(limit)


class _Explorer:
    def __init__(self, ranks: Sequence[RankProgram], eager: bool, shared_only: bool) -> None:
        self.ranks, self.eager, self.shared_only = ranks, eager, shared_only
        self.commands: dict[Id, AnyCommand] = {
            (r, t, n): c
            for r, rank in enumerate(ranks)
            for t, thread in enumerate(rank.threads)
            for n, c in enumerate(thread)
        }
        self.recorded = {(i[0], c.event): i for i, c in self.commands.items() if isinstance(c, RecordEvent)}
        self.sequences = {
            name for rank in ranks if rank.sequences is not msgspec.UNSET for name in rank.sequences
        }  # one a program
        writes = [c for c in self.commands.values() if isinstance(c, WriteFlag) and c.on_host]
        self.values = {f: [0, *(c.value for c in writes if c.flag == f)] for f in self.sequences}
        self.lasting = {
            f: all(
                self._lasts(c) for c in self.commands.values() if isinstance(c, WaitFlag) and c.on_host and c.flag == f
            )
            for f in self.sequences
        }
        """Whether no wait for a flag can be overtaken."""
        fed: dict[Place, set[int]] = {}
        for (r, t, _), c in self.commands.items():
            if c.stream:
                fed.setdefault((r, c.stream), set()).add(t)
        self.several = {place for place, threads in fed.items() if len(threads) > 1}
        self.places = list(fed)
        self.pageable = [
            set()
            if rank.host_buffers is msgspec.UNSET
            else {b.name for b in rank.host_buffers if b.memory == "pageable"}
            for rank in ranks
        ]
        self.targets = {(c.peer, c.other) for c in self.commands.values() if isinstance(c, Copy) and c.kind == "p2p"}
        self.peers = self._communications()

    def _lasts(self, wait: WaitFlag) -> bool:
        values = self.values[wait.flag]
        holds = [(v - wait.value) % 2**32 < HALF for v in values]
        return True not in holds or all(holds[holds.index(True) :])

    def _communications(self) -> dict[Id, list[tuple[Id | None, bool]]]:
        """Command -> the commands of other ranks that it meets, and whether it gets something from each."""
        calls: dict[tuple[object, int], dict[int, Id]] = {}
        ends: dict[tuple[object, ...], Id] = {}
        count: dict[tuple[object, ...], int] = {}

        def number(*what: object) -> int:
            count[what] = count.get(what, -1) + 1
            return count[what]

        for at, c in self.commands.items():
            if isinstance(c, Collective):
                calls.setdefault((c.communicates_on, number(at[0], c.communicates_on)), {})[at[0]] = at
            elif isinstance(c, PointToPoint):
                for t in c.transfers:
                    way = (at[0], t.peer) if isinstance(t, Send) else (t.peer, at[0])
                    n = number(isinstance(t, Send), *way, c.communicates_on)
                    ends[isinstance(t, Send), *way, c.communicates_on, n] = at
        found: dict[Id, list[tuple[Id | None, bool]]] = {}
        for met in calls.values():
            for rank, at in met.items():
                c = self.commands[at]
                assert isinstance(c, Collective)
                members = list(c.members(len(self.ranks)))
                before = members[members.index(rank) - 1]
                found[at] = [(met.get(m), c.kind != "send_recv" or m == before) for m in members if m != rank]
        for (sends, *rest), at in ends.items():
            found.setdefault(at, []).append((ends.get((not sends, *rest)), not sends))
        return found

    # ---- the search ------------------------------------------------------------------------------------------------

    def run(self, limit: int) -> Outcome:
        first = _State()
        first.issued = {(r, t): 0 for r, rank in enumerate(self.ranks) for t in range(len(rank.threads))}
        first.queues = dict.fromkeys(self.places, ())
        first.flags = dict.fromkeys(sorted(self.sequences), 0)
        todo, seen, stuck = [first], set(), False
        while todo:
            state = todo.pop()
            if (conflict := self._settle(state)) is not None:
                return Outcome(conflict, stuck, False)
            if (key := state.key()) in seen:
                continue
            seen.add(key)
            if len(seen) > limit:
                return Outcome(None, stuck, False)
            after = list(self._choices(state))
            if not after and len(state.ended) < sum(bool(c.stream) for c in self.commands.values()):
                stuck = True
            todo += after
        return Outcome(None, stuck, True)

    def _settle(self, state: _State) -> tuple[str, str] | None:
        """Do all that only lets others go on; two commands that then use the same bytes, if there are any."""
        moved = True
        while moved:
            moved = False
            for thread in state.issued:
                while (at := self._next(state, thread)) and not self._contended(at) and self._issue(state, at):
                    moved = True
                    if at in state.staging and (conflict := self._starts(state, at)):
                        return conflict
            for place, queue in state.queues.items():
                while queue and self._at_once(state, queue[0]):
                    self._end(state, queue[0])
                    queue, moved = state.queues[place], True
                if queue and queue[0] not in state.running and self._uses_time(self.commands[queue[0]]):
                    state.running.add(queue[0])
                    moved = True
                    if conflict := self._starts(state, queue[0]):
                        return conflict
        return None

    def _choices(self, state: _State) -> Iterator[_State]:
        for queue in state.queues.values():
            if queue and self._may_end(state, queue[0]):  # whatever takes time has started
                other = state.copy()
                self._end(other, queue[0])
                yield other
        for at in state.staging:
            other = state.copy()
            other.staging.remove(at)
            self._enqueue(other, at)
            yield other
        for thread in state.issued:
            if (at := self._next(state, thread)) and self._contended(at):
                other = state.copy()
                if self._issue(other, at):
                    yield other

    # ---- host threads ----------------------------------------------------------------------------------------------

    def _next(self, state: _State, thread: tuple[int, int]) -> Id | None:
        at = (*thread, state.issued[thread])
        return at if at in self.commands and not any(s[:2] == thread for s in state.staging) else None

    def _contended(self, at: Id) -> bool:
        """Whether its place among the commands of another thread is up to a race."""
        return (at[0], self.commands[at].stream) in self.several

    def _issue(self, state: _State, at: Id) -> bool:
        thread, command = at[:2], self.commands[at]
        if (until := state.blocked.get(thread)) is not None:
            if until not in state.ended:
                return False
            del state.blocked[thread]
        if isinstance(command, HostWaitEvent) and self.recorded[at[0], command.event] not in state.ended:
            return False
        state.issued[thread] += 1
        if isinstance(command, Copy) and command.kind != "p2p" and command.other in self.pageable[at[0]]:
            if command.kind == "d2h" or not self.eager:
                state.blocked[thread] = at
            if command.kind == "h2d":
                state.staging.add(at)
                return True
        if command.stream:
            self._enqueue(state, at)
        return True

    def _enqueue(self, state: _State, at: Id) -> None:
        state.queues[at[0], self.commands[at].stream] += (at,)

    # ---- streams ---------------------------------------------------------------------------------------------------

    def _uses_time(self, command: AnyCommand) -> bool:
        return isinstance(command, Kernel | Copy | Collective | PointToPoint)

    def _at_once(self, state: _State, at: Id) -> bool:
        command = self.commands[at]
        if self._uses_time(command):
            return False
        sequence = isinstance(command, WriteFlag | WaitFlag) and command.on_host and command.flag in self.sequences
        return self._may_end(state, at) and (not sequence or self.lasting[command.flag])

    def _may_end(self, state: _State, at: Id) -> bool:
        command = self.commands[at]
        if isinstance(command, WaitEvent):
            return self.recorded[at[0], command.event] in state.ended
        if isinstance(command, WaitFlag):
            if command.on_host and command.flag in self.sequences and command.test == "at_least":
                return (state.flags[command.flag] - command.value) % 2**32 < HALF
            return True
        there = state.running | state.ended
        return all(peer in there for peer, gets in self.peers.get(at, ()) if gets or not self.eager)

    def _end(self, state: _State, at: Id) -> None:
        command = self.commands[at]
        place = at[0], command.stream
        assert state.queues[place][0] == at
        state.queues[place] = state.queues[place][1:]
        state.running.discard(at)
        state.ended.add(at)
        if isinstance(command, WriteFlag) and command.on_host and command.flag in state.flags:
            state.flags[command.flag] = command.value

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _starts(self, state: _State, at: Id) -> tuple[str, str] | None:
        mine = self._uses(at, at in state.staging)
        for other in (*state.running, *state.staging):
            if other != at:
                theirs = self._uses(other, other in state.staging)
                if any(a.conflicts(b) for a in mine for b in theirs):
                    return self._name(at), self._name(other)
        return None

    def _name(self, at: Id) -> str:
        return f"rank {at[0]} {getattr(self.commands[at], 'name', '')}"

    def _uses(self, at: Id, staged: bool) -> list[Use]:
        rank, command = at[0], self.commands[at]
        found = uses(self.ranks[rank], rank, command)
        if isinstance(command, Copy) and command.kind == "h2d" and command.other in self.pageable[rank]:
            # the host thread reads what it stages, and the GPU what is staged
            found = [use for use in found if use.writes != staged]
        if self.shared_only:
            return [use for use in found if use.owner == "host" or (use.owner, use.buffer) in self.targets]
        return found
