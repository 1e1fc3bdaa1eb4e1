"""All weights on the GPU: what every other policy is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from sim.policies.base import Policy
from sim.policies.registry import register
from sim.policies.schedule import Schedule
from sim.program import RankProgram
from sim.workloads.block_items import command_count
from sim.workloads.workload import Workload


@register
class Resident(Policy, frozen=True, tag="resident"):
    """All weights on the GPU."""

    @classmethod
    def from_policy(cls, other: Policy, world_size: int) -> Self | None:
        """None: it is what variants are compared with, not one of them."""
        return None

    def flags(self, world_size: int) -> Mapping[str, str]:
        """All runtimes run it where they are not told to offload."""
        return dict.fromkeys(("sglang", "vllm-omni", "diffusers"), "no offload flag")

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """The block."""
        return world_size * max(map(command_count, workload.all_layers[layer].blocks))

    @property
    def layers_alike(self) -> bool:
        """Every layer is scheduled by the same rules."""
        return True

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """Kernels and collectives without copies."""
        return Schedule(workload, self).build()
