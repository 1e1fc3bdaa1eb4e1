"""Copies: the engines that make them, what starts them costs, and memory that the driver stages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from itertools import islice
from typing import NamedTuple

import msgspec
from simpy.events import Event

from sim.environment import Environment
from sim.fluid import Fabric, FlowSpec, RateLaw
from sim.hardware import Profile
from sim.hardware.host_flows import HostFlows
from sim.machine.state import Rank, Steps, Stream, Work
from sim.machine.trains import Moving, Trains
from sim.program import Copy, CopyKind, RecordEvent, WaitEvent


class _Engine:
    """The copy engines of one GPU for one kind of copies: streams that hold one, and those that wait, in order.

    A stream keeps its engine from copy to copy as long as the next one can follow at once: the engine is on that
    stream's channel, and turns to another one when that has nothing for it (docs/measurements/copies.md).
    """

    __slots__ = ("free", "holders", "waiting")

    def __init__(self, count: int) -> None:
        self.free = count
        self.holders: set[str] = set()
        self.waiting: deque[Event] = deque()


class _Costs(NamedTuple):
    """A copy's flow, its isolated rate (B/s), set-up, least duration, the turn to another stream (s), and engines."""

    spec: FlowSpec
    rate: float
    setup: float
    minimum: float
    switch: float
    engine: _Engine

    def setup_of(self, env: Environment, size: int) -> float:
        """The set-up of a copy of `size` bytes, s: longer where it would take less than the least duration."""
        return max(self.setup, env.on_grid(max(self.minimum - size / self.rate, 0.0)))


class Copies:
    """Runs the copies of one program. `gpus` is where its ranks sit."""

    def __init__(
        self,
        env: Environment,
        fabric: Fabric,
        profile: Profile,
        gpus: tuple[int, ...],
        law: RateLaw,
        flows: HostFlows,
        span: Callable[[Rank, Copy, float, float, float], None],
        trains: Trains | None,
    ) -> None:
        self._env = env
        self._span = span
        self._trains = trains
        self._fabric = fabric
        self._profile = profile
        self._gpus = gpus
        self._law = law
        self._flows = flows
        self._costs: dict[tuple[CopyKind, int, int | None], _Costs] = {}
        self._engines: dict[tuple[CopyKind, int], _Engine] = {}

    def state(self) -> Hashable:
        """Who has an engine, and how many wait for one."""
        return tuple((key, tuple(sorted(e.holders)), len(e.waiting)) for key, e in sorted(self._engines.items()))

    def run(self, rank: Rank, stream: Stream, command: Copy, busy: float, returned: Event | None) -> Steps:
        """Make a copy and tell its span; `busy` is what its stream loses before, s.

        `returned` is what lets its host thread continue.
        """
        env = self._env
        start = began = env.now
        costs = self._costs_of(command, rank)
        moving, setup = command.bytes / costs.rate, costs.setup_of(env, command.bytes)
        engine = costs.engine
        if stream.name not in engine.holders:
            if engine.free:
                engine.free -= 1
            else:
                turn = Event(self._env)
                engine.waiting.append(turn)
                yield turn
                began, setup = env.now, setup + costs.switch
            engine.holders.add(stream.name)
        yield env.now + (setup + busy)
        rest = 0.0
        if rank.pageable and rank.is_staged(command):
            moving, rest = yield from self._staged(command, costs, returned)
        else:
            if self._trains is not None and not engine.waiting:
                at = Moving(command, start, began, setup, env.now)
                train = self._trains.make(rank, stream, costs.spec, costs.rate, partial(costs.setup_of, env), at)
                if train is not at:
                    command, start, began, setup, due = train
                    moving = command.bytes / costs.rate
                    yield due
            self._fabric.move(costs.spec, command.bytes, stream.process)
            yield None
        if not (engine.waiting and self._followed(rank, stream, command.kind)):
            engine.holders.remove(stream.name)
            if engine.waiting:
                engine.waiting.popleft().succeed()
            else:
                engine.free += 1
        if rest:
            yield env.now + rest
        if returned is not None and not returned.triggered:
            returned.succeed()
        self._span(rank, command, start, began, setup + moving + rest)

    def _followed(self, rank: Rank, stream: Stream, kind: CopyKind) -> bool:
        """Whether the next copy of `kind` on `stream` can follow the present one at once."""
        for issued, command, _ in islice(stream.commands, 1, None):
            if issued > self._env.now:
                return False
            if isinstance(command, Copy):
                return command.kind == kind
            if not isinstance(command, RecordEvent) and not (
                isinstance(command, WaitEvent) and command.event in rank.events
            ):
                return False
        return False

    def _staged(self, command: Copy, costs: _Costs, returned: Event | None) -> Work:
        """Move what the driver stages: (isolated time, s; s that follow on the host).

        From the host, the first bytes are staged before the stream gets there, so that the last ones move at the rate
        of the link. To the host, the first bytes cross the link before any is passed on, and as many are passed on when
        the last one has crossed.
        """
        pageable = self._profile.pageable.h2d if command.kind == "h2d" else self._profile.pageable.d2h
        staged = min(command.bytes, int(pageable.staging.value))
        rate = min(costs.rate, pageable.rate.value)
        slow = costs.spec._replace(cap=min(costs.spec.cap, pageable.rate.value))
        isolated = pageable.setup.value + (command.bytes - staged) / rate + staged / costs.rate
        yield self._env.now + self._env.on_grid(pageable.setup.value)
        if command.kind == "h2d":
            yield self._fabric.transfer(slow, command.bytes - staged).done
            if returned is not None:
                returned.succeed()
            yield self._fabric.transfer(costs.spec, staged).done
            return isolated, 0.0
        yield self._fabric.transfer(costs.spec, staged).done
        yield self._fabric.transfer(slow, command.bytes - staged).done
        return isolated, self._env.on_grid(staged / pageable.rate.value)

    def _costs_of(self, command: Copy, rank: Rank) -> _Costs:
        peer = None if command.peer is msgspec.UNSET else self._gpus[command.peer]
        key = command.kind, rank.gpu, peer
        costs = self._costs.get(key)
        if costs is None:
            spec, cls = self._flows.copy(*key), self._profile.copy_class(command.kind, rank.gpu)
            rate = self._law([self._profile.copy_flow(*key)], self._profile.capacities)[0]
            on_grid = self._env.on_grid
            times = on_grid(cls.setup.value), float(cls.minimum.value), on_grid(cls.switch.value)
            costs = self._costs[key] = _Costs(spec, rate, *times, self._engine(command.kind, rank.gpu))
        return costs

    def _engine(self, kind: CopyKind, gpu: int) -> _Engine:
        if (kind, gpu) not in self._engines:
            self._engines[kind, gpu] = _Engine(self._profile.copy_class(kind, gpu).copies_at_once)
        return self._engines[kind, gpu]
