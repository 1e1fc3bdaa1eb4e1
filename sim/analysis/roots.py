"""Where an increasing function that must be simulated has a given value."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

TOLERANCE = 1e-9
"""Relative, of the value."""
_MAX_CALLS = 200


class Point(NamedTuple):
    """An argument and the function's value there."""

    at: float
    value: float


def solve(function: Callable[[float], float], wanted: float, low: Point, high: Point) -> float | None:
    """The argument between `low` and `high` with which `function` gives `wanted`; None where it jumps over it.

    What is simulated is nearly linear in pieces. The secant is exact in one piece; where it does not halve what is
    left, a bisection does.
    """
    for _ in range(_MAX_CALLS):
        for point in (low, high):
            if abs(point.value - wanted) <= TOLERANCE * wanted:
                return point.at
        width = high.at - low.at
        low, high = _narrowed(function, wanted, low, high, (wanted - low.value) / (high.value - low.value))
        if high.at - low.at > width / 2 and all(abs(p.value - wanted) > TOLERANCE * wanted for p in (low, high)):
            low, high = _narrowed(function, wanted, low, high, 0.5)
    return None


def bracket(
    function: Callable[[float], float], wanted: float, low: Point, high: Point, most: float
) -> tuple[Point, Point]:
    """Arguments from `low` on that have `wanted` between them: `high`, or a larger one, found by the line through 0.

    The upper one's value is still below `wanted` where an argument above `most` would be needed.
    """
    while high.value < wanted * (1 - TOLERANCE) and high.at <= most:
        at = high.at * max(2.0, 1.01 * wanted / high.value)
        low, high = high, Point(at, function(at))
    return low, high


def _narrowed(
    function: Callable[[float], float], wanted: float, low: Point, high: Point, share: float
) -> tuple[Point, Point]:
    at = low.at + share * (high.at - low.at)
    point = Point(at, function(at))
    return (point, high) if point.value < wanted else (low, point)
