"""Layers of a pass: runs of equal pieces in the sequence of its operations."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

MIN_SHARE = 0.02
"""Share of a pass that a run of repeats must have to count as layers."""
MIN_LENGTH = 3
"""Operations that a layer has at least."""
NEARLY = 0.9
"""Share of operations that a further layer has in common with those of its run: the last one often differs a little."""
_MAX_PERIOD = 6000
_MAX_RUNS = 12
_MIN_PERIODS = 600
_MAX_COMPARED = 150_000_000
"""Pairs of operations that are compared in one search, unless that would be less than `_MIN_PERIODS` lengths."""


class Run(NamedTuple):
    """`repeat` equal layers of `length` operations each, from operation `start` on; a single one is no layer."""

    start: int
    length: int
    repeat: int

    @property
    def end(self) -> int:
        """The operation behind it."""
        return self.start + self.length * self.repeat


def runs(tokens: Sequence[Hashable], weights: Sequence[float]) -> list[Run]:
    """The sequence as runs of layers, and pieces between them (repeat 1) that hold what does not repeat.

    `weights` is the time of each token: the run that repeats most of it is found first, then others beside it.
    """
    import numpy as np

    numbers: dict[Hashable, int] = {}
    row = np.array([numbers.setdefault(t, len(numbers)) for t in tokens], dtype=np.int64)
    cost = np.concatenate([[0.0], np.cumsum(np.asarray(weights, dtype=float))])
    least = MIN_SHARE * cost[-1]
    found: list[Run] = []

    def search(start: int, end: int) -> None:
        best = _best(row, cost, start, end) if len(found) < _MAX_RUNS else None
        if best is None or cost[best.end] - cost[best.start] < least:
            if end > start:
                found.append(Run(start, end - start, 1))
            return
        best = _extended(row, best, start, end)
        search(start, best.start)
        found.append(best)
        search(best.end, end)

    search(0, len(tokens))
    return sorted(found)


def _extended(row: object, run: Run, start: int, end: int) -> Run:
    """The run with a layer more before and behind it, where these are nearly the same."""
    part = row[run.start : run.start + run.length]  # type: ignore[index]
    first, count = run.start, run.repeat
    if first - run.length >= start and (row[first - run.length : first] == part).mean() >= NEARLY:  # type: ignore[index]
        first, count = first - run.length, count + 1
    behind = first + count * run.length
    if behind + run.length <= end and (row[behind : behind + run.length] == part).mean() >= NEARLY:  # type: ignore[index]
        count += 1
    return Run(first, run.length, count)


def _best(row: object, cost: object, start: int, end: int) -> Run | None:
    """The run of repeats in [start, end) that covers most time; the shortest layer among those that cover as much."""
    import numpy as np

    part, total = row[start:end], np.asarray(cost)  # type: ignore[index]
    size = end - start
    best: Run | None = None
    most = 0.0
    for length in range(MIN_LENGTH, min(size // 2, _MAX_PERIOD, max(_MIN_PERIODS, _MAX_COMPARED // max(size, 1))) + 1):
        same = np.concatenate([[False], part[length:] == part[:-length], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        first, behind = edges[::2], edges[1::2]
        long = behind - first >= length
        if not long.any():
            continue
        first, repeat = first[long], (behind[long] - first[long]) // length + 1
        covered = total[start + first + repeat * length] - total[start + first]
        longest = int(np.argmax(covered))
        if covered[longest] > most * (1 + 1e-3):
            best, most = Run(start + int(first[longest]), length, int(repeat[longest])), float(covered[longest])
    return best
