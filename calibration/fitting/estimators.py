"""Numbers from rows: fitted values with their spread and origin, lines, medians, shares under contention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import inf
from statistics import median, stdev
from typing import Any, NamedTuple

from sim.hardware.topology import Sourced


class FitError(RuntimeError):
    """Rows that no profile can be fitted to. The message says which, and why."""


class Fitted(NamedTuple):
    """A fitted number (SI units), its spread (one standard deviation, relative; None if one row gave it), its rows."""

    value: float
    spread: float | None
    rows: str
    inherited_from: str = ""
    """The profile that gave it, where it was not measured on this host."""


def borrowed(number: Sourced[Any], profile: str) -> Fitted:
    """A number that was not measured on this host: that of `profile`, with its source."""
    return Fitted(float(number.value), number.uncertainty, number.source, number.inherited_from or profile)


def affine(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(setup s, rate B/s) of seconds = setup + size / rate, least squares of the relative error."""
    from scipy.optimize import least_squares

    def error(p: Sequence[float]) -> list[float]:
        return [(p[0] * 1e-6 + s * p[1] * 1e-12) / t - 1 for s, t in zip(sizes, seconds, strict=True)]

    setup, inverse = least_squares(error, (1.0, 20.0)).x
    return float(setup) * 1e-6, 1e12 / float(inverse)


NOISE = 0.005
"""Rows may lie this much below a line that bounds them."""

SLOW = 0.015
"""Rows that lie this much above the line of the fastest were disturbed."""


def undisturbed(sizes: Sequence[float], seconds: Sequence[float]) -> list[bool]:
    """Which rows a line of setup + size / rate holds for that no row is faster than.

    Links are slow at times (docs/measurements/commands.md): rows are late together, never early. Of all lines
    through two rows that no row lies below, the one that is nearest to all; rows above it were late.
    """
    rows = list(zip(sizes, seconds, strict=True))
    best: tuple[float, list[bool]] = (inf, [True] * len(rows))
    for (a, s), (b, t) in combinations(rows, 2):
        if (b - a) * (t - s) <= 0:  # of one size, or the larger one not slower: no line rises through them
            continue
        slope = (t - s) / (b - a)
        times = [s + slope * (size - a) for size, _ in rows]
        if min(times) <= 0:
            continue
        off = [seconds_ / time - 1 for (_, seconds_), time in zip(rows, times, strict=True)]
        if min(off) > -NOISE:
            best = min(best, (sum(off), [o < SLOW for o in off]))
    return best[1]


def over(values: Sequence[float]) -> tuple[float, float | None]:
    """Median and relative spread."""
    centre = median(values)
    return centre, stdev(values) / abs(centre) if len(values) > 1 and centre else None


def latency(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Seconds before the first byte of a collective, from its isolated times by bytes sent, ascending.

    The line through those of 512 KiB and more; small ones use other protocols: each bounds it from above.
    """
    large = [(s, t) for s, t in zip(sizes, seconds, strict=True) if s >= 2**19]
    if len(large) < 2:
        large = list(zip(sizes, seconds, strict=True))
    setup, bandwidth = affine([s for s, _ in large], [t for _, t in large])
    small = [t - s / bandwidth for s, t in zip(sizes, seconds, strict=True) if (s, t) not in large]
    return min([setup, *small])


class Share(NamedTuple):
    """What a collective gets and takes while a copy is in flight: see `sim.hardware.CollectiveClass`."""

    weight: tuple[float, float | None]
    overhead: tuple[float, float | None]


def share(rates: Sequence[float], copies: Sequence[float], cap: float) -> Share:
    """From rates of collectives and of the concurrent copies, B/s; isolated copies move at `cap`."""
    pairs = list(zip(rates, copies, strict=True))
    return Share(over([r / c for r, c in pairs]), over([(cap - c) / r for r, c in pairs]))
