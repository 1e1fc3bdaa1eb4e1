"""Trains of copies: copies that follow each other on a stream while nothing else happens are made in one go.

A copy that is about to move, and what its stream does until the next one is about to, need no step of the simulation if
nothing else is scheduled in that time and no flow in flight ends: nobody can look at the stream, or change what it
looks at. Their times, and what becomes of the flows in flight, are those of the steps, to the last bit: a train is as
long as all of that holds, and its last copy is left to the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from sim.environment import Environment
from sim.fluid import Fabric, FlowSpec
from sim.machine.flows_ahead import Ahead
from sim.machine.state import Flags, Rank, Stream
from sim.program import AnyCommand, Copy, RecordEvent, WaitEvent, WaitFlag, WriteFlag
from sim.timeline import Span

OF_TRAINS = (Copy, RecordEvent, WaitEvent, WaitFlag, WriteFlag)
"""Commands of trains."""
MAX_SKIPPED = 8
"""Copies after which a stream that makes no train tries again, at most."""


class Running(Protocol):
    """A run of a program, as far as trains need to know it."""

    env: Environment
    fabric: Fabric
    host_flags: Flags
    spans: list[Span]
    beside_kernel: float
    event_cost: float
    write_cost: dict[bool, float]
    wait_cost: dict[bool, float]

    def copy_delay(self, rank: Rank) -> float:
        """What a stream loses before a copy that starts now, s."""


class Moving(NamedTuple):
    """A copy that is about to move: when it started and began, its set-up, and when it moves, s."""

    command: Copy
    start: float
    began: float
    setup: float
    due: float


class _Gap(NamedTuple):
    """What a stream does between two copies: commands, when each ends, and their own costs (none: no span), s.

    `values` are flags that it writes, `events` those that it records.
    """

    commands: list[AnyCommand]
    ends: list[float]
    costs: list[float | None]
    values: dict[tuple[bool, str], int]
    events: dict[int, float]

    @property
    def only_waits(self) -> bool:
        """Whether it changes nothing that it may look at itself."""
        return not self.values and not self.events


class Trains:
    """Makes trains of copies of `run`."""

    def __init__(self, run: Running) -> None:
        self._run = run
        self.made = 0
        """Copies so far."""
        self._skip: dict[int, tuple[int, int]] = {}
        """Stream, by `id` -> copies for which it makes no try, and how many it will be next time."""

    def make(
        self, rank: Rank, stream: Stream, spec: FlowSpec, rate: float, setup_of: Callable[[int], float], now: Moving
    ) -> Moving:
        """Make the copies of a train, whose first one is `now`, but for the last one, which is returned.

        `spec` is the flow of its copies, `rate` what it is when isolated (B/s), `setup_of` the set-up (s) by bytes. No
        other stream waits for their engine.
        """
        if stream.room or len(stream.commands) < 2:
            return now
        left, more = self._skip.get(id(stream), (0, 1))
        if left:
            self._skip[id(stream)] = left - 1, more
            return now
        until = self._run.env.free_until(self._run.fabric.is_wake)
        if until > now.due + now.command.bytes / rate and (flows := Ahead.of(self._run.fabric, spec)) is not None:
            train = _Train(self._run, rank, stream, flows, rate, setup_of, until)
            last = now
            while (following := train.pull(last)) is not last:
                last = following
            if last is not now:
                self.made += train.made
                self._skip.pop(id(stream), None)
                flows.apply()
                stream.current = last.command, None
                return last
        self._skip[id(stream)] = more, min(2 * more, MAX_SKIPPED)
        return now


class _Train:
    """A train of copies, with `flows` in flight, while nothing else happens before `until`, s."""

    def __init__(
        self,
        run: Running,
        rank: Rank,
        stream: Stream,
        flows: Ahead,
        rate: float,
        setup_of: Callable[[int], float],
        until: float,
    ) -> None:
        self.run = run
        self.rank = rank
        self.stream = stream
        self.flows = flows
        self.rate = rate
        self.setup_of = setup_of
        self.until = until
        self.beside = run.beside_kernel if rank.kernels_running else 0.0
        self.delay = run.copy_delay(rank)
        self.made = 0

    def pull(self, now: Moving) -> Moving:
        """Make `now`, and what is like it and follows: returns the copy that is to be made next; `now` if none was."""
        size = now.command.bytes
        end = now.due + self.flows.lasts(size)
        found = self._gap(now.command, end) if end < self.until else None
        if found is None:
            return now
        gap, following = found
        count = self._alike(now, gap, following) if gap.only_waits else 1
        count = self.flows.pass_by(now.due, end, following.due, size, count, self.until)
        if count == 0:
            return now
        return self._made(now, end, gap, following, count)

    def _gap(self, copy: Copy, time: float) -> tuple[_Gap, Moving] | None:
        """What follows a copy that ends at `time` until the next one is about to move; None if that is not certain."""
        run, rank = self.run, self.rank
        gap = _Gap([], [], [], {}, {})
        end = time
        for issued, command, ticket in islice(self.stream.commands, 1, None):
            if issued > time:
                return None
            cost: float | None
            if type(command) is Copy:
                if command.kind != copy.kind or command.peer != copy.peer or ticket is not None:
                    return None
                setup = self.setup_of(command.bytes)
                due = time + (setup + self.delay)
                return (gap, Moving(command, time, time, setup, due)) if end < due < self.until else None
            if type(command) is WaitFlag:
                where = command.on_host, command.flag
                flags = run.host_flags if command.on_host else rank.flags
                if not command.holds(gap.values[where] if where in gap.values else flags[command.flag]):
                    return None
                cost = run.wait_cost[command.on_host]
            elif type(command) is WriteFlag:
                flags = run.host_flags if command.on_host else rank.flags
                if command.flag in flags.waiters:
                    return None
                gap.values[command.on_host, command.flag] = command.value
                cost = run.write_cost[command.on_host]
            elif type(command) is RecordEvent:
                if command.event in rank.event_waiters:
                    return None
                cost = run.event_cost
            elif type(command) is WaitEvent and command.event in rank.events:
                cost = None
            else:
                return None
            if cost is not None:
                time += cost + self.beside
            if type(command) is RecordEvent:
                gap.events[command.event] = time
            gap.commands.append(command)
            gap.costs.append(cost)
            gap.ends.append(time)
        return None

    def _alike(self, now: Moving, gap: _Gap, following: Moving) -> int:
        """How many copies have the like of `gap` and `following` after them, all of which have been issued."""
        size, begins = now.command.bytes, following.start
        if following.command.bytes != size or any(type(command) is not WaitFlag for command in gap.commands):
            return 1
        length = len(gap.commands) + 1
        most = len(self.stream.commands)
        # a flow in flight may end later than it would alone: what follows then is another try
        before = min(self.until, self.flows.first_end())
        if before < math.inf:
            most = min(most, max(math.ceil((before - now.due) / (following.due - now.due)), 1))
        pattern: Sequence[AnyCommand] = (*gap.commands, now.command)
        kind, peer = now.command.kind, now.command.peer
        count, place = 0, 0
        for issued, command, ticket in islice(self.stream.commands, 1, 1 + most * length):
            if issued > begins:
                break
            if place == length - 1:
                if (
                    type(command) is not Copy
                    or command.bytes != size
                    or command.kind != kind
                    or command.peer != peer
                    or ticket is not None
                ):
                    break
                count, place = count + 1, 0
            elif command is pattern[place] or command == pattern[place]:
                place += 1
            else:
                break
        return max(count, 1)

    def _made(self, now: Moving, end: float, gap: _Gap, following: Moving, count: int) -> Moving:
        """Tell what happened to `count` copies and after each of them; returns the copy that is about to move then."""
        run, rank, stream = self.run, self.rank, self.stream
        commands, spans, ends, number = stream.commands, run.spans, stream.ends, rank.number
        new, moving = tuple.__new__, now.command.bytes / self.rate
        for (on_host, flag), value in gap.values.items():
            (run.host_flags if on_host else rank.flags).words[flag] = value
        rank.events.update(gap.events)
        period, shift = following.due - now.due, 0.0  # times lie on a grid: sums of them are exact
        start, began, isolated = now.start, now.began, now.setup + moving
        for _ in range(count):
            at = end + shift
            spans.append(new(Span, (number, commands.popleft()[1], start, began, at, isolated)))
            if ends is not None:
                ends.append(at)
            for until, cost in zip(gap.ends, gap.costs, strict=True):
                command, then = commands.popleft()[1], until + shift
                if cost is not None:
                    spans.append(new(Span, (number, command, at, at, then, cost)))
                if ends is not None:
                    ends.append(then)
                at = then
            start = began = following.start + shift
            isolated = following.setup + moving
            shift += period
        self.made += count
        stream.ended += count * (1 + len(gap.ends))
        stream.launches -= count * (1 + len(gap.ends))
        shift -= period
        return Moving(commands[0][1], start, began, following.setup, following.due + shift)  # type: ignore[arg-type]
