"""Compute fitted to one measured step.

The roofline takes a device's efficiencies from the host that a profile was fitted on, and what runs there may fuse its
kernels better or worse than what is asked about. One measured step without offload says by how much together: one
factor on the isolated time of every kernel, with which the simulated step takes as long as the measured one. Copies,
collectives and what commands cost stay as the profile says.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sim.analysis.roots import TOLERANCE, Point, bracket, solve
from sim.hardware import Profile
from sim.hardware.topology import MIN_CAPACITY, Sourced
from sim.inputs.config import InputError
from sim.inputs.units import Number, show_seconds
from sim.policies.resident import Resident
from sim.run import simulate
from sim.scenario import Scenario
from sim.workloads.block_entries import Item
from sim.workloads.named import Named
from sim.workloads.recorded import Recorded

_MAX_FACTOR = 1e12


def on_one_gpu(scenario: Scenario) -> Scenario:
    """The steps of `scenario` on its first GPU with all weights on it: all tokens, heads, samples and CFG passes.

    Blocks that are written out say what a rank does. They stay as they are; collectives of one rank move nothing.
    """
    replace, workload = msgspec.structs.replace, scenario.workload
    if isinstance(workload, Named):
        workload = replace(workload, parallelism="ulysses", before=(), after=())
    else:
        workload = workload.explicit() if isinstance(workload, Recorded) else workload
        block, blocks = workload.block, workload.blocks
        workload = replace(
            workload,
            parallelism=None,
            before=(),
            after=(),
            block=None if block is None else _of_one_rank(block),
            blocks=None if blocks is None else tuple(replace(b, block=_of_one_rank(b.block)) for b in blocks),
        )
    one = Scenario(hardware=scenario.hardware, world_size=1, workload=workload, policy=Resident())
    return one if scenario.placement is None else replace(one, placement=scenario.placement[:1])


def _of_one_rank(block: Iterable[Item]) -> tuple[Item, ...]:
    """Entries of a block whose collectives have no groups of ranks."""
    replace = msgspec.structs.replace
    return tuple(
        item if item.collective is None else replace(item, collective=replace(item.collective, group=None))
        for item in block
    )


def fit_step(
    scenario: Scenario,
    profile: Profile,
    seconds: float,
    as_written: bool = False,
    source: str = "--fit-step",
) -> Profile:
    """`profile` with the `compute_factor` by which a step of `scenario`'s workload takes `seconds`.

    The step is that of `on_one_gpu`, or with `as_written` that of the scenario on its ranks with all weights on the
    GPUs. A factor that the profile has already is replaced.

    Raises:
        InputError: of `source`: the step is longer without any compute, or cannot be made so long.
    """
    subject = scenario.with_policy(Resident()) if as_written else on_one_gpu(scenario)
    where = f"on {scenario.world_size} ranks as written" if as_written else "on one GPU"
    said = f"{source} {show_seconds(seconds)}: a step {where} with all weights on the GPU"

    def with_factor(factor: float) -> Profile:
        return msgspec.structs.replace(profile, compute_factor=Sourced(Number(factor), said))

    def step(factor: float) -> float:
        return simulate(subject, with_factor(factor)).metrics["step_time_s"]

    low = Point(MIN_CAPACITY, step(MIN_CAPACITY))
    if seconds <= low.value * (1 + TOLERANCE):
        problem = (
            f"is {show_seconds(seconds)}, but a step {where} takes {show_seconds(low.value)} without any compute: "
        )
        raise InputError(source, "", problem + "launches and collectives alone take that long")
    low, high = bracket(step, seconds, low, Point(1.0, step(1.0)), _MAX_FACTOR)
    if high.value < seconds * (1 - TOLERANCE):
        raise InputError(source, "", f"is {show_seconds(seconds)}, but compute cannot make a step {where} so long")
    factor_found = solve(step, seconds, low, high)
    if factor_found is None:
        raise InputError(source, "", f"is {show_seconds(seconds)}: no factor on compute gives exactly that step")
    return with_factor(factor_found)


def factor_of(profile: Profile) -> float:
    """The factor on every kernel's isolated time; 1 where none is given."""
    return 1.0 if profile.compute_factor is msgspec.UNSET else float(profile.compute_factor.value)
