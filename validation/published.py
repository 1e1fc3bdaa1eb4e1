"""Published cases: what others measured, and what the simulator predicts of it.

The files in validation/published hold scenarios with published figures and the bounds that predictions must meet.
What is not published of a case is fitted on its column without offload, by one number; all else is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from itertools import combinations
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal, NamedTuple

import msgspec

from sim.analysis.fit_step import factor_of, fit_step
from sim.hardware import Profile
from sim.inputs.config import Config, InputError, convert
from sim.inputs.units import Number
from sim.inputs.yaml_files import read_yaml
from sim.program import Copy
from sim.run import Result, simulate
from sim.scenario import Scenario
from sim.workloads.layouts import Layout

PUBLISHED = Path(__file__).resolve().with_name("published")

FigureName = Literal[
    "step_s",
    "request_s",
    "speedup",
    "uncovered_s",
    "collective_s",
    "overlap_s",
    "inflation_per_overlap",
    "h2d_bytes",
    "h2d_rate",
    "copying_rate",
    "chunk_p50_s",
    "chunk_p90_s",
]
"""Figures of one rank and step (docs/modelling.md, "Published cases")."""

ORDERED = ("step_s", "request_s")
"""Figures that must order a case's runs as published."""

FASTER_THAN = "whole-layer"
"""The run that a speed-up is over."""


class Figure(Config, frozen=True, kw_only=True):
    """A published figure, or its range from `published` to `to`, and the bounds that the prediction must meet.

    `kind`: measured by the source (M), claimed in a paper (P), read from code (C), derived by arithmetic (D), from a
    summary (S). `tolerance` is relative; without it, `least` and `most` there is no bound.
    """

    figure: FigureName
    published: Number
    to: Number | None = None
    kind: Literal["M", "P", "C", "D", "S"]
    tolerance: Number | None = None
    least: Number | None = None
    most: Number | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and most that a prediction may be; None where it may be anything."""
        if self.tolerance is None and self.least is None and self.most is None:
            return None
        least, most = 0.0, float("inf")
        if self.tolerance is not None:
            least, most = self.published * (1 - self.tolerance), (self.to or self.published) * (1 + self.tolerance)
        return max(least, self.least or 0.0), most if self.most is None else min(most, self.most)


class Run(Config, frozen=True):
    """A case under one policy. Without `ordered` it need not come in the published order, for a reason in the file.

    `world_size` and keys of `workload` replace those of the case.
    """

    name: str
    policy: dict[str, Any]
    figures: tuple[Figure, ...]
    ordered: bool = True
    world_size: int | None = None
    workload: dict[str, Any] = msgspec.field(default_factory=dict)

    def published(self, figure: str) -> float | None:
        """The published value of `figure`, if there is one."""
        return next((f.published for f in self.figures if f.figure == figure), None)


class Case(Config, frozen=True):
    """A workload on a host, its runs, and what is fitted on the first of them, which is without offload.

    - kernels: one factor on the time of all kernels, so that the step takes as long as published;
    - outside: the time of a request outside of its `request_steps` steps;
    - one_gpu: the same factor, by the request of the first run, which is on one GPU.

    Runs on as many GPUs must come in the published order where they are `apart` or more, relative to the smaller
    figure. `median_error` bounds the median of the relative errors of all measured figures that were not fitted.
    """

    name: str
    source: str
    hardware: str
    world_size: int
    workload: dict[str, Any]
    runs: tuple[Run, ...]
    fit: Literal["kernels", "outside", "one_gpu", "nothing"] = "nothing"
    request_steps: int = 1
    apart: Number = Number(0.0)
    median_error: Number | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs is empty")
        wanted = {"kernels": "step_s", "outside": "request_s", "one_gpu": "request_s"}.get(self.fit)
        first = self.runs[0]
        if wanted and (first.policy.get("kind") != "resident" or first.published(wanted) is None):
            raise ValueError(f"fit {self.fit} needs a first run of kind resident with a published {wanted}")
        if self.request_steps < 1:
            raise ValueError(f"request_steps is {self.request_steps}, at least 1 is needed")

    def scenario(self, run: Run) -> Scenario:
        """The scenario of one run. Raises `InputError`."""
        plain = {
            "hardware": self.hardware,
            "world_size": run.world_size or self.world_size,
            "workload": {**self.workload, **run.workload},
            "policy": run.policy,
        }
        return Scenario.from_plain(plain, f"{self.name}: {run.name}")


class Suite(Config, frozen=True):
    """One file of published cases."""

    source: str
    cases: tuple[Case, ...]


class Row(NamedTuple):
    """A published figure next to its prediction."""

    case: str
    run: str
    figure: Figure
    predicted: float
    fitted: bool

    @property
    def error(self) -> float | None:
        """Predicted over the nearest published value, less 1; None where 0 is published."""
        low, high = self.figure.published, self.figure.to or self.figure.published
        near = min(max(self.predicted, low), high)
        return self.predicted / near - 1 if near else None

    @property
    def broken(self) -> bool:
        """Whether the prediction is out of its bounds."""
        bounds = self.figure.bounds
        return bounds is not None and not bounds[0] <= self.predicted <= bounds[1]


class Outcome(NamedTuple):
    """A case's rows, what was fitted, in words, and the pairs of runs that come in the wrong order."""

    case: Case
    rows: tuple[Row, ...]
    fitted: str
    disorder: tuple[str, ...]

    @property
    def median_error(self) -> float:
        """Of the measured figures that were not fitted, relative; 0 if there are none."""
        judged = (r for r in self.rows if not r.fitted and r.figure.kind == "M")
        return median([abs(r.error) for r in judged if r.error is not None] or [0.0])

    @property
    def faults(self) -> list[str]:
        """Every stated bound that is broken, in words."""
        said = [f"{self.case.name}: {pair}" for pair in self.disorder]
        typical = self.case.median_error
        if typical is not None and self.median_error > typical:
            found = f"{100 * self.median_error:.1f} %, stated are {100 * typical:.1f} %"
            said.append(f"{self.case.name}: the median error is {found}")
        for row in self.rows:
            if row.broken and row.figure.bounds:
                least, most = row.figure.bounds
                what = f"{row.figure.figure} is {row.predicted:.4g}, stated are {least:.4g} to {most:.4g}"
                said.append(f"{row.case}, {row.run}: {what}")
        return said


