"""Sharded schedules: every rank brings 1/N of a layer, an all_gather spreads it.

A layer's copied bytes are cut into pieces; each rank copies its N-th part of a piece to its place in the slot, and the
all_gather of the piece works in place. Copies and gathers have streams of their own: the next piece is copied while
one is gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, NamedTuple, Self

from sim.inputs.faults import Fault
from sim.inputs.units import Bytes
from sim.policies.base import Axes, Offload, Policy
from sim.policies.chunked import offered_chunks
from sim.policies.registry import register
from sim.policies.schedule import COPY, Schedule
from sim.program import CollectiveKind, RankProgram
from sim.workloads.block_items import command_count
from sim.workloads.workload import Workload

GATHER = "gather"
SHARDS = "shards"


class Piece(NamedTuple):
    """`bytes` of a layer from `offset` on, a multiple of 2 N; the last piece may reach beyond the layer."""

    offset: int
    bytes: int


def pieces(copied: int, chunk: int | None, world_size: int) -> Iterator[Piece]:
    """The pieces of `copied` bytes, of which each of `world_size` ranks copies `chunk` bytes (None: 1/N of all)."""
    whole, largest = 2 * world_size, _piece_bytes(copied, chunk, world_size)
    for offset in range(0, copied, largest):
        yield Piece(offset, -(-min(largest, copied - offset) // whole) * whole)


def piece_count(copied: int, chunk: int | None, world_size: int) -> int:
    """How many `pieces` there are."""
    return -(-copied // _piece_bytes(copied, chunk, world_size))


def _piece_bytes(copied: int, chunk: int | None, world_size: int) -> int:
    """Bytes of all pieces but the last."""
    return max(copied if chunk is None else max(chunk // 2, 1) * 2 * world_size, 1)


@register
class Sharded(Offload, frozen=True, tag="sharded"):
    """Every rank brings 1/N of a layer's copied bytes, an all_gather brings the rest.

    A rank copies its part at once, or `chunk_bytes` of it at a time; each is gathered as soon as it is there. With
    `store: device` the parts stay on the GPUs and nothing is copied. `prefetch_layers: 0` gathers a layer only when
    the one before has ended, as FSDP does without prefetch.
    """

    chunk_bytes: Bytes | None = None
    store: Literal["host", "device"] = "host"

    label_fields: ClassVar[tuple[str, ...]] = ("store",)
    ranks_alike: ClassVar[bool] = False
    own_collectives: ClassVar[frozenset[CollectiveKind]] = frozenset({"all_gather"})

    def wrong_parameters(self) -> Iterator[Fault]:
        """As of `Offload`; chunks of less than one bf16."""
        yield from super().wrong_parameters()
        if self.chunk_bytes is not None and self.chunk_bytes < 2:
            yield Fault("chunk_bytes", f"is {int(self.chunk_bytes)}, at least 2 is needed")

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """Parts in host memory or on the GPUs, whole or in pieces; nothing for a single rank."""
        for axes in super().offers(workload, world_size) if world_size > 1 else ():
            yield {"store": ("host",), **axes}
            yield {"store": ("host",), "chunk_bytes": offered_chunks(workload, 2), **axes}
            yield {"store": ("device",), **axes}

    def flags(self, world_size: int) -> Mapping[str, str]:
        """vLLM-Omni's distributed offload; FSDP, with or without prefetch."""
        if self.resident_fraction or self.resident_layers or self.chunk_bytes is not None or self.prefetch_layers > 1:
            return {}
        if self.store == "host":
            return {"vllm-omni": "--enable-distributed-layerwise-offload"} if self.prefetch_layers == 1 else {}
        return {"sglang": "--use-fsdp-inference", "vllm-omni": "HSDP (FSDP2)"} if self.prefetch_layers == 1 else {}

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """1/N of what is not resident, of N ranks."""
        return 0 if self.store == "device" else self.copied_of_layer(layer, layer_bytes) // world_size

    def weight_bytes(self, workload: Workload, world_size: int) -> int:
        """As others, and the parts that lie on the GPUs."""
        own = 0
        if self.store == "device":
            own = sum(self.copied_of_layer(i, layer.bytes) for i, layer in enumerate(workload.layers)) // world_size
        return super().weight_bytes(workload, world_size) + own

    def variants(self, world_size: int) -> Iterator[Policy]:
        """Other depth and residency; parts on the GPUs or in host memory, whichever it is not; whole parts."""
        yield from super().variants(world_size)
        yield from self.changed(store="host" if self.store == "device" else "device")
        if self.chunk_bytes is not None:
            yield from self.changed(chunk_bytes=None)

    @classmethod
    def from_policy(cls, other: Policy, world_size: int) -> Self | None:
        """None for a single rank, which would have nothing to share."""
        return super().from_policy(other, world_size) if world_size > 1 else None

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """The block, and for each piece a copy, an event with its wait and a gather."""
        of = workload.all_layers[layer]
        copied = self.copied_of_layer(layer, of.bytes)
        count = piece_count(copied, self.chunk_bytes, world_size)
        a_piece = 1 if world_size == 1 or self.store == "device" else 4
        return world_size * (max(map(command_count, of.blocks)) + 1 + (3 + count * a_piece if count else 0))

    @property
    def layers_alike(self) -> bool:
        """Every layer is scheduled by the same rules."""
        return True

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """Copies and gathers on streams of their own."""
        return ShardedSchedule(workload, self, world_size, rank).build()


class ShardedSchedule(Schedule):
    """What one rank does."""

    policy: Sharded

    def __init__(self, workload: Workload, policy: Sharded, world_size: int, rank: int) -> None:
        super().__init__(workload, policy)
        self.world_size = world_size
        self.number = rank

    def slot_bytes(self) -> int:
        """Bytes of the largest layer's pieces."""
        return max((p.offset + p.bytes for copied in self.copied for p in self._pieces(copied)), default=0)

    def declare(self) -> None:
        """The layer's own parts lie on the GPU if they are stored there."""
        super().declare()
        if self.offloads and self.policy.store == "device":
            own = sum(p.bytes for copied in self.copied for p in self._pieces(copied)) // self.world_size
            self.rank.buffer(SHARDS, own, "weights", static=True)

    def prefetch(self, n: int) -> None:
        """Issue the copies and gathers of the n-th layer executed."""
        step, layer, copied = self.place(n)
        if not copied:
            return
        rank, slot, on_device = self.rank, self.slot(n), self.policy.store == "device"
        gathers = on_device or self.world_size > 1
        self.wait_for_slot(n, GATHER if on_device else COPY)
        for i, piece in enumerate(self._pieces(copied)):
            part = piece.bytes // self.world_size
            start = piece.offset + self.number * part
            size = min(part, copied - start)
            if not on_device:
                if size > 0:
                    self.copy(n, f"chunk {i}", start, size)
                if gathers:
                    rank.wait(GATHER, rank.record(COPY))
            if gathers:
                rank.collective(
                    GATHER,
                    f"gather {i}",
                    "all_gather",
                    piece.bytes,
                    reads=(SHARDS,) if on_device else (),
                    writes=(slot,),
                    offset=piece.offset,
                    step=step,
                    layer=layer,
                )
        self.landed[n] = rank.record(GATHER if gathers else COPY)

    def _pieces(self, copied: int) -> Iterator[Piece]:
        chunk = self.policy.chunk_bytes
        return pieces(copied, None if chunk is None else int(chunk), self.world_size)
