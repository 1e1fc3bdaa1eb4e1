"""The same serving scenario for several seeds: means, and where they lie with 95 % confidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sim.serving.figures import figures
from sim.serving.serve import Prepared, Served, serve

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)
"""97.5 % quantiles of Student's t, of 1 degree of freedom and up."""


class Mean(NamedTuple):
    """A mean over seeds, and half of its 95 % confidence interval: 0 where there is one seed."""

    mean: float
    half_width: float


def mean_of(values: Sequence[float]) -> Mean:
    """By Student's t.

    >>> mean_of([1.0, 3.0]).mean
    2.0
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Mean(mean, 0.0)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    freedom = count - 1
    # beyond the table: t falls towards the normal's 1.96 as 1 + 1.2 / freedom does, within 1 %
    quantile = _T[freedom - 1] if freedom <= len(_T) else 1.96 * (1.0 + 1.25 / freedom)
    return Mean(mean, quantile * deviation / math.sqrt(count))


Figures = tuple[dict[str, Any], ...]
"""Of runs of one scenario that differ in the seed."""


def mean(runs: Figures, *path: str) -> Mean:
    """Of a figure, by its keys from the outermost on."""
    return mean_of([float(_at(of, path)) for of in runs])


def to_plain(runs: Figures) -> dict[str, Any]:
    """What `serve --json` prints: means over seeds, and under `interval_95` half widths of the same keys."""
    means: dict[str, Any] = _map(runs, lambda values: mean_of(values).mean)
    means["seed"] = runs[0]["seed"]
    means["seeds"] = len(runs)
    if len(runs) > 1:
        widths = _map(runs, lambda values: mean_of(values).half_width)
        means["interval_95"] = {key: widths[key] for key in widths if key not in _SAME}
    return means


class Replicates(NamedTuple):
    """Runs of one scenario that differ in the seed: the first one whole, and the figures of all."""

    first: Served
    figures: Figures

    def mean(self, *path: str) -> Mean:
        """As the function."""
        return mean(self.figures, *path)

    def to_plain(self) -> dict[str, Any]:
        """As the function."""
        return to_plain(self.figures)


_SAME = ("schema_version", "scheduler", "gpus", "seed", "memory_bytes")


def replicate(prepared: Prepared, seeds: int = 1, record: tuple[float, float] | None = None) -> Replicates:
    """Run a scenario for as many seeds, from its own one on. Raises as `serve`."""
    start = prepared.scenario.seed
    runs, first = [], None
    for seed in range(start, start + seeds):
        served = serve(prepared, seed, record=record if first is None else None)
        first = first or served
        runs.append(figures(served))
    assert first is not None
    return Replicates(first, tuple(runs))


def _at(of: Any, path: Sequence[str]) -> Any:
    for key in path:
        of = of[key]
    return of


def _map(found: Sequence[Any], combine: Callable[[list[float]], float]) -> Any:
    """Plain data of the same form as each of `found`, numbers combined."""
    first = found[0]
    if isinstance(first, dict):
        return {key: _map([of[key] for of in found], combine) for key in first}
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    whole = all(isinstance(of, int) for of in found) and len(set(found)) == 1
    return first if whole and combine([float(first)]) == first else combine([float(of) for of in found])
