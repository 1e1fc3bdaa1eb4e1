"""Passes of a trace: the profiler's steps, or what repeats in the sequence of operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from sim.importers.trace.operations import Operation, RankTrace

STRICTNESS = (1.0, 0.999, 0.99, 0.98)
"""Shares of operations that must be the same one period later, tried one after the other."""
_MAX_CANDIDATES, _MIN_CANDIDATES = 2000, 300
_MAX_COMPARED = 100_000_000
"""Pairs of tokens that are compared for one token that tells the period, unless that would be too few candidates."""


class Pass(NamedTuple):
    """One pass: its operations in order of their launches.

    `seconds` from the end of the pass before to its own, or from its first operation on where none is before;
    `peer_wait` is what its first collective took longer than others of its kind and bytes: the wait for its peers.
    """

    operations: list[Operation]
    seconds: float
    peer_wait: float

    @property
    def step(self) -> float:
        """What it takes without the wait at its first collective, s: what a prediction is compared with."""
        return self.seconds - self.peer_wait


class Passes(NamedTuple):
    """All complete passes of a trace, and how they were found, in words."""

    passes: list[Pass]
    how: str

    @property
    def last(self) -> Pass:
        """The reference."""
        return self.passes[-1]


def token(op: Operation) -> Hashable:
    """What makes operations of two passes the same: all but their times."""
    return op.name, op.stream, op.transfer, op.exchange[:2] if op.exchange else None


def passes_of(trace: RankTrace) -> Passes:
    """The complete passes of a trace; at least one."""
    groups, how = _grouped(trace)
    found: list[Pass] = []
    before: float | None = None
    for group in groups:
        end = max(op.end for op in group)
        start = min(op.start for op in group)
        follows = before is not None and before <= start
        found.append(Pass(group, end - (before if follows and before is not None else start), _peer_wait(group)))
        before = end
    return Passes(found, how)


def _grouped(trace: RankTrace) -> tuple[list[list[Operation]], str]:
    operations = trace.operations
    if trace.steps:
        groups = [[op for op in operations if start <= op.issued <= end] for start, end in trace.steps]
        groups = [group for group in groups if group]
        if groups:
            return groups, f"{len(groups)} steps of the profiler (ProfilerStep)"
    for kind, of in (("operations", operations), ("kernels", [op for op in operations if op.transfer is None])):
        if (period := repeats_after([token(op) for op in of])) is None:
            continue
        count, first = divmod(len(of), period)
        starts = [first + i * period for i in range(count)]
        if len(of) == len(operations):
            groups = [operations[start : start + period] for start in starts]
        else:
            groups = _from_kernels(operations, of, starts, period)
        extra = f"; {first} before the first complete pass are left out" if first else ""
        return groups, f"{count} passes: the sequence of {period} {kind} repeats{extra}"
    return [operations], "one pass: no sequence of operations repeats throughout"


def _from_kernels(
    operations: list[Operation], kernels: list[Operation], starts: Sequence[int], period: int
) -> list[list[Operation]]:
    """Passes from the first kernel of one to the one before the next, by order of launches."""
    place = {id(op): i for i, op in enumerate(operations)}
    bounds = [place[id(kernels[start])] for start in starts] + [len(operations)]
    return [operations[a:b] for a, b in pairwise(bounds)]


def repeats_after(tokens: Sequence[Hashable]) -> int | None:
    """After how many tokens the whole sequence repeats, at least twice; None if it does not.

    A few tokens may differ, as where a library chooses another kernel the first time.
    """
    import numpy as np

    count = len(tokens)
    if count < 2:
        return None
    numbers: dict[Hashable, int] = {}
    row = np.array([numbers.setdefault(t, len(numbers)) for t in tokens])
    often = Counter(row.tolist())
    shares: dict[int, float] = {}

    def equal(period: int) -> float:
        """The share of tokens that are the same `period` later."""
        if period not in shares:
            shares[period] = float((row[period:] == row[:-period]).mean())
        return shares[period]

    most = min(_MAX_CANDIDATES, max(_MIN_CANDIDATES, _MAX_COMPARED // count))
    for share in STRICTNESS:
        # some token that repeats least often tells the period
        for rare in sorted((t for t in often if often[t] > 1), key=lambda t: often[t])[:3]:
            (at,) = np.nonzero(row == rare)
            distances = sorted({int(at[-1] - other) for other in at[:-1]} | {int(b - a) for a, b in pairwise(at)})
            for period in distances[:most]:
                if period <= count // 2 and equal(period) >= share:
                    return period
    return None


def _peer_wait(operations: Sequence[Operation]) -> float:
    """What the first collective took longer than others of its kind and bytes, s."""
    exchanges = [op for op in operations if op.exchange]
    if not exchanges:
        return 0.0
    first = min(exchanges, key=lambda op: op.start)
    assert first.exchange is not None
    others = [op.seconds for op in exchanges if op is not first and op.exchange[:2] == first.exchange[:2]]  # type: ignore[index]
    return max(first.seconds - median(others), 0.0) if others else 0.0
