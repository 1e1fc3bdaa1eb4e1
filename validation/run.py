"""One validation: every measured case of some data sets predicted, and the stated bounds judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from sim.hardware import Profile
from validation.bounds import Judged, judge, load_bounds
from validation.compare import Compared, Job, compare_all, cross_jobs, jobs
from validation.datasets import DataSet, kind, load_set, shipped_sets
from validation.prediction_intervals import Covered, Estimate, coverage, estimate, model_errors


class Plan(NamedTuple):
    """What is to be simulated: cases on their own host's profile, and on that of another session; for intervals, fitted
    cases of other sets, which the model's error is estimated on.
    """

    own: list[Job]
    cross: list[Job]
    fitted: Sequence[Job] = ()

    @property
    def size(self) -> int:
        """How many cases there are."""
        return len(self.own) + len(self.cross) + len(self.fitted)


class Validation(NamedTuple):
    """What came of a plan."""

    plan: Plan
    compared: list[Compared]
    cross: list[Compared]
    judged: list[Judged]
    fitted: Sequence[Compared] = ()
    covered: Sequence[Covered] = ()
    """`compared` with intervals, where these were asked for."""

    @property
    def broken(self) -> list[Judged]:
        """Bounds that do not hold."""
        return [j for j in self.judged if j.verdict == "broken"]


def plan(sets: Sequence[DataSet], profile: Profile | None = None, intervals: bool = False) -> Plan:
    """Every case of the sets, on their own profiles unless another is given, and what intervals need.

    Raises:
        InputError: a set has no profile of its own, and none is given.
    """
    own = [job for data in sets for job in jobs(data, profile)]
    cross = [] if profile else [job for data in sets for job in cross_jobs(data)]
    return Plan(own, cross, fitted_elsewhere(sets, own) if intervals else ())


def fitted_elsewhere(sets: Sequence[DataSet], own: Sequence[Job]) -> list[Job]:
    """Fitted cases of other sets on the path of the sets that have none, or on any if there are none on the path."""
    having = {job.set for job in own if job.group == "fitted"}
    paths = {kind(data.name) for data in sets if data.name not in having}
    if not paths:
        return []
    others = [load_set(name) for name in shipped_sets() if name not in {data.name for data in sets}]
    found = [job for data in others for job in jobs(data, steps_only=True) if job.group == "fitted"]
    known = {kind(name) for name in having} | {kind(job.set) for job in found}
    return [job for job in found if kind(job.set) in paths or not paths <= known]


def validate(
    chosen: Plan, executor: Executor | None = None, progress: Callable[[int], None] = lambda done: None
) -> Validation:
    """Compare all cases, on `executor` if given. `progress` is called with the number of finished cases."""
    bounds = load_bounds()
    found: list[Compared] = []
    for compared in compare_all([*chosen.own, *chosen.cross, *chosen.fitted], executor):
        found.append(compared)
        progress(len(found))
    left = iter(found)
    own, cross, fitted = ([next(left) for _ in some] for some in chosen)
    return Validation(chosen, own, cross, judge(bounds, own), fitted)


def intervals(found: Validation) -> Estimate:
    """What to simulate for the intervals."""
    return estimate(found.plan.own, found.compared)


def with_intervals(
    found: Validation,
    chosen: Estimate,
    executor: Executor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Validation:
    """With the intervals of all cases. `progress` is called with the number of finished cases of `chosen`."""
    errors = model_errors({c.set for c in found.compared}, [*found.compared, *found.fitted])
    return found._replace(covered=coverage(chosen, errors, executor=executor, progress=progress))
