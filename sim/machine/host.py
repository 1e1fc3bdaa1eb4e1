"""Host threads: they enqueue commands on streams, run ahead of the GPU, and block only where they must.

Issuing needs no knowledge of the GPU's state, so a thread has a clock of its own, ahead of the simulated time. It
comes back to simulated time where a stream's queue is full, and where threads can see each other: counters, locks,
events, and streams that several threads feed.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from simpy.events import Event

from sim.environment import Environment, Process
from sim.hardware import Profile
from sim.machine.state import Rank, Steps, Stream, Ticket, TransferKey
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
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import HostSpan

_COMMUNICATIONS = (Collective, PointToPoint)
_ON_DEVICES = ("d2d", "p2p")


class HostThread:
    """Host thread `number` of `rank`; `clock` is its own time, s."""

    process: Process

    def __init__(self, env: Environment, profile: Profile, rank: Rank, number: int, spans: list[HostSpan]) -> None:
        host, on_grid = profile.host, env.on_grid
        self.env = env
        self.pageable = profile.pageable
        self.rank = rank
        self.number = number
        self.spans = spans
        self.clock = 0.0
        self.issued = 0
        """Commands issued before the one at which it last waited; all of them once it has ended."""
        self.depth: float = int(host.queue_depth.value)
        self.clocks: list[float] | None = None
        """Its clock after each command, where that is asked for."""
        self.wake = float(host.wake.value)
        self.sync = on_grid(host.sync.value)
        self.spread = float(host.wake_spread.value)
        self.device_copy = on_grid((host.device_copy or host.copy).value)
        # seeded by its place in the program: the same scenario gives the same timeline
        self.random = random.Random(f"{rank.number}/{number}")
        costs = {
            Kernel: host.kernel,
            Copy: host.copy,
            Collective: host.collective,
            PointToPoint: host.point_to_point or host.collective,
            RecordEvent: host.event,
            WaitEvent: host.event,
            HostWaitEvent: host.event,
            WriteFlag: host.memop,
            WaitFlag: host.memop,
        }
        self.issue_cost: dict[type, float] = {kind: on_grid(cost.value) for kind, cost in costs.items()}
        self.on_host: dict[type, Callable[[Any], Steps]] = {
            HostWaitEvent: self._wait_event,
            HostAdd: self._add,
            HostWait: self._wait_counter,
            HostAcquire: self._acquire,
            HostRelease: self._release,
        }

    def run(self, commands: tuple[AnyCommand, ...]) -> Steps:
        """The process that issues `commands` in order."""
        env, rank, streams, depth = self.env, self.rank, self.rank.streams, self.depth
        issue_cost, clocks = self.issue_cost, self.clocks
        for index, command in enumerate(commands):
            if isinstance(command, HostWork):
                self.clock += env.on_grid(command.seconds)
                continue
            if not command.stream:
                self.clock += self.sync
                self.issued = index
                yield from self.on_host[type(command)](command)
                continue
            kind = type(command)
            size = command.launches if isinstance(command, Kernel) else 1
            cost = issue_cost[kind]
            if isinstance(command, Copy) and command.kind in _ON_DEVICES:
                cost = self.device_copy
            self.clock += cost * size
            if clocks is not None:
                clocks.append(self.clock)
            stream = streams[command.stream]
            if stream.shared and self.clock > env.now:
                self.issued = index
                yield self.clock  # its order among the other thread's commands is decided here
            while stream.launches + size > depth and stream.commands:
                since = self.clock
                self.issued = index
                stream.room.append(self.process)
                rank.hosts_waiting[self.number] = stream
                yield None
                del rank.hosts_waiting[self.number]
                now = env.now
                if now > since:
                    self.clock = now
                    # spares the call of the tuple's own __new__, which is written in Python
                    fields = rank.number, self.number, since, now, None, None, stream.name
                    self.spans.append(tuple.__new__(HostSpan, fields))
            if rank.pageable and isinstance(command, Copy) and rank.is_staged(command):
                self.issued = index
                yield from self._copy_pageable(command, stream)
            else:
                self._enqueue(stream, command, size, self._ticket(command) if kind in _COMMUNICATIONS else None)
        self.issued = len(commands)

    def _enqueue(self, stream: Stream, command: AnyCommand, size: int, ticket: Ticket) -> None:
        stream.commands.append((self.clock, command, ticket))
        stream.launches += size
        if stream.idle:
            stream.idle = False
            self.env.call_soon(stream.process)

    def _ticket(self, command: AnyCommand) -> Ticket:
        """Which of its communicator's rendezvous a command is."""
        if isinstance(command, Collective):
            number = self.rank.calls[command.communicates_on] = self.rank.calls.get(command.communicates_on, 0) + 1
            return command.communicates_on, number
        if isinstance(command, PointToPoint):
            keys: list[TransferKey] = []
            for t in command.transfers:
                sends = isinstance(t, Send)
                count = sends, t.peer, command.communicates_on
                number = self.rank.transfers[count] = self.rank.transfers.get(count, 0) + 1
                me = self.rank.number
                keys.append((me if sends else t.peer, t.peer if sends else me, command.communicates_on, number))
            return tuple(keys)
        return None

    def _copy_pageable(self, command: Copy, stream: Stream) -> Steps:
        """Enqueue a copy that the driver stages: it holds the thread until it is staged, or complete if from the GPU.

        The driver fills its staging buffers before the stream gets to the copy, and waits for the stream for the rest.
        """
        costs = self.pageable.h2d
        staged = min(command.bytes, int(costs.staging.value)) if command.kind == "h2d" else 0
        self.clock += self.env.on_grid(staged / costs.rate.value)
        if staged == command.bytes:
            self._enqueue(stream, command, 1, None)
            return
        returned = Event(self.env)
        since = self.clock
        self._enqueue(stream, command, 1, returned)
        yield from self._block(returned, f"copy {command.name!r} of pageable memory on stream {stream.name!r}")
        self._held(since, stream=stream.name)

    def _block(self, until: Event, what: str) -> Steps:
        """Block the thread until an event; its clock continues from there."""
        self.rank.hosts_waiting[self.number] = what
        yield until
        del self.rank.hosts_waiting[self.number]
        self.clock = max(self.clock, self.env.now)

    def _held(self, since: float, event: int | None = None, by: int | None = None, stream: str = "") -> None:
        if self.clock > since:
            self.spans.append(HostSpan(self.rank.number, self.number, since, self.clock, event, by, stream))

    def _catch_up(self) -> Steps:
        """Let simulated time reach a thread's clock: what it does next is seen by other threads, or depends on them."""
        if self.clock > self.env.now:
            yield self.clock
        self.clock = self.env.now

    def _next_look(self, since: float, poll: float) -> Steps:
        """Advance a thread that polls every `poll` seconds from `since` on to its next poll."""
        if poll > 0:
            poll = self.env.on_grid(poll) or poll
            self.clock = max(since + math.ceil((self.env.now - since) / poll - 1e-9) * poll, self.env.now)
            yield from self._catch_up()

    def _wait_event(self, command: HostWaitEvent) -> Steps:
        self.clock += self.issue_cost[HostWaitEvent]
        since = self.clock
        if command.event not in self.rank.events:
            waiter = Event(self.env)
            self.rank.event_waiters.setdefault(command.event, []).append(waiter)
            yield from self._block(waiter, f"event {command.event}")
            self.clock += self.env.on_grid(self.wake * (1.0 + self.spread * self.random.uniform(-1.0, 1.0)))
        if self.rank.events[command.event] > since:
            yield from self._next_look(since, command.poll)
        self._held(since, event=command.event)

    def _add(self, command: HostAdd) -> Steps:
        yield from self._catch_up()
        self.rank.counters[command.counter] = self.rank.counters.get(command.counter, 0) + command.delta
        self.rank.last_user[command.counter] = self.number
        for waiter in self.rank.counter_waiters.pop(command.counter, ()):
            waiter.succeed()

    def _wait_counter(self, command: HostWait) -> Steps:
        yield from self._catch_up()
        since = self.clock
        while not _holds(command, self.rank.counters.get(command.counter, 0)):
            waiter = Event(self.env)
            self.rank.counter_waiters.setdefault(command.counter, []).append(waiter)
            yield from self._block(waiter, _wanted(command))
            yield from self._next_look(since, command.poll)
        self._held(since, by=self.rank.last_user.get(command.counter))

    def _acquire(self, command: HostAcquire) -> Steps:
        yield from self._catch_up()
        queue = self.rank.locks.setdefault(command.lock, deque())
        queue.append(Event(self.env))
        if len(queue) > 1:
            since = self.clock
            yield from self._block(queue[-1], f"lock {command.lock!r}")
            self._held(since, by=self.rank.last_user[command.lock])

    def _release(self, command: HostRelease) -> Steps:
        yield from self._catch_up()
        queue = self.rank.locks[command.lock]
        queue.popleft()
        self.rank.last_user[command.lock] = self.number
        if queue:
            queue[0].succeed()


def _holds(wait: HostWait, value: int) -> bool:
    return (wait.least is None or value >= wait.least) and (wait.most is None or value <= wait.most)


def _wanted(wait: HostWait) -> str:
    bounds = [f"at least {wait.least}"] * (wait.least is not None) + [f"at most {wait.most}"] * (wait.most is not None)
    return f"counter {wait.counter!r} to be {' and '.join(bounds)}"