def shipped() -> tuple[str, ...]:
    """Names of the files of published cases, without their ending."""
    found = PUBLISHED.iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in found if f.name.endswith(".yaml")))


def load_suite(file: str | Path) -> Suite:
    """Read published cases, shipped ones by name or a YAML file; every scenario is checked. Raises `InputError`."""
    if str(file) in shipped():
        file = PUBLISHED / f"{file}.yaml"
    suite = convert(read_yaml(Path(file)), Suite, str(file))
    for i, case in enumerate(suite.cases):
        for j, run in enumerate(case.runs):
            try:
                case.scenario(run).profile()
            except InputError as error:
                raise error.within(str(file), f"cases[{i}].runs[{j}]") from None
    return suite


def predict(case: Case, change: Callable[[Profile], Profile] | None = None) -> Outcome:
    """Fit what is not published, run every run, and put predictions next to the published figures.

    `change` alters the host first, for questions of the kind "what if".
    """
    scenarios = [case.scenario(run) for run in case.runs]
    profile = scenarios[0].profile()
    if change:
        profile = change(profile)
    outside, fitted = 0.0, "nothing fitted"
    if case.fit == "kernels":
        step_s = case.runs[0].published("step_s") or 0.0
        profile = fit_step(scenarios[0], profile, step_s, as_written=True, source=f"{case.name}, step_s")
        fitted = f"kernel times x {factor_of(profile):.3f}"
    if case.fit == "one_gpu":
        step_s = (case.runs[0].published("request_s") or 0.0) / case.request_steps
        profile = fit_step(scenarios[0], profile, step_s, source=f"{case.name}, a step on one GPU")
        fitted = f"kernel times x {factor_of(profile):.3f}"
    results = [simulate(scenario, profile) for scenario in scenarios]
    if case.fit == "outside":
        inside = case.request_steps * results[0].metrics["step_time_s"]
        outside = (case.runs[0].published("request_s") or 0.0) - inside
        fitted = f"{outside:.2f} s of a request outside of its steps"
    figures = _figures(case, results, outside)
    rows = []
    for i, run in enumerate(case.runs):
        for figure in run.figures:
            on = i == 0 and case.fit != "nothing" and figure.figure in ORDERED
            rows.append(Row(case.name, run.name, figure, figures[i][figure.figure], on))
    return Outcome(case, tuple(rows), fitted, tuple(_disorder(case, figures)))


