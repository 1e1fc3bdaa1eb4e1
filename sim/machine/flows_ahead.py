"""Flows in flight, ahead of simulated time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from sim.fluid import Fabric, FlowSpec

_State = tuple[float, float, float, float]
"""Of a flow: what was left at a time, units; that time, s; its rate; when it ends, s."""


class Ahead:
    """What becomes of the flows in flight of `fabric` while flows of `spec` come and go, one at a time.

    The steps are those of `Fabric`, in the same order, so that all sums are the same. Rates are those `alone` and
    `beside` a flow that comes. They must be settled, and nobody may wait for the next end of a flow from now on.
    """

    __slots__ = ("_alone", "_beside", "_fabric", "_spec", "_states")

    def __init__(self, fabric: Fabric, spec: FlowSpec, alone: Sequence[float], beside: Sequence[float]) -> None:
        self._fabric = fabric
        self._spec = spec
        self._alone = alone
        self._beside = beside
        self._states: list[_State] = [(f.remaining, f.since, f.rate, f.finish) for f in fabric.active]

    @classmethod
    def of(cls, fabric: Fabric, spec: FlowSpec) -> Self | None:
        """As above; None where a flow of `spec` changes routes."""
        rates = fabric.rates_beside(spec)
        return None if rates is None else cls(fabric, spec, *rates)

    def lasts(self, size: float) -> float:
        """How long a flow of `size` units takes that comes, s."""
        return self._fabric.env.on_grid(size / self._beside[-1])

    def first_end(self) -> float:
        """When the first flow in flight would end if none came, s."""
        return min((finish for *_, finish in self._states), default=math.inf)

    def pass_by(self, start: float, end: float, after: float, size: float, count: int, until: float) -> int:
        """Let `count` flows of `size` units pass by, or as many as do before another flow ends or `until` comes.

        The first one moves from `start` to `end`, s, and is followed by nothing until `after`, when the next one may
        come. Returns how many there were.
        """
        period, passed = after - start, 0
        while passed < count and after < until:
            states = self._changed(self._beside, start, end)
            if states is None or (states := self._changed(self._alone, end, after, states)) is None:
                break
            self._states = states
            start, end, after = start + period, end + period, after + period
            passed += 1
        for resource, multiplier in self._spec.route:
            for _ in range(passed):
                self._fabric.moved[resource] += multiplier * size
        return passed

    def apply(self) -> None:
        """Make it the state of the fabric, of which no flow ends before another one comes."""
        for flow, state in zip(self._fabric.active, self._states, strict=True):
            flow.remaining, flow.since, flow.rate, flow.finish = state

    def _changed(
        self, rates: Sequence[float], now: float, until: float, states: list[_State] | None = None
    ) -> list[_State] | None:
        """The flows as they are with `rates` from `now` on; None if one of them ends by `until`, s."""
        changed, on_grid = [], self._fabric.env.on_grid
        for state, new in zip(self._states if states is None else states, rates, strict=False):
            remaining, since, rate, finish = state
            if new != rate:
                remaining -= rate * (now - since)
                if new <= 0:
                    finish = math.inf
                elif remaining > 0:
                    finish = now + on_grid(remaining / new)
                else:
                    finish = now
                state = remaining, now, new, finish
            if finish <= until:
                return None
            changed.append(state)
        return changed
