"""Figures of a run from the part of it that was simulated: what repeats counts as often as it happens.

The machine's state at a repeat's end is that at its start. So what is in flight at a time within the repeat is so in
each copy of it, and an integral over the run is one over the simulated part in which the repeat has a weight. A span
that ends within the repeat ends in each copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from sim.timeline.intervals import Intervals, clip, measure, overlap
from sim.timeline.spans import Repeat, Span, Timeline


class Sections(NamedTuple):
    """The steps shown of one rank, in simulated time: from `start` to `end`, s, as sections of one weight each.

    `repeats` are those among them. `weights` are those of spans, by `id`, where they are not 1.
    """

    start: float
    end: float
    repeats: tuple[Repeat, ...]
    sections: tuple[tuple[float, float, int], ...]
    weights: dict[int, int]

    @classmethod
    def of(cls, timeline: Timeline, rank: int) -> Self | None:
        """Those of `rank`; None where a repeat crosses the window's start: figures then need the whole timeline."""
        start, end = timeline.simulated_window(rank)
        inside = tuple(r for r in timeline.repeats if r.end > start)
        sections: list[tuple[float, float, int]] = []
        weights: dict[int, int] = {}
        at = start
        for r in timeline.repeats:
            part = timeline.spans[slice(*r.spans)]
            weights.update((id(span), 1 + r.copies) for span in part)
            if r.end <= start:
                continue
            if r.start < start or r.end > end or any(span.start < start for span in part):
                return None
            sections += [(at, r.start, 1), (r.start, r.end, 1 + r.copies)]
            at = r.end
        return cls(start, end, inside, (*sections, (at, end, 1)), weights)

    def measure(self, intervals: Intervals) -> float:
        """Total length of disjoint intervals (simulated times) inside the steps, s."""
        return sum(weight * measure(clip(intervals, a, b)) for a, b, weight in self.sections)

    def overlap(self, first: Intervals, second: Intervals) -> float:
        """Length of the intersection of two unions of intervals inside the steps, s."""
        return sum(weight * overlap(clip(first, a, b), clip(second, a, b)) for a, b, weight in self.sections)

    def sum(self, of: Iterable[tuple[Span, float]]) -> float:
        """Sum of values of spans."""
        weights = self.weights
        return sum(value * weights.get(id(span), 1) for span, value in of) if weights else sum(v for _, v in of)

    def weight(self, span: Span) -> int:
        """How many spans of the run a simulated one stands for."""
        return self.weights.get(id(span), 1)
