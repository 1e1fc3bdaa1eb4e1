"""Invariants of the fabric, on random networks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from max_min import SLACK, check_max_min
from strategies import Network, companies, networks

from sim.environment import Environment
from sim.fluid import Fabric, Flow, weighted_max_min


@given(networks(simultaneous=True))
def test_rates_have_the_max_min_certificate(network: Network) -> None:
    flows = [d.spec._replace(drag=None) for d in network.demands]
    check_max_min(flows, network.capacities, weighted_max_min(flows, network.capacities))


@given(networks(simultaneous=True), st.randoms(use_true_random=False))
def test_rates_do_not_depend_on_the_order_of_flows(network: Network, random: object) -> None:
    flows = [d.spec for d in network.demands]
    order = list(range(len(flows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rates = weighted_max_min(flows, network.capacities)
    shuffled = weighted_max_min([flows[i] for i in order], network.capacities)
    assert [shuffled[order.index(i)] for i in range(len(flows))] == pytest.approx(rates, rel=1e-9)


@given(networks(simultaneous=True), st.sampled_from([2.0**-20, 2.0**30]))
def test_rates_scale_with_capacities_and_caps(network: Network, factor: float) -> None:
    flows = [d.spec for d in network.demands]
    scaled = [f._replace(cap=f.cap * factor) for f in flows]
    rates = weighted_max_min(flows, network.capacities)
    assert weighted_max_min(scaled, [c * factor for c in network.capacities]) == [r * factor for r in rates]


class Watched:
    """Runs a network to its end, checks the rates at all times, and integrates them apart from the fabric's own books.

    `moved` is units by demand, `ends` the time of each end, `left` what cancelling returned.
    """

    def __init__(self, network: Network) -> None:
        self.env = Environment()
        self.fabric = Fabric(self.env, network.capacities)
        self.network = network
        self.flows: dict[int, Flow] = {}
        self.ends: dict[int, float] = {}
        self.left: dict[int, float] = {}
        self.moved = [0.0] * len(network.demands)
        self.taken = [0.0] * len(network.capacities)
        for number, demand in enumerate(network.demands):
            self.env.process(self._demand(number))
            if demand.cancel is not None:
                self.env.process(self._cancel(number, demand.start + demand.cancel))
        while (until := self.env.peek()) < float("inf"):
            if until > self.env.now:
                self._advance(until - self.env.now)
            self.env.step()
        assert self.fabric.active == ()

    def _demand(self, number: int):  # type: ignore[no-untyped-def]
        start, size, spec, _ = self.network.demands[number]
        yield self.env.at(start)
        flow = self.flows[number] = self.fabric.transfer(spec, size)
        yield flow.done
        self.ends[number] = self.env.now

    def _cancel(self, number: int, time: float):  # type: ignore[no-untyped-def]
        yield self.env.at(time)
        if self.flows.get(number) in self.fabric.active:
            self.left[number] = self.fabric.cancel(self.flows[number])

    def _advance(self, seconds: float) -> None:
        active = self.fabric.active
        check_max_min([f.spec for f in active], self.fabric.capacities, [f.rate for f in active])
        for resource, load in enumerate(self.fabric.used()):
            self.taken[resource] += load * seconds
        for number, flow in self.flows.items():
            if flow in active:
                self.moved[number] += flow.rate * seconds


@given(networks(company=companies()))
def test_units_in_are_units_out_and_rates_are_fair_at_all_times(network: Network) -> None:
    run = Watched(network)
    for number, demand in enumerate(network.demands):
        assert (number in run.ends) != (number in run.left)
        moved = demand.size - run.left.get(number, 0.0)
        assert run.moved[number] == pytest.approx(moved, rel=1e-9, abs=1e-9)
    assert run.fabric.moved == pytest.approx(run.taken, rel=1e-9, abs=1e-9)


@given(networks(company=companies()))
def test_the_same_network_runs_the_same_bit_for_bit(network: Network) -> None:
    first, second = Watched(network), Watched(network)
    assert (first.ends, first.left, first.fabric.moved) == (second.ends, second.left, second.fabric.moved)


@given(networks(company=companies()), st.sampled_from([0.125, 4.0]))
def test_scaling_times_and_inversely_rates_scales_every_end(network: Network, factor: float) -> None:
    slow = Network(
        tuple(c / factor for c in network.capacities),
        tuple(
            d._replace(
                start=d.start * factor,
                cancel=None if d.cancel is None else d.cancel * factor,
                spec=d.spec._replace(cap=d.spec.cap / factor),
            )
            for d in network.demands
        ),
    )
    assert Watched(slow).ends == {number: end * factor for number, end in Watched(network).ends.items()}


@given(networks(simultaneous=True))
def test_sharing_is_never_slower_than_one_flow_after_the_other(network: Network) -> None:
    # Each flow is at its cap or on a full resource, so at any time the flows do at least one second of lone work a
    # second; a drag adds its slow-down while the others move.
    total = 0.0
    for _, size, spec, _ in network.demands:
        isolated = weighted_max_min([spec], network.capacities)[0]
        total += size / isolated * (1 + (spec.drag[1] if spec.drag else 0.0))
    assert max(Watched(network).ends.values()) <= total * SLACK
