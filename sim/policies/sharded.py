"""Sharded schedules: every rank brings 1/N of a layer, an all_gather spreads it.

A layer's copied bytes are cut into pieces; each rank copies its N-th part of a piece to its place in the slot, and the
all_gather of the piece works in place. Copies and gathers have streams of their own: the next piece is copied while
one is gathered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sim.policies.parameters import Sharded
from sim.policies.schedule import COPY, Schedule
from sim.workload import Workload

GATHER = "gather"
SHARDS = "shards"


class Piece(NamedTuple):
    """`bytes` of a layer from `offset` on, a multiple of 2 N; the last piece may reach beyond the layer."""

    offset: int
    bytes: int


def pieces(copied: int, chunk: int | None, world_size: int) -> Iterator[Piece]:
    """The pieces of `copied` bytes, of which each of `world_size` ranks copies `chunk` bytes (None: 1/N of all)."""
    whole = 2 * world_size
    largest = copied if chunk is None else max(chunk // 2, 1) * whole
    for offset in range(0, copied, max(largest, 1)):
        yield Piece(offset, -(-min(largest, copied - offset) // whole) * whole)


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
        step, layer, copied = self._place(n)
        if not copied:
            return
        rank, slot, on_device = self.rank, self._slot(n), self.policy.store == "device"
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
