"""Runs one rank's program on its device: issues every command in order, from as many host threads as it has."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import assert_never

import msgspec
import torch
import torch.distributed as dist

from calibration.torch_machine.device import Call, Device, Event, Stream
from calibration.torch_machine.fair_lock import FairLock
from calibration.torch_machine.memory import BF16, HostWeights, Memory
from calibration.torch_machine.operations import build
from calibration.torch_machine.peak_memory import allocated_bytes, peak_bytes, reset_peak_bytes
from calibration.torch_machine.peer_exchange import shift_to_next_rank
from calibration.torch_machine.rank_result import RankResult
from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    Kernel,
    RankProgram,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.program.ops import AnyOperation, Matrix


class Runner:
    """One run of a rank's program. `timed` are the events whose times are wanted.

    Collectives of each stream but the compute stream have a process group of their own in `groups`, which is added to:
    those of one group must come in one order on every rank, those of two streams need not.
    """

    def __init__(
        self,
        device: Device,
        program: RankProgram,
        host: HostWeights,
        rank: int,
        world_size: int,
        timed: set[int],
        groups: dict[str, dist.ProcessGroup],
    ) -> None:
        self.device = device
        self.program = program
        self.rank = rank
        self.world_size = world_size
        self.timed = timed
        self.groups = groups
        for stream in dict.fromkeys(c.stream for c in program.commands() if isinstance(c, Collective)):
            if stream != program.step_stream() and stream not in groups:
                groups[stream] = dist.new_group()
        self.before_bytes = allocated_bytes(device)
        self.slots = {b.name for b in program.buffers if b.kind == "slot"}
        self.stores = {b.name for b in program.buffers if b.kind == "weights"}
        self.memory = Memory(device, program, host, rank)
        recorded = [c.event for c in program.commands() if isinstance(c, RecordEvent)]
        self.events: dict[int, Event] = {e: device.event(e in timed) for e in recorded}
        self.issued = {e: threading.Event() for e in _crossing(program)}
        self.counters: dict[str, int] = {}
        self.counters_changed = threading.Condition()
        self.locks: dict[str, FairLock] = {}
        self.last_copy: dict[str, tuple[int, int]] = {}
        self.operations: dict[tuple[int, int, str | None], Sequence[Call]] = {}
        self.prepare: dict[type, Callable[..., Call]] = {
            Kernel: self._kernel,
            Copy: self._copy,
            Collective: self._collective,
            RecordEvent: self._record,
            WaitEvent: lambda c: self._when_issued(c.event, self._stream(c).wait(self.events[c.event])),
            WriteFlag: lambda c: self._stream(c).write_flag(c.flag, c.value),
            WaitFlag: lambda c: self._stream(c).wait_flag(c.flag, c.value),
            HostWaitEvent: self._host_wait_event,
            HostAdd: self._host_add,
            HostWait: self._host_wait,
            HostAcquire: lambda c: self._lock(c.lock).acquire,
            HostRelease: lambda c: self._lock(c.lock).release,
        }
        self.threads = [[self.prepare[type(c)](c) for c in thread] for thread in program.threads]

    def run(self) -> RankResult:
        """Warm up, run the program to its end, look at what it left."""
        device, main = self.device, self.program.step_stream()
        buffers = allocated_bytes(device)
        self._warm_up()
        workspace = allocated_bytes(device) - buffers
        self.memory.randomise()
        device.reset()
        reset_peak_bytes(device)
        device.stream(main).run(lambda: dist.all_reduce(torch.zeros(1, device=device.torch_device)))()
        device.start(main)
        began = time.perf_counter()
        others = [threading.Thread(target=self._issue, args=(t,), daemon=True) for t in self.threads[1:]]
        for thread in others:
            thread.start()
        self._issue(self.threads[0])
        issued = time.perf_counter() - began
        for thread in others:
            thread.join()
        device.synchronize()
        peak = peak_bytes(device) - self.before_bytes - workspace + self.memory.mapped_bytes
        return RankResult(
            events={e: self.events[e].time() for e in self.timed},
            issue_s=issued,
            output=self._digest(),
            finite=self._finite(),
            landed=self._landed(),
            memory_bytes=peak,
            workspace_bytes=workspace,
        )

    def close(self) -> None:
        """Give the memory back, also after a failure."""
        self.threads.clear()
        self.operations.clear()
        self.memory.close()

    def _issue(self, calls: Sequence[Call]) -> None:
        self.device.enter()
        for call in calls:
            call()

    def held(self) -> str:
        """Where the run is: the first event of each stream that has not completed."""
        waiting: dict[str, str] = {}
        last: dict[str, str] = {}
        for command in self.program.commands():
            if isinstance(command, RecordEvent) and not self.events[command.event].done():
                waiting.setdefault(
                    command.stream, f"event {command.event}, after {last.get(command.stream, 'nothing')}"
                )
            elif command.stream:
                last[command.stream] = msgspec.json.encode(command).decode()[:200]
        return "; ".join(f"stream {name!r} has not reached {what}" for name, what in waiting.items())

    def _stream(self, command: AnyCommand) -> Stream:
        return self.device.stream(command.stream)

    def _kernel(self, command: Kernel) -> Call:
        if command.ops:
            calls = self._calls(command)
        else:
            calls = [self.device.spin((command.seconds or 0.0) / command.launches)] * command.launches

        def launch() -> None:
            for call in calls:
                call()

        return self._stream(command).run(launch)

    def _calls(self, command: Kernel) -> Sequence[Call]:
        slot = next((name for name in command.reads if name in self.slots), None)
        key = id(command.ops), command.layer, slot
        if key not in self.operations:
            views = self.memory.views(command.layer, slot)
            self.operations[key] = [build(op, views, self.device.kind == "cuda") for op in command.ops]
        return self.operations[key]

    def _copy(self, command: Copy) -> Call:
        target, source = self.memory.landing(command.buffer, command.layer, command.offset, command.bytes)
        self.last_copy[command.buffer] = (
            command.layer,
            max(
                command.offset + command.bytes,
                self.last_copy[command.buffer][1]
                if self.last_copy.get(command.buffer, (-1,))[0] == command.layer
                else 0,
            ),
        )
        return self._stream(command).copy(target, source)

    def _collective(self, command: Collective) -> Call:
        return self._stream(command).run(self._collective_call(command))

    def _collective_call(self, command: Collective) -> Call:
        name, ranks, group = command.writes[0], self.world_size, self.groups.get(command.stream)
        if name in self.slots:
            buffer = self.memory.gathering(name, command.layer, command.start, command.bytes)
        else:
            buffer = self.memory.buffers[name][command.start :]
        size = command.bytes // BF16 * BF16
        part = command.bytes // (BF16 * ranks) * BF16
        whole = buffer[: part * ranks].view(torch.bfloat16)
        place = slice(self.rank * part, self.rank * part + part)
        kind = command.kind
        if kind == "all_to_all":
            received = buffer[size:][: part * ranks].view(torch.bfloat16)
            return lambda: dist.all_to_all_single(received, whole, group=group)
        if kind == "send_recv":
            sent, received = (buffer[at:][:size].view(torch.bfloat16) for at in (0, size))
            return lambda: shift_to_next_rank(sent, received, self.rank, ranks, group)
        if kind == "all_reduce":
            values = buffer[:size].view(torch.bfloat16)
            return lambda: dist.all_reduce(values, group=group)
        if kind == "reduce_scatter":
            mine = buffer[place].view(torch.bfloat16)
            return lambda: dist.reduce_scatter_tensor(mine, whole, group=group)
        if kind != "all_gather":
            assert_never(kind)
        if self.stores.intersection(command.reads):  # the rank's part of the weights lies on the GPU
            mine = self.memory.shard(command.layer, command.start + place.start, part).view(torch.bfloat16)
        else:
            mine = buffer[place].view(torch.bfloat16)
        return lambda: dist.all_gather_into_tensor(whole, mine, group=group)

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

    def _warm_up(self) -> None:
        """Run every kernel and collective once: a lazy load while a stream waits on a flag would never end."""
        stream = self.device.stream(self.program.step_stream())
        warm: set[object] = set()
        for command in self.program.commands():
            if isinstance(command, Kernel) and command.ops:
                keyed = list(zip(map(_shape, command.ops), self._calls(command), strict=True))
            elif isinstance(command, Kernel):
                keyed = [(Kernel, self.device.spin(0.0))]
            elif isinstance(command, Collective):
                keyed = [((command.stream, command.kind, command.bytes), self._collective_call(command))]
            else:
                continue
            for key, call in keyed:
                if key not in warm:
                    warm.add(key)
                    stream.run(call)()
        self.device.synchronize()

    def _digest(self) -> str:
        activations = self.memory.buffers.get("activations")
        content = b"" if activations is None else activations.cpu().numpy().tobytes()
        return hashlib.sha256(content).hexdigest()

    def _finite(self) -> bool:
        activations = self.memory.buffers.get("activations")
        if activations is None:
            return True
        values = activations[: activations.nbytes // BF16 * BF16].view(torch.bfloat16)
        return bool(torch.isfinite(values).all())

    def _landed(self) -> bool:
        for buffer, (layer, size) in self.last_copy.items():
            target, source = self.memory.landing(buffer, layer, 0, size)
            if not torch.equal(target, source.to(target.device)):
                return False
        return True


def _crossing(program: RankProgram) -> set[int]:
    """Events that one host thread records and another waits for."""
    recorder = {c.event: i for i, thread in enumerate(program.threads) for c in thread if isinstance(c, RecordEvent)}
    return {
        c.event
        for i, thread in enumerate(program.threads)
        for c in thread
        if isinstance(c, WaitEvent | HostWaitEvent) and recorder[c.event] != i
    }


def _shape(op: AnyOperation) -> object:
    """What decides which device kernel an operation runs: its kind, its matrices' shapes, what is left out."""
    values = (getattr(op, name) for name in op.__struct_fields__)
    return type(op), *((v.batch, v.rows, v.columns, v.stride, v.step) if isinstance(v, Matrix) else v for v in values)
