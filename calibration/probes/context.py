"""What a probe works with: one rank's device, its memory, its peers, and trains of commands behind a gate.

A gate holds streams until everything is enqueued, so that a measured train never waits for its host. It is a word of
pinned host memory that the streams wait for and the host writes: opening it needs no stream, no driver call and no
lock that a blocked call might hold.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, assert_never

import torch
import torch.distributed as dist

from calibration.probes import driver
from calibration.torch_machine.cpu import CpuDevice
from calibration.torch_machine.device import Call, Device, Event, Stream
from calibration.torch_machine.peer_exchange import exchange
from sim.datasets.probe_parameters import Direction
from sim.program import CollectiveKind

WATCHDOG_S = 60.0
"""A gate opens by itself after this long, s: the host issues what it holds within that time even when it is busy."""

RENDEZVOUS_S = 100.0
"""How long a rank waits for the others before a case, s."""


class Barrier(Protocol):
    """A barrier of ranks on the host."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for all ranks."""


class Pools(NamedTuple):
    """Sizes of a rank's memory, B: of each pool that copies go through, and of each buffer of collectives."""

    copies: int
    collectives: int


class Measured(NamedTuple):
    """What a probe measured on its rank.

    `samples` are the repeats of each quantity, SI units. `too_short` says why the background did not last through the
    measurement. `window` is (end of what was measured, end of all traffic), s since the gate opened: where ranks or
    directions run at once, no one's traffic may end before another's measurement.
    """

    samples: Mapping[str, Sequence[float]]
    too_short: str = ""
    window: tuple[float, float] | None = None


