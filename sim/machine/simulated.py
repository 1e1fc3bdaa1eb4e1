"""The simulated machine: runs a `Program` on a hardware `Profile` and returns its `Timeline`.

Host threads and streams are processes (`sim.environment`). A host thread runs ahead of the simulated time on a clock of
its own (issuing needs no knowledge of the GPU's state) and blocks, like CUDA's, when a stream has `queue_depth`
commands pending. Streams take commands in FIFO order; transfers and kernels become flows of the fabric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from simpy.events import Event

from sim.environment import Environment, Process
from sim.fluid import Fabric, FlowSpec, RateLaw, weighted_max_min
from sim.hardware import Profile
from sim.hardware.host_flows import HostFlows
from sim.machine.copies import Copies
from sim.machine.deadlock import check_finished
from sim.machine.host import HostThread
from sim.machine.marked import Issued, Marked
from sim.machine.rendezvous import Communications
from sim.machine.snapshot import Snapshot, snapshot
from sim.machine.state import Flags, Rank, Steps, Stream, Ticket
from sim.machine.trains import OF_TRAINS, Trains
from sim.program import (
    AnyCommand,
    Collective,
    CollectiveKind,
    Copy,
    Kernel,
    PointToPoint,
    Program,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import HostSpan, Span, Timeline
from sim.timeline.composed import composed_spans

LONGEST = 4.0
"""How many times as long as estimated a run may take without being run again with a coarser grid of times."""


class SimulatedMachine:
    """Runs programs on `profile`; `rate_law` shares the fabric's resources.

    With `flows`, these are those of the ranks of its programs, instead of what `profile` makes of them. With `trains`,
    copies that nobody can look at meanwhile are made in one go (`sim.machine.trains`), which changes nothing but the
    time that it takes.
    """

    def __init__(
        self,
        profile: Profile,
        rate_law: RateLaw = weighted_max_min,
        flows: HostFlows | None = None,
        trains: bool = True,
    ) -> None:
        self.profile = profile
        self.rate_law = rate_law
        self.flows = flows
        self.trains = trains

    def run(self, program: Program, lasts: float | None = None) -> Timeline:
        """Simulate `program` to its end; raises as `run_marked`."""
        return self.run_marked(program, (), lasts).timeline

    def run_marked(
        self, program: Program, marks: Sequence[AnyCommand], lasts: float | None = None, endless_queues: bool = False
    ) -> Marked:
        """Simulate `program` to its end; also the state when each of `marks`, commands of rank 0, has ended.

        `lasts` is about how long it takes, s, estimated unless given: the grid of its times follows from it. With
        `endless_queues` host threads never wait for a place on a stream, and states leave them out.

        Raises:
            DeadlockError: commands are left that wait for something that never comes.
            ValueError: the program has more ranks than the profile has GPUs.
            InputError: it copies between GPUs, and the profile has no such copies.
        """
        if max(program.gpus) >= self.profile.gpus:
            raise ValueError(
                f"the program has {program.world_size} ranks, the profile {self.profile.gpus} GPUs"
                + f": ranks are placed on GPUs {list(program.placement)}" * bool(program.placement)
            )
        ranks = {id(rank): rank for rank in program.ranks}.values()
        for kind in {c.kind for rank in ranks for c in rank.commands() if isinstance(c, Copy)}:
            self.profile.copy_class(kind)
        longest = LONGEST * (lasts or self.estimated_length(program))
        flows = self.flows or HostFlows(self.profile, program.gpus, self.rate_law)
        marked = frozenset(map(id, marks))
        trains = self.trains and not any(isinstance(mark, OF_TRAINS) for mark in marks)
        while True:
            run = Run(self.profile, program, self.rate_law, flows, marked, longest, endless_queues, trains)
            timeline = run.run()
            if run.env.now < run.env.longest:
                in_trains = run.trains.made if run.trains is not None else 0
                return Marked(timeline, run.states, run.issued() if endless_queues else [], in_trains)
            longest = LONGEST * run.env.now

    def estimated_length(self, program: Program) -> float:
        """About how long `program` takes, s: kernels and copies of the busiest stream at their isolated rates."""
        busy: dict[tuple[int, str], float] = {}
        different = {id(rank): (rank, gpu) for rank, gpu in zip(program.ranks, program.gpus, strict=True)}
        for rank, gpu in different.values():
            for command in rank.commands():
                if isinstance(command, Kernel):
                    seconds = self.profile.kernel_seconds(command, gpu)
                elif isinstance(command, Copy):
                    seconds = command.bytes / self.profile.copy_class(command.kind, gpu).cap.value
                else:
                    continue
                busy[gpu, command.stream] = busy.get((gpu, command.stream), 0.0) + seconds
        return max(busy.values(), default=0.0) or 1.0


class Run:
    """One run of one program."""

    def __init__(
        self,
        profile: Profile,
        program: Program,
        rate_law: RateLaw,
        flows: HostFlows,
        marks: frozenset[int],
        longest: float,
        endless_queues: bool,
        trains: bool,
    ) -> None:
        self.endless_queues = endless_queues
        self.marks = marks
        self.states: list[Snapshot] = []
        self.profile = profile
        self.program = program
        self.rate_law = rate_law
        self.env = Environment(longest)
        self.flows = flows
        self.fabric = Fabric(self.env, flows.capacities, rate_law)
        self.ranks = [Rank(i, gpu, r) for i, (gpu, r) in enumerate(zip(program.gpus, program.ranks, strict=True))]
        self.host_flags = Flags()
        self.spans: list[Span] = []
        self.blocked: list[HostSpan] = []
        self.kernel_flows: dict[tuple[int, float, int], FlowSpec] = {}
        on_grid, streams = self.env.on_grid, profile.streams
        self.beside_kernel = on_grid(streams.beside_kernel.value)
        """What a stream's front end loses on a command while a kernel runs, s."""
        self.event_cost, self.wake = on_grid(streams.event.value), on_grid(streams.wake.value)
        places = (False, True)  # on the device, in host memory
        self.write_cost = {on_host: on_grid(streams.write_cost(on_host)) for on_host in places}
        self.wait_cost = {on_host: on_grid(streams.wait_cost(on_host)) for on_host in places}
        self.flag_wake = {on_host: on_grid(streams.wake_cost(on_host)) for on_host in places}
        self.copy_start: dict[CollectiveKind, float] = {}
        self.trains = Trains(self) if trains else None
        self.copies = Copies(self.env, self.fabric, profile, program.gpus, rate_law, flows, self._span, self.trains)
        self.communications = Communications(self.env, self.fabric, profile, self.ranks, rate_law, flows)
        self.execute: dict[type, Callable[[Rank, Any, Ticket], Steps]] = {
            Kernel: self._kernel,
            Copy: self._copy,
            Collective: self._communication,
            PointToPoint: self._communication,
            RecordEvent: self._record_event,
            WaitEvent: self._wait_event,
            WriteFlag: self._write_flag,
            WaitFlag: self._wait_flag,
        }

    def run(self) -> Timeline:
        for rank, program in zip(self.ranks, self.program.ranks, strict=True):
            for number, commands in enumerate(program.threads):
                thread = HostThread(self.env, self.profile, rank, number, self.blocked)
                if self.endless_queues:
                    thread.depth = math.inf
                    thread.clocks = []
                thread.process = Process(self.env, thread.run(commands))
                rank.threads.append(thread)
            for stream in rank.streams.values():
                stream.process = Process(self.env, self._stream(rank, stream))
        self.env.run()
        check_finished(self.program, self.ranks, self.host_flags, self.communications, self.spans, self.env.now)
        steps = tuple(
            tuple(rank.events[e] for e in program.step_events)
            for rank, program in zip(self.ranks, self.program.ranks, strict=True)
        )
        composed = composed_spans(self.program, [rank.events for rank in self.ranks])
        return Timeline(self.program, tuple(self.spans), steps, tuple(self.blocked), composed=composed)

    def issued(self) -> list[Issued]:
        """Of each rank: when its commands were issued and when they ended."""
        return [
            Issued(
                [thread.clocks or [] for thread in rank.threads],
                {name: stream.ends or [] for name, stream in rank.streams.items()},
            )
            for rank in self.ranks
        ]

    def _stream(self, rank: Rank, stream: Stream) -> Steps:
        """A stream: executes its commands one after the other."""
        env, commands, execute = self.env, stream.commands, self.execute
        marks = self.marks if rank.number == 0 else ()
        ends = stream.ends = [] if self.endless_queues else None
        while True:
            if not commands:
                stream.idle = True
                yield None
            issued, command, ticket = commands[0]
            if issued > env.now:
                yield issued
            stream.current = command, ticket
            yield from execute[type(command)](rank, command, ticket)
            stream.current = None
            stream.ended += 1
            if ends is not None:
                ends.append(env.now)
            commands.popleft()
            stream.launches -= command.launches if type(command) is Kernel else 1
            if stream.room:
                for thread in stream.room:
                    env.call_soon(thread)
                stream.room.clear()
            if marks and id(command) in marks:
                self.states.append(snapshot(self))

    def _kernel(self, rank: Rank, command: Kernel, _: Ticket) -> Steps:
        seconds = self.profile.kernel_seconds(command, rank.gpu)
        start = self.env.now
        rank.kernels_running += 1
        # Attention's blocks fill all SMs until it ends: a collective of another stream that comes meanwhile waits for
        # them. Matrix products let it in (docs/measurements/contention.md).
        if command.attention:
            end = rank.attention_end = Event(self.env)
            rank.attention_start = start
        key = rank.gpu, seconds, command.launches
        flow = self.kernel_flows.get(key)
        if flow is None:
            flow = self.kernel_flows[key] = self.flows.kernel(*key)
        self.fabric.move(flow, seconds, rank.streams[command.stream].process)
        yield None
        rank.kernels_running -= 1
        if command.attention:
            end.succeed()
        self._span(rank, command, start, start, seconds)

    def _copy(self, rank: Rank, command: Copy, ticket: Ticket) -> Steps:
        returned = ticket if isinstance(ticket, Event) else None
        return self.copies.run(rank, rank.streams[command.stream], command, self.copy_delay(rank), returned)

    def _communication(self, rank: Rank, command: Collective | PointToPoint, ticket: Ticket) -> Steps:
        start = self.env.now
        stream = rank.streams[command.stream]
        # one that an event has let go runs first: attention that begins at the same time finds its SMs taken
        due = stream.released if stream.released_by == stream.ended - 1 else start
        if rank.attention_end is not None and not rank.attention_end.triggered and rank.attention_start < due:
            yield rank.attention_end
        run = self.communications.collective if isinstance(command, Collective) else self.communications.point_to_point
        ready, isolated = yield from run(rank, command, ticket)  # type: ignore[arg-type]
        self._span(rank, command, start, ready, isolated)

    def _busy(self, rank: Rank, seconds: float) -> float:
        """When a stream has spent `seconds` on a command, and `beside_kernel` more while a kernel runs, s."""
        return self.env.now + (seconds + (self.beside_kernel if rank.kernels_running else 0.0))

    def copy_delay(self, rank: Rank) -> float:
        """What a stream loses before a copy that starts now, s."""
        lost = self.beside_kernel if rank.kernels_running else 0.0
        return lost + (self._start_delay(rank) if rank.moving else 0.0)

    def _start_delay(self, rank: Rank) -> float:
        """Extra start-up time of a copy that starts now, while a collective moves data on its rank, s."""
        delay = 0.0
        for moving in rank.moving:
            if not moving.done[rank.number].triggered:
                kind = moving.kind
                if kind not in self.copy_start:
                    self.copy_start[kind] = self.env.on_grid(self.profile.collective_class(kind).copy_start.value)
                delay = max(delay, self.copy_start[kind])
        return delay

    def _record_event(self, rank: Rank, command: RecordEvent, _: Ticket) -> Steps:
        start = self.env.now
        cost = self.event_cost
        yield self._busy(rank, cost)
        rank.events[command.event] = self.env.now
        for waiter in rank.event_waiters.pop(command.event, ()):
            waiter.succeed()
        self._span(rank, command, start, start, cost)

    def _until_event(self, rank: Rank, event: int) -> Steps:
        if event not in rank.events:
            waiter = Event(self.env)
            rank.event_waiters.setdefault(event, []).append(waiter)
            yield waiter

    def _wait_event(self, rank: Rank, command: WaitEvent, _: Ticket) -> Steps:
        start = self.env.now
        yield from self._until_event(rank, command.event)
        if self.env.now > start:
            stream = rank.streams[command.stream]
            stream.released, stream.released_by = self.env.now, stream.ended
            yield self.env.now + self.wake
            self._span(rank, command, start, start, 0.0)

    def _write_flag(self, rank: Rank, command: WriteFlag, _: Ticket) -> Steps:
        start = self.env.now
        flags = self.host_flags if command.on_host else rank.flags
        cost = self.write_cost[command.on_host]
        yield self._busy(rank, cost)
        flags.words[command.flag] = command.value
        for waiter in flags.waiters.pop(command.flag, ()):
            waiter.succeed()
        self._span(rank, command, start, start, cost)

    def _wait_flag(self, rank: Rank, command: WaitFlag, _: Ticket) -> Steps:
        start = self.env.now
        on_host = command.on_host
        flags = self.host_flags if on_host else rank.flags
        cost = self.wait_cost[on_host]
        yield self._busy(rank, cost)
        ready = self.env.now
        while not command.holds(flags[command.flag]):
            while not command.holds(flags[command.flag]):
                waiter = Event(self.env)
                flags.waiters.setdefault(command.flag, []).append(waiter)
                yield waiter
            if self.env.now > ready:  # it polls: a gate that has closed again by then was never seen open
                yield self.env.now + self.flag_wake[on_host]
        self._span(rank, command, start, start, cost)

    def _span(self, rank: Rank, command: AnyCommand, start: float, ready: float, isolated: float) -> None:
        # spares the call of the tuple's own __new__, which is written in Python
        self.spans.append(tuple.__new__(Span, (rank.number, command, start, ready, self.env.now, isolated)))
