"""The floor of a step: its terms by hand, and that no schedule of the same bytes in as many slots beats it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, Plain, changes, collective, compute, scenario, tiny_profile, workloads

from sim.hardware.host_flows import HostFlows
from sim.run import Result, simulate
from sim.timeline.floor_terms import Segment, Turn, chain_floor, collective_segments, kernel_segment, overlap_floor

TIE = 1e-9


def floor_and_step(
    workload: Plain, policy: Plain, ranks: int = 2, changed: dict[str, float] | None = None
) -> tuple[float, float]:
    found = simulate(scenario(workload, policy, ranks), tiny_profile(ranks, changed)).metrics
    return found["lower_bound_s"], found["step_time_s"]


def test_copies_go_where_they_cost_least() -> None:
    free, dear = Segment(2, 0.0, 10), Segment(3, 0.5, 4)
    assert overlap_floor([dear, free], 10, 8) == 5
    assert overlap_floor([dear, free], 12, 8) == 6
    assert overlap_floor([dear, free], 22, 8) == 5 + 2 + 1


def test_a_byte_beside_a_collective_costs_what_it_delays() -> None:
    # 4 B/s come alone, for 4 s; beside copies the link's 8 B/s are shared 1 : 4, 1.6 and 6.4 B/s
    profile = tiny_profile(2, {"collective.cap": 4, "collective.weight": 0.25})
    latency, moving = collective_segments(HostFlows(profile, [0, 1]), "all_to_all", 32, None, 0)
    assert latency == Segment(0, 0, 0)
    assert moving.seconds == pytest.approx(4)
    assert moving.cost == pytest.approx((1 - 1.6 / 4) / 6.4)
    assert moving.most == pytest.approx(6.4 * 10)
    # with as much weight as a copy it keeps its rate, and a copy gets the rest of the link
    fast = tiny_profile(2, {"collective.cap": 4})
    _, free = collective_segments(HostFlows(fast, [0, 1]), "all_to_all", 32, None, 0)
    assert free.cost == 0
    assert free.most == pytest.approx(4 * 4)


def test_copies_that_something_else_holds_up_cost_a_collective_nothing() -> None:
    # the host's memory lets copies have 3 B/s each, which leaves 5 of a link's 8 to a collective that wants 4
    topology = {
        "nodes": {"memory": {"kind": "memory", "out_of": {"value": 6.0, "source": "test", "carries": "copies"}}},
        "links": [{"ends": ["memory", "gpu{gpu}"], "each_way": {"value": 8.0, "source": "test"}}],
        "peers": "host",
    }
    profile = tiny_profile(2, {"collective.cap": 4, "collective.weight": 0.25}, topology)
    assert [segment.cost for segment in collective_segments(HostFlows(profile, [0, 1]), "all_to_all", 32, None, 0)] == [
        0,
        0,
    ]


def test_a_kernel_is_delayed_by_its_launches() -> None:
    profile = tiny_profile(2, {"streams.launch_delay": 0.5})
    found = kernel_segment(profile, 0, 4.0, 2)  # 2 launches lose 1 s beside 5 s of copies
    assert (found.seconds, found.most) == (4, pytest.approx(40))
    assert found.cost * found.most == pytest.approx(1)


@pytest.mark.parametrize(
    ("turns", "slots", "seconds"),
    [
        ([Turn(2, 3, 3)] * 4, 1, 20),  # each copy waits for the layer before
        ([Turn(2, 3, 3)] * 4, 2, 12),
        ([Turn(5, 3, 3)] * 4, 2, 20),
        (
            [Turn(5, 1, 3), Turn(1, 3, 3)],
            1,
            11,
        ),  # a copy, the layer, and the other one until its slot is free: 5 + 3 + 3
        ([Turn(9, 1, 1), Turn(1, 5, 5), Turn(0, 2, 2)], 1, 16),  # 9 + 1 + 1 + 5: the third runs beside the copy
        ([Turn(9, 1, 1), Turn(1, 5, 5), Turn(0, 2, 2)], 2, 10),
        ([Turn(0, 2, 2)], 1, 2),
        ([], 1, 0),
    ],
)
def test_chains_by_hand(turns: list[Turn], slots: int, seconds: float) -> None:
    assert chain_floor(turns, slots) == pytest.approx(seconds)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_without_contention_whole_layers_reach_the_floor(layers: list[tuple[int, int]], ahead: int) -> None:
    blocks = [{"repeat": 1, "layer_bytes": 16 * c, "block": [compute(d)]} for c, d in layers]
    policy = {"kind": "whole_layer", "prefetch_layers": ahead, "prefetch_counts": "offloaded"}
    result = simulate(scenario({"steps": 8, "blocks": blocks}, policy, 1), tiny_profile(1))
    turns = [Turn(2.0 * c, d, d) for c, d in layers]
    floor = chain_floor(turns, ahead + 1)
    longest = max(result.metrics["step_times_s"][3:])
    assert floor <= longest + TIE
    if result.metrics["settled"]:
        assert longest <= floor * (1 + 1e-9) + TIE or longest == pytest.approx(floor)


def settled(case: Case) -> Result:
    return simulate(case.scenario, case.profile)


_same = st.fixed_dictionaries({"resident_fraction": st.sampled_from([0.0, 0.5]), "prefetch_layers": st.integers(0, 2)})
_kinds = st.lists(
    st.sampled_from(
        [
            {"kind": "whole_layer"},
            {"kind": "whole_layer", "issue": "after_compute"},
            *({"kind": "chunked", "chunk_bytes": size} for size in (3, 8)),
            *({"kind": "yielding", "chunk_bytes": size, "drain": drain} for size in (3, 8) for drain in (False, True)),
            {"kind": "yielding", "chunk_bytes": 8, "yield_to": "none"},
        ]
    ),
    min_size=2,
    max_size=2,
)


@settings(max_examples=40)
@given(workloads(min_steps=3), _same, _kinds, changes(host__queue_depth=1000.0), st.sampled_from([2, 1, 3]))
def test_no_schedule_beats_the_floor_of_another_one(
    workload: Plain, same: Plain, kinds: list[Plain], changed: dict[str, float], ranks: int
) -> None:
    found = [settled(Case(workload, kind | same, ranks, changed)).metrics for kind in kinds]
    steady = [one for one in found if one["settled"]]
    for one in steady:
        for other in steady:
            assert one["lower_bound_s"] <= other["step_time_s"] * (1 + 1e-9) + TIE


def test_the_floor_of_a_step_by_hand() -> None:
    # two layers: a kernel of 1 s, a collective of 4 s alone; 96 B of copies: 8 beside each kernel, the rest beside the
    # collectives at 0.6 / 6.4 s a byte
    block = [compute(1), collective(32)]
    workload = {"layers": 2, "steps": 8, "layer_bytes": 48, "block": block}
    changed = {"collective.cap": 4, "collective.weight": 0.25}
    floor, step = floor_and_step(workload, {"kind": "whole_layer"}, changed=changed)
    assert floor == pytest.approx(2 * (1 + 4) + (96 - 2 * 8) * 0.6 / 6.4)
    assert step == pytest.approx(floor)
    # with one slot each copy is on the chain, behind the last kernel of the layer before
    workload["block"] = [*block, compute(1)]
    floor, step = floor_and_step(workload, {"kind": "whole_layer", "prefetch_layers": 0}, changed=changed)
    assert step == pytest.approx(floor) == pytest.approx(2 * (6 + 6))
