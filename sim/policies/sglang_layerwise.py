"""Layerwise offload of SGLang as it runs: one copy a layer behind queued compute, and a hook that re-points tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Self

from sim.inputs.faults import Fault
from sim.inputs.units import Seconds
from sim.policies.base import Axes, Offload, Policy
from sim.policies.diffusers_group_offload import tensors_of
from sim.policies.registry import register
from sim.policies.whole_layer import WholeLayer, WholeLayerSchedule
from sim.program import RankProgram
from sim.workloads.workload import Workload


@register
class SglangLayerwise(Offload, frozen=True, tag="sglang_layerwise"):
    """`--dit-layerwise-offload`: weights of a layer lie in one pinned buffer, and are one copy.

    It waits for all compute queued when it is issued, as `whole_layer` does with `issue: after_compute`. Weights of no
    block stay on the GPU. `hook` is the host's time for a layer, `per_tensor` that for each tensor which it makes a
    view of the layer's buffer.
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
        return plain_schedule(self, "after_compute").flags(world_size)

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """All that is not resident."""
        return self.copied_of_layer(layer, layer_bytes)

    def commands_around(self) -> tuple[int, int, int]:
        """An event and its wait, and the host's work, for each layer."""
        return 3, 0, 0

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """One copy a layer on the copy stream."""
        return HookedSchedule(
            workload, plain_schedule(self, "after_compute"), float(self.hook), float(self.per_tensor)
        ).build()


class HookedSchedule(WholeLayerSchedule):
    """One copy a layer; before it the host spends `hook` s, and `per_tensor` s on each of the layer's tensors."""

    def __init__(self, workload: Workload, policy: WholeLayer, hook: float, per_tensor: float) -> None:
        super().__init__(workload, policy)
        self.hook = hook
        self.per_tensor = per_tensor

    def prefetch(self, n: int) -> None:
        """Issue the copy after the host's work."""
        if self.place(n)[2]:
            seconds = self.hook + self.per_tensor * tensors_of(self.layers[self.place(n)[1]])
            self.rank.host_work("hook", seconds)
        super().prefetch(n)


def plain_schedule(policy: Offload, issue: Literal["async", "after_compute"]) -> WholeLayer:
    """The schedule without hooks."""
    return WholeLayer(
        resident_fraction=policy.resident_fraction,
        prefetch_layers=policy.prefetch_layers,
        resident_layers=policy.resident_layers,
        prefetch_counts=policy.prefetch_counts,
        wrap_around=policy.wrap_around,
        issue=issue,
    )
