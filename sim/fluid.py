"""Fluid bandwidth sharing on SimPy: flows over routes of directed resources.

A flow moves `size` units over a route of (resource, multiplier) pairs; at rate r it takes multiplier * r of each
resource's capacity. Rates follow a *rate law*, a plain function from the active flows to their rates, by default
weighted max-min fairness with a demand cap per flow (`weighted_max_min`). Nothing here knows what a byte, a GPU or a
host is: capacities and sizes may be in any consistent unit, time in seconds.

Rates change only when a flow starts or ends. All changes of one timestamp are settled by one solve, and solves are
memoised by the list of active flow specifications, of which a periodic program has few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from simpy.events import Event

from sim.environment import Action, Environment

Route = tuple[tuple[int, float], ...]
"""(resource index, multiplier) pairs; a resource appears at most once."""

Tag = Hashable
"""What a flow is called by the flows that it slows: any value that is equal to itself."""

_TIGHT = 1.0 + 1e-12


class FlowSpec(NamedTuple):
    """What decides a flow's rate.

    `cap` is its demand cap, `weight` its share under contention. `drag`, for work that does not move over
    the fabric but is slowed by it, is (resource index, slow-down d): its cap becomes cap / (1 + d * utilisation).
    `tags` say what it is, `slowed_by` which tags slow it, as (tags, factor): its cap becomes cap * factor while a flow
    with any of these tags is in flight. No tag of a flow slows the flow itself.
    `alternate_route`, as (tags, route), is its route while a flow with any of these tags is in flight.
    """

    route: Route
    cap: float
    weight: float = 1.0
    drag: tuple[int, float] | None = None
    tags: tuple[Tag, ...] = ()
    slowed_by: tuple[tuple[tuple[Tag, ...], float], ...] = ()
    alternate_route: tuple[tuple[Tag, ...], Route] | None = None


RateLaw = Callable[[Sequence[FlowSpec], Sequence[float]], list[float]]
"""(flow specifications, resource capacities) -> a rate per flow."""


def weighted_max_min(flows: Sequence[FlowSpec], capacities: Sequence[float]) -> list[float]:
    """Weighted max-min fair rates under per-flow caps, by progressive filling.

    All rates grow as weight * level until a flow meets its cap or a resource on its route is full; such flows freeze
    and the rest continue (Bertsekas and Gallager, Data Networks, section 6.5.2, with weights and caps). The result has
    the max-min certificate: each flow is at its cap, or crosses a full resource on which no flow has a larger
    rate / weight.
    """
    rates = [0.0] * len(flows)
    left = list(capacities)
    active = [i for i, f in enumerate(flows) if f.route]
    for i, f in enumerate(flows):
        if not f.route:
            rates[i] = f.cap
    while active:
        load: dict[int, float] = {}
        for i in active:
            flow = flows[i]
            for resource, multiplier in flow.route:
                load[resource] = load.get(resource, 0.0) + multiplier * flow.weight
        levels = {resource: max(left[resource], 0.0) / demand for resource, demand in load.items()}
        level = min(min(levels.values()), min(flows[i].cap / flows[i].weight for i in active))
        full = {resource for resource, at in levels.items() if at <= level * _TIGHT}
        frozen = [
            i
            for i in active
            if flows[i].cap / flows[i].weight <= level * _TIGHT or any(r in full for r, _ in flows[i].route)
        ]
        if not frozen:  # comparisons with NaN are false: without this the loop would never end
            raise RuntimeError(f"there are no fair rates: a capacity or a demand is not a number: {flows}")
        for i in frozen:
            rates[i] = min(flows[i].cap, flows[i].weight * level)
            for resource, multiplier in flows[i].route:
                left[resource] -= multiplier * rates[i]
        done = set(frozen)
        active = [i for i in active if i not in done]
    return rates


def caps_now(flows: Sequence[FlowSpec]) -> list[FlowSpec]:
    """`flows` with the caps and routes that apply while all of them are in flight."""
    present = {tag for f in flows for tag in f.tags}
    return [_now(f, present) if f.slowed_by or f.alternate_route else f for f in flows]


def _now(flow: FlowSpec, present: set[Tag]) -> FlowSpec:
    cap = flow.cap * math.prod(factor for tags, factor in flow.slowed_by if not present.isdisjoint(tags))
    if flow.alternate_route is None or present.isdisjoint(flow.alternate_route[0]):
        return flow._replace(cap=cap)
    return flow._replace(cap=cap, route=flow.alternate_route[1])


def rates_together(
    flows: Sequence[FlowSpec], capacities: Sequence[float], law: RateLaw = weighted_max_min
) -> list[float]:
    """The rate of each of `flows` while all of them are in flight, ignoring drag."""
    return law(caps_now(flows), capacities)


class Flow:
    """A transfer in flight. `done` succeeds when the last unit has arrived; it has none that `Fabric.move` started."""

    __slots__ = ("counted", "done", "finish", "number", "rate", "remaining", "route", "since", "size", "spec", "then")

    done: Event

    def __init__(self, spec: FlowSpec, number: int, size: float, now: float, then: Action | None) -> None:
        self.spec = spec
        self.number = number
        """Of its specification among those that its fabric has seen."""
        self.route = spec.route
        """As it is now."""
        self.counted = 0.0
        """Units that `Fabric.moved` has already."""
        self.size = size
        self.then = then
        self.rate = 0.0
        self.remaining = size
        self.since = now
        self.finish = math.inf


class _Wake:
    """The next end of a flow as it was foreseen at one time."""

    __slots__ = ("fabric",)

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric

    def __call__(self) -> None:
        self.fabric.end_flows(self)


class Fabric:
    """Resources shared by flows, in simulated time.

    `capacities` are in units per second. `transfer` starts a flow at the current time; `rates` and `used` show the
    state for checks and tracers.
    """

    def __init__(self, env: Environment, capacities: Sequence[float], law: RateLaw = weighted_max_min) -> None:
        self.env = env
        self.capacities = tuple(capacities)
        self.law = law
        self.moved = [0.0] * len(self.capacities)
        self.solves = 0
        self._flows: list[Flow] = []
        self._numbers: dict[FlowSpec, int] = {}
        self._number_by_id: dict[int, tuple[int, FlowSpec]] = {}
        """As `_numbers`, which takes long to hash; what it refers to keeps its id."""
        self._solved: dict[tuple[int, ...], tuple[list[float], list[Route]]] = {}
        self._dirty = False
        self._wake: _Wake | None = None

    @property
    def active(self) -> tuple[Flow, ...]:
        """Flows in flight, oldest first."""
        return tuple(self._flows)

    def transfer(self, spec: FlowSpec, size: float) -> Flow:
        """Start moving `size` units now; the flow's `done` event tells when it has ended."""
        flow = Flow(spec, self._number(spec), size, self.env.now, None)
        flow.done = Event(self.env)
        if size <= 0:
            flow.done.succeed()
        else:
            self._start(flow)
        return flow

    def move(self, spec: FlowSpec, size: float, then: Action) -> None:
        """As `transfer`; the environment calls `then` where the flow's `done` would happen."""
        if size <= 0:
            self.env.call_soon(then)
        else:
            self._start(Flow(spec, self._number(spec), size, self.env.now, then))

    def _start(self, flow: Flow) -> None:
        self._flows.append(flow)
        if not self._dirty:
            self._touch()

    def _number(self, spec: FlowSpec) -> int:
        known = self._number_by_id.get(id(spec))
        if known is None:
            known = self._number_by_id[id(spec)] = self._numbers.setdefault(spec, len(self._numbers)), spec
        return known[0]

    def cancel(self, flow: Flow) -> float:
        """Stop `flow`; returns the units it had not moved yet. Its `done` event never happens.

        Raises:
            ValueError: the flow is not in flight: it has ended, or is another fabric's.
        """
        if flow not in self._flows:
            raise ValueError(f"the flow of {flow.size} units is not in flight: it has ended or was cancelled")
        self._flows.remove(flow)
        left = self.left(flow)
        self._account(flow, flow.size - left)
        self._touch()
        return left

    def used(self) -> list[float]:
        """Load of each resource, in units per second, at the current rates."""
        load = [0.0] * len(self.capacities)
        for flow in self._flows:
            for resource, multiplier in flow.route:
                load[resource] += multiplier * flow.rate
        return load

    def is_wake(self, what: object) -> bool:
        """Whether `what` is an end of a flow that was scheduled, outdated or not."""
        return type(what) is _Wake and what.fabric is self

    def rates_beside(self, spec: FlowSpec) -> tuple[list[float], list[float]] | None:
        """Rates of the flows in flight, alone and beside one of `spec`, the last; None where that changes routes."""
        routes = [flow.route for flow in self._flows]
        alone = self._rates()[0] if self._flows else []
        self._flows.append(Flow(spec, self._number(spec), 1.0, self.env.now, None))
        beside, changed = self._rates()
        self._flows.pop()
        if not beside[-1] > 0 or any(a is not b for a, b in zip([*routes, spec.route], changed, strict=True)):
            return None
        return alone, beside

    def is_stale(self, what: object) -> bool:
        """Whether `what` is an outdated end of a flow, scheduled before rates changed."""
        return isinstance(what, _Wake) and what.fabric is self and what is not self._wake

    def left(self, flow: Flow) -> float:
        """Units that `flow` has not moved yet."""
        return max(flow.remaining - flow.rate * (self.env.now - flow.since), 0.0)

    def _account(self, flow: Flow, units: float) -> None:
        """Count what `flow` took of the resources until it had moved `units`."""
        for resource, multiplier in flow.route:
            self.moved[resource] += multiplier * (units - flow.counted)
        flow.counted = units

    def _touch(self) -> None:
        if not self._dirty:
            self._dirty = True
            self.env.at_end_of_instant(self._settle)

    def _settle(self) -> None:
        """Give every flow its new rate and schedule the next end of one."""
        self._dirty = False
        flows = self._flows
        if not flows:
            self._wake = None
            return
        now, rounding = self.env.now, self.env.rounding
        first = math.inf
        rates, routes = self._rates()
        for flow, rate, route in zip(flows, rates, routes, strict=True):
            if route is not flow.route:
                self._account(flow, flow.size - self.left(flow))
                flow.route = route
            if rate != flow.rate:
                remaining = flow.remaining = flow.remaining - flow.rate * (now - flow.since)
                flow.since = now
                flow.rate = rate
                if rate <= 0:
                    flow.finish = math.inf
                else:
                    # as `on_grid`, without a call
                    flow.finish = now + ((remaining / rate + rounding) - rounding) if remaining > 0 else now
            if flow.finish < first:
                first = flow.finish
        if first == math.inf:
            raise RuntimeError("no flow can make progress: a resource or a cap on every route is 0")
        wake = self._wake = _Wake(self)
        self.env.call_at(first if first > now else now, wake)

    def _rates(self) -> tuple[list[float], list[Route]]:
        key = tuple([f.number for f in self._flows])  # specifications are long to hash
        solved = self._solved.get(key)
        if solved is None:
            solved = self._solved[key] = self._solve([f.spec for f in self._flows])
            self.solves += 1
        return solved

    def _solve(self, given: Sequence[FlowSpec]) -> tuple[list[float], list[Route]]:
        specs = caps_now(given)
        rates = self.law(specs, self.capacities)
        for i, spec in enumerate(specs):
            if spec.drag is not None:
                resource, slowdown = spec.drag
                load = sum(m * r for s, r in zip(specs, rates, strict=True) for at, m in s.route if at == resource)
                rates[i] /= 1.0 + slowdown * load / self.capacities[resource]
        for spec, rate in zip(specs, rates, strict=True):
            if not rate >= 0:  # NaN as well
                raise RuntimeError(f"the rate law gives {spec} a rate of {rate}")
        return rates, [spec.route for spec in specs]

    def end_flows(self, wake: _Wake) -> None:
        """End the flows that end now, if `wake` is still what was foreseen."""
        if wake is not self._wake:
            return  # rates have changed since
        now = self.env.now
        ended = [f for f in self._flows if f.finish <= now]
        self._flows = [f for f in self._flows if f.finish > now]
        for flow in ended:
            self._account(flow, flow.size)
            if flow.then is None:
                flow.done.succeed()
            else:
                self.env.call_soon(flow.then)
        self._touch()
