"""Layerwise offload with one copy a layer, and a hook of the host before each: what several runtimes have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from sim.inputs.faults import Fault
from sim.inputs.units import Seconds
from sim.policies.base import Axes, Offload, Policy
from sim.policies.whole_layer import WholeLayer, WholeLayerSchedule
from sim.program import RankProgram
from sim.workloads.tensors import tensors_of
from sim.workloads.workload import Workload


class HookedLayerwise(Offload, frozen=True):
    """`whole_layer` with the host's work: `hook` s for a layer, and `per_tensor` s for each of its tensors."""

    hook: Seconds = Seconds(50e-6)
    per_tensor: Seconds = Seconds(5e-6)

    issue: ClassVar[Literal["async", "after_compute"]]
    """When copies are issued, as of `whole_layer`."""

    @property
    def without_hooks(self) -> WholeLayer:
        """The schedule without the host's work."""
        return WholeLayer(
            resident_fraction=self.resident_fraction,
            prefetch_layers=self.prefetch_layers,
            resident_layers=self.resident_layers,
            prefetch_counts=self.prefetch_counts,
            wrap_around=self.wrap_around,
            issue=self.issue,
        )

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
        return self.without_hooks.flags(world_size)

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """All that is not resident."""
        return self.copied_of_layer(layer, layer_bytes)

    def commands_around(self) -> tuple[int, int, int]:
        """Those of the schedule without hooks, and the host's work for each layer."""
        layer, copy, collective = self.without_hooks.commands_around()
        return layer + 1, copy, collective

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """One copy a layer on the copy stream."""
        return _HookedSchedule(workload, self.without_hooks, float(self.hook), float(self.per_tensor)).build()


class _HookedSchedule(WholeLayerSchedule):
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
