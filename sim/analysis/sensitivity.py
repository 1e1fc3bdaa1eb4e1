"""Sensitivity of a metric to each number of its profile, and propagation of their uncertainties.

An isolated copy fills the GPU's link: a copy's cap and a capacity on its route that is equal to it are one measurement.
They move together, as one factor, and their uncertainty counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from sim.hardware import Profile
from sim.hardware.profile_parameters import Entry, changed, numbers_by_path
from sim.scenario import Scenario
from sim.sweeps.evaluation import Evaluator, metric_of
from sim.sweeps.job import Job

Run = Callable[[Profile], float]
"""A metric of something that runs on a profile."""

NUDGE_S = 1e-6
"""What a number that is 0 is raised by: only times can be 0."""
ROUNDING = 1e-12
"""Changes of a metric below this share of it are rounding."""


class Factor(NamedTuple):
    """Numbers that are one measurement, by key path."""

    paths: tuple[str, ...]
    value: float | None
    """In SI units; None of a table of isolated times."""
    uncertainty: float | None
    """Relative, one standard deviation; None where the profile does not say, and of what is 0."""

    @property
    def name(self) -> str:
        """The key paths."""
        return " + ".join(self.paths)

    def nudged(self, profile: Profile, by: float) -> Profile:
        """The profile with this changed by a share of it, or, where it is 0, by an amount. Raises ValueError."""

        def change(value: float) -> float:
            return by if self.value == 0 else value * (1 + by)

        return changed(profile, dict.fromkeys(self.paths, change))


class Slope(NamedTuple):
    """Change of a metric by the relative change of a factor, or by its amount where that is 0."""

    value: float | None
    """None where no changed profile is valid."""
    remark: str


class Effect(NamedTuple):
    """Sensitivity of a metric to a factor; in the metric's unit, but for the elasticity."""

    factor: Factor
    elasticity: float | None
    """Relative change of the metric by that of the factor; None where either is 0."""
    moved: float | None
    """By the relative change that was asked for, or by `NUDGE_S`; None where neither way gave a valid profile."""
    deviation: float | None
    """By one standard deviation; None where the profile does not say how uncertain the factor is."""
    remark: str


class Sensitivity(NamedTuple):
    """Sensitivity of a metric to every factor of a profile."""

    metric: str
    value: float
    change: float
    effects: list[Effect]
    """The largest first; last, factors that could not be changed."""
    unmoved: list[str]
    """Factors without effect."""

    @property
    def deviation(self) -> float:
        """One standard deviation of the metric by all uncertainties."""
        return math.hypot(*(e.deviation for e in self.effects if e.deviation is not None))


class Interval(NamedTuple):
    """Where a metric lies with probability `level`, by the model's error and what is known to be uncertain."""

    value: float
    low: float
    high: float
    level: float
    known: int
    """Factors whose uncertainty is known."""
    unknown: int
    """All others: they contribute nothing."""


def metric_value(scenario: Scenario, metric: str, profile: Profile) -> float:
    """A metric of a scenario on a profile; with the first two given, a `Run`."""
    return MetricOf(scenario, metric)(profile)


class MetricOf:
    """A metric of a scenario, by an evaluator: a `Run` of which many profiles can be asked at once."""

    def __init__(self, scenario: Scenario, metric: str, evaluator: Evaluator | None = None) -> None:
        self.scenario = scenario
        self.metric = metric
        self.evaluator = evaluator or Evaluator()

    def __call__(self, profile: Profile) -> float:
        """The metric on a profile. Raises what the simulation raises."""
        return metric_of(self.evaluator.one(Job.of(self.scenario, profile)), self.metric)

    def over(self, profiles: Sequence[Profile]) -> list[float]:
        """The metric on each of some profiles. Raises what the first simulation raises that does."""
        job = Job.of(self.scenario, profiles[0])
        jobs = (job._replace(profile=profile) for profile in profiles)
        found = dict.fromkeys(range(len(profiles)), 0.0)
        for number, evaluated in self.evaluator.as_completed(jobs, len(profiles)):
            found[number] = metric_of(evaluated, self.metric)
        return list(found.values())


def factors(profile: Profile) -> list[Factor]:
    """All numbers of a profile, those of one measurement together."""
    known = numbers_by_path(profile)
    groups: list[list[str]] = []
    for kind in ("h2d", "d2h"):
        cap = profile.copy_class(kind).cap.value
        route = {id(profile.graph.limits[r]) for gpu in range(profile.gpus) for r, _ in profile.graph.copy(gpu, kind)}
        filled = [name for name, entry in known.items() if id(entry.number) in route and entry.value == cap]
        group = [f"{kind}.cap", *filled]
        if groups and set(groups[0]) & set(group):
            groups[0] += [name for name in group if name not in groups[0]]
        else:
            groups.append(group)
    tied = {name for group in groups for name in group}
    return [_factor(group, known) for group in (*groups, *([name] for name in known if name not in tied))]


def _factor(paths: Sequence[str], known: Mapping[str, Entry]) -> Factor:
    value = known[paths[0]].value
    spreads = [spread for name in paths if (spread := known[name].uncertainty) is not None]
    return Factor(tuple(paths), value, max(spreads, default=None) if value != 0 else None)


