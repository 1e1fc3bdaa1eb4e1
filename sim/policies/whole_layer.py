"""Each layer in one copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from sim.policies.base import OFFERED_COUNTS, OFFERED_DEPTHS, OFFERED_FRACTIONS, Axes, Offload, Policy
from sim.policies.registry import register
from sim.policies.schedule import COPY, Schedule
from sim.program import RankProgram
from sim.workloads.block_commands import COMPUTE
from sim.workloads.workload import Workload


@register
class WholeLayer(Offload, frozen=True, tag="whole_layer"):
    """One copy a layer. With `issue: after_compute` it also waits for all compute queued when it is issued.

    With `quiesce` a collective waits until the copies issued before it have ended, as in the published code of the
    launch window (see yielding.py).
    """

    issue: Literal["async", "after_compute"] = "async"
    quiesce: bool = False

    label_fields: ClassVar[tuple[str, ...]] = ("issue", "quiesce")

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """As runtimes have it: async copies; or late ones, and residency by whole layers, the first ones."""
        yield {"issue": ("async",), "resident_fraction": OFFERED_FRACTIONS, "prefetch_layers": OFFERED_DEPTHS}
        count = len(workload.layers)
        counts = sorted({i * count // min(count, OFFERED_COUNTS) for i in range(min(count, OFFERED_COUNTS))})
        first = tuple(tuple(range(n)) for n in counts)
        yield {"issue": ("after_compute",), "resident_layers": first, "prefetch_layers": OFFERED_DEPTHS}

    def flags(self, world_size: int) -> Mapping[str, str]:
        """SGLang's copies wait for queued compute, and its first layers may be resident; others keep no layer."""
        if self.quiesce or self.prefetch_layers < 1 or self.resident_fraction:
            return {}
        numbers = self.numbers_of_resident_layers
        count = len(numbers)
        if self.issue == "after_compute" and tuple(numbers) == tuple(range(count)):
            kept = f" --dit-layerwise-resident-layers {count}" if count else ""
            return {"sglang": f"--dit-layerwise-offload --dit-offload-prefetch-size {self.prefetch_layers}{kept}"}
        if self.issue != "async" or count:
            return {}
        return {"vllm-omni": f"--enable-layerwise-offload --layerwise-num-gpu-layers {self.prefetch_layers}"}

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """All that is not resident."""
        return self.copied_of_layer(layer, layer_bytes)

    def variants(self, world_size: int) -> Iterator[Policy]:
        """Other depth and residency; copies that wait for nothing; collectives that wait for nothing."""
        yield from super().variants(world_size)
        if self.issue != "async":
            yield from self.changed(issue="async")
        if self.quiesce:
            yield from self.changed(quiesce=False)

    def commands_around(self) -> tuple[int, int, int]:
        """An event and its wait for a late copy, and for each collective that waits."""
        return (2 if self.issue == "after_compute" else 0), 0, (2 if self.quiesce else 0)

    @property
    def layers_alike(self) -> bool:
        """Every layer is scheduled by the same rules."""
        return True

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """One copy a layer on the copy stream."""
        return WholeLayerSchedule(workload, self).build()


class WholeLayerSchedule(Schedule):
    """What a rank does."""

    def __init__(self, workload: Workload, policy: WholeLayer) -> None:
        super().__init__(workload, policy)
        self.late = policy.issue == "after_compute"
        self.quiesces = policy.quiesce and self.offloads

    def prefetch(self, n: int) -> None:
        """Issue the copy, behind all compute queued so far where the policy says so."""
        if self.late and self.place(n)[2]:
            self.rank.wait(COPY, self.rank.record(COMPUTE))
        super().prefetch(n)

    def before_collective(self) -> None:
        """Wait for the copies issued before, where the policy says so."""
        if self.quiesces:
            self.rank.wait(self.communication_stream, self.rank.record(COPY))
