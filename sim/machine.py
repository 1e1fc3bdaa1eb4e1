"""The simulated machine: runs a `Program` on a hardware `Profile` and returns its `Timeline`.

Host threads and streams are SimPy processes. A host thread runs ahead of the simulated time on a clock of its own
(issuing needs no knowledge of the GPU's state) and blocks, like CUDA's, when a stream has `queue_depth` commands
pending. Streams take commands in FIFO order; transfers and kernels become flows of the fabric.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from simpy.events import Event

from sim import collectives
from sim.fabric import Environment, Fabric, FlowSpec, RateLaw, weighted_max_min
from sim.hardware import Profile
from sim.program import (
    AnyCommand,
    Collective,
    CollectiveKind,
    Copy,
    CopyKind,
    HostWaitEvent,
    Kernel,
    Program,
    RankProgram,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import Span, Timeline

Steps = Generator[Event, Any, None]


class DeadlockError(RuntimeError):
    """A program in which nothing can go on. The message says who waits for what."""


class SimulatedMachine:
    """Runs programs on `profile`; `rate_law` shares the fabric's resources."""

    def __init__(self, profile: Profile, rate_law: RateLaw = weighted_max_min) -> None:
        self.profile = profile
        self.rate_law = rate_law

    def run(self, program: Program) -> Timeline:
        """Simulate `program` to its end.

        Raises:
            DeadlockError: commands are left that wait for something that never comes.
            ValueError: the program has more ranks than the profile has GPUs.
        """
        if program.world_size > self.profile.gpus:
            raise ValueError(f"the program has {program.world_size} ranks, the profile {self.profile.gpus} GPUs")
        return _Run(self.profile, program, self.rate_law).run()


class _Stream:
    """Commands pending on one stream of one rank, each with the time at which it was issued."""

    __slots__ = ("commands", "current", "idle", "launches", "name", "room")

    def __init__(self, name: str) -> None:
        self.name = name
        self.commands: deque[tuple[float, AnyCommand]] = deque()
        self.launches = 0
        self.idle: Event | None = None
        self.room: Event | None = None
        self.current: AnyCommand | None = None


class _Rank:
    """State of one rank: its streams, events that have completed, flags, and those who wait for them."""

    def __init__(self, number: int, program: RankProgram) -> None:
        self.number = number
        self.streams = {name: _Stream(name) for name in program.streams}
        self.events: dict[int, float] = {}
        self.event_waiters: dict[int, list[Event]] = {}
        self.flags: dict[str, int] = {}
        self.flag_waiters: dict[str, list[Event]] = {}
        self.threads_left = len(program.threads)
        self.hosts_waiting: dict[int, str] = {}
        self.meetings = 0
        self.kernels_running = 0


class _Meeting:
    """One collective: which ranks have arrived, when all had, and what ends it for each."""

    __slots__ = ("arrived", "done", "moving", "ready")

    def __init__(self, env: Environment, world_size: int) -> None:
        self.arrived: list[int] = []
        self.done = [Event(env) for _ in range(world_size)]
        self.ready = 0.0
        self.moving: CollectiveKind | None = None


