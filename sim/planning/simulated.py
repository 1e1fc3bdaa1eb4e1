"""What was simulated of a space: schedules by layout and policy, the fastest and the smallest of them.

Only proved floors leave anything out (`Simulated.needed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from sim.inputs.config import InputError
from sim.machine import DeadlockError
from sim.planning.space import Deployment, under
from sim.policies import Policy, count_commands
from sim.program import ProgramError
from sim.sweeps.evaluation import Evaluator, Figures

MOST = 3_000_000
"""Commands that a search simulates, as `count_commands` counts; layers that repeat are left out of that many."""


class Found(NamedTuple):
    """A schedule that was simulated."""

    layout: int
    policy: Policy
    figures: Figures

    @property
    def step_s(self) -> float:
        """Its step, s."""
        return self.figures.metrics["step_time_s"]

    @property
    def peak(self) -> int:
        """Its peak memory, B."""
        return self.figures.metrics["peak_memory_bytes"]

    @property
    def fits(self) -> bool:
        """Whether every rank fits its GPU, and all together the host as far as its memory is known."""
        metrics = self.figures.metrics
        return metrics["fits_memory"] and metrics["fits_host_memory"] is not False


class Limits(NamedTuple):
    """What a schedule must keep to."""

    within: float
    """How much longer than the fastest the smallest may take, relative."""


class Simulated:
    """What is known of a space."""

    def __init__(self, layouts: Sequence[Deployment], limits: Limits, evaluator: Evaluator, most: int = MOST) -> None:
        self.layouts = layouts
        self.limits = limits
        self.evaluator = evaluator
        self.left = most
        self.known: dict[tuple[int, Policy], Found | None] = {}
        """By layout and policy; None of what cannot run."""
        self.best: Found | None = None
        self.smallest: Found | None = None
        self.pruned: dict[tuple[int, Policy], float] = {}
        """What was not simulated, with its floor, s."""
        self.confirmed: set[tuple[int, Policy]] = set()
        """What has not settled in few steps, and was simulated with as many as it needs."""

    def take(self, other: Simulated) -> None:
        """Know what another search of the same layouts and limits has found."""
        self.known |= other.known
        for found in other.known.values():
            if found is not None:
                self._note(found)

    # ---- what may be left out ----

    def may_fit(self, layout: int, policy: Policy) -> bool:
        """Whether it is not proved that a schedule needs more memory than there is."""
        return self.layouts[layout].may_fit(policy)

    def needed(self, layout: int, policy: Policy) -> bool:
        """Whether a schedule may be the fastest, or smaller than the smallest and nearly as fast; by floors alone."""
        if self.best is None:
            return True
        floor = self.layouts[layout].floors.step_s(policy)
        if floor < self.best.step_s:
            return True
        assert self.smallest is not None
        memory = self.layouts[layout].floors.memory(policy)
        return floor <= self.threshold and memory < self.smallest.peak

    @property
    def threshold(self) -> float:
        """The longest step of what is nearly as fast as the best, s."""
        assert self.best is not None
        return self.best.step_s * (1 + self.limits.within)

    # ---- simulating ----

    def simulate(self, asked: Iterable[tuple[int, Policy | None]], anyway: bool = False) -> None:
        """Simulate schedules that may be needed and fit, unless they are known or too many; with `anyway`, all."""
        jobs, keys = [], []
        for layout, policy in dict.fromkeys(asked):
            if policy is None or (layout, policy) in self.known:
                continue
            if not anyway and not self.may_fit(layout, policy):
                continue
            if not anyway and not self.needed(layout, policy):
                self.pruned[layout, policy] = self.layouts[layout].floors.step_s(policy)
                continue
            job = under(self.layouts[layout].job, policy)
            cost = count_commands(self.layouts[layout].floors.workload, policy, self.layouts[layout].world_size)
            if job is None or (self.left <= 0 and not anyway):
                continue
            self.left -= cost
            self.pruned.pop((layout, policy), None)
            jobs.append(job)
            keys.append((layout, policy))
        for number, evaluated in self.evaluator.as_completed(jobs):
            key = keys[number]
            if isinstance(evaluated.raised, (InputError, ProgramError, DeadlockError)):
                self.known[key] = None
                continue
            self.known[key] = Found(*key, evaluated.figures())
        for key in keys:  # in their order, whatever the order they came in
            if (found := self.known[key]) is not None:
                self._note(found)

    def confirm(self, others: Callable[[], Iterable[Found | None]] = tuple) -> None:
        """Simulate the fastest and the smallest with as many steps as they need, where they have not settled in few.

        That may make them slower than others, which are then the fastest and the smallest, and are confirmed in turn;
        `others` are what else the plan names.
        """
        while True:
            named = (self.best, self.smallest, *others())
            chosen = [f for f in named if f is not None and not f.figures.metrics["settled"]]
            keys = {(f.layout, f.policy) for f in chosen} - self.confirmed
            if not keys:
                return
            self.confirmed |= keys
            for layout, policy in keys:
                job = self.layouts[layout].job
                # with causes, which are wanted of the fastest later: then it is not simulated again
                whole = job._replace(scenario=job.scenario.with_policy(policy), causes=True)
                self.known[layout, policy] = Found(layout, policy, self.evaluator.one(whole).figures())
            self.best = self.smallest = None
            for found in self.known.values():
                if found is not None:
                    self._note(found)
            self.simulate(list(self.pruned))

    def _note(self, found: Found) -> None:
        if not found.fits:
            return
        if self.best is None or found.step_s < self.best.step_s:
            self.best = self.smallest = found
            candidates = list(self.fitting())  # what was nearly as fast as the one before may be so no more
        else:
            candidates = [found]
        for known in candidates:
            assert self.smallest is not None
            if known.step_s <= self.threshold and _size(known) < _size(self.smallest):
                self.smallest = known

    def fitting(self) -> Iterator[Found]:
        """What was simulated and fits."""
        return (found for found in self.known.values() if found is not None and found.fits)


def _size(found: Found) -> tuple[int, float]:
    return found.peak, found.step_s
