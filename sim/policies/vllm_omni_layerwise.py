"""Layerwise offload of vLLM-Omni as it runs: one copy a layer, and a hook that re-points tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

from sim.inputs.faults import Fault
from sim.inputs.units import Seconds
from sim.policies.base import Axes, Offload, Policy
from sim.policies.registry import register
from sim.policies.sglang_layerwise import HookedSchedule, plain_schedule
from sim.program import RankProgram
from sim.workloads.workload import Workload


@register
class VllmOmniLayerwise(Offload, frozen=True, tag="vllm_omni_layerwise"):
    """`--enable-layerwise-offload`: weights of a layer lie in one pinned buffer, and are one copy.

    It waits for its slot only, as `whole_layer` does. Weights of no block stay on the GPU. `hook` is the host's time
    for a layer, `per_tensor` that for each tensor which it makes a view of the layer's buffer.
    """

    hook: Seconds = Seconds(50e-6)
    per_tensor: Seconds = Seconds(5e-6)

    def wrong_parameters(self) -> Iterator[Fault]:
        """Those of all offloading policies, and negative times."""
        yield from super().wrong_parameters()
        for name in ("hook", "per_tensor"):
            if getattr(self, name) < 0:
                yield Fault(name, f"is {getattr(self, name)}, expected 0 or more")

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """Nothing: `whole_layer` offers the schedule, which differs by the host's time only."""
        return iter(())

    @classmethod
    def from_policy(cls, other: Policy, world_size: int) -> Self | None:
        """None: another runtime is no variant of a schedule."""
        return None

    def flags(self, world_size: int) -> Mapping[str, str]:
        """Those of the schedule without hooks."""
        return plain_schedule(self, "async").flags(world_size)

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """All that is not resident."""
        return self.copied_of_layer(layer, layer_bytes)

    def commands_around(self) -> tuple[int, int, int]:
        """The host's work for each layer."""
        return 1, 0, 0

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """One copy a layer on the copy stream."""
        return HookedSchedule(workload, plain_schedule(self, "async"), float(self.hook), float(self.per_tensor)).build()
