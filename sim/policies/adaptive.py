"""Decides before the run, from the host's rates, which gated schedule is fastest, and runs that."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Self

import msgspec

from sim.inputs.faults import Fault
from sim.inputs.units import Bytes
from sim.policies.base import Decided, Offload
from sim.policies.decision import PIECES, by_nccl, decide, lowered
from sim.policies.host_rates import HostRates
from sim.policies.registry import register
from sim.policies.yielding import Yielding
from sim.program import RankProgram
from sim.workloads.block_items import CommunicationAlgorithm
from sim.workloads.workload import Workload

LEAST_CHUNK = Bytes(2**20)
"""Commands are counted as if chunks were of this size: none that is chosen is smaller, but of small layers."""


@register
class Adaptive(Offload, frozen=True, tag="adaptive"):
    """Chooses, for each collective, whether copies yield to it, and the size of chunks, by the first-order model.

    With `algorithms: [nccl, copy_engine]` it also chooses, for each collective that the workload leaves to NCCL, by
    which of the two it runs, and the size of pieces.

    `rates` are the host's. The scenario fills them from its hardware profile, unless a file gives them. What is chosen
    is a schedule of `yielding`: with the same rates and workload always the same.
    """

    rates: HostRates | None = None
    algorithms: tuple[CommunicationAlgorithm, ...] = ("nccl",)

    def wrong_parameters(self) -> Iterator[Fault]:
        """As of `Offload`; no algorithm to choose from."""
        yield from super().wrong_parameters()
        if "nccl" not in self.algorithms or len(set(self.algorithms)) < len(self.algorithms):
            given = ", ".join(self.algorithms)
            yield Fault("algorithms", f"is [{given}], expected [nccl] or [nccl, copy_engine]")

    @property
    def may_copy(self) -> bool:
        """Whether it may choose copy engines."""
        return "copy_engine" in self.algorithms

    def choices(self, workload: Workload, world_size: int) -> Iterator[Workload]:
        """As it is; with copy engines for all collectives, in pieces of each size."""
        yield workload
        names = by_nccl(workload) if self.may_copy and world_size > 1 else ()
        for size in PIECES if names else ():
            yield lowered(workload, names, size, world_size)

    @property
    def needs_rates(self) -> bool:
        """Whether it is to be given rates before it can decide."""
        return self.rates is None

    def with_rates(self, rates: HostRates) -> Self:
        """The policy with the rates of a host."""
        return msgspec.structs.replace(self, rates=rates)

    def decided(self, workload: Workload, world_size: int) -> Decided:
        """The schedule that it chooses for a workload, of `yielding`: for all ranks by what the first one does.

        Raises:
            ValueError: it has no rates.
        """
        if self.rates is None:
            raise ValueError("adaptive decides by rates of a host: give them, or ask the scenario (Scenario.decided)")
        return _decided(self, workload, world_size)

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """All that is not resident."""
        return self.copied_of_layer(layer, layer_bytes)

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """At most those of the smallest chunks that it may choose, with drain."""
        fields = {name: getattr(self, name) for name in Offload.__struct_fields__}
        size = max(max(workload.all_layers[layer].bytes // 16, 1), 1)
        most = Yielding(chunk_bytes=min(LEAST_CHUNK, Bytes(size)), drain=True, **fields)
        return most.commands_per_layer(layer, workload, world_size)

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """What it decides for this rank's workload."""
        policy, chosen = self.decided(workload, world_size)
        return policy.schedule(chosen.of(rank), world_size, rank)


@lru_cache(64)
def _decided(policy: Adaptive, workload: Workload, world_size: int) -> Decided:
    assert policy.rates is not None
    return decide(workload, policy, policy.rates, world_size, policy.may_copy)
