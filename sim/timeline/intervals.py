"""Arithmetic of time intervals: union, clipping, measure, overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Intervals = list[tuple[float, float]]
"""Disjoint, ascending [start, end) pairs, s."""


def union(intervals: Iterable[tuple[float, float]]) -> Intervals:
    """The union of intervals."""
    merged: Intervals = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        elif end > start:
            merged.append((start, end))
    return merged


def clip(intervals: Sequence[tuple[float, float]], start: float, end: float) -> Intervals:
    """The parts of intervals inside [start, end)."""
    return [(max(a, start), min(b, end)) for a, b in intervals if a < end and b > start]


def measure(intervals: Intervals) -> float:
    """Total length of disjoint intervals, s."""
    return sum(b - a for a, b in intervals)


def overlap(first: Intervals, second: Intervals) -> float:
    """Length of the intersection of two unions of intervals, s."""
    total, j = 0.0, 0
    for start, end in first:
        while j < len(second) and second[j][1] <= start:
            j += 1
        i = j
        while i < len(second) and second[i][0] < end:
            total += min(end, second[i][1]) - max(start, second[i][0])
            i += 1
    return total
