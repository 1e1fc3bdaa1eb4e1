"""Answers found in another way: exact fair rates by trying every set of bottlenecks, and step times in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, Plain, collective, compute, networks

from sim.fluid import FlowSpec, weighted_max_min


def by_trying_all(flows: Sequence[FlowSpec], capacities: Sequence[float]) -> list[Fraction]:
    """Weighted max-min rates, exact: the only rates that fit and at which each flow has a bottleneck.

    Each flow is bound by its cap or by a resource on its route; all flows that a resource binds have one level there,
    rate / weight, which follows from its capacity. Of all ways to choose what binds whom, one gives rates that fit.
    """
    size = [Fraction(c) for c in capacities]
    caps, weights = [Fraction(f.cap) for f in flows], [Fraction(f.weight) for f in flows]
    takes = [{r: Fraction(m) for r, m in f.route} for f in flows]
    for binding in product(*([None, *taken] for taken in takes)):
        used = sorted({r for r in binding if r is not None})
        rows, right = [], []
        for r in used:
            rows.append(
                [
                    sum(
                        (takes[i].get(r, Fraction(0)) * weights[i] for i, b in enumerate(binding) if b == other),
                        Fraction(0),
                    )
                    for other in used
                ]
            )
            right.append(size[r] - sum(takes[i].get(r, 0) * caps[i] for i, b in enumerate(binding) if b is None))
        solved = solution(rows, right)
        if solved is None:
            continue
        level = dict(zip(used, solved, strict=True))
        rates = [caps[i] if b is None else weights[i] * level[b] for i, b in enumerate(binding)]
        fits = all(0 < rate <= cap for rate, cap in zip(rates, caps, strict=True)) and all(
            sum(taken.get(r, 0) * rate for taken, rate in zip(takes, rates, strict=True)) <= c
            for r, c in enumerate(size)
        )
        fair = all(
            rates[j] / weights[j] <= level[b]
            for b in binding
            if b is not None
            for j in range(len(flows))
            if b in takes[j]
        )
        if fits and fair:
            return rates
    raise AssertionError("there are always fair rates")


def solution(rows: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """Of the linear equations, by elimination; None where there is not exactly one."""
    rows = [[*row, value] for row, value in zip(rows, right, strict=True)]
    for i in range(len(rows)):
        pivot = next((row for row in rows[i:] if row[i]), None)
        if pivot is None:
            return None
        rows.remove(pivot)
        rows.insert(i, [x / pivot[i] for x in pivot])
        for j, row in enumerate(rows):
            if j != i:
                rows[j] = [x - row[i] * y for x, y in zip(row, rows[i], strict=True)]
    return [row[-1] for row in rows]


@given(networks(simultaneous=True, most_resources=3, most_flows=4))
def test_rates_are_those_found_by_trying_all_bottlenecks(network) -> None:  # type: ignore[no-untyped-def]
    flows = [d.spec._replace(drag=None) for d in network.demands]
    exact = [float(rate) for rate in by_trying_all(flows, network.capacities)]
    assert weighted_max_min(flows, network.capacities) == pytest.approx(exact, rel=1e-11)


# ---- closed forms --------------------------------------------------------------------------------------------------
# Steady steps of equal layers on links of 8 B/s: c s of compute and b bytes a layer, and a s of collectives alone,
# beside which nothing is copied.

COMPUTE = st.sampled_from([0.5, 1.0, 2.0, 3.0])
CHUNKS = st.integers(1, 6)
LAYERS = st.integers(2, 4)


def steady(layers: int, block: list[Plain], chunks: int, policy: Plain, **changes: float) -> float:
    """Step time once it has settled, of layers of `chunks` chunks of 1 s on two GPUs."""
    workload = {"layers": layers, "steps": 5, "layer_bytes": 8 * chunks, "block": block}
    return Case(workload, policy, 2, {k.replace("__", "."): v for k, v in changes.items()}).run().metrics["step_time_s"]


@given(LAYERS, COMPUTE, CHUNKS, st.sampled_from([0, 16]))
def test_resident_is_compute_and_collectives(layers: int, c: float, chunks: int, sent: int) -> None:
    block = [compute(c), *([collective(sent)] if sent else [])]
    assert steady(layers, block, chunks, {"kind": "resident"}) == pytest.approx(layers * (c + sent / 2 / 8))


PREFETCHING: list[Plain] = [
    {"kind": "whole_layer"},
    {"kind": "whole_layer", "issue": "after_compute"},
    {"kind": "chunked", "chunk_bytes": 8},
    {"kind": "yielding", "chunk_bytes": 8},
    {"kind": "yielding", "chunk_bytes": 8, "drain": True},
    {"kind": "yielding", "chunk_bytes": 8, "window": "launch"},
    {"kind": "yielding", "chunk_bytes": 8, "window": "kernel"},
]


@pytest.mark.parametrize("policy", PREFETCHING, ids=lambda p: "-".join(map(str, p.values())))
@given(LAYERS, COMPUTE, CHUNKS, st.sampled_from([0, 1, 2]))
def test_without_collectives_a_layer_takes_the_longer_of_compute_and_copies(
    policy: Plain, layers: int, c: float, chunks: int, ahead: int
) -> None:
    # one after the other without prefetch; with any, the slower of the two sets the pace
    expected = max(c, chunks) if ahead else c + chunks
    assert steady(layers, [compute(c)], chunks, policy | {"prefetch_layers": ahead}) == pytest.approx(layers * expected)


@pytest.mark.parametrize("policy", PREFETCHING, ids=lambda p: "-".join(map(str, p.values())))
@given(LAYERS, COMPUTE, CHUNKS)
def test_half_resident_halves_the_copies(policy: Plain, layers: int, c: float, chunks: int) -> None:
    policy = policy | {"resident_fraction": 0.5}
    assert steady(layers, [compute(c)], 2 * chunks, policy) == pytest.approx(layers * max(c, chunks))


@given(LAYERS, st.sampled_from([0.25, 1.0]), COMPUTE, CHUNKS)
def test_each_chunk_pays_its_setup(layers: int, setup: float, c: float, chunks: int) -> None:
    policy = {"kind": "chunked", "chunk_bytes": 8}
    found = steady(layers, [compute(c)], chunks, policy, h2d__setup=setup)
    assert found == pytest.approx(layers * max(c, chunks * (1 + setup)))


@pytest.mark.parametrize("drain", [False, True])
@given(LAYERS, st.integers(1, 4), CHUNKS, st.sampled_from([16, 32]))
def test_a_gate_keeps_copies_and_collectives_apart(drain: bool, layers: int, c: int, chunks: int, sent: int) -> None:
    # compute takes whole chunks, so none is in flight when the gate closes, and copies have the time outside
    policy = {"kind": "yielding", "chunk_bytes": 8, "drain": drain}
    found = steady(layers, [compute(c), collective(sent)], chunks, policy)
    assert found == pytest.approx(layers * (max(c, chunks) + sent / 2 / 8))


@given(LAYERS, CHUNKS, st.sampled_from([16, 32, 64]))
def test_whole_layers_share_the_link_with_collectives(layers: int, chunks: int, sent: int) -> None:
    # the link carries both, and is never idle while copies set the pace: nothing is lost by sharing
    found = steady(layers, [compute(0.25), collective(sent)], chunks, {"kind": "whole_layer"})
    isolated = 0.25 + sent / 2 / 8
    assert max(isolated, chunks + sent / 2 / 8) <= found / layers * (1 + 1e-9)
    assert found / layers <= (chunks + isolated) * (1 + 1e-9)
