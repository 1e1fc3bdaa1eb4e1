"""Which GPU each rank sits on: the form, its faults, and what it changes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shortcut_runs import both_ways, steps_of
from strategies import collective, compute, tiny_profile

from sim import Scenario, simulate
from sim.analysis.first_order import layer_time, step_seconds
from sim.hardware import load_profile
from sim.inputs.config import InputError
from sim.machine import SimulatedMachine
from sim.policies import build

TWO_SWITCHES = "h100x8-pcie-2switch"
WORKLOAD = {
    "layers": 6,
    "steps": 3,
    "layer_bytes": "400 MB",
    "block": [compute(1e-3), collective(40_000_000), compute(3e-3)],
}


def plain(**more: Any) -> dict[str, Any]:
    policy = {"kind": "chunked", "chunk_bytes": "16 MiB"}
    return {"hardware": TWO_SWITCHES, "world_size": 4, "workload": WORKLOAD, "policy": policy} | more


def test_four_gpus_of_one_domain_differ_from_two_of_each() -> None:
    near, far = (simulate(Scenario.from_plain(plain(placement=p))) for p in ([0, 1, 2, 3], [0, 1, 4, 5]))
    # four copies share one uplink of 54.5 GB/s, or two of them each: 6 layers of 400 MB take 176 ms, or 88
    assert near.metrics["h2d_busy_s"] == pytest.approx(4 * 6 * 400e6 / 54.5e9, rel=0.02)
    assert far.metrics["step_time_s"] < 0.8 * near.metrics["step_time_s"]
    assert far.timeline.program.gpus == (0, 1, 4, 5)


def test_placing_ranks_where_they_are_anyway_changes_nothing() -> None:
    given, left_out = (simulate(Scenario.from_plain(plain(**p))) for p in ({"placement": [0, 1, 2, 3]}, {}))
    assert given.timeline.spans == left_out.timeline.spans
    assert given.metrics == left_out.metrics


def test_domains_of_a_symmetric_host_may_change_places() -> None:
    here, there = (simulate(Scenario.from_plain(plain(placement=p))) for p in ([0, 1, 4, 5], [6, 7, 2, 3]))
    assert there.metrics["step_times_s"] == pytest.approx(here.metrics["step_times_s"], rel=1e-12)


@pytest.mark.parametrize("placement", [[0, 1, 4, 5], [3, 0, 7, 5]])
def test_layers_that_repeat_are_left_out_where_ranks_are_placed(placement: list[int]) -> None:
    scenario = Scenario.from_plain(
        plain(placement=placement, workload=WORKLOAD | {"layers": 60}, policy={"kind": "whole_layer"})
    )
    whole, short = both_ways(scenario, 10.0)
    assert short.repeated_layers
    assert steps_of(short) == pytest.approx(steps_of(whole), rel=1e-9)


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        ([0, 1, 4], "placement: places 3 ranks, but world_size is 4"),
        ([0, 1, 4, 1], "placement[3]: is 1, which rank 1 has too: expected a GPU of its own for each rank"),
        ([0, -1, 4, 5], "placement[1]: is -1, expected the number of a GPU, from 0 on"),
        ([0, 1, 4, 8], f"placement[3]: is 8, but the GPUs of {TWO_SWITCHES} are 0 to 7"),
        ("all", "placement: expected a list, got text 'all'"),
    ],
)
def test_a_wrong_placement_is_refused(placement: object, said: str) -> None:
    with pytest.raises(InputError) as error:
        Scenario.from_plain(plain(placement=placement)).profile()
    assert said in str(error.value)


def test_a_hierarchical_collective_needs_domains_that_the_ranks_fill_evenly() -> None:
    profile = load_profile(TWO_SWITCHES)
    kind = msgspec.structs.replace(profile.collectives.all_to_all, algorithm="hierarchical")
    profile = msgspec.structs.replace(
        profile, collectives=msgspec.structs.replace(profile.collectives, all_to_all=kind)
    )
    Scenario.from_plain(plain(placement=[0, 1, 4, 5])).check(profile)
    with pytest.raises(InputError, match="needs 4 ranks in domains of one size"):
        Scenario.from_plain(plain(placement=[0, 1, 2, 5])).check(profile)


def test_first_order_times_follow_the_placement() -> None:
    profile = load_profile(TWO_SWITCHES)
    workload = Scenario.from_plain(plain()).workload.resolve(4)
    layer = workload.layers[0]
    near, far = (layer_time(profile, layer, 4, layer.bytes, p) for p in ((), (0, 1, 4, 5)))
    assert near.total == layer_time(profile, layer, 4, layer.bytes, (4, 5, 6, 7)).total
    assert far.total < near.total
    assert step_seconds(profile, workload, 4, placement=(0, 1, 4, 5)) == pytest.approx(6 * far.total)


def test_the_program_knows_its_placement_and_its_hash_does_too() -> None:
    scenario = Scenario.from_plain(plain(placement=[3, 2, 1, 0]))
    program, unplaced = scenario.program(), build(scenario.workload.resolve(4), scenario.policy, 4)
    assert program.placement == (3, 2, 1, 0)
    assert unplaced.placement == ()
    assert program.hash != unplaced.hash
    with pytest.raises(ValueError, match=r"ranks are placed on GPUs \[3, 2, 1, 0\]"):
        SimulatedMachine(tiny_profile(2)).run(program)
