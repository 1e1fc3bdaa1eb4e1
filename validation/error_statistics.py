"""Summaries of errors, and the regret of choosing by simulation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import mean, median
from typing import NamedTuple, TypeVar

from sim.inputs.units import show_bytes
from validation.compare import Compared

K = TypeVar("K", bound=Hashable)


class Errors(NamedTuple):
    """Absolute relative errors of some cases."""

    cases: int
    median: float
    mean: float
    p95: float
    max: float
    worst: str


def errors(values: Mapping[str, float]) -> Errors:
    """Error statistics of named values. Raises ValueError where there are none."""
    if not values:
        raise ValueError("no cases to summarise")
    ordered = sorted((abs(value), name) for name, value in values.items())
    sizes = [size for size, _ in ordered]
    count = len(sizes)
    return Errors(count, median(sizes), mean(sizes), sizes[min(int(0.95 * count), count - 1)], *ordered[-1])


def step_errors(compared: Iterable[Compared]) -> dict[str, float]:
    """Error of the step time of each case."""
    return {case_id(c): c.error for c in compared}


def memory_errors(compared: Iterable[Compared]) -> dict[str, float]:
    """Error of the peak memory of each case where it was measured."""
    return {case_id(c): c.predicted.memory_bytes / m - 1 for c in compared if (m := c.measured.memory_bytes)}


def case_id(case: Compared) -> str:
    """What a case is called among those of all sets."""
    return f"{case.session} #{case.number}: {case.name}"


def errors_by(compared: Iterable[Compared], key: Callable[[Compared], K]) -> dict[K, Errors]:
    """Errors of the step times of the cases that share a key, in order of their first case."""
    found: dict[K, list[Compared]] = defaultdict(list)
    for case in compared:
        found[key(case)].append(case)
    return {k: errors(step_errors(cases)) for k, cases in found.items()}


class Choice(NamedTuple):
    """The schedule that simulation chooses for a workload, of those that were measured with the same memory."""

    session: str
    workload: str
    memory: str
    candidates: int
    chosen: Compared
    best: Compared

    @property
    def regret(self) -> float:
        """How much longer the chosen schedule's measured step is than that of the best one, relative."""
        return self.chosen.measured.step_s / self.best.measured.step_s - 1


def choices(compared: Sequence[Compared]) -> list[Choice]:
    """A choice for each workload and amount of memory for weights that several offload schedules were measured with."""
    found: dict[tuple[str, str, float, int], list[Compared]] = defaultdict(list)
    for c in compared:
        if c.group != "resident" and not c.disturbed:
            found[c.session, c.workload, c.resident_fraction, c.prefetch_layers].append(c)
    return [
        Choice(
            name,
            workload,
            f"r={fraction:g}, k={ahead}",
            len(cases),
            min(cases, key=lambda c: c.predicted.step_s),
            min(cases, key=lambda c: c.measured.step_s),
        )
        for (name, workload, fraction, ahead), cases in found.items()
        if len(cases) > 1
    ]


def plan_choices(compared: Sequence[Compared]) -> list[Choice]:
    """What a plan would choose for each workload at each amount of memory, of all schedules measured that fit it.

    The amounts are the simulated peaks of those schedules: with each of them one more fits.
    """
    found: dict[tuple[str, str], list[Compared]] = defaultdict(list)
    for c in compared:
        if c.group != "resident" and not c.disturbed:
            found[c.session, c.workload].append(c)
    chosen = []
    for (name, workload), cases in found.items():
        for limit in sorted({c.predicted.memory_bytes for c in cases}):
            fit = [c for c in cases if c.predicted.memory_bytes <= limit]
            if len(fit) > 1:
                fastest = min(fit, key=lambda c: c.predicted.step_s), min(fit, key=lambda c: c.measured.step_s)
                chosen.append(Choice(name, workload, f"up to {show_bytes(limit)}", len(fit), *fastest))
    return chosen


def regrets(compared: Sequence[Compared]) -> dict[str, float]:
    """The regret of each choice, relative."""
    return {f"{c.session}: {c.workload}, {c.memory}": c.regret for c in choices(compared)}


def resident_spread(compared: Iterable[Compared]) -> float:
    """Half the range of a workload's baseline repeats, relative to their median: the median over workloads."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for c in compared:
        if c.group == "resident":
            found[c.set, c.workload].append(c.measured.step_s)
    ranges = [(max(steps) - min(steps)) / 2 / median(steps) for steps in found.values() if len(steps) > 1]
    return median(ranges) if ranges else 0.0
