"""One validation: every measured case of some data sets predicted, and the stated bounds judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

from sim.hardware import Profile
from validation.bounds import Judged, judge, load_bounds
from validation.compare import Compared, Job, compare_all, cross_jobs, jobs
from validation.sets import DataSet


class Plan(NamedTuple):
    """What is to be simulated: cases on their own host's profile, and on that of another visit."""

    own: list[Job]
    cross: list[Job]

    @property
    def size(self) -> int:
        """How many cases there are."""
        return len(self.own) + len(self.cross)


class Validation(NamedTuple):
    """What came of a plan."""

    plan: Plan
    compared: list[Compared]
    cross: list[Compared]
    judged: list[Judged]

    @property
    def broken(self) -> list[Judged]:
        """Bounds that do not hold."""
        return [j for j in self.judged if j.verdict == "broken"]


def plan(sets: Sequence[DataSet], profile: Profile | None = None) -> Plan:
    """Every case of the sets, on their own profiles unless another is given. Raises InputError."""
    own = [job for data in sets for job in jobs(data, profile)]
    cross = [] if profile else [job for data in sets for job in cross_jobs(data)]
    return Plan(own, cross)


def validate(
    chosen: Plan, executor: Executor | None = None, progress: Callable[[int], None] = lambda done: None
) -> Validation:
    """Compare all cases, on `executor` if given. `progress` is called with the number of finished cases."""
    bounds = load_bounds()
    found: list[Compared] = []
    for compared in compare_all([*chosen.own, *chosen.cross], executor):
        found.append(compared)
        progress(len(found))
    own, cross = found[: len(chosen.own)], found[len(chosen.own) :]
    return Validation(chosen, own, cross, judge(bounds, own))