class Gate:
    """Holds streams of `device` until it is opened."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._turn = 0
        self._timer: threading.Timer | None = None
        self.forced = False
        """Whether the watchdog had to open it."""
        if device.kind == "cuda":
            self._memory = torch.zeros(64, dtype=torch.int32).pin_memory()
            self._word = ctypes.c_int32.from_address(self._memory.data_ptr())

    def close(self, limit_s: float = WATCHDOG_S) -> None:
        """Let streams that are parked from now on wait, for `limit_s` at most."""
        self._turn += 1
        self.forced = False
        self._timer = threading.Timer(limit_s, self._force)
        self._timer.daemon = True
        self._timer.start()

    def park(self, stream: Stream) -> None:
        """Let `stream` wait for the gate."""
        if isinstance(self._device, CpuDevice):
            device, turn = self._device, self._turn

            def opened() -> None:
                with device.flags_changed:
                    device.flags_changed.wait_for(lambda: device.flags.get("gate", 0) >= turn)

            stream.run(opened)()
        else:
            driver.wait_at_least(stream, self._memory.data_ptr(), self._turn)()

    def open(self) -> None:
        """Let them continue."""
        if self._timer:
            self._timer.cancel()
        if isinstance(self._device, CpuDevice):
            with self._device.flags_changed:
                self._device.flags["gate"] = self._turn
                self._device.flags_changed.notify_all()
        else:
            self._word.value = self._turn

    def _force(self) -> None:
        self.forced = True
        self.open()


class Context:
    """One rank of the probes."""

    def __init__(
        self, device: Device, rank: int, world_size: int, barriers: Mapping[int, Barrier], pools: Pools
    ) -> None:
        self.device = device
        self.rank = rank
        self.world_size = world_size
        self.gate = Gate(device)
        self._barriers = barriers
        self._pools = pools
        self._memory: dict[str, torch.Tensor] = {}
        self._cursor = 0
        self.kept: dict[str, Any] = {}
        """What probes keep from case to case, by name."""
        self.groups: dict[int, Any] = {
            n: dist.new_group(list(range(n))) if n < world_size else dist.group.WORLD for n in sorted(barriers)
        }
        self._other = dist.new_group() if world_size > 1 else None

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.kind == "cuda"

    def barrier(self, ranks: int) -> None:
        """Wait until the first `ranks` ranks have come here."""
        if ranks > 1:
            self._barriers[ranks].wait(timeout=RENDEZVOUS_S)

    def all_reduce_max(self, value: float, ranks: int) -> float:
        """The largest `value` of the first `ranks` ranks."""
        found = torch.tensor([value], dtype=torch.float64, device=self.device.torch_device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.groups[ranks])
        return float(found.item())

    def random(self, name: str, size: int) -> torch.Tensor:
        """`size` bytes of device memory with random bf16 numbers; one allocation a name."""
        if name not in self._memory or self._memory[name].nbytes < size:
            self._memory.pop(name, None)
            memory = self.device.empty(-(-size // 256) * 256)
            memory.view(torch.bfloat16).normal_()
            self._memory[name] = memory
        return self._memory[name][:size]

    def pinned(self, name: str, size: int) -> torch.Tensor:
        """As `random`, in pinned host memory; at least a pool."""
        key, size = f"pinned {name}", max(size, self._pools.copies)
        if key not in self._memory:
            memory = self.device.pinned(size)
            memory.copy_(self.random("scratch", size))
            self._memory[key] = memory
        return self._memory[key]

    def pageable(self, size: int) -> torch.Tensor:
        """`size` bytes of host memory that the driver does not know; touched."""
        if "pageable" not in self._memory or self._memory["pageable"].nbytes < size:
            self._memory["pageable"] = torch.empty(size, dtype=torch.uint8).copy_(self.random("scratch", size))
        return self._memory["pageable"]

    def broadcast(self, values: Sequence[int], ranks: int, owner: int = 0) -> list[int]:
        """`values` of rank `owner` on the first `ranks` ranks; every rank gives as many."""
        received = torch.tensor(list(values), dtype=torch.int64, device=self.device.torch_device)
        dist.broadcast(received, src=owner, group=self.groups[ranks])
        return [int(value) for value in received.tolist()]

    def copies(self, stream: Stream, direction: Direction, size: int, count: int) -> list[Call]:
        """`count` copies of `size` bytes, each from another place, so that no cache holds what is read."""
        device = self.random(f"{direction} device", max(self._pools.copies, size))
        host = self.random("d2d target", device.nbytes) if direction == "d2d" else self.pinned(direction, size)
        places = max(host.nbytes // size, 1)
        calls = []
        for _ in range(count):
            at = self._cursor % places * size
            self._cursor += 1
            there, here = device[at : at + size], host[at : at + size]
            if direction == "h2d":
                calls.append(stream.copy(there, here))
            elif direction == "d2h":
                calls.append(stream.copy(here, there))
            elif direction == "d2d":
                calls.append(driver.device_copy(stream, here, there))
            else:
                assert_never(direction)
        return calls

    def collective(self, kind: CollectiveKind, size: int, ranks: int, other: bool = False) -> Call:
        """A collective whose buffer on a rank has `size` bytes (all_gather: output, reduce_scatter: input).

        With `other` it is one of a second communicator of all ranks, with buffers of its own.
        """
        whole = size // (2 * ranks) * 2 * ranks
        room = max(self._pools.collectives, size)
        of = "other " if other else ""
        sent = self.random(f"{of}sent", room)[:whole].view(torch.bfloat16)
        received = self.random(f"{of}received", room)[:whole].view(torch.bfloat16)
        part, group = whole // 2 // ranks, self._other if other else self.groups[ranks]
        if kind == "all_to_all":
            return lambda: dist.all_to_all_single(received, sent, group=group)
        if kind == "all_reduce":
            return lambda: dist.all_reduce(sent, group=group)
        if kind == "all_gather":
            return lambda: dist.all_gather_into_tensor(received, sent[:part], group=group)
        if kind == "reduce_scatter":
            return lambda: dist.reduce_scatter_tensor(received[:part], sent, group=group)
        if kind == "send_recv":
            raise ValueError("no probe measures send_recv")
        assert_never(kind)

    def transfer(self, size: int, both: bool) -> Call:
        """`size` bytes from rank 0 to rank 1 of two, in one group with as many in reverse if `both`."""
        room = max(self._pools.collectives, size)
        sent, received = self.random("sent", room)[:size], self.random("received", room)[:size]
        peer = 1 - self.rank
        sends = [(sent, peer)] if both or self.rank == 0 else []
        receives = [(received, peer)] if both or self.rank == 1 else []
        return lambda: exchange(sends, receives, self.groups[2])

    def refresh(self) -> None:
        """New random numbers for the buffers of collectives: sums of sums grow beyond all bounds."""
        self.random("sent", self._pools.collectives).view(torch.bfloat16).normal_()

    def event(self) -> Event:
        """A timed event."""
        return self.device.event(True)

    def run_behind_gate(
        self,
        work: Mapping[str, Sequence[Call]],
        ranks: int = 1,
        on_enqueued: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """Enqueue the calls on each stream of `work` behind the gate, open it and wait until all is done.

        The first `ranks` ranks open their gates together. `on_enqueued`, called with what opens the gate, runs once
        everything is enqueued and decides when to open it. Times of events count from before the gate.

        Raises:
            RuntimeError: the watchdog had to open the gate.
        """
        device = self.device
        device.synchronize()
        for name in work:
            device.stream(name)
        device.start(next(iter(work)))
        self.barrier(ranks)
        self.gate.close()
        try:
            for name, calls in work.items():
                self.gate.park(device.stream(name))
                for call in calls:
                    call()
            self.barrier(ranks)
            if on_enqueued:
                on_enqueued(self.gate.open)
        finally:
            self.gate.open()
        device.synchronize()
        if self.gate.forced:
            raise RuntimeError(f"streams were blocked for {WATCHDOG_S:g} s and had to be released")
