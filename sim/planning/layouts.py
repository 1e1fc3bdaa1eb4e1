"""The layouts that a plan compares: how many GPUs, and how a named model is divided among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from sim.hardware import Profile
from sim.inputs.config import InputError
from sim.planning.floors import Floors
from sim.planning.space import Deployment
from sim.policies import Resident
from sim.scenario import Scenario
from sim.sweeps.job import Job
from sim.timeline.settling import MIN_ALIKE
from sim.workloads import layouts
from sim.workloads.block_setup import Parallelism
from sim.workloads.named import Named
from sim.workloads.recorded import Recorded

STEPS = MIN_ALIKE + 1
"""Steps of a point: with fewer it would not show whether they have settled; more are simulated where they have not."""


def layouts_of(
    scenario: Scenario, profile: Profile, gpus: Sequence[int] = (), every: bool = False, copy_engines: bool = False
) -> list[Deployment]:
    """The scenario's own layout; or with each of `gpus` and, with `every`, those of `divisions` too.

    With `copy_engines` each is there again with its collectives by copy engines, unless the scenario says what runs
    them.

    Raises:
        InputError: numbers of GPUs that the host or the workload does not have, or none is possible.
    """
    counts = tuple(gpus) or (scenario.world_size,)
    named = isinstance(scenario.workload, Named)
    if not named and any(count != scenario.world_size for count in counts):
        raise InputError("--gpus", "", "explicit blocks are what one of their ranks does: name a model instead")
    if not named and every:
        raise InputError("--parallelism", "auto", "explicit blocks are divided already: name a model instead")
    for count in counts:
        if not 1 <= count <= profile.gpus:
            raise InputError("--gpus", str(count), f"{profile.name} has {profile.gpus} GPUs")
    found, refused = [], []
    for changed in _with_copy_engines(_variants(scenario, counts, every), copy_engines):
        try:
            if changed.workload.resolve(changed.world_size).ranks:  # whose steps settle slowly
                changed = changed.with_steps(scenario.workload.steps)
            changed.check(profile)
            job = Job.of(changed, profile)
            found.append(Deployment(job, Floors(job)))
        except InputError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return found


def by_copy_engines(scenario: Scenario) -> Scenario | None:
    """The scenario with all collectives by copy engines; None where it says what runs them, or has none."""
    workload = scenario.workload
    if isinstance(workload, Recorded) or workload.collectives:
        return None
    if not workload.resolve(scenario.world_size).collective_names:
        return None
    changed = msgspec.structs.replace(workload, collectives={"algorithm": "copy_engine"})
    return msgspec.structs.replace(scenario, workload=changed)


def _with_copy_engines(scenarios: Iterable[Scenario], wanted: bool) -> Iterator[Scenario]:
    for scenario in scenarios:
        yield scenario
        if wanted and (changed := by_copy_engines(scenario)) is not None:
            yield changed


def _variants(scenario: Scenario, counts: Sequence[int], every: bool) -> Iterator[Scenario]:
    """Under the policy without copies, and no longer than a point needs to be."""
    workload = scenario.workload
    plain = msgspec.structs.replace(scenario, policy=Resident()).with_steps(min(workload.steps, STEPS))
    for count in counts:
        at = with_gpus(plain, count)
        own = count == scenario.world_size
        if not isinstance(workload, Named):
            yield at
            continue
        if count == 1 and not own:
            yield divided(at, "ulysses")
        elif own or not every:
            if not own and isinstance(workload.parallelism, layouts.Layout):
                problem = f"the model is divided as {workload.parallelism}: --parallelism auto divides it in other ways"
                raise InputError("--gpus", str(count), problem)
            yield at
        for kind in divisions(count) if every and count > 1 else ():
            if not own or kind != workload.parallelism:
                yield divided(at, kind)


def divided(scenario: Scenario, kind: Parallelism) -> Scenario:
    """The scenario of a named model, divided in another way."""
    return msgspec.structs.replace(scenario, workload=msgspec.structs.replace(scenario.workload, parallelism=kind))


def with_gpus(scenario: Scenario, count: int) -> Scenario:
    """The scenario on `count` GPUs: those that it names if it has as many, else the host's first."""
    placement = scenario.placement if count == scenario.world_size else None
    return msgspec.structs.replace(scenario, world_size=count, placement=placement)


def divisions(count: int) -> Iterator[Parallelism]:
    """Ways to divide a model among `count` GPUs: by one dimension, by CFG passes, or by another dimension in pairs.

    Pipelines are of patches, as many as stages, which is what PipeFusion's authors recommend.
    """
    yield "ulysses"
    yield "tensor"
    yield layouts.Layout(ring=count)
    yield layouts.Layout(pipeline=count, patches=count)
    if count % 2 == 0:
        half = count // 2
        yield layouts.Layout(cfg=2, ulysses=half)
        if count > 2:
            yield layouts.Layout(tensor=2, ulysses=half)
            yield layouts.Layout(ulysses=2, ring=half)
            yield layouts.Layout(ulysses=2, pipeline=half, patches=half)
            yield layouts.Layout(cfg=2, pipeline=half, patches=half)
