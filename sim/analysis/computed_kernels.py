"""Whether a scenario's kernel times are computed, and how far published steps lie from computed ones.

Kernel times that a scenario gives were measured by someone. Those of a named model follow from its shapes by the
roofline, at the rates of the profile's device: what fused kernels, cuBLAS and cuDNN's attention take. The model's error
(`sim.analysis.model_error`) is that of predictions with measured kernel times, so it leaves this out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from sim.hardware import Profile
from sim.scenario import Scenario
from sim.workloads.block_entries import Item
from sim.workloads.explicit import Explicit
from sim.workloads.named import Named

LEAST, MOST = 0.85, 2.5
"""Published steps with all weights on the GPU, over computed ones: validation/published/computed-kernels.yaml."""

IF_COMPUTED = "if kernels take the times computed for them"
"""What an interval by the model's error rests on then."""


def computes_kernels(scenario: Scenario, profile: Profile) -> bool:
    """Whether some kernel's time follows from FLOP and bytes, and no measured step has corrected it."""
    if profile.compute_factor is not msgspec.UNSET:
        return False
    workload = scenario.workload
    if isinstance(workload, Named):
        return True
    return isinstance(workload, Explicit) and any(_computed(block) for block in _blocks(workload))


def _blocks(workload: Explicit) -> Iterator[Iterable[Item]]:
    yield workload.block or ()
    yield from (blocks.block for blocks in workload.blocks or ())
    yield from (phase.block for phase in (*workload.before, *workload.after))


def _computed(block: Iterable[Item]) -> bool:
    return any(item.compute is not None and item.compute.seconds is None for item in block)


def remark() -> str:
    """What one should know of computed kernel times."""
    return (
        "kernel times are computed from FLOP and bytes, not measured: published steps take "
        f"{LEAST:g} to {MOST:g} times as long (docs/models.md); one measured step tells: --fit-step TIME"
    )
