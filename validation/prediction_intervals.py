"""How often measured step times lie inside the intervals about their predictions.

An interval has four parts, taken as independent. What the profile's uncertainties make of the step, and what the
spread of the kernels' times between baseline repeats makes of it, both to first order; the spread of the case's own
steps; and the model's error, a share of the step (`model_errors`). Errors of fitted cases hold some of the other parts
as well, so that intervals are rather too wide.

The profile's part is an approximation. One case of each kind is simulated with every uncertain number changed, and all
cases of the kind take its relative deviation: a kind is a set, a kind of policy and of collectives, and whether compute
or copies bind. That part may be off by a factor of two, and by more where a schedule is about to flip; intervals are
as wide as they should be to some 15 %, as the model's error is most of them. Slopes come from runs of `STEPS` steps,
and numbers of what a program does not do are left out; both change next to nothing. The kernels' part is each case's
own, of two such runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import chain
from math import hypot
from statistics import median, stdev
from typing import NamedTuple

import msgspec

from sim.analysis.sensitivity import Factor, around, slopes, uncertain
from sim.datasets.cases import MeasuredCase, references, workload_key
from sim.hardware import Profile
from sim.machine import SimulatedMachine
from sim.program import AnyCommand, Collective, Copy, Kernel, Program
from sim.workloads.explicit import CollectiveOp
from validation.compare import Compared, Job
from validation.datasets import kind
from validation.predict import kernel_times, with_kernel_times

LEVEL = 0.9
"""How likely an interval is to hold the measurement, were all its parts right."""
STEPS = 2
"""Of the short runs: the first step warms up."""
BOUND = 1.1
"""Compute binds where a step is at most so many times the resident one."""
NORMAL = 1.4826
"""Standard deviation of a normal variable by the median of its absolute deviations, or half its middle half."""


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
    """How many of some cases lie inside, and how wide their intervals are: medians, relative to the predicted steps."""

    cases: int
    inside: int
    half_width: float
    deviations: Deviations


class Estimate(NamedTuple):
    """What is simulated for the intervals: each case's kernels, and a representative of each kind."""

    jobs: Sequence[Job]
    compared: Sequence[Compared]
    kinds: list[tuple[object, ...]]
    """Of each job."""
    representatives: dict[tuple[object, ...], Job]

    @property
    def size(self) -> int:
        """How many cases are simulated, representatives once more."""
        return len(self.jobs) + len(self.representatives)


def model_error(compared: Iterable[Compared]) -> float:
    """The model's own relative error, one standard deviation: robust, and of the fitted cases only.

    Raises:
        ValueError: no case is one that may be fitted on.
    """
    errors = [abs(c.error) for c in compared if c.group == "fitted"]
    if not errors:
        raise ValueError("no fitted cases to estimate the model's error on")
    return NORMAL * median(errors)


def model_errors(sets: Iterable[str], compared: Sequence[Compared]) -> dict[str, float]:
    """The model's error for each set: of its own fitted cases, else of all on its path, else of all.

    Raises:
        ValueError: no case is one that may be fitted on.
    """
    fitted = [c for c in compared if c.group == "fitted"]
    found = {}
    for name in sets:
        own = [c for c in fitted if c.set == name]
        path = [c for c in fitted if kind(c.set) == kind(name)]
        found[name] = model_error(own or path or fitted)
    return found


