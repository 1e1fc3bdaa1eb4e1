"""A plan: the fastest schedule that fits, the smallest that is nearly as fast, and why; by search and simulation."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from sim.analysis.binding import what_binds
from sim.analysis.model_error import model_error
from sim.analysis.sensitivity import around
from sim.hardware import Profile
from sim.hardware.profile_parameters import changed, numbers_by_path
from sim.hardware.topology import Sourced
from sim.inputs.config import InputError
from sim.inputs.units import Bytes, Number, Q, parse, show_bytes
from sim.planning.layouts import layouts_of
from sim.planning.points import Point, pareto
from sim.planning.result import Plan
from sim.planning.runtimes import ANY, TODAY, allowed_by, nearest
from sim.planning.search import WORTH, Search
from sim.planning.sentences import sentences
from sim.planning.simulated import Found, Limits
from sim.planning.space import Deployment, Family, families, restricted
from sim.planning.suggestions import Suggestion, suggestions
from sim.policies import Resident
from sim.scenario import Scenario
from sim.sweeps.evaluation import Evaluator, Figures
from sim.timeline.critical_path import waterfall

LEVEL = 0.9
"""Probability with which a step time lies in its interval."""
OWN = "a runtime that has it, such as ChunkFlow's (--runtime any)"
"""What a schedule that no named runtime runs today needs."""
WITHIN = 0.01
"""How much longer the smallest schedule may take than the fastest, unless given."""
RIVAL = 0.05
"""How far behind a runner-up may be whose step must be known as well as that of the fastest."""


class Asked(NamedTuple):
    """What a plan is to keep to."""

    memory: int | None = None
    """Device memory, B; the card's unless given."""
    within: float = WITHIN
    runtime: str = TODAY
    gpus: Sequence[int] = ()
    every_parallelism: bool = False
    reserve: int | None = None
    """B of `memory` that something else takes: CUDA context, NCCL, encoders; what the profile says unless given."""
    host_memory: int | None = None
    """Host memory for pinned weights, B; what the profile says unless given."""


def plan(
    scenario: Scenario,
    memory: int | str | None = None,
    within: float = WITHIN,
    runtime: str = TODAY,
    gpus: Sequence[int] = (),
    parallelism: str | None = None,
    reserve: int | str | None = None,
    host_memory: int | str | None = None,
    profile: Profile | None = None,
    evaluator: Evaluator | None = None,
) -> Plan:
    """Search the schedules of a scenario's workload and host; its own policy plays no part.

    `memory`, `reserve` and `host_memory` in bytes, or text such as "24GiB": the card's memory, what CUDA's context and
    NCCL take of it, and the host's memory, each as the profile says unless given; `within` relative; `runtime` is
    `today`, `any` or a runtime's name; `parallelism` may be `auto`. Points are simulated by `evaluator`, here unless
    given.

    Raises:
        InputError: the scenario cannot run on its host, or an option is wrong.
    """
    if parallelism not in (None, "auto"):
        raise InputError("--parallelism", str(parallelism), "expected auto: the scenario says any other")
    sizes = [
        None if given is None else int(_read(Bytes, given, option))
        for option, given in (("--memory", memory), ("--reserve", reserve), ("--host-memory", host_memory))
    ]
    share = float(_read(Number, within, "--within"))
    asked = Asked(sizes[0], share, runtime, tuple(gpus), parallelism == "auto", *sizes[1:])
    return _Planning(scenario, profile or scenario.profile(), asked, evaluator or Evaluator()).run()


def _read(kind: type[Q], given: object, option: str) -> Q:
    """What an option gives. Raises `InputError` of the option."""
    try:
        return parse(kind, given)
    except ValueError as error:
        raise InputError(option, "", str(error)) from None


def measured_overhead(profile: Profile) -> int | None:
    """What CUDA's context and NCCL take of a GPU, B; None where the profile does not say."""
    return profile.overhead_of(range(profile.gpus))


_MEMORY = re.compile(r"device\.memory|devices\[\d+\]\.memory")