class _Run:
    """One run of one program."""

    def __init__(self, profile: Profile, program: Program, rate_law: RateLaw) -> None:
        self.profile = profile
        self.program = program
        self.rate_law = rate_law
        self.env = Environment()
        self.fabric = Fabric(self.env, profile.capacities, rate_law)
        self.ranks = [_Rank(i, r) for i, r in enumerate(program.ranks)]
        self.meetings: list[_Meeting] = []
        self.spans: list[Span] = []
        kinds: tuple[CopyKind, ...] = ("h2d", "d2h")
        self.copies = {(kind, i): self._copy_costs(kind, i) for kind in kinds for i in range(program.world_size)}
        self.flows: dict[tuple[str, int], list[tuple[FlowSpec, collectives.Part]]] = {}
        self.alone: dict[tuple[str, int], float] = {}
        self.execute: dict[type, Callable[[_Rank, Any], Steps]] = {
            Kernel: self._kernel,
            Copy: self._copy,
            Collective: self._collective,
            RecordEvent: self._record_event,
            WaitEvent: self._wait_event,
            WriteFlag: self._write_flag,
            WaitFlag: self._wait_flag,
        }

    def run(self) -> Timeline:
        for rank, program in zip(self.ranks, self.program.ranks, strict=True):
            for number, thread in enumerate(program.threads):
                self.env.process(self._host(rank, number, thread))
            for stream in rank.streams.values():
                self.env.process(self._stream(rank, stream))
        self.env.run()
        self._check_finished()
        steps = tuple(
            tuple(rank.events[e] for e in program.step_events)
            for rank, program in zip(self.ranks, self.program.ranks, strict=True)
        )
        return Timeline(self.program, tuple(self.spans), steps)

    def _host(self, rank: _Rank, number: int, commands: tuple[AnyCommand, ...]) -> Steps:
        """A host thread. `clock` is its own time: ahead of the simulated one, except where it has to block."""
        clock = 0.0
        host = self.profile.host
        depth = int(host.queue_depth.value)
        costs = {
            Kernel: host.kernel.value,
            Copy: host.copy.value,
            Collective: host.collective.value,
            RecordEvent: host.event.value,
            WaitEvent: host.event.value,
            HostWaitEvent: host.event.value,
            WriteFlag: host.memop.value,
            WaitFlag: host.memop.value,
        }
        for command in commands:
            if isinstance(command, HostWaitEvent):
                clock += costs[HostWaitEvent]
                rank.hosts_waiting[number] = f"event {command.event}"
                yield from self._until_event(rank, command.event)
                del rank.hosts_waiting[number]
                clock = max(clock, rank.events[command.event])
                continue
            launches = _launches(command)
            clock += costs[type(command)] * launches
            stream = rank.streams[command.stream]
            while stream.commands and stream.launches + launches > depth:
                rank.hosts_waiting[number] = f"room on stream {stream.name!r} ({stream.launches} commands pending)"
                stream.room = Event(self.env)
                yield stream.room
                clock = max(clock, self.env.now)
                del rank.hosts_waiting[number]
            stream.commands.append((clock, command))
            stream.launches += launches
            if stream.idle is not None:
                stream.idle.succeed()
                stream.idle = None
        rank.threads_left -= 1

    def _stream(self, rank: _Rank, stream: _Stream) -> Steps:
        """A stream: executes its commands one after the other."""
        env, commands, execute = self.env, stream.commands, self.execute
        while True:
            if not commands:
                stream.idle = Event(env)
                yield stream.idle
            issued, command = commands[0]
            if issued > env.now:
                yield env.at(issued)
            stream.current = command
            yield from execute[type(command)](rank, command)
            stream.current = None
            commands.popleft()
            stream.launches -= _launches(command)
            if stream.room is not None:
                stream.room.succeed()
                stream.room = None

    def _kernel(self, rank: _Rank, command: Kernel) -> Steps:
        seconds = self.profile.kernel_seconds(command)
        start = self.env.now
        rank.kernels_running += 1
        delay = self.profile.streams.launch_delay.value * command.launches
        if delay > 0 and seconds > 0:
            yield self.fabric.transfer(self.profile.kernel_flow(rank.number, delay / seconds), seconds).done
        else:
            yield self.env.timeout(seconds)
        rank.kernels_running -= 1
        self._span(rank, command, start, start, seconds)

    def _copy(self, rank: _Rank, command: Copy) -> Steps:
        spec, rate, shortest, minimum = self.copies[command.kind, rank.number]
        start = self.env.now
        moving = command.bytes / rate
        setup = max(shortest, minimum - moving)
        yield self._busy(rank, setup + self._start_delay(rank))
        yield self.fabric.transfer(spec, command.bytes).done
        self._span(rank, command, start, start, setup + moving)

    def _collective(self, rank: _Rank, command: Collective) -> Steps:
        start = self.env.now
        index = rank.meetings
        rank.meetings += 1
        if index == len(self.meetings):
            self.meetings.append(_Meeting(self.env, len(self.ranks)))
        meeting = self.meetings[index]
        meeting.arrived.append(rank.number)
        if len(meeting.arrived) == len(self.ranks):
            meeting.ready = start
            self.env.process(self._move(self.env, self.fabric, command, meeting))
        yield meeting.done[rank.number]
        self._span(rank, command, start, meeting.ready, self._alone(command))

    def _copy_costs(self, kind: CopyKind, gpu: int) -> tuple[FlowSpec, float, float, float]:
        """(flow, rate alone in B/s, setup in s, least duration in s) of copies of `kind`."""
        spec, cls = self.profile.copy_flow(kind, gpu), self.profile.copy_class(kind)
        rate = self.rate_law([spec], self.profile.capacities)[0]
        return spec, rate, float(cls.setup.value), float(cls.minimum.value)

    def _busy(self, rank: _Rank, seconds: float) -> Event:
        """The end of what a stream's front end does for a command: `seconds` and more while a kernel runs."""
        return self.env.timeout(seconds + (self.profile.streams.beside_kernel.value if rank.kernels_running else 0.0))

    def _start_delay(self, rank: _Rank) -> float:
        """What a copy that starts now loses because a collective is moving data on its rank."""
        if not rank.meetings:
            return 0.0
        meeting = self.meetings[rank.meetings - 1]
        if meeting.moving is None or meeting.done[rank.number].triggered:
            return 0.0
        return self.profile.collective_class(meeting.moving).copy_start.value

    def _record_event(self, rank: _Rank, command: RecordEvent) -> Steps:
        start = self.env.now
        cost = float(self.profile.streams.event.value)
        yield self._busy(rank, cost)
        rank.events[command.event] = self.env.now
        for waiter in rank.event_waiters.pop(command.event, ()):
            waiter.succeed()
        self._span(rank, command, start, start, cost)

    def _until_event(self, rank: _Rank, event: int) -> Steps:
        if event not in rank.events:
            waiter = Event(self.env)
            rank.event_waiters.setdefault(event, []).append(waiter)
            yield waiter

    def _wait_event(self, rank: _Rank, command: WaitEvent) -> Steps:
        start = self.env.now
        yield from self._until_event(rank, command.event)
        if self.env.now > start:
            yield self.env.timeout(self.profile.streams.wake.value)
            self._span(rank, command, start, start, 0.0)

    def _write_flag(self, rank: _Rank, command: WriteFlag) -> Steps:
        start = self.env.now
        cost = float(self.profile.streams.write_flag.value)
        yield self._busy(rank, cost)
        rank.flags[command.flag] = command.value
        for waiter in rank.flag_waiters.pop(command.flag, ()):
            waiter.succeed()
        self._span(rank, command, start, start, cost)

    def _wait_flag(self, rank: _Rank, command: WaitFlag) -> Steps:
        start = self.env.now
        cost = float(self.profile.streams.wait_flag.value)
        yield self._busy(rank, cost)
        while rank.flags.get(command.flag, 0) != command.value:
            waiter = Event(self.env)
            rank.flag_waiters.setdefault(command.flag, []).append(waiter)
            yield waiter
        self._span(rank, command, start, start, cost)

    def _span(self, rank: _Rank, command: AnyCommand, start: float, ready: float, alone: float) -> None:
        self.spans.append(Span(rank.number, command, start, ready, self.env.now, alone))

    def _move(self, env: Environment, fabric: Fabric, command: Collective, meeting: _Meeting) -> Steps:
        """Run a collective at which all ranks have arrived; each rank's `done` happens with the last of its flows."""
        flows = self._flows_of(command)
        if flows:
            yield env.timeout(collectives.latency(self.profile, command.kind, len(self.ranks)))
        meeting.moving = command.kind
        left = [0] * len(self.ranks)
        for spec, part in flows:
            done = fabric.transfer(spec, part.size).done
            for rank in part.ranks:
                left[rank] += 1

            def ended(_: Event, ranks: tuple[int, ...] = part.ranks) -> None:
                for rank in ranks:
                    left[rank] -= 1
                    if left[rank] == 0:
                        meeting.done[rank].succeed()

            assert done.callbacks is not None
            done.callbacks.append(ended)
        for rank, event in enumerate(meeting.done):
            if left[rank] == 0:
                event.succeed()

    def _flows_of(self, command: Collective) -> list[tuple[FlowSpec, collectives.Part]]:
        key = (command.kind, command.bytes)
        if key not in self.flows:
            self.flows[key] = collectives.flows(self.profile, command.kind, command.bytes, len(self.ranks))
        return self.flows[key]

    def _alone(self, command: Collective) -> float:
        """Duration on an idle fabric with all ranks arriving together: simulated with the same flows."""
        key = (command.kind, command.bytes)
        if key not in self.alone:
            env = Environment()
            fabric = Fabric(env, self.profile.capacities, self.rate_law)
            meeting = _Meeting(env, len(self.ranks))
            env.process(self._move(env, fabric, command, meeting))
            env.run()
            self.alone[key] = env.now
        return self.alone[key]

    def _check_finished(self) -> None:
        lines = []
        for rank in self.ranks:
            for number, what in rank.hosts_waiting.items():
                lines.append(f"rank {rank.number} host thread {number} waits for {what}")
            lines += [
                f"rank {rank.number} stream {stream.name!r} waits for {self._awaited(rank, stream)}"
                for stream in rank.streams.values()
                if stream.current is not None
            ]
        if lines:
            raise DeadlockError(f"deadlock at {self.env.now:.9g} s:\n  " + "\n  ".join(lines))

    def _awaited(self, rank: _Rank, stream: _Stream) -> str:
        command = stream.current
        if isinstance(command, WaitEvent):
            return f"event {command.event}, which {self._recorder(rank, command.event)} has not recorded"
        if isinstance(command, WaitFlag):
            is_ = rank.flags.get(command.flag, 0)
            return f"flag {command.flag!r} to be {command.value}; it is {is_} and nobody is left to write it"
        if isinstance(command, Collective):
            meeting = self.meetings[rank.meetings - 1]
            missing = [r.number for r in self.ranks if r.number not in meeting.arrived]
            return f"ranks {missing} to arrive at {command.kind} {command.name!r} (layer {command.layer})"
        return f"the end of {command}"

    def _recorder(self, rank: _Rank, event: int) -> str:
        for command in self.program.ranks[rank.number].commands():
            if isinstance(command, RecordEvent) and command.event == event:
                return f"stream {command.stream!r}"
        return "nobody"


def _launches(command: AnyCommand) -> int:
    return command.launches if isinstance(command, Kernel) else 1
