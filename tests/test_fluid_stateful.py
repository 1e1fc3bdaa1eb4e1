"""The fabric under any sequence of starts, ends and cancellations; and over very many of them."""

from __future__ import annotations

import math

import pytest
from conftest import LONG
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from max_min import check_max_min
from strategies import Company, companies, rates
from strategies import positive as weights

from sim.environment import Environment
from sim.fluid import Fabric, Flow, FlowSpec

RESOURCES = 3


class FabricMachine(RuleBasedStateMachine):
    """Books of its own, integrated from rates, beside those of the fabric."""

    flows = Bundle("flows")

    @initialize(capacities=st.lists(rates, min_size=RESOURCES, max_size=RESOURCES))
    def build(self, capacities: list[float]) -> None:
        self.env = Environment()
        self.fabric = Fabric(self.env, capacities)
        self.moved: dict[Flow, float] = {}
        self.ended: set[Flow] = set()

    @rule(
        target=flows,
        route=st.dictionaries(st.integers(0, RESOURCES - 1), weights, max_size=RESOURCES),
        cap=rates,
        weight=weights,
        drag=st.none() | st.tuples(st.integers(0, RESOURCES - 1), st.sampled_from([0.0, 0.5])),
        company=companies(),
        size=st.sampled_from([0.0, 1.0, 8.0]) | st.floats(1e-6, 1e3),
    )
    def start(
        self,
        route: dict[int, float],
        cap: float,
        weight: float,
        drag: tuple[int, float] | None,
        company: Company,
        size: float,
    ) -> Flow:
        spec = company.of(FlowSpec(tuple(sorted(route.items())), cap, weight, None if route else drag))
        flow = self.fabric.transfer(spec, size)
        self.moved[flow] = 0.0
        assert flow.done.callbacks is not None
        flow.done.callbacks.append(lambda _: self.ended.add(flow))
        self.settle()
        return flow

    @rule(flow=consumes(flows))
    def cancel(self, flow: Flow) -> None:
        if flow in self.ended:
            with pytest.raises(ValueError, match="is not in flight"):
                self.fabric.cancel(flow)
            return
        assert self.fabric.cancel(flow) == pytest.approx(flow.size - self.moved[flow], rel=1e-9, abs=1e-9)
        self.settle()

    @rule(seconds=st.sampled_from([0.25, 1.0, 4.0]) | st.floats(1e-3, 100.0))
    def advance(self, seconds: float) -> None:
        until = self.env.now + seconds
        while (event := self.env.peek()) <= until:
            self.pass_time(event - self.env.now)
            self.env.step()
            self.settle()
        reached = self.env.at(until)
        self.pass_time(until - self.env.now)
        while not reached.processed:
            self.env.step()

    def pass_time(self, seconds: float) -> None:
        for flow in self.fabric.active:
            self.moved[flow] += flow.rate * seconds

    def settle(self) -> None:
        while self.env.peek() <= self.env.now:
            self.env.step()

    @invariant()
    def fair(self) -> None:
        if hasattr(self, "fabric"):
            active = self.fabric.active
            check_max_min([f.spec for f in active], self.fabric.capacities, [f.rate for f in active])

    @invariant()
    def whole(self) -> None:
        for flow in getattr(self, "ended", ()):
            assert self.moved[flow] == pytest.approx(flow.size, rel=1e-9, abs=1e-9)


FabricMachine.TestCase.settings = settings(stateful_step_count=30)
test_any_sequence = FabricMachine.TestCase


def test_nothing_drifts_over_very_many_events() -> None:
    # trains of flows of unlike sizes, caps and weights over two links, each flow started as its predecessor ends
    events = 1_000_000 if LONG else 30_000
    env = Environment()
    fabric = Fabric(env, [10.0, 7.0])
    specs = [FlowSpec(((i % 2, 1.0), *(((1, 0.5),) if i == 2 else ())), 3.0 + i / 7, 1.0 + i / 3) for i in range(6)]
    done = [0] * len(specs)
    current: dict[int, Flow] = {}
    size = [math.pi, 0.1, 1 / 3, math.e, 1e-3, 7.0]

    def start(train: int) -> None:
        flow = current[train] = fabric.transfer(specs[train], size[train])
        assert flow.done.callbacks is not None
        flow.done.callbacks.append(lambda _: ended(train))

    def ended(train: int) -> None:
        done[train] += 1
        start(train)

    for train in range(len(specs)):
        start(train)
    spent: list[float] = []
    used: list[list[float]] = [[], []]
    while sum(done) < events:
        if env.peek() > env.now:
            spent.append(env.peek() - env.now)
            for link, load in zip(used, fabric.used(), strict=True):
                link.append(load * spent[-1])
        env.step()
    moved = [n * s + s - fabric.cancel(current[t]) for t, (n, s) in enumerate(zip(done, size, strict=True))]
    for link in (0, 1):
        by_flow = sum(m * dict(specs[t].route).get(link, 0.0) for t, m in enumerate(moved))
        assert fabric.moved[link] == pytest.approx(by_flow, rel=1e-9)
        assert math.fsum(used[link]) == pytest.approx(by_flow, rel=1e-9)
    assert math.fsum(spent) == pytest.approx(env.now, rel=1e-12)
