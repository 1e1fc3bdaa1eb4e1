"""Prefetch depth counted in offloaded layers, and resident layers given as a number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import compute

from sim import Scenario, simulate
from sim.inputs.config import InputError
from sim.machine import SimulatedMachine
from sim.policies import count_commands
from sim.program import Copy, RankProgram
from sim.shortcuts import run_layers
from sim.timeline.metrics import Metrics

Plain = dict[str, Any]
GROUPS_OF_FOUR = [0, 1, 4, 5]
"""Of eight layers, the last two of each four are offloaded."""


def scenario(policy: Plain, layers: int = 8, **more: Any) -> Scenario:
    workload = {"layers": layers, "steps": 4, "layer_bytes": "831 MB", "block": [compute(10e-3)]} | more
    return Scenario.from_plain({"hardware": "h200x1", "world_size": 1, "workload": workload, "policy": policy})


def run(policy: Plain) -> Metrics:
    return simulate(scenario(policy)).metrics


def whole(**fields: Any) -> Plain:
    return {"kind": "whole_layer", "prefetch_counts": "offloaded", "resident_layers": GROUPS_OF_FOUR} | fields


def test_one_slot_stalls_where_offloaded_layers_follow_each_other_and_two_do_not() -> None:
    # vllm-ascend pull request 11945: prefetch step 1, with one buffer, stalls; step 2 cures it. A copy takes 15 ms, a
    # layer 10 ms. With one slot the second of two offloaded layers waits for its whole copy: 8 x 10 + 2 x 15 ms.
    copy = 831e6 / 55.4e9
    one, two = (run(whole(prefetch_layers=k)) for k in (0, 1))
    assert one["step_time_s"] == pytest.approx(0.08 + 2 * copy, rel=0.01)
    assert two["step_time_s"] == pytest.approx(0.08, rel=0.01)
    assert two["peak_memory_bytes"] - one["peak_memory_bytes"] == 831_000_000
    # counted through all layers, the same two slots serve the resident layers as well: each copy has one layer to hide
    every = run(whole(prefetch_layers=1, prefetch_counts="all"))
    assert every["step_time_s"] == pytest.approx(0.08 + 4 * (copy - 0.01), rel=0.01)


def slots(program: RankProgram) -> list[tuple[int, str]]:
    return [(c.layer, c.buffer) for c in program.commands() if isinstance(c, Copy)]


def test_offloaded_layers_take_slots_in_turn() -> None:
    program = scenario(whole(prefetch_layers=1), passes_per_step=2).program().ranks[0]
    turns = [2, 3, 6, 7]
    expected = [(turns[i % 4], f"slot{i % 2}") for i in range(4 * 2 * 4 + 1)]
    assert slots(program) == expected


def test_what_runs_once_takes_its_turn() -> None:
    phase = [{"repeat": 2, "layer_bytes": "100 MB", "block": [compute(1e-3)]}]
    program = scenario(whole(prefetch_layers=2), before=phase, steps=1).program().ranks[0]
    layers = [8, 9, 2, 3, 6, 7, 8, 9]
    assert slots(program) == [(layer, f"slot{i % 3}") for i, layer in enumerate(layers)]


policies = st.sampled_from(
    [
        {"kind": "whole_layer", "issue": "after_compute"},
        {"kind": "chunked", "chunk_bytes": "100 MiB", "resident_fraction": 0.3},
        {"kind": "yielding", "chunk_bytes": "400 MiB", "drain": True},
        {"kind": "yielding", "chunk_bytes": "400 MiB", "window": "launch"},
        {"kind": "yielding", "chunk_bytes": "400 MiB", "window": "kernel", "slots": 6},
        {"kind": "sharded"},
    ]
)


@given(policies, st.integers(0, 4))
def test_without_resident_layers_both_count_alike(policy: Plain, ahead: int) -> None:
    policy = policy | {"prefetch_layers": ahead}
    every, offloaded = (scenario(policy | {"prefetch_counts": c}, 3).program().hash for c in ("all", "offloaded"))
    assert every == offloaded


@given(policies, st.integers(0, 4), st.sets(st.integers(0, 5), max_size=6))
def test_any_resident_layers_run_and_the_rest_is_copied(policy: Plain, ahead: int, resident: set[int]) -> None:
    policy = policy | {"prefetch_layers": ahead, "resident_layers": sorted(resident), "prefetch_counts": "offloaded"}
    made = scenario(policy, 6)
    commands = sum(1 for _ in made.program().ranks[0].commands())
    assert commands <= count_commands(made.workload.resolve(1), made.policy, 1)
    figures = simulate(made, settle=False).metrics
    fraction = policy.get("resident_fraction", 0.0)
    assert figures["h2d_bytes_per_step"] == pytest.approx((6 - len(resident)) * 831e6 * (1 - fraction), rel=1e-6)
    assert figures["step_time_s"] >= 6 * 10e-3 * (1 - 1e-9)


def test_a_pass_that_prefetches_only_its_own_layers_waits_for_its_first() -> None:
    policy = {"kind": "whole_layer", "wrap_around": False}
    made = scenario(policy, 4, layer_bytes="277 MB", passes_per_step=2)  # a copy takes 5 ms, a layer 10 ms
    figures = simulate(made).metrics
    assert figures["step_time_s"] == pytest.approx(8 * 10e-3 + 2 * 5e-3, rel=0.01)
    assert figures["exposed_prefetch_s"] == pytest.approx(2 * 5e-3, rel=0.01)
    assert figures["h2d_bytes_per_step"] == 8 * 277_000_000
    copies = [c for c in made.program().ranks[0].commands() if isinstance(c, Copy)]
    assert len(copies) == 4 * 2 * 4  # nothing for a step that never comes


gated = policies.filter(lambda policy: "window" not in policy)


@given(gated, st.integers(0, 4), st.sets(st.integers(0, 3), max_size=3), st.booleans())
def test_all_policies_can_leave_out_the_next_pass(policy: Plain, ahead: int, resident: set[int], once: bool) -> None:
    phase = [{"repeat": 2, "layer_bytes": "100 MB", "block": [compute(1e-3)]}] if once else []
    policy = policy | {"prefetch_layers": ahead, "resident_layers": sorted(resident), "wrap_around": False}
    for counted in ("all", "offloaded"):
        made = scenario(policy | {"prefetch_counts": counted}, 4, passes_per_step=2, steps=3, before=phase, after=phase)
        program = made.program().ranks[0]
        brought = sum(isinstance(c, Copy) and c.offset == 0 for c in program.commands())
        assert brought == 3 * 2 * (4 - len(resident)) + 2 * len(phase) * 2
        assert sum(1 for _ in program.commands()) <= count_commands(made.workload.resolve(1), made.policy, 1)
        simulate(made, settle=False)


def test_a_number_of_resident_layers_is_so_many_of_the_first() -> None:
    number, listed = (scenario({"kind": "whole_layer", "resident_layers": given}) for given in (3, [0, 1, 2]))
    assert number.program().hash == listed.program().hash
    nothing, every = (run({"kind": "whole_layer", "resident_layers": n})["h2d_bytes_per_step"] for n in (0, 8))
    assert (nothing, every) == (8 * 831_000_000, 0)


def test_layers_that_repeat_are_not_left_out_where_only_some_count() -> None:
    made = scenario({"kind": "whole_layer", "prefetch_counts": "offloaded"}, 60)
    found = run_layers(SimulatedMachine(made.profile()), made.workload.resolve(1), made.policy, 1, worth=0)
    assert found.repeated_layers == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"resident_layers": 9}, "policy.resident_layers: is 9, but the workload has 8 layers"),
        ({"resident_layers": -1}, "policy.resident_layers: is -1, expected 0 or more, or a list of layers"),
        ({"resident_layers": [8]}, "policy.resident_layers: has 8, but the workload's layers are 0 to 7"),
        ({"resident_layers": True}, "policy.resident_layers: expected"),
        (
            {"kind": "yielding", "chunk_bytes": 1, "window": "launch", "wrap_around": False},
            "policy.wrap_around: false is for window device_gate",
        ),
        ({"prefetch_counts": "some"}, "policy.prefetch_counts: is 'some'; expected one of all, offloaded"),
    ],
)
def test_wrong_counts_are_refused(fields: Plain, said: str) -> None:
    with pytest.raises(InputError) as error:
        scenario({"kind": "whole_layer"} | fields)
    assert said in str(error.value)