def estimate(jobs: Sequence[Job], compared: Sequence[Compared]) -> Estimate:
    """What to simulate; `compared` is what came of `jobs`."""
    resident = {(c.set, c.workload): c.predicted.step_s for c in compared if c.group == "resident"}
    kinds: list[tuple[object, ...]] = []
    members: dict[tuple[object, ...], list[Job]] = defaultdict(list)
    for job, case in zip(jobs, compared, strict=True):
        computes = case.predicted.step_s <= BOUND * resident.get((case.set, case.workload), 0.0)
        kinds.append((job.set, job.case.scenario["policy"]["kind"], *_collectives(job.case), computes))
        members[kinds[-1]].append(job)
    middle = {key: sorted(of, key=lambda j: len(j.case.operations))[(len(of) - 1) // 2] for key, of in members.items()}
    return Estimate(jobs, compared, kinds, middle)


def coverage(
    chosen: Estimate,
    model: Mapping[str, float],
    level: float = LEVEL,
    executor: Executor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Covered]:
    """The intervals of all cases; `model` is each set's model error.

    `progress` is called with the number of finished cases, representatives counted once more.
    """
    repeats: dict[tuple[str, str], list[MeasuredCase]] = defaultdict(list)
    for job in chosen.jobs:
        for workload, cases in references([job.case]).items():
            repeats[job.set, workload] += cases
    spreads = [kernel_spread(repeats[job.set, workload_key(job.case)]) for job in chosen.jobs]
    found: list[float] = []
    each = executor.map if executor else map
    by_profiles = each(profile_deviation, chosen.representatives.values())
    for value in chain(by_profiles, each(_by_kernels, chosen.jobs, spreads)):
        found.append(value)
        progress(len(found))
    by_profile = dict(zip(chosen.representatives, found, strict=False))
    covered = []
    for key, case, by_kernels in zip(chosen.kinds, chosen.compared, found[len(by_profile) :], strict=True):
        step = case.predicted.step_s
        shares = by_profile[key], by_kernels, NORMAL * case.spread, model[case.set]
        parts = Deviations(*(share * step for share in shares))
        covered.append(Covered(case, *around(step, parts, level), parts))
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
            Deviations(*(median(c.deviations[i] / c.compared.predicted.step_s for c in cases) for i in range(4))),
        )
        for key, cases in groups.items()
    }


def _collectives(case: MeasuredCase) -> list[str]:
    """Kinds of collectives."""
    scenario = case.load_scenario()
    items = chain.from_iterable(layer.block for layer in scenario.workload.resolve(scenario.world_size).layers)
    return sorted({item.kind for item in items if isinstance(item, CollectiveOp)})


def _commands(program: Program) -> Iterator[AnyCommand]:
    """Those of rank 0; the others' are of the same kinds."""
    return chain.from_iterable(program.ranks[0].threads)


def _short(job: Job) -> Program:
    scenario = job.case.load_scenario()
    workload = msgspec.structs.replace(scenario.workload, steps=STEPS)
    program = msgspec.structs.replace(scenario, workload=workload).program()
    return with_kernel_times(program, kernel_times(job.baselines, job.profile)) if job.baselines else program


def step_seconds(program: Program, profile: Profile) -> float:
    """Median step without the first, s."""
    return median(SimulatedMachine(profile).run(program).step_times()[1:])


def profile_deviation(job: Job) -> float:
    """Standard deviation of a case's step by its profile, relative."""
    program = _short(job)
    nudges = [(factor, spread) for factor, spread in uncertain(job.profile) if _matters(factor, program)]
    step, found = slopes(partial(step_seconds, program), job.profile, nudges)
    return hypot(*((slope.value or 0.0) * spread for (_, spread), slope in zip(nudges, found, strict=True))) / step


def _matters(factor: Factor, program: Program) -> bool:
    """Whether a program can depend on a factor: not all use copies, collectives or all of the device."""
    done = {f"collectives.{c.kind}" for c in _commands(program) if isinstance(c, Collective)}
    done |= {c.kind for c in _commands(program) if isinstance(c, Copy)}
    done |= {"device" for c in _commands(program) if isinstance(c, Kernel) and c.seconds is None}
    owners = {path.rpartition(".")[0] for path in factor.paths}
    return any(o in done or not o.startswith(("device", "collectives", "h2d", "d2h")) for o in owners)


def _by_kernels(job: Job, spread: float) -> float:
    """Standard deviation of a case's step by its kernels' times, relative."""
    program = _short(job)
    longer, shorter = (step_seconds(_scaled(program, 1 + by), job.profile) for by in (spread, -spread))
    return abs(longer - shorter) / (longer + shorter)


def kernel_spread(baselines: Sequence[MeasuredCase]) -> float:
    """Relative standard deviation of kernels' times: of resident steps between repeats, or within the only one."""
    if len(baselines) == 1:
        return NORMAL * baselines[0].spread
    steps = [case.step_time_s for case in baselines]
    return stdev(steps) / median(steps)


def _scaled(program: Program, by: float) -> Program:
    """`program` with the given times of its kernels times `by`."""

    def scaled(command: AnyCommand) -> AnyCommand:
        if not isinstance(command, Kernel) or command.seconds is None:
            return command
        return msgspec.structs.replace(command, seconds=command.seconds * by)

    return Program(
        tuple(
            msgspec.structs.replace(rank, threads=tuple(tuple(map(scaled, t)) for t in rank.threads))
            for rank in program.ranks
        )
    )