class _Planning:
    """One plan in the making."""

    def __init__(self, scenario: Scenario, profile: Profile, asked: Asked, evaluator: Evaluator) -> None:
        self.began = time.monotonic()
        self.scenario = scenario
        self.profile = profile
        self.asked = asked
        self.evaluator = evaluator
        if asked.memory is not None and asked.memory < 1:
            raise InputError("--memory", str(asked.memory), "expected at least 1 byte")
        self.reserve = (measured_overhead(profile) or 0) if asked.reserve is None else asked.reserve
        # what every rank is judged by, so that figures say of each whether it fits: GPUs of each kind have their own
        kinds = [path for path in numbers_by_path(profile) if _MEMORY.fullmatch(path)]
        limited = changed(profile, dict.fromkeys(kinds, self._allowed))
        if asked.host_memory is not None:
            given = Sourced(Bytes(asked.host_memory), "--host-memory")
            limited = replace(limited, host=replace(limited.host, memory=given))
        self.host_memory = limited.host_memory
        self.layouts = layouts_of(scenario, limited, asked.gpus, asked.every_parallelism, asked.runtime == ANY)
        self.limit = max(layout.memory for layout in self.layouts)
        self.limits = Limits(asked.within)
        self.deviation = {}
        for layout in self.layouts:
            known = model_error(profile, layout.world_size)
            self.deviation[layout.world_size] = None if known is None else known.deviation

    def _allowed(self, memory: float) -> int:
        """Of a GPU's memory, B. Raises `InputError` if nothing is left."""
        given = int(memory) if self.asked.memory is None else self.asked.memory
        if given <= self.reserve:
            raise InputError(
                "--reserve", "", f"is {show_bytes(self.reserve)}, and leaves nothing of {show_bytes(given)}"
            )
        return given - self.reserve

    def run(self) -> Plan:
        """Search, then look at what was found."""
        search = self._search()
        every = families(self.layouts)
        chosen = [f for family in every if (f := self._restricted(family)) is not None]
        search.baselines()
        search.run(chosen)
        wider = search
        if self.asked.runtime != ANY:
            wider = self._search(search)
            wider.run([family for family in every if not self._named(family)], briefly=True)
        search.confirm(lambda: [f for f in (self._runner_up(search),) if f is not None and search.near(f, RIVAL)])
        return self._plan(search, wider, chosen)

    def _search(self, after: Search | None = None) -> Search:
        made = Search(self.layouts, self.limits, self.evaluator)
        if after is not None:
            made.take(after)
        return made

    def _restricted(self, family: Family) -> Family | None:
        ranks = self.layouts[family.layout].world_size
        return restricted(family, allowed_by(self.asked.runtime, ranks))

    def _named(self, family: Family) -> bool:
        """Whether some schedule of a family is one that a named runtime has."""
        return restricted(family, allowed_by(TODAY, self.layouts[family.layout].world_size)) is not None

    def _point(self, found: Found) -> Point:
        metrics = found.figures.metrics
        layout = self.layouts[found.layout]
        step, deviation = metrics["step_time_s"], self.deviation[layout.world_size]
        return Point(
            layout.job.scenario.with_policy(found.policy).with_steps(self.scenario.workload.steps),
            step,
            None if deviation is None else around(step, [deviation * step], LEVEL),
            metrics["peak_memory_bytes"],
            metrics["fits_memory"],
            metrics["memory_bytes"],
            metrics["pinned_memory_bytes"],
            metrics["fits_host_memory"],
            metrics["lower_bound_s"],
            metrics["exposed_prefetch_s"],
            found.figures.decided,
        )

    def _runner_up(self, search: Search) -> Found | None:
        """The fastest schedule of another kind that may be chosen, or the fastest other one."""
        best = search.best
        if best is None:
            return None
        allowed = (
            f
            for f in search.fitting()
            if f is not best and allowed_by(self.asked.runtime, self.layouts[f.layout].world_size)(f.policy)
        )
        others = sorted(allowed, key=lambda f: (f.step_s, f.peak))
        kinds = (f for f in others if f.policy.label() != best.policy.label())
        return next(kinds, others[0] if others else None)

    def _causes(self, layout: Deployment, found: Found) -> Figures:
        job = layout.job._replace(scenario=layout.job.scenario.with_policy(found.policy), causes=True)
        return self.evaluator.one(job).figures()

    def _plan(self, search: Search, wider: Search, chosen: Sequence[Family]) -> Plan:
        needed = None if search.best is not None else self._smallest_peak(search, chosen)
        simulated = [found for found in (search.known | wider.known).values() if found is not None]
        points = {(f.layout, f.policy): self._point(f) for f in simulated}
        ordered = sorted(points.values(), key=lambda p: (p.step_time_s, p.peak_memory_bytes))
        mine = [points[f.layout, f.policy] for f in search.fitting()]
        allowed = [p for p in mine if allowed_by(self.asked.runtime, p.world_size)(p.policy)]
        rival = self._runner_up(search)
        best = None if search.best is None else points[search.best.layout, search.best.policy]
        smallest = None if search.smallest is None else points[search.smallest.layout, search.smallest.policy]
        residents = [p for n in range(len(self.layouts)) if (p := points.get((n, Resident()))) is not None]
        binding, fall, by_cause = [], None, {}
        found = search.best
        if found is not None:
            layout = self.layouts[found.layout]
            figures = self._causes(layout, found)
            baseline = self._causes(layout, found._replace(policy=Resident()))
            binding = what_binds(layout.job, figures, baseline.causes_s)
            fall = waterfall(figures.causes_s, baseline.causes_s)
            by_cause = figures.causes_s
        made = Plan(
            self.scenario,
            self.profile,
            self.asked.runtime,
            self.limit,
            self.reserve,
            self.asked.reserve is not None or measured_overhead(self.profile) is not None,
            self.host_memory,
            self.asked.within,
            best,
            smallest,
            pareto(allowed),
            search.floor_s(chosen),
            " ".join(binding),
            self._suggestions(search, wider, best, needed),
            ordered,
            min(residents, key=lambda p: p.step_time_s),
            None if rival is None else points[rival.layout, rival.policy],
            [] if best is None else nearest(best, (points[f.layout, f.policy] for f in wider.fitting())),
            None if needed is None else self._point(needed),
            fall,
            by_cause,
            len(wider.pruned),
            self.evaluator.simulated,
            time.monotonic() - self.began,
            [],
        )
        return made._replace(sentences=sentences(made))

    def _smallest_peak(self, search: Search, chosen: Sequence[Family]) -> Found | None:
        """Of what may be chosen, the schedule that takes the least memory; it is simulated, as it does not fit."""
        tried = [(f.layout, policy) for f in chosen if (policy := f.policy({**f.start(), **_shallow(f)})) is not None]
        least = sorted(tried, key=lambda one: self.layouts[one[0]].floors.memory(one[1]))[:2]
        search.simulate(least, anyway=True)
        found = (f for f in search.known.values() if f is not None)
        return min(found, key=lambda f: (f.peak, f.step_s), default=None)

    def _suggestions(self, search: Search, wider: Search, best: Point | None, needed: Found | None) -> list[Suggestion]:
        """Other runtimes' schedules, and changes of host, weights and layout with the plan's own schedules."""
        at = search.best or needed
        if at is None:
            return []
        step = None if best is None else best.step_time_s
        own = {f.policy: None for f in (search.best, search.smallest, needed) if f is not None}
        jobs = [layout.job for layout in self.layouts]
        tips = suggestions(self.layouts[at.layout].job, [*own, Resident()], step, self.evaluator, jobs)
        others = {OWN: wider.best, f"{OWN}, the least memory within {100 * self.asked.within:g} %": wider.smallest}
        if wider is search or wider.best is None or (step is not None and wider.best.step_s >= step * (1 - WORTH)):
            return tips
        own_runtime = [
            Suggestion(words, f.policy, f.step_s, None if step is None else 1 - f.step_s / step, f.peak, f.fits)
            for words, f in others.items()
            if f is not None and (f is not wider.best or words == OWN)
        ]
        return sorted([*own_runtime, *tips], key=Suggestion.rank)


def _shallow(family: Family) -> dict[str, int]:
    return {"prefetch_layers": 0} if "prefetch_layers" in family.axes else {}
