"""Runs one rank's program on its device: issues every command in order, from as many host threads as it has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import torch
import torch.distributed as dist

from calibration.torch_machine import rank_result
from calibration.torch_machine.buffer_plan import brings_weights
from calibration.torch_machine.collective_calls import Part, block_bytes, collective_call, working_bytes
from calibration.torch_machine.communicators import Communicators
from calibration.torch_machine.device import Call, Device, Event, Stream
from calibration.torch_machine.fair_lock import FairLock
from calibration.torch_machine.host_memory import HostMemory
from calibration.torch_machine.job import Job
from calibration.torch_machine.memory import HostWeights, Memory
from calibration.torch_machine.operations import build
from calibration.torch_machine.peak_memory import allocated_bytes, peak_bytes, reset_peak_bytes
from calibration.torch_machine.peer_exchange import exchange
from calibration.torch_machine.peers import Peers
from calibration.torch_machine.progress import Progress
from calibration.torch_machine.warm_up import warm_up
from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    FlagMemory,
    FlagTest,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    HostWork,
    Kernel,
    PointToPoint,
    RankProgram,
    RecordEvent,
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)


class Runner:
    """One run of a rank's part of a program. All ranks make theirs together.

    `shared` is the memory that all ranks share.
    """

    def __init__(
        self,
        device: Device,
        job: Job,
        host: HostWeights,
        rank: int,
        world_size: int,
        communicators: Communicators,
        shared: torch.Tensor | None,
    ) -> None:
        program = job.program
        self.device = device
        self.job = job
        self.program = program
        self.rank = rank
        self.world_size = world_size
        self.communicators = communicators
        communicators.prepare(job.communicators, job.world)
        self.before_bytes = allocated_bytes(device)
        self.slots = {b.name for b in program.buffers if b.kind == "slot"}
        self.stores = {b.name for b in program.buffers if b.kind == "weights"}
        self.host = HostMemory(device, program, rank, job.layout, shared)
        self.peers = Peers(device, rank, world_size, job.layout, shared)
        self.memory = Memory(device, program, host, rank, self.peers.own)
        recorded = [c.event for c in program.commands() if isinstance(c, RecordEvent)]
        self.events: dict[int, Event] = {e: device.event(e in job.timed) for e in recorded}
        self.progress = Progress(device, program, world_size, self.events)
        self.issued = {e: threading.Event() for e in _crossing(program)}
        self.counters: dict[str, int] = {}
        self.counters_changed = threading.Condition()
        self.locks: dict[str, FairLock] = {}
        self.last_copy: dict[str, tuple[int, int]] = {}
        """Slot -> layer and bytes of what was copied into it last from pinned memory."""
        self.operations: dict[tuple[int, int, str | None], Sequence[Call]] = {}
        self.prepare: dict[type, Callable[..., Call]] = {
            Kernel: self._kernel,
            Copy: self._copy,
            Collective: lambda c: self._stream(c).run(self.collective_call(c)),
            PointToPoint: lambda c: self._stream(c).run(self.transfer_call(c)),
            RecordEvent: self._record,
            WaitEvent: lambda c: self._when_issued(c.event, self._stream(c).wait(self.events[c.event])),
            WriteFlag: lambda c: self._stream(c).write_flag(c.flag, c.value, _memory(c)),
            WaitFlag: lambda c: self._stream(c).wait_flag(c.flag, c.value, _test(c), _memory(c)),
            HostWaitEvent: self._host_wait_event,
            HostAdd: self._host_add,
            HostWait: self._host_wait,
            HostAcquire: lambda c: self._lock(c.lock).acquire,
            HostRelease: lambda c: self._lock(c.lock).release,
            HostWork: lambda c: partial(_work, c.seconds),
        }
        self.threads = [[self.prepare[type(c)](c) for c in thread] for thread in program.threads]

    def run(self) -> rank_result.RankResult:
        """Warm up, run the program to its end, look at what it left once all ranks have ended."""
        device, main = self.device, self.program.step_stream()
        buffers = allocated_bytes(device)
        warm_up(self)
        workspace = allocated_bytes(device) - buffers
        self.memory.randomise()
        device.reset()
        if self.peers.any:  # other streams than the main one begin at once: no peer may still be filling its memory
            device.stream(main).run(self._all_ranks())()
            device.synchronize()
        reset_peak_bytes(device)
        device.stream(main).run(self._all_ranks())()
        device.start(main)
        began = time.perf_counter()
        others = [threading.Thread(target=self._issue, args=(n,), daemon=True) for n in range(1, len(self.threads))]
        for thread in others:
            thread.start()
        self._issue(0)
        issued = time.perf_counter() - began
        for thread in others:
            thread.join()
        device.synchronize()
        peak = peak_bytes(device) - self.before_bytes - workspace + self.memory.mapped_bytes
        peak += self.peers.exported_bytes
        self.peers.leave()
        device.stream(main).run(self._all_ranks())()  # until then a peer may still write here
        device.synchronize()
        return rank_result.RankResult(
            events={e: self.events[e].time() for e in self.job.timed},
            issue_s=issued,
            output=rank_result.output(self.memory),
            finite=rank_result.finite(self.memory),
            landed=rank_result.landed(self.memory, self.last_copy),
            memory_bytes=peak,
            workspace_bytes=workspace,
            digests=rank_result.digests(self.program, self.memory, self.host),
            contents=rank_result.contents(self.job.keep, self.memory, self.host),
        )

    def close(self) -> None:
        """Give the memory back, also after a failure."""
        self.threads.clear()
        self.operations.clear()
        self.memory.close()
        self.peers.close()
        self.host.close()

    def _all_ranks(self) -> Call:
        """A collective that ends when all ranks have come to it."""
        return lambda: dist.all_reduce(torch.zeros(1, device=self.device.torch_device))

    def _issue(self, thread: int) -> None:
        self.device.enter()
        for call in self.progress.follow(thread, self.threads[thread]):
            call()

    def blocked(self) -> str:
        """What the run waits for."""
        return self.progress.blocked()

    def _stream(self, command: AnyCommand) -> Stream:
        return self.device.stream(command.stream)

    def _kernel(self, command: Kernel) -> Call:
        if command.ops:
            calls = self.kernel_calls(command)
        else:
            calls = [self.device.spin((command.seconds or 0.0) / command.launches)] * command.launches

        def launch() -> None:
            for call in calls:
                call()

        return self._stream(command).run(launch)

    def kernel_calls(self, command: Kernel) -> Sequence[Call]:
        """What launches the kernels of a command that says what it computes."""
        slot = next((name for name in command.reads if name in self.slots), None)
        key = id(command.ops), command.layer, slot
        if key not in self.operations:
            views = self.memory.views(command.layer, slot)
            self.operations[key] = [build(op, views, self.device.kind == "cuda") for op in command.ops]
        return self.operations[key]

    def _copy(self, command: Copy) -> Call:
        stream, size = self._stream(command), command.bytes
        if brings_weights(command) and command.buffer in self.memory.plan.layered:
            target, source = self.memory.landing(command.buffer, command.layer, command.offset, size)
            layer, landed = self.last_copy.get(command.buffer, (command.layer, 0))
            end = command.offset + size
            self.last_copy[command.buffer] = command.layer, max(end, landed if layer == command.layer else 0)
            return stream.copy(target, source)
        mine = self.memory.part(command.buffer, command.offset, size, command.layer)
        if command.kind in ("h2d", "d2d"):
            self.last_copy.pop(command.buffer, None)
        start, other = command.other_start, command.other
        if command.kind == "p2p":
            assert isinstance(command.peer, int)
            assert isinstance(other, str)
            return stream.copy(self.peers.part(command.peer, other, start, size), mine)
        if command.kind == "d2d":
            assert isinstance(other, str)
            return stream.copy(mine, self.memory.part(other, start, size, command.layer))
        staged = None
        if isinstance(other, str):
            theirs = self.host.buffers[other][start : start + size]
            staged = command.kind if self.program.host_memory[other].memory == "pageable" else None
        elif brings_weights(command):
            theirs = self.memory.host.layers[command.layer][:size]
        else:
            theirs = self.host.nameless(command.kind, size)
        return stream.copy(mine, theirs, staged) if command.kind == "h2d" else stream.copy(theirs, mine, staged)

    def collective_call(self, command: Collective) -> Call:
        """What enqueues a collective on the current stream."""
        members, size = command.members(self.world_size), working_bytes(command.kind, command.bytes)
        if command.writes:
            buffer = self.memory.part(command.writes[0], command.start, size, command.layer)
        else:
            buffer = self.memory.nameless(command.communicates_on, size)
        own = None
        if self.stores.intersection(command.reads):  # the rank's part of the weights lies on the GPU
            part = block_bytes(command, len(members))
            own = self.memory.shard(command.layer, command.start + members.index(self.rank) * part, part)
        group = (
            self.communicators.of(command.communicates_on)
            if len(members) > 1 or command.group is msgspec.UNSET
            else None
        )
        return collective_call(Part(command, self.rank, members, buffer, group, own))

    def transfer_call(self, command: PointToPoint) -> Call:
        """What enqueues sends and receives on the current stream."""
        for name in command.writes:
            self.last_copy.pop(name, None)
        pieces = [(t, self.memory.part(t.buffer, t.offset, t.bytes, command.layer)) for t in command.transfers]
        sends = [(memory, t.peer) for t, memory in pieces if isinstance(t, Send)]
        receives = [(memory, t.peer) for t, memory in pieces if not isinstance(t, Send)]
        group = self.communicators.of(command.communicates_on)
        return lambda: exchange(sends, receives, group)

    def _record(self, command: RecordEvent) -> Call:
        record = self._stream(command).record(self.events[command.event])
        if (issued := self.issued.get(command.event)) is None:
            return record

        def record_and_tell() -> None:
            record()
            issued.set()

        return record_and_tell

    def _when_issued(self, event: int, call: Call) -> Call:
        """`call`, once the thread that records `event` has done so: to CUDA an unrecorded event has completed."""
        if (issued := self.issued.get(event)) is None:
            return call

        def wait_and_call() -> None:
            issued.wait()
            call()

        return wait_and_call

    def _host_wait_event(self, command: HostWaitEvent) -> Call:
        event = self.events[command.event]

        def poll() -> None:
            while not event.done():
                time.sleep(command.poll)

        return self._when_issued(command.event, poll if command.poll else event.synchronize)

    def _host_add(self, command: HostAdd) -> Call:
        def add() -> None:
            with self.counters_changed:
                self.counters[command.counter] = self.counters.get(command.counter, 0) + command.delta
                self.counters_changed.notify_all()

        return add

    def _host_wait(self, command: HostWait) -> Call:
        least = -(10**18) if command.least is None else command.least
        most = 10**18 if command.most is None else command.most

        def holds() -> bool:
            return least <= self.counters.get(command.counter, 0) <= most

        def wait() -> None:
            with self.counters_changed:
                self.counters_changed.wait_for(holds)

        def poll() -> None:
            while not holds():
                time.sleep(command.poll)

        return poll if command.poll else wait

    def _lock(self, name: str) -> FairLock:
        return self.locks.setdefault(name, FairLock())


def _work(seconds: float) -> None:
    """Keep this thread busy, as a program does between its calls; a sleep would come back late."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _crossing(program: RankProgram) -> set[int]:
    """Events that one host thread records and another waits for."""
    recorder = {c.event: i for i, thread in enumerate(program.threads) for c in thread if isinstance(c, RecordEvent)}
    return {
        c.event
        for i, thread in enumerate(program.threads)
        for c in thread
        if isinstance(c, WaitEvent | HostWaitEvent) and recorder[c.event] != i
    }


def _memory(command: WriteFlag | WaitFlag) -> FlagMemory:
    return "host" if command.on_host else "device"


def _test(command: WaitFlag) -> FlagTest:
    return "at_least" if command.test == "at_least" else "equal"
