"""How often measured step times lie inside the intervals about their predictions.

An interval has four parts, taken as independent. What the profile's uncertainties make of the step, and what the
spread of the kernels' times between resident repeats makes of it, both to first order; the spread of the case's own
steps; and the model's error, a share of the step, which the caller estimates on cases that constants were fitted on
(`model_error`). Those errors hold some of the other parts as well, so that intervals are rather too wide.

A case takes at most 2 `TOP` + 3 simulations. It propagates the `TOP` uncertain numbers that move the step most in one
case of its kind: the same set, kind of policy and kinds of collectives, and as many operations as half of these have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import chain, repeat
from statistics import median, stdev
from typing import NamedTuple

from sim.hardware import Profile
from sim.machine import SimulatedMachine
from sim.program import Program
from sim.sensitivity import Factor, around, slopes, uncertain
from sim.workload import Compute
from validation.compare import Compared
from validation.measured import MeasuredCase
from validation.predict import KernelTimes, kernel_times, references, with_kernel_times, workload_key
from validation.sets import DataSet

TOP = 6
"""Numbers that a case propagates."""
NORMAL = 1.4826
"""Standard deviation of a normal variable by the median of its absolute deviations, or half its middle half."""

Nudges = list[tuple[Factor, float]]


class Deviations(NamedTuple):
    """Standard deviations of a case's step time, s, by what makes them."""

    profile: float
    kernels: float
    steps: float
    model: float


class Covered(NamedTuple):
    """A case with its interval, s."""

    compared: Compared
    low_s: float
    high_s: float
    deviations: Deviations

    @property
    def inside(self) -> bool:
        """Whether the measured step lies in the interval."""
        return self.low_s <= self.compared.measured.step_s <= self.high_s


class Coverage(NamedTuple):
    """How many of some cases lie inside, and how wide their intervals are."""

    cases: int
    inside: int
    half_width: float
    """Median, relative to the predicted step."""


def model_error(compared: Iterable[Compared]) -> float:
    """The model's own relative error, one standard deviation: robust, and of the fitted cases alone.

    Raises:
        ValueError: no case is one that may be fitted on.
    """
    errors = [abs(c.error) for c in compared if c.group == "fitted"]
    if not errors:
        raise ValueError("no fitted cases to estimate the model's error on")
    return NORMAL * median(errors)


def coverage(
    chosen: DataSet,
    compared: Sequence[Compared],
    model: float,
    profile: Profile | None = None,
    level: float = 0.9,
    executor: Executor | None = None,
) -> list[Covered]:
    """The intervals of all cases of a set; `compared` is what `compare_all` gave of it on the same profile."""
    profile = profile or chosen.profile()
    residents = references(chosen.cases)
    kinds: dict[tuple[str, ...], list[MeasuredCase]] = defaultdict(list)
    for case in chosen.cases:
        kinds[_kind(case)].append(case)
    each = executor.map if executor else map
    middle = [sorted(cases, key=lambda c: len(c.operations))[(len(cases) - 1) // 2] for cases in kinds.values()]
    ranked = each(_largest, middle, (residents[workload_key(c)] for c in middle), repeat(profile))
    largest = dict(zip(kinds, ranked, strict=True))
    found = each(
        _propagated,
        chosen.cases,
        (residents[workload_key(c)] for c in chosen.cases),
        repeat(profile),
        (largest[_kind(c)] for c in chosen.cases),
    )
    covered = []
    for comparison, (by_profile, by_kernels) in zip(compared, found, strict=True):
        step = comparison.predicted.step_s
        parts = Deviations(by_profile, by_kernels, NORMAL * comparison.spread * step, model * step)
        covered.append(Covered(comparison, *around(step, parts, level), parts))
    return covered


def by_group(covered: Sequence[Covered]) -> dict[tuple[str, str], Coverage]:
    """The coverage of each (set, group)."""
    groups: dict[tuple[str, str], list[Covered]] = defaultdict(list)
    for c in covered:
        groups[c.compared.set, c.compared.group].append(c)
    return {
        key: Coverage(
            len(cases),
            sum(c.inside for c in cases),
            median((c.high_s - c.low_s) / 2 / c.compared.predicted.step_s for c in cases),
        )
        for key, cases in groups.items()
    }


def _kind(case: MeasuredCase) -> tuple[str, ...]:
    """Kind of policy and kinds of collectives."""
    scenario = case.load_scenario()
    items = chain.from_iterable(layer.block for layer in scenario.workload.resolve(scenario.world_size).layers)
    return case.scenario["policy"]["kind"], *sorted({item.kind for item in items if not isinstance(item, Compute)})


def _step(program: Program, profile: Profile) -> float:
    return median(SimulatedMachine(profile).run(program).step_times()[1:])


def _largest(case: MeasuredCase, residents: Sequence[MeasuredCase], profile: Profile) -> Nudges:
    """The uncertain numbers that move a case's step most, each by one standard deviation."""
    program = with_kernel_times(case.load_scenario().program(), kernel_times(residents))
    nudges = uncertain(profile)
    _, found = slopes(partial(_step, program), profile, nudges)
    moved = [abs((slope.value or 0.0) * spread) for (_, spread), slope in zip(nudges, found, strict=True)]
    order = sorted(range(len(nudges)), key=lambda i: -moved[i])
    return [nudges[i] for i in order[:TOP] if moved[i] > 0]


def _propagated(
    case: MeasuredCase, residents: Sequence[MeasuredCase], profile: Profile, nudges: Nudges
) -> tuple[float, float]:
    """Standard deviations of a case's step, s: by `nudges`, and by the kernels' times."""
    program, times = case.load_scenario().program(), kernel_times(residents)
    _, found = slopes(partial(_step, with_kernel_times(program, times)), profile, nudges)
    parts = [(slope.value or 0.0) * spread for (_, spread), slope in zip(nudges, found, strict=True)]
    spread = kernel_spread(residents)
    longer, shorter = (_step(with_kernel_times(program, _scaled(times, 1 + by)), profile) for by in (spread, -spread))
    return sum(part**2 for part in parts) ** 0.5, abs(longer - shorter) / 2


def kernel_spread(residents: Sequence[MeasuredCase]) -> float:
    """Relative standard deviation of kernels' times: of resident steps between repeats, or within the only one."""
    if len(residents) == 1:
        return NORMAL * residents[0].spread
    steps = [case.step_time_s for case in residents]
    return stdev(steps) / median(steps)


def _scaled(times: KernelTimes, by: float) -> KernelTimes:
    return KernelTimes(*({key: seconds * by for key, seconds in some.items()} for some in times))
