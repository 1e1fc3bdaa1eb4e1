"""The simulated machine: runs a `Program` on a hardware `Profile` and returns its `Timeline`.

Host threads and streams are SimPy processes. A host thread runs ahead of the simulated time on a clock of its own
(issuing needs no knowledge of the GPU's state) and blocks, like CUDA's, when a stream has `queue_depth` commands
pending. Streams take commands in FIFO order; transfers and kernels become flows of the fabric.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpy.events import Event

from sim.fluid import Environment, Fabric, FlowSpec, RateLaw, weighted_max_min
from sim.hardware import Profile, collectives
from sim.machine.host import HostThread
from sim.machine.state import Rank, Rendezvous, RendezvousKey, Steps, Stream, launches
from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    CopyKind,
    Kernel,
    Program,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import HostSpan, Span, Timeline


class DeadlockError(RuntimeError):
    """A program in which nothing can continue. The message says who waits for what."""


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


class _Run:
    """One run of one program."""

    def __init__(self, profile: Profile, program: Program, rate_law: RateLaw) -> None:
        self.profile = profile
        self.program = program
        self.rate_law = rate_law
        self.env = Environment()
        self.fabric = Fabric(self.env, profile.capacities, rate_law)
        self.ranks = [Rank(i, r) for i, r in enumerate(program.ranks)]
        self.rendezvous: dict[RendezvousKey, Rendezvous] = {}
        self.spans: list[Span] = []
        self.blocked: list[HostSpan] = []
        kinds: tuple[CopyKind, ...] = ("h2d", "d2h")
        self.copies = {(kind, i): self._copy_costs(kind, i) for kind in kinds for i in range(program.world_size)}
        self.flows: dict[tuple[str, int], list[collectives.PhaseFlows]] = {}
        self.isolated_times: dict[tuple[str, int], tuple[float, ...]] = {}
        self.execute: dict[type, Callable[[Rank, Any], Steps]] = {
            Kernel: self._kernel,
            Copy: self._copy,
            RecordEvent: self._record_event,
            WaitEvent: self._wait_event,
            WriteFlag: self._write_flag,
            WaitFlag: self._wait_flag,
        }

    def run(self) -> Timeline:
        for rank, program in zip(self.ranks, self.program.ranks, strict=True):
            for number, thread in enumerate(program.threads):
                self.env.process(HostThread(self.env, self.profile.host, rank, number, self.blocked).run(thread))
            for stream in rank.streams.values():
                self.env.process(self._stream(rank, stream))
        self.env.run()
        self._check_finished()
        steps = tuple(
            tuple(rank.events[e] for e in program.step_events)
            for rank, program in zip(self.ranks, self.program.ranks, strict=True)
        )
        return Timeline(self.program, tuple(self.spans), steps, tuple(self.blocked))

    def _stream(self, rank: Rank, stream: Stream) -> Steps:
        """A stream: executes its commands one after the other."""
        env, commands, execute = self.env, stream.commands, self.execute
        while True:
            if not commands:
                stream.idle = Event(env)
                yield stream.idle
            issued, command, rendezvous = commands[0]
            if issued > env.now:
                yield env.at(issued)
            stream.current = command, rendezvous
            if isinstance(command, Collective) and rendezvous is not None:
                yield from self._collective(rank, command, rendezvous)
            else:
                yield from execute[type(command)](rank, command)
            stream.current = None
            commands.popleft()
            stream.launches -= launches(command)
            for waiter in stream.room:
                waiter.succeed()
            stream.room.clear()

    def _kernel(self, rank: Rank, command: Kernel) -> Steps:
        seconds = self.profile.kernel_seconds(command)
        start = self.env.now
        rank.kernels_running += 1
        # Attention's blocks fill all SMs until it ends: a collective of another stream that comes meanwhile waits for
        # them. Matrix products let it in (docs/measurements/contention.md).
        if command.attention:
            end = rank.attention_end = Event(self.env)
        flow = self.profile.kernel_flow(rank.number, seconds, command.launches)
        yield self.fabric.transfer(flow, seconds).done
        rank.kernels_running -= 1
        if command.attention:
            end.succeed()
        self._span(rank, command, start, start, seconds)

    def _copy(self, rank: Rank, command: Copy) -> Steps:
        spec, rate, shortest, minimum = self.copies[command.kind, rank.number]
        start = self.env.now
        moving = command.bytes / rate
        setup = max(shortest, minimum - moving)
        yield self._busy(rank, setup + self._start_delay(rank))
        yield self.fabric.transfer(spec, command.bytes).done
        self._span(rank, command, start, start, setup + moving)

    def _collective(self, rank: Rank, command: Collective, key: RendezvousKey) -> Steps:
        start = self.env.now
        if rank.attention_end is not None and not rank.attention_end.triggered:
            yield rank.attention_end
        rendezvous = self.rendezvous.get(key)
        if rendezvous is None:
            rendezvous = self.rendezvous[key] = Rendezvous(self.env, command.kind, len(self.ranks))
        rendezvous.arrived.append(rank.number)
        if len(rendezvous.arrived) == len(self.ranks):
            rendezvous.ready = self.env.now
            self.env.process(self._move(command, rendezvous))
        yield rendezvous.done[rank.number]
        self._span(rank, command, start, rendezvous.ready, self._isolated_time(command)[rank.number])

    def _copy_costs(self, kind: CopyKind, gpu: int) -> tuple[FlowSpec, float, float, float]:
        """(flow, rate alone in B/s, setup in s, least duration in s) of copies of `kind`."""
        spec, cls = self.profile.copy_flow(kind, gpu), self.profile.copy_class(kind)
        rate = self.rate_law([spec], self.profile.capacities)[0]
        return spec, rate, float(cls.setup.value), float(cls.minimum.value)

    def _busy(self, rank: Rank, seconds: float) -> Event:
        """The end of what a stream's front end does for a command: `seconds` and more while a kernel runs."""
        return self.env.timeout(seconds + (self.profile.streams.beside_kernel.value if rank.kernels_running else 0.0))

    def _start_delay(self, rank: Rank) -> float:
        """What a copy that starts now loses because a collective is moving data on its rank."""
        kinds = [m.kind for m in rank.moving if not m.done[rank.number].triggered]
        return max((self.profile.collective_class(kind).copy_start.value for kind in kinds), default=0.0)

    def _record_event(self, rank: Rank, command: RecordEvent) -> Steps:
        start = self.env.now
        cost = float(self.profile.streams.event.value)
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

    def _wait_event(self, rank: Rank, command: WaitEvent) -> Steps:
        start = self.env.now
        yield from self._until_event(rank, command.event)
        if self.env.now > start:
            yield self.env.timeout(self.profile.streams.wake.value)
            self._span(rank, command, start, start, 0.0)

    def _write_flag(self, rank: Rank, command: WriteFlag) -> Steps:
        start = self.env.now
        cost = float(self.profile.streams.write_flag.value)
        yield self._busy(rank, cost)
        rank.flags[command.flag] = command.value
        for waiter in rank.flag_waiters.pop(command.flag, ()):
            waiter.succeed()
        self._span(rank, command, start, start, cost)

    def _wait_flag(self, rank: Rank, command: WaitFlag) -> Steps:
        start = self.env.now
        cost = float(self.profile.streams.wait_flag.value)
        yield self._busy(rank, cost)
        ready = self.env.now
        while rank.flags.get(command.flag, 0) != command.value:
            while rank.flags.get(command.flag, 0) != command.value:
                waiter = Event(self.env)
                rank.flag_waiters.setdefault(command.flag, []).append(waiter)
                yield waiter
            if self.env.now > ready:  # it polls: a gate that has closed again by then was never seen open
                yield self.env.timeout(self.profile.streams.flag_wake.value)
        self._span(rank, command, start, start, cost)

    def _span(self, rank: Rank, command: AnyCommand, start: float, ready: float, alone: float) -> None:
        self.spans.append(Span(rank.number, command, start, ready, self.env.now, alone))

    def _move(self, command: Collective, rendezvous: Rendezvous) -> Steps:
        """Run a collective at which all ranks have arrived; each rank's `done` happens with the last of its flows."""
        env, fabric = self.env, self.fabric
        *before, last = self._flows_of(command) or [collectives.PhaseFlows(0.0, ())]
        for phase in before:
            yield env.timeout(phase.latency)
            self._moves(rendezvous)
            yield env.all_of([fabric.transfer(spec, part.size).done for spec, part in phase.flows])
        yield env.timeout(last.latency)
        self._moves(rendezvous)
        left = [0] * len(self.ranks)
        for spec, part in last.flows:
            done = fabric.transfer(spec, part.size).done
            for rank in part.ranks:
                left[rank] += 1

            def ended(_: Event, ranks: tuple[int, ...] = part.ranks) -> None:
                for rank in ranks:
                    left[rank] -= 1
                    if left[rank] == 0:
                        rendezvous.done[rank].succeed()

            assert done.callbacks is not None
            done.callbacks.append(ended)
        for rank, event in enumerate(rendezvous.done):
            if left[rank] == 0:
                event.succeed()

    def _moves(self, rendezvous: Rendezvous) -> None:
        """Let the ranks know that `rendezvous` moves data now."""
        for rank in self.ranks:
            moving = [m for m in rank.moving if m is not rendezvous and not m.done[rank.number].triggered]
            rank.moving = [*moving, rendezvous]

    def _flows_of(self, command: Collective) -> list[collectives.PhaseFlows]:
        key = (command.kind, command.bytes)
        if key not in self.flows:
            flows = collectives.flows(self.profile, command.kind, command.bytes, len(self.ranks))
            self.flows[key] = flows
        return self.flows[key]

    def _isolated_time(self, command: Collective) -> tuple[float, ...]:
        """Duration on each rank on an idle host with all ranks arriving together."""
        key = (command.kind, command.bytes)
        if key not in self.isolated_times:
            ranks = len(self.ranks)
            self.isolated_times[key] = collectives.isolated_times(
                self.profile, command.kind, command.bytes, ranks, self.rate_law
            )
        return self.isolated_times[key]

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

    def _awaited(self, rank: Rank, stream: Stream) -> str:
        assert stream.current is not None
        command, rendezvous = stream.current
        if isinstance(command, WaitEvent):
            by = next(c.stream for c in self.program.ranks[rank.number].commands() if _records(c, command.event))
            return f"event {command.event}, which stream {by!r} has not recorded"
        if isinstance(command, WaitFlag):
            is_ = rank.flags.get(command.flag, 0)
            return f"flag {command.flag!r} to be {command.value}; it is {is_} and {self._writer(rank, command)}"
        assert isinstance(command, Collective) and rendezvous is not None, "all else ends by itself"
        missing = [r.number for r in self.ranks if r.number not in self.rendezvous[rendezvous].arrived]
        return f"ranks {missing} to arrive at {command.kind} {command.name!r} (layer {command.layer})"

    def _writer(self, rank: Rank, wait: WaitFlag) -> str:
        """Where the next write that `wait` needs is stuck."""
        ran = {id(span.command) for span in self.spans if span.rank == rank.number}
        for number, thread in enumerate(self.program.ranks[rank.number].threads):
            for command in thread:
                wanted = isinstance(command, WriteFlag) and (command.flag, command.value) == (wait.flag, wait.value)
                if not wanted or id(command) in ran:
                    continue
                if any(command is queued for _, queued, _ in rank.streams[command.stream].commands):
                    return f"stream {command.stream!r} has not reached its write"
                return f"host thread {number} has not issued its write on stream {command.stream!r}"
        return "nobody is left to write it"


def _records(command: AnyCommand, event: int) -> bool:
    return isinstance(command, RecordEvent) and command.event == event
