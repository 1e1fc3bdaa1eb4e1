"""A recorded program as it ran, or with changes: what each of its habits costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import msgspec

from sim.inputs.config import InputError
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bytes
from sim.policies.base import Axes, Policy
from sim.policies.registry import register
from sim.program import LayerWeights, RankBuilder, RankProgram
from sim.workloads.recorded_operations import (
    Await,
    Launch,
    Meet,
    Move,
    Operation,
    Record,
    RecordedPass,
    Synchronise,
)
from sim.workloads.workload import Workload


@register
class Replay(Policy, frozen=True, tag="replay"):
    """The operations of a recorded program, with changes.

    - `memory`: copies are of the memory that was recorded, or all of pinned (they then block no host thread, and no new
      pages are needed) or all of pageable memory.
    - `copies: layer`: copies of a layer that follow each other on a stream are one.
    - `chunk_bytes`: copies are cut into chunks of at most so many bytes.
    - `yielding`: between chunks a copy waits while a collective runs (a gate on the device).
    - `synchronise: false`: where the host waited for a stream, the compute stream does, and that stream for it: what is
      copied next takes the place of the layer before.
    """

    memory: Literal["recorded", "pinned", "pageable"] = "recorded"
    copies: Literal["recorded", "layer"] = "recorded"
    chunk_bytes: Bytes | None = None
    yielding: bool = False
    synchronise: bool = True

    label_fields: ClassVar[tuple[str, ...]] = ("memory", "copies", "yielding")

    def __post_init__(self) -> None:
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            refuse([Fault("chunk_bytes", f"is {self.chunk_bytes}, at least 1 is needed")])

    @classmethod
    def from_policy(cls, other: Policy, world_size: int) -> Self | None:
        """None: it is of recorded programs only."""
        return None

    def variants(self, world_size: int) -> Iterator[Policy]:
        """Pinned memory, one copy a layer, yielding, no waits of the host; and all of these together."""
        every = {"memory": "pinned", "copies": "layer", "synchronise": False}
        yield from self.changed(memory="pinned")
        yield from self.changed(copies="layer")
        yield from self.changed(yielding=True, chunk_bytes=self.chunk_bytes or Bytes(16 * 2**20))
        yield from self.changed(synchronise=False)
        yield from self.changed(memory="pinned", copies="layer")
        yield from self.changed(**every)
        yield from self.changed(**every, yielding=True, chunk_bytes=self.chunk_bytes or Bytes(16 * 2**20))

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """The recorded program, in both memories."""
        if workload.recorded is not None:
            yield {"memory": ("recorded", "pinned"), "copies": ("recorded", "layer"), "synchronise": (True, False)}

    def weight_bytes(self, workload: Workload, world_size: int) -> int:
        """What it declares for copies."""
        return sum(_device_buffers(_recorded(workload)).values())

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """All of a pass's with the first layer."""
        recorded = _recorded(workload)
        if layer:
            return 0
        count = 0
        for op in recorded.operations:
            count += 5
            if isinstance(op, Move) and self.chunk_bytes:
                count += 2 * -(-op.bytes // int(self.chunk_bytes))
            elif self.yielding:
                count += 2
        return world_size * count

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """The operations of all steps."""
        return _Schedule(workload, _recorded(workload), self).build()


def _recorded(workload: Workload) -> RecordedPass:
    if workload.recorded is None:
        problem = (
            "is replay, which is of recorded programs: give workload.program, as `chunkflow-sim import trace` does"
        )
        raise InputError("scenario", "policy.kind", problem)
    return workload.recorded


def _device_buffers(recorded: RecordedPass) -> dict[tuple[str, str, bool], int]:
    """(stream, kind, whether of weights of layers) -> bytes on the GPU: two of the largest layers, or one copy."""
    layers: dict[tuple[str, str, int], int] = {}
    sizes: dict[tuple[str, str, bool], int] = {}
    for op in recorded.operations:
        if isinstance(op, Move):
            key = op.stream, op.kind, op.layer >= 0
            if op.layer >= 0:
                at = op.stream, op.kind, op.layer
                layers[at] = layers.get(at, 0) + op.bytes
                sizes[key] = max(sizes.get(key, 0), 2 * layers[at])
            else:
                sizes[key] = sizes.get(key, 0) + op.bytes
    return sizes


@dataclass
class _Schedule:
    """Emits the operations of one rank."""

    workload: Workload
    recorded: RecordedPass
    policy: Replay
    builder: RankBuilder = field(default_factory=RankBuilder)
    events: dict[int, int] = field(default_factory=dict)
    """Event of the recorded program -> the one that was recorded last for it."""

    def build(self) -> RankProgram:
        """Declare the memory, then issue all steps."""
        operations = _merged(self.recorded.operations) if self.policy.copies == "layer" else self.recorded.operations
        self._declare()
        self.builder.record_step(self.recorded.compute)
        for step in range(self.workload.steps):
            for _ in range(self.workload.passes_per_step):
                for op in operations:
                    self._issue(op, step)
            self.builder.record_step(self.recorded.compute)
        return self.builder.build(self._weights())

    def _weights(self) -> tuple[LayerWeights, ...]:
        sizes: dict[int, int] = {}
        for op in self.recorded.operations:
            if isinstance(op, Move) and op.layer >= 0:
                sizes[op.layer] = sizes.get(op.layer, 0) + op.bytes
        return tuple(LayerWeights(sizes.get(i, 0), 0, 0) for i in range(max(sizes, default=-1) + 1))

    def _declare(self) -> None:
        for (stream, kind, weights), size in _device_buffers(self.recorded).items():
            self.builder.buffer(_device(stream, kind, weights), size, "slot" if weights else "activations", static=True)
        host: dict[str, tuple[int, str]] = {}
        exchanged: dict[str, int] = {}
        for op in self.recorded.operations:
            if isinstance(op, Move) and not self._brings(op):
                name = _host(op.stream, op.kind, self._memory(op))
                host[name] = max(host.get(name, (0, ""))[0], op.bytes), self._memory(op)
            elif isinstance(op, Meet):
                size = op.bytes * (2 if op.kind in ("all_to_all", "send_recv") else 1)
                exchanged[op.stream] = max(exchanged.get(op.stream, 0), size)
        for name, (size, memory) in host.items():
            self.builder.host_buffer(name, size, memory)  # type: ignore[arg-type]
        for stream, size in exchanged.items():
            self.builder.buffer(f"exchanged on {stream}", size, "collective", static=True)
        if self.workload.activation_bytes:
            self.builder.buffer("activations", int(self.workload.activation_bytes), "activations", static=True)

    def _memory(self, op: Move) -> Literal["pinned", "pageable"]:
        return op.memory if self.policy.memory == "recorded" else self.policy.memory

    def _brings(self, op: Move) -> bool:
        """Whether it is a prefetch: weights of a layer, of pinned memory."""
        return op.kind == "h2d" and op.layer >= 0 and self._memory(op) == "pinned"

    def _issue(self, op: Operation, step: int) -> None:
        build = self.builder
        if op.host_s > 0:
            build.host_work("host", op.host_s)
        match op:
            case Launch():
                build.kernel(op.stream, op.name, seconds=op.seconds, step=step)
            case Move():
                self._copy(op, step)
            case Meet():
                self._collective(op, step)
            case Record():
                self.events[op.event] = build.record(op.stream)
            case Await():
                if (event := self.events.get(op.event)) is not None:
                    build.wait(op.stream, event)
            case Synchronise():
                event = build.record(op.stream)
                if self.policy.synchronise:
                    build.host_wait(event)
                elif op.stream != self.recorded.compute:
                    # what is copied next goes where the layer before lay: as much memory as with the host's wait
                    done = build.record(self.recorded.compute)
                    build.wait(self.recorded.compute, event)
                    build.wait(op.stream, done)

    def _copy(self, op: Move, step: int) -> None:
        memory, brings = self._memory(op), self._brings(op)
        chunk = int(self.policy.chunk_bytes or op.bytes)
        other = None if brings else _host(op.stream, op.kind, memory)
        name = "weights" if brings else f"{op.kind} {memory}"
        for offset in range(0, op.bytes, chunk):
            if self.policy.yielding and op.stream != self.recorded.compute:
                self.builder.wait_flag(op.stream, "gate", 0)
            size = min(chunk, op.bytes - offset)
            buffer = _device(op.stream, op.kind, op.layer >= 0)
            self.builder.copy(op.stream, name, size, buffer, kind=op.kind, other=other, step=step, layer=op.layer)
        if memory == "pageable" and op.memory == "pageable" and op.staging_s > 0:
            self.builder.host_work("new pages", op.staging_s)

    def _collective(self, op: Meet, step: int) -> None:
        group = op.group[0] if op.group else None
        if self.policy.yielding:
            self.builder.write_flag(op.stream, "gate", 1)
        self.builder.collective(
            op.stream, op.kind, op.kind, op.bytes, writes=(f"exchanged on {op.stream}",), step=step, group=group
        )
        if self.policy.yielding:
            self.builder.write_flag(op.stream, "gate", 0)


def _device(stream: str, kind: str, weights: bool) -> str:
    return f"{'weights' if weights else 'other'} {kind} on {stream}"


def _host(stream: str, kind: str, memory: str) -> str:
    return f"{memory} {kind} of {stream}"


def _merged(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """With one copy for those of a layer that follow each other on a stream; the host's work stays with the first."""
    found: list[Operation] = []
    for op in operations:
        last = found[-1] if found else None
        if (
            isinstance(op, Move)
            and isinstance(last, Move)
            and op.layer >= 0
            and (op.stream, op.kind, op.layer, op.memory) == (last.stream, last.kind, last.layer, last.memory)
        ):
            size, staging = last.bytes + op.bytes, last.staging_s + op.staging_s
            found[-1] = msgspec.structs.replace(last, bytes=size, staging_s=staging)
        else:
            found.append(op)
    return tuple(found)
