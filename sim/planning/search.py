"""The search: from one schedule of each family to the fastest that fits, and to the smallest that is nearly as fast.

What is proved discards; all else is the order in which schedules are simulated. A search ends when no step of its
could be much shorter than the best one found, when neighbours along all axes are no better, or when it has simulated
as many commands as it may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from sim.planning.simulated import MOST, Found, Limits, Simulated
from sim.planning.space import Deployment, Family, Places, largest_fit, place_of
from sim.policies import Policy, Resident, count_commands
from sim.sweeps.evaluation import Evaluator

CLOSED = 0.002
"""A best step that is within this share of the floor needs no further search."""
WORTH = 0.001
"""A neighbour must be faster by this share for the search to go on from there."""
PROMISING = 0.1
"""A search goes on from a family's best schedule if it is longer than the best by no more than this."""
STRIDES = (4, 2, 1)
SMALL = 150_000
"""Commands of a whole space that is simulated without a search."""
TOGETHER = 2
"""Layouts whose resident schedules are simulated at once: more might be for nothing."""
DESCENTS = 2
"""Families from whose best schedules a search goes on."""


class Search(Simulated):
    """Searches families of schedules; several `run`s share what is known."""

    def __init__(
        self, layouts: Sequence[Deployment], limits: Limits, evaluator: Evaluator, small: int = SMALL, most: int = MOST
    ) -> None:
        super().__init__(layouts, limits, evaluator, most)
        self.small = small

    def run(self, families: Sequence[Family], briefly: bool = False) -> None:
        """Search families; what is found, and confirmed, is in `best`, `smallest` and `known`.

        `briefly`: one schedule of each family with the most residency that fits, and of the best family one with the
        least.
        """
        self._run(families, briefly)
        self.confirm()

    def baselines(self) -> None:
        """Simulate all weights resident on each layout, but for those that are proved to be behind what fits.

        No schedule has a lower floor. The layouts with the lowest come first, a few at a time. The first one of all,
        which is the scenario's own if that is asked for, is simulated in any case.
        """
        floors = {n: layout.floors.step_s(Resident()) for n, layout in enumerate(self.layouts)}
        order = sorted(floors, key=lambda n: floors[n])
        for first in range(0, len(order), TOGETHER):
            few = order[first : first + TOGETHER]
            self.simulate([(n, Resident()) for n in few if n == 0 or not self._behind(n)], anyway=True)

    def _run(self, families: Sequence[Family], briefly: bool) -> None:
        if sum(self._cost(family) for family in families) <= self.small:
            for family in families:
                places = sorted(family.all_places(), key=lambda at: tuple(at.values()))
                self.simulate((family.layout, family.policy(at)) for at in places)
            return
        starts = {number: start for number, family in enumerate(families) if (start := self._least(family))}
        if briefly:
            self._in_turn(families, {n: self._filled(families[n], at) or at for n, at in starts.items()})
            self._in_turn(families, {n: starts[n] for n in self._ranked(families, starts)[:1]})
            return
        self._in_turn(families, starts)
        closed = self.closed(families)  # then more residency serves only to find the smallest
        order = [n for n in self._ranked(families, starts) if not self._resident_is_best(families[n])]
        larger = {n: self._filled(families[n], starts[n]) for n in order if not (closed and self._near(families[n]))}
        self._in_turn(families, {n: at for n, at in larger.items() if at})
        for number in self._ranked(families, starts)[:DESCENTS]:
            if self._promising(families[number]) and not self._resident_is_best(families[number]):
                self._descend(families[number], starts[number], families)
        for number in self._ranked(families, starts)[:DESCENTS]:
            self._shrink(families[number])

    def _in_turn(self, families: Sequence[Family], places: Mapping[int, Places]) -> None:
        """Simulate a schedule of each family, a layout after the other: those with low floors may rule out others."""
        together: dict[int, list[Policy]] = {}
        lowest: dict[int, float] = {}
        for number, at in places.items():
            policy, layout = families[number].policy(at), families[number].layout
            if policy is not None:
                together.setdefault(layout, []).append(policy)
                floor = self.layouts[layout].floors.step_s(policy)
                lowest[layout] = min(lowest.get(layout, floor), floor)
        for layout in sorted(together, key=lambda layout: lowest[layout]):
            if not self._behind(layout):
                self.simulate((layout, policy) for policy in together[layout])

    def _behind(self, layout: int) -> bool:
        """Whether a layout takes longer with all weights resident than the best schedule found on another one does.

        Where that was not simulated, by its floor.
        """
        if self.best is None or self.best.layout == layout:
            return False
        resident = self.known.get((layout, Resident()))
        least = self.layouts[layout].floors.step_s(Resident()) if resident is None else resident.step_s
        return least >= self.best.step_s

    def _resident_is_best(self, family: Family) -> bool:
        """Whether the best schedule has all weights resident, on the family's layout: less residency is not faster."""
        return self.best is not None and (self.best.layout, self.best.policy) == (family.layout, Resident())

    def _promising(self, family: Family, behind: float = PROMISING) -> bool:
        """Whether a family's best schedule is not far behind the best one."""
        found = self._of(family)
        return found is not None and self.near(found, behind)

    def near(self, found: Found, behind: float = PROMISING) -> bool:
        """Whether a schedule is not far behind the best one."""
        return self.best is not None and found.step_s <= self.best.step_s * (1 + behind)

    def _near(self, family: Family) -> bool:
        """Whether a family's best schedule is nearly as fast as the best one."""
        return self._promising(family, self.limits.within)

    def closed(self, families: Sequence[Family]) -> bool:
        """Whether the best step is as short as the floor of all that could fit."""
        return self.best is not None and self.best.step_s <= self.floor_s(families) * (1 + CLOSED)

    def floor_s(self, families: Sequence[Family]) -> float:
        """No schedule of `families` that fits has a shorter step, s."""
        found = []
        for family in families:
            for depth in self._depths(family):
                at = largest_fit(family, depth, lambda policy, f=family: self.may_fit(f.layout, policy))  # type: ignore[misc]
                policy = None if at is None else family.policy(at)
                if policy is not None:
                    found.append(self.layouts[family.layout].floors.step_s(policy))
        if self.best is not None:
            found.append(self.layouts[self.best.layout].floors.step_s(self.best.policy))
        return min(found, default=0.0)

    def _depths(self, family: Family) -> list[Places]:
        """The start with the least of every axis but residency, and the start itself."""
        start = family.start()
        return [{name: 0 if name in family.varied else place for name, place in start.items()}, start]

    def _cost(self, family: Family) -> int:
        policy = family.policy(family.start())
        layout = self.layouts[family.layout]
        if policy is None:
            return 0
        return family.size * count_commands(layout.floors.workload, policy, layout.world_size)

    def _least(self, family: Family) -> Places | None:
        """The start with as little memory as needed to fit: with fewer layers ahead where the default does not."""
        at = family.start()
        depth = at.get("prefetch_layers", 0)
        for places in [at, *({**at, "prefetch_layers": d} for d in range(depth - 1, -1, -1))]:
            policy = family.policy(places)
            if policy is not None and self.may_fit(family.layout, policy):
                return places
        return largest_fit(family, at, lambda policy: self.may_fit(family.layout, policy))

    def _filled(self, family: Family, at: Places, memory: int | None = None) -> Places | None:
        """`at` with the most residency that seems to fit `memory` (B; the limit unless given).

        What a run takes beside weights is taken to be as in those that were simulated.
        """
        layout = self.layouts[family.layout]
        limit = layout.memory if memory is None else min(layout.memory, memory)
        last = [f for f in self.known.values() if f is not None and f.layout == family.layout]
        beside = min((f.peak - self._weights(f.layout, f.policy) for f in last), default=layout.floors.beside)

        def fits(policy: Policy) -> bool:
            weights = policy.weight_bytes(layout.floors.workload, layout.world_size)
            return weights + beside <= limit and self.may_fit(family.layout, policy)

        return largest_fit(family, at, fits)

    def _weights(self, layout: int, policy: Policy) -> int:
        return policy.weight_bytes(self.layouts[layout].floors.workload, self.layouts[layout].world_size)

    def _of(self, family: Family, best: Callable[[Found], float] = lambda found: found.step_s) -> Found | None:
        """The best schedule of a family that fits."""
        mine = (f for f in self.fitting() if f.layout == family.layout and place_of(family, f.policy) is not None)
        return min(mine, key=best, default=None)

    def _ranked(self, families: Sequence[Family], among: Iterable[int]) -> list[int]:
        """Numbers of families, the one with the shortest step first."""
        found = {n: f.step_s for n in among if (f := self._of(families[n])) is not None}
        return sorted(found, key=lambda n: found[n])

    def _descend(self, family: Family, at: Places, families: Sequence[Family]) -> None:
        """From the family's best schedule to the best one around it."""
        for stride in STRIDES:
            while not self.closed(families) and self.left > 0:
                best = self._of(family)
                at = place_of(family, best.policy) or at if best is not None else at
                before = best.step_s if best is not None else float("inf")
                self.simulate((family.layout, family.policy(move)) for move in self._moves(family, at, stride))
                now = self._of(family)
                if now is None or now.step_s >= before * (1 - WORTH):
                    break

    def _moves(self, family: Family, at: Places, stride: int) -> Iterator[Places]:
        """Neighbours along every axis, with as much residency as fits there; at first also with less of it."""
        for axis, count in family.varied.items():
            if axis == family.residency:
                if stride == STRIDES[0] and at[axis]:
                    yield {**at, axis: at[axis] - max(at[axis] // 8, 1)}
                continue
            step = min(stride, max(count // 4, 1))
            if step < stride and stride != STRIDES[0]:
                continue  # all neighbours of a short axis were looked at before
            for place in (at[axis] - step, at[axis] + step):
                if 0 <= place < count and (moved := self._filled(family, {**at, axis: place})) is not None:
                    yield moved

    def _shrink(self, family: Family) -> None:
        """From the family's fastest schedule to the smallest that is nearly as fast, along the line between the two.

        A step grows about linearly as less is resident, once copies no longer hide: where the line meets the
        threshold is the next place to look at, and its neighbour the one after.
        """
        best = self._of(family)
        if best is None or self.best is None or best.step_s > self.threshold:
            return
        at = place_of(family, best.policy)
        axis = family.residency
        if at is None or axis is None:
            return
        enough, small = at[axis], -1
        if best is not self.best and not self._may_be_smaller(family, at):
            return
        self.simulate(((family.layout, family.policy({**at, axis: p})) for p in (0, enough // 2)), anyway=self.left > 0)
        for turn in range(2 * len(family.axes[axis])):
            known = {
                p: step for p in range(at[axis] + 1) if (step := self._step_at(family, {**at, axis: p})) is not None
            }
            enough = min((p for p, step in known.items() if step <= self.threshold), default=enough)
            small = max((p for p, step in known.items() if p < enough and step > self.threshold), default=-1)
            if enough - small <= 1 or self.left <= 0:
                return
            # the line is no guide where a step grows from some place on: every other time the middle
            place = (small + enough) // 2 if turn % 2 else self._crossing(known, small, enough)
            before = len(self.known)
            self.simulate([(family.layout, family.policy({**at, axis: place}))], anyway=True)
            if len(self.known) == before:
                return

    def _may_be_smaller(self, family: Family, at: Places) -> bool:
        """Whether a family is nearly as fast as the best with less memory than the smallest: one simulation tells."""
        assert self.smallest is not None
        below = self._filled(family, at, self.smallest.peak - 1)
        policy = None if below is None else family.policy(below)
        if below is None or policy is None:
            return False
        self.simulate([(family.layout, policy)])
        step = self._step_at(family, below)
        return step is not None and step <= self.threshold

    def _crossing(self, known: Mapping[int, float], small: int, enough: int) -> int:
        """Where the line between two places meets the threshold: a place between them."""
        if small < 0:
            return enough // 2
        high, low = known[small], known[enough]
        share = (high - self.threshold) / (high - low) if high > low else 0.5
        return min(max(small + math.ceil(share * (enough - small)), small + 1), enough - 1)

    def _step_at(self, family: Family, at: Places) -> float | None:
        policy = family.policy(at)
        found = None if policy is None else self.known.get((family.layout, policy))
        return None if found is None else found.step_s
