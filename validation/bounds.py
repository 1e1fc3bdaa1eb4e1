"""Stated bounds on errors: read from data/bounds.yaml and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sim.inputs.config import Config, convert
from sim.inputs.yaml_files import read_yaml
from validation.compare import Compared
from validation.datasets import DATA
from validation.error_statistics import errors, memory_errors, regrets, resident_spread, step_errors

BOUNDS = DATA / "bounds.yaml"

Verdict = Literal["held", "target missed", "broken", "not judged"]


class Limits(Config, frozen=True):
    """Largest allowed absolute errors, %."""

    median: float | None = None
    p95: float | None = None
    max: float | None = None


class Fallback(Limits, frozen=True):
    """Limits that hold where a target is missed, and why it is missed."""

    why: str = ""


class Bound(Config, frozen=True, kw_only=True):
    """Limits for some cases of some sets."""

    name: str
    of: Literal["step time", "peak memory", "choice"] = "step time"
    sets: tuple[str, ...]
    cases: Literal["unseen", "offloaded", "all"] = "offloaded"
    at_least: int = 1
    """Smallest number of cases for a judgement."""
    target: Limits
    resident_spreads: float = 0.0
    """The median's target is at least this many times the baselines' own spread."""
    known: Fallback = Fallback()
    """Limits that hold where the target is missed."""


class Judged(NamedTuple):
    """A figure against its limits, %. `worst` names the largest error where the figure is the maximum."""

    bound: Bound
    figure: str
    cases: int
    value: float
    target: float
    allowed: float
    verdict: Verdict
    worst: str


_ERRORS: dict[str, Callable[[Sequence[Compared]], dict[str, float]]] = {
    "step time": step_errors,
    "peak memory": memory_errors,
    "choice": regrets,
}


def load_bounds(file: Path = BOUNDS) -> tuple[Bound, ...]:
    """The stated bounds. Raises InputError."""
    return convert(read_yaml(file), tuple[Bound, ...], str(file))


def judge(bounds: Sequence[Bound], compared: Sequence[Compared]) -> list[Judged]:
    """Every figure of every bound that there are cases for.

    A maximum holds for any part of the cases; other figures are judged only where all sets of a bound are there. Cases
    whose measurement was disturbed are left out.
    """
    return [judged for bound in bounds for judged in _judge(bound, compared)]


def _judge(bound: Bound, compared: Sequence[Compared]) -> list[Judged]:
    groups = {"unseen": ("unseen",), "offloaded": ("fitted", "unseen"), "all": ("fitted", "unseen", "resident")}
    mine = [c for c in compared if c.set in bound.sets and not c.disturbed]
    values = _ERRORS[bound.of]([c for c in mine if c.group in groups[bound.cases]])
    if not values:
        return []
    found = errors(values)
    complete = {c.set for c in mine} == set(bound.sets)
    judged = []
    for figure in ("median", "p95", "max"):
        target, known = getattr(bound.target, figure), getattr(bound.known, figure)
        if target is None:
            continue
        if figure == "median":
            target = max(target, 100 * bound.resident_spreads * resident_spread(mine))
        value, allowed = 100 * getattr(found, figure), max(target, known or 0.0)
        verdict: Verdict = "held" if value <= target else "target missed" if value <= allowed else "broken"
        if not complete and figure != "max":
            verdict = "not judged"
        elif complete and found.cases < bound.at_least:
            verdict = "broken"
        worst = found.worst if figure == "max" else ""
        judged.append(Judged(bound, figure, found.cases, value, target, allowed, verdict, worst))
    return judged