def uncertain(profile: Profile) -> list[tuple[Factor, float]]:
    """Factors with their relative standard deviations, where these are known."""
    return [(factor, factor.uncertainty) for factor in factors(profile) if factor.uncertainty]


def slopes(
    run: Run,
    profile: Profile,
    nudges: Sequence[tuple[Factor, float]],
) -> tuple[float, list[Slope]]:
    """The metric, and its slope by each factor: between a relative change up and the same down, at most to 0.

    Where one of the two makes no valid profile, the slope is to the unchanged one. The runs of a `MetricOf` are all
    asked for at once.
    """
    jobs: list[tuple[int, float, Profile]] = []
    remarks = [""] * len(nudges)
    for i, (factor, change) in enumerate(nudges):
        for by in [NUDGE_S] if factor.value == 0 else [change, -min(change, 1.0)]:
            try:
                jobs.append((i, by, factor.nudged(profile, by)))
            except ValueError as error:
                remarks[i] = f"skipped {100 * by:+g} %: {error}"
    profiles = [profile, *(job for _, _, job in jobs)]
    found = run.over(profiles) if isinstance(run, MetricOf) else [run(profile) for profile in profiles]
    ends: list[list[tuple[float, float]]] = [[] for _ in nudges]
    for (i, by, _), value in zip(jobs, found[1:], strict=True):
        ends[i].append((by, value))
    return found[0], [Slope(_slope([*pair, (0.0, found[0])]), remarks[i]) for i, pair in enumerate(ends)]


def _slope(ends: Sequence[tuple[float, float]]) -> float | None:
    """Between the first two of (change, metric)."""
    if len(ends) < 2:
        return None
    (a, high), (b, low) = ends[:2]
    return (high - low) / (a - b)


def to_plain(found: Sensitivity) -> dict[str, object]:
    """As plain data for JSON (s, B)."""
    return {
        "metric": found.metric,
        found.metric: found.value,
        "change": found.change,
        "zero_raised_by": NUDGE_S,
        "deviation": found.deviation,
        "numbers": [
            {
                "paths": e.factor.paths,
                "value": e.factor.value,
                "elasticity": e.elasticity,
                "moved": e.moved,
                "uncertainty": e.factor.uncertainty,
                "deviation": e.deviation,
                "remark": e.remark,
            }
            for e in found.effects
        ],
        "unmoved": found.unmoved,
    }


def most_runs(profile: Profile, ranking: bool) -> int:
    """How many simulations `sensitivity` takes at most, or, without the ranking, `interval`."""
    return 1 + 2 * (len(uncertain(profile)) + (len(factors(profile)) if ranking else 0))


def sensitivity(
    scenario: Scenario,
    profile: Profile,
    metric: str = "step_time_s",
    change: float = 0.05,
    evaluator: Evaluator | None = None,
) -> Sensitivity:
    """Sensitivity of a metric to every number of the profile, each changed by a share of it up and down.

    The scenarios are simulated by `evaluator`, or here, one by one.
    """
    all_factors, spreads = factors(profile), uncertain(profile)
    nudges = [*((factor, change) for factor in all_factors), *spreads]
    base, found = slopes(MetricOf(scenario, metric, evaluator), profile, nudges)
    deviations = {
        factor.paths: slope.value * spread
        for (factor, spread), slope in zip(spreads, found[len(all_factors) :], strict=True)
        if slope.value is not None
    }
    effects, unmoved = [], []
    for factor, (slope, remark) in zip(all_factors, found, strict=False):
        deviation = deviations.get(factor.paths)
        moved = None if slope is None else slope * (NUDGE_S if factor.value == 0 else change)
        if moved is not None and max(abs(moved), abs(deviation or 0.0)) <= ROUNDING * abs(base):
            unmoved.append(factor.name)
            continue
        elasticity = None if slope is None or factor.value == 0 or not base else slope / base
        effects.append(Effect(factor, elasticity, moved, deviation, remark))
    effects.sort(key=lambda e: -math.inf if e.moved is None else abs(e.moved), reverse=True)
    return Sensitivity(metric, base, change, effects, unmoved)


def interval(
    run: Run,
    profile: Profile,
    level: float = 0.9,
    model: float = 0.0,
) -> Interval:
    """Where the metric lies, to first order: uncertainties taken as independent, and the metric as straight in each.

    `model` is the model's own error, one standard deviation relative to the metric (`sim.analysis.model_error`).
    """
    spreads = uncertain(profile)
    base, found = slopes(run, profile, spreads)
    deviations = [s.value * spread for (_, spread), s in zip(spreads, found, strict=True) if s.value is not None]
    low, high = around(base, [*deviations, model * base], level)
    return Interval(base, low, high, level, len(spreads), len(factors(profile)) - len(spreads))


def around(centre: float, deviations: Iterable[float], level: float) -> tuple[float, float]:
    """What holds a normal variable about `centre` with independent `deviations` with probability `level`."""
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.hypot(*deviations)
    return centre - reach, centre + reach
