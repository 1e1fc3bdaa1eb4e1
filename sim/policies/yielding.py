"""Chunks that keep clear of collectives, by a flag on the GPU or by host threads.

`window: device_gate` is carried out by the GPU's streams only: the host issues everything ahead, events and flags
decide.

The windows `launch` and `kernel` reproduce the public code of a ChunkFlow author's SGLang fork (github
EthanMeng324/sglang, branch v0.5.9-shard, layerwise_offload_chunkwise.py). One thread runs the model. A second one
issues a chunk, waits until it has landed, and issues the next; before each it waits until the count of active
collectives is zero. The model's thread, to launch a collective, raises the count, takes the copies' lock, and makes the
compute stream wait for what the copy stream has been given. In the launch window it lowers the count when the launch
has returned; in the kernel window a third thread does, when it sees that the collective has ended. The fork holds the
lock until a chunk has landed (`lock: landed`), so that a launch waits for the chunk in flight, and gives it back before
the launch: a chunk that had found the count at zero slips in then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from sim.inputs.faults import Fault
from sim.inputs.units import Seconds
from sim.policies.base import Axes, Policy
from sim.policies.chunked import Chunked
from sim.policies.registry import register
from sim.policies.schedule import COPY, Schedule
from sim.program import RankProgram
from sim.workloads.block_commands import COMPUTE
from sim.workloads.block_items import MEETINGS, Meeting, meeting_name, stream_of
from sim.workloads.engine_collectives import EngineCollective, EnginePart, copy_streams
from sim.workloads.workload import Workload

GATE, BUSY = "gate", "busy"
TO_ALL: Literal["all"] = "all"
TO_NONE: Literal["none"] = "none"
TO_PIECES: Literal["pieces"] = "pieces"
"""Values of `yield_to` besides names of collectives."""
ACTIVE, REQUESTED, PREFETCHED, LOCK = "active collectives", "requested layers", "prefetched layers", "copy lock"


@register
class Yielding(Chunked, frozen=True, tag="yielding"):
    """Chunks that keep clear of collectives; `window` says when copies yield.

    - `device_gate`: the compute stream sets a flag right before each collective and clears it right after; the copy
      stream waits for 0 before each chunk. With `drain` the collective also waits until the chunk in flight has ended.
    - `launch`: a host thread issues one chunk at a time and waits for it; it issues none while another host thread is
      launching a collective. Neither thread knows whether the GPU has run the collective yet.
    - `kernel`: as `launch`, but the window lasts until the collective has ended on the GPU, which a third host thread
      sees by polling every `poll`.

    `yield_to` says to which collectives: `all`, `none` (then chunks go as those of `chunked`), or a list of names. One
    without a name is called by its kind; names of the blocks are those of all ranks. With `pieces`, chunks keep clear
    of each piece of a collective by copy engines that has come to the host, from then on until it is on the GPU, and
    fill the time in which it waits for peers; of other collectives they keep clear as with `all`.

    The host threads of `launch` and `kernel` may have `slots` layers on the GPU (prefetch_layers + 1 unless given): the
    published code takes memory for each layer from an allocator, so its host runs ahead until a queue is full. A lock
    keeps a chunk and the launch of a collective apart: `lock: issued` until either has been issued; `lock: landed`, as
    in the published code, until the chunk has landed, and only until the collective's stream has been made to wait.
    """

    window: Literal["device_gate", "launch", "kernel"] = "device_gate"
    drain: bool = False
    poll: Seconds = Seconds(1e-3)
    slots: int | None = None
    lock: Literal["issued", "landed"] = "issued"
    yield_to: Literal["all", "none", "pieces"] | tuple[str, ...] = TO_ALL

    label_fields: ClassVar[tuple[str, ...]] = ("window", "drain")

    def wrong_parameters(self) -> Iterator[Fault]:
        """Faults of `Chunked`, and parameters that this window does not support."""
        yield from super().wrong_parameters()
        if self.lock != "issued" and self.window == "device_gate":
            yield Fault("lock", "is for windows launch and kernel")
        if self.drain and self.window != "device_gate":
            yield Fault("drain", "needs window: device_gate")
        if 0 < self.poll < 1e-9:
            yield Fault("poll", f"is {float(self.poll)} s, expected 0 or at least 1 ns")
        if not self.wrap_around and self.window != "device_gate":
            yield Fault("wrap_around", "false is for window device_gate")
        if self.yield_to == ():
            yield Fault("yield_to", "is empty, expected all, none, pieces, or names of collectives, such as [q, k, v]")
        elif len(set(self.yield_to)) < len(self.yield_to) and not isinstance(self.yield_to, str):
            twice = next(name for name in self.yield_to if self.yield_to.count(name) > 1)
            yield Fault("yield_to", f"names {twice!r} twice")
        if self.yield_to == TO_PIECES and self.window != "device_gate":
            yield Fault("yield_to", "pieces is for window device_gate")
        if self.drain and self.yield_to in (TO_NONE, TO_PIECES):
            yield Fault("drain", f"needs collectives to yield to as a whole, but yield_to is {self.yield_to}")
        if self.slots is not None and (self.window == "device_gate" or self.slots <= self.prefetch_layers):
            yield Fault("slots", "is for windows launch and kernel, and more than prefetch_layers")

    def wrong_for(self, workload: Workload) -> Iterator[Fault]:
        """Names that no collective of the workload has."""
        if isinstance(self.yield_to, str):
            return
        known = workload.collective_names
        for number, name in enumerate(self.yield_to):
            if name not in known:
                expected = f"expected names among {', '.join(known)}" if known else "the workload has no collectives"
                yield Fault(f"yield_to[{number}]", f"is {name!r}, which is no collective of the workload: {expected}")

    def yields_to(self, op: Meeting) -> bool:
        """Whether copies keep clear of a collective from its begin to its end."""
        if self.yield_to == TO_PIECES:
            return not isinstance(op, EngineCollective | EnginePart)
        return self.yield_to == TO_ALL if isinstance(self.yield_to, str) else meeting_name(op) in self.yield_to

    @property
    def slot_count(self) -> int:
        """One slot more than layers are prefetched, or what host threads may take."""
        return max(self.slots or 0, super().slot_count)

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """A gate on the GPU, with and without drain; the other windows are there to be compared with.

        To all collectives, or to the first ones of a block: the copies catch up beside the last ones.
        """
        names = workload.collective_names
        first = tuple(names[:count] for count in range(1, len(names)))
        for axes in super().offers(workload, world_size):
            yield {"drain": (False,), "yield_to": (*first, TO_ALL), **axes}
            yield {"drain": (True,), "yield_to": (*first, TO_ALL), **axes}

    def variants(self, world_size: int) -> Iterator[Policy]:
        """As `chunked`; a gate on the GPU instead of host threads; collectives that wait for no chunk."""
        yield from super().variants(world_size)
        if self.window != "device_gate":
            # what only host threads have goes with them
            yield from self.changed(window="device_gate", slots=None, lock="issued", poll=Seconds(1e-3))
        if self.drain:
            yield from self.changed(drain=False)
        if self.yield_to != TO_ALL:
            yield from self.changed(yield_to=TO_ALL)

    def variants_on(self, workload: Workload, world_size: int) -> Iterator[Policy]:
        """To one collective less, whichever; to one more."""
        names = workload.collective_names
        if self.yield_to != TO_PIECES:
            ops = (op for layer in dict.fromkeys(workload.all_layers) for op in layer.block)
            if self.window == "device_gate" and any(isinstance(op, EngineCollective | EnginePart) for op in ops):
                yield from self.changed(yield_to=TO_PIECES)
        now = names if self.yield_to in (TO_ALL, TO_PIECES) else () if self.yield_to == TO_NONE else self.yield_to
        for name in names:
            other = tuple(n for n in names if (n == name) != (n in now))
            yield from self.changed(yield_to=other or TO_NONE, drain=self.drain and bool(other))

    def commands_around(self) -> tuple[int, int, int]:
        """Flags on the streams, or what the host threads tell each other."""
        if self.window == "device_gate":
            return 0, (3 if self.drain else 1), (4 if self.drain else 2)
        # a layer: request, slot and the model's wait; a chunk and a collective: count, lock, and an event waited for
        return 5, 5, (8 if self.window == "kernel" else 6)

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """As of `Chunked`; a chunk waits for the gate of each stream with collectives."""
        gates = len(communication_streams(workload, self)) - 1 if self.window == "device_gate" else 0
        more = max(gates, 0) * self.copies_of_layer(layer, workload)
        if self.yield_to == TO_PIECES:  # a piece has more commands than its two flags
            block = workload.all_layers[layer].block
            more += sum(op.commands for op in block if isinstance(op, EngineCollective | EnginePart))
        return super().commands_per_layer(layer, workload, world_size) + world_size * more

    @property
    def layers_alike(self) -> bool:
        """Counts of the host threads of other windows grow from layer to layer."""
        return self.window == "device_gate"

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """Chunks behind a gate, or issued one at a time."""
        if self.window == "device_gate":
            return GatedSchedule(workload, self).build()
        return HostSchedule(workload, self).build()


def gate(stream: str) -> str:
    """The flag that `stream` writes around its collectives."""
    return GATE if stream == COMPUTE else f"{GATE} {stream}"


def communication_streams(workload: Workload, policy: Yielding) -> tuple[str, ...]:
    """Streams that chunks keep clear of: those with collectives, or sends, that they yield to.

    The compute stream is one where chunks yield to all. With `pieces` those on which they come.
    """
    meetings = (op for op in workload.entries() if isinstance(op, MEETINGS))
    streams = [COMPUTE] if policy.yield_to == TO_ALL else []
    for op in meetings:
        if getattr(op, "detached", False) is True:  # it may wait for its peers for long
            continue
        stream = stream_of(op) or COMPUTE
        if policy.yields_to(op):
            streams.append(stream)
        elif policy.yield_to == TO_PIECES:
            streams.append(copy_streams(stream)[1])
    return tuple(dict.fromkeys(streams))


class _YieldingSchedule(Schedule):
    """What the schedules of all windows share."""

    policy: Yielding

    @property
    def yields(self) -> bool:
        """Whether chunks yield to the collective that is about to be issued, or has been."""
        return self.offloads and self.communication is not None and self.policy.yields_to(self.communication)


class GatedSchedule(_YieldingSchedule):
    """Chunks on the copy stream, each behind a flag of each stream with collectives that it yields to."""

    def __init__(self, workload: Workload, policy: Yielding) -> None:
        super().__init__(workload, policy)
        self.drains = self.offloads and policy.drain
        self.communication_streams = communication_streams(workload, policy)

    def copy(self, n: int, name: str, offset: int, size: int) -> None:
        """Issue one chunk behind the gate."""
        for stream in self.communication_streams:
            self.rank.wait_flag(COPY, gate(stream), 0)
        if self.drains:
            self.rank.write_flag(COPY, BUSY, 1)
        super().copy(n, name, offset, size)
        if self.drains:
            self.rank.write_flag(COPY, BUSY, 0)

    def before_collective(self) -> None:
        """Begin the yield window: close the gate, and with `drain` wait for the chunk in flight."""
        stream = self.communication_stream
        if not self.yields:
            return
        self.rank.write_flag(stream, gate(stream), 1)
        if self.drains:
            # a chunk that just passed the gate sets BUSY one flag write later: a second write delays the check as long
            self.rank.write_flag(stream, gate(stream), 1)
            self.rank.wait_flag(stream, BUSY, 0)

    def after_collective(self) -> None:
        """End the yield window: open the gate."""
        if self.yields:
            self.rank.write_flag(self.communication_stream, gate(self.communication_stream), 0)

    def before_piece(self, stream: str) -> None:
        """Keep chunks clear of a piece that has come."""
        if self.offloads and self.policy.yield_to == TO_PIECES:
            self.rank.write_flag(stream, gate(stream), 1)

    def after_piece(self, stream: str) -> None:
        """Let chunks go on."""
        if self.offloads and self.policy.yield_to == TO_PIECES:
            self.rank.write_flag(stream, gate(stream), 0)


class HostSchedule(_YieldingSchedule):
    """Chunks issued one at a time by a host thread of their own."""

    def __init__(self, workload: Workload, policy: Yielding) -> None:
        super().__init__(workload, policy)
        self.poll = float(policy.poll)
        self.model = 0
        self.worker = self.rank.thread() if self.offloads else 0
        self.until_landed = policy.lock == "landed"
        self.poller = self.rank.thread() if self.offloads and policy.window == "kernel" else None
        self.rank.switch(self.model)

    def prefetch(self, n: int) -> None:
        """Ask the worker for the n-th layer executed, and let it issue the chunks."""
        rank = self.rank
        if not self.offloads:
            return
        turn = self.turn(n)
        if turn >= self.ahead:  # the first layers need no request
            rank.host_add(REQUESTED, 1)
        rank.switch(self.worker)
        rank.host_wait_counter(REQUESTED, least=turn - self.ahead + 1)
        self.wait_for_slot(n)
        for name, offset, size in self.all_chunks(n):
            rank.host_wait_counter(ACTIVE, most=0)
            rank.host_acquire(LOCK)
            self.copy(n, name, offset, size)
            self.landed[n] = rank.record(COPY)
            if self.until_landed:
                rank.host_wait(self.landed[n])
            rank.host_release(LOCK)
            if not self.until_landed:
                rank.host_wait(self.landed[n])
        rank.host_add(PREFETCHED, 1)
        rank.switch(self.model)

    def before_layer(self, n: int) -> None:
        """Block the model's thread until the worker has issued the layer's last chunk: its event exists only then."""
        if self.offloads and self.counts(n):
            self.rank.host_wait_counter(PREFETCHED, least=self.turn(n) + 1)

    def before_collective(self) -> None:
        """Begin the yield window: from now on no chunk is issued."""
        if self.yields:
            self.rank.host_add(ACTIVE, 1)
            self.rank.host_acquire(LOCK)
            self.rank.wait(self.communication_stream, self.rank.record(COPY))
            if self.until_landed:
                self.rank.host_release(LOCK)

    def after_collective(self) -> None:
        """End the yield window: now, or when the poller sees that the collective has ended."""
        rank = self.rank
        if not self.yields:
            return
        if not self.until_landed:
            rank.host_release(LOCK)
        if self.poller is None:
            rank.host_add(ACTIVE, -1)
            return
        ended = rank.record(self.communication_stream)
        rank.switch(self.poller)
        rank.host_wait(ended, self.poll)
        rank.host_add(ACTIVE, -1)
        rank.switch(self.model)