def predict_all(cases: Iterable[Case], executor: Executor | None = None) -> Iterable[Outcome]:
    """Predict cases in order, on `executor` if given."""
    return executor.map(predict, cases) if executor else map(predict, cases)


def _figures(case: Case, results: Sequence[Result], outside: float) -> list[dict[FigureName, float]]:
    """All figures of every run; those that compare runs are NaN where there is nothing to compare with."""
    nan = float("nan")
    steps = {run.name: r.metrics["step_time_s"] for run, r in zip(case.runs, results, strict=True)}
    isolated = nan
    if not results[0].metrics["h2d_bytes_per_step"]:  # its collectives share the host with no copies
        isolated = results[0].metrics["collective_time_s"]
    made: list[dict[FigureName, float]] = []
    for result in results:
        m = result.metrics
        overlap, copied = m["h2d_collective_overlap_s"], float(m["h2d_bytes_per_step"])
        p50, p90 = _chunk_seconds(result)
        made.append(
            {
                "step_s": m["step_time_s"],
                "request_s": outside + _steps_s(case.request_steps, result),
                "speedup": steps.get(FASTER_THAN, nan) / m["step_time_s"],
                # kernels and collectives share a stream, so what a collective covers no kernel does
                "uncovered_s": max(m["h2d_uncovered_s"] - overlap, 0.0),
                "collective_s": m["collective_time_s"],
                "overlap_s": overlap,
                "inflation_per_overlap": (m["collective_time_s"] - isolated) / overlap if overlap else nan,
                "h2d_bytes": copied,
                "h2d_rate": copied / m["step_time_s"],
                "copying_rate": copied / m["h2d_busy_s"] if m["h2d_busy_s"] else 0.0,
                "chunk_p50_s": p50,
                "chunk_p90_s": p90,
            }
        )
    return made


def _steps_s(steps: int, result: Result) -> float:
    """Seconds of so many steps: those that warm up as simulated, the others as later ones."""
    parallelism = getattr(result.scenario.workload, "parallelism", None)
    warm = parallelism.warmup_steps if isinstance(parallelism, Layout) and parallelism.stale else 0
    times: list[float] = result.metrics["step_times_s"][:warm]
    return sum(times) + (steps - len(times)) * result.metrics["step_time_s"]


def _chunk_seconds(result: Result) -> tuple[float, float]:
    """Median and 90th percentile of how long a whole chunk takes, s; NaN where there are too few."""
    chunk = result.scenario.policy.chunk_bytes
    spans = [s.end - s.start for s, c in result.timeline.commands(0, Copy) if c.bytes == chunk]
    if len(spans) < 2:
        return float("nan"), float("nan")
    tenths = quantiles(spans, n=10)
    return tenths[4], tenths[8]


def _disorder(case: Case, figures: Sequence[dict[FigureName, float]]) -> Iterable[str]:
    """Pairs of runs that the prediction orders otherwise than published."""
    ordered = [(run, figure) for run, figure in zip(case.runs, figures, strict=True) if run.ordered]
    for (a, mine), (b, yours) in combinations(ordered, 2):
        if a.world_size != b.world_size:
            continue
        for name in ORDERED:
            first, second = a.published(name), b.published(name)
            if first is None or second is None or abs(first - second) <= case.apart * min(first, second):
                continue
            if (first < second) != (mine[name] < yours[name]):  # type: ignore[index]
                faster, slower = (a, b) if first < second else (b, a)
                yield f"{faster.name} is published as faster than {slower.name}"
