"""Each layer in chunks, back to back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from sim.inputs.faults import Fault
from sim.inputs.units import Bytes
from sim.policies.base import Offload, Policy
from sim.policies.registry import register
from sim.policies.schedule import Schedule
from sim.program import RankProgram
from sim.workloads.workload import Workload

USUAL_CHUNK = Bytes(16 * 2**20)
"""What variants of policies without chunks take: the published code's default."""
SMALLEST_CHUNK = 2**16
"""Variants have no smaller chunks: such copies cost their set-up."""


@register
class Chunked(Offload, frozen=True, kw_only=True, tag="chunked"):
    """Copies of `chunk_bytes`, back to back."""

    chunk_bytes: Bytes

    def wrong_parameters(self) -> Iterator[Fault]:
        """As of `Offload`; chunks without bytes."""
        yield from super().wrong_parameters()
        if self.chunk_bytes < 1:
            yield Fault("chunk_bytes", "is 0, at least 1 is needed")

    def variants(self, world_size: int) -> Iterator[Policy]:
        """Other depth and residency; chunks four times as large, and a quarter of it."""
        yield from super().variants(world_size)
        for size in (self.chunk_bytes * 4, self.chunk_bytes // 4):
            if size >= SMALLEST_CHUNK:
                yield from self.changed(chunk_bytes=Bytes(size))

    @classmethod
    def from_policy(cls, other: Policy, world_size: int) -> Self | None:
        """With the chunks of `other`, or of the usual size if it has none."""
        fields = {name: getattr(other, name) for name in cls.__struct_fields__ if name in other.__struct_fields__}
        return cls.read(fields | {"chunk_bytes": other.chunk_bytes or USUAL_CHUNK})

    @property
    def layers_alike(self) -> bool:
        """Every layer is scheduled by the same rules."""
        return True

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """Chunks on the copy stream."""
        return Schedule(workload, self).build()
