"""Elasticities where they are known, Euler's theorem where they are not, and intervals against draws of the numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest
import yaml
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, collective, compute, offloading, scaled, scenario, tiny_profile

from sim import Scenario, SimulatedMachine, load_profile
from sim.hardware import Profile, to_plain
from sim.numbers import changed, numbers
from sim.program import Program
from sim.sensitivity import (
    NUDGE_S,
    Effect,
    Factor,
    Sensitivity,
    around,
    factors,
    figure,
    interval,
    most_runs,
    sensitivity,
    slopes,
    uncertain,
)
from sim.units import Bandwidth, FlopRate, Seconds

GOLDEN = sorted(f for f in (Path(__file__).parent / "golden").glob("*.yaml") if f.name != "host.yaml")
FLOPS = [{"compute": {"name": "k", "flops": 4.0, "bytes": 1.0}}]
COPY_BOUND = scenario(
    {"layers": 3, "steps": 4, "layer_bytes": 64, "block": [compute(1.0)]},
    {"kind": "chunked", "chunk_bytes": 16, "resident_fraction": 0.0},
)
RESIDENT = scenario({"layers": 3, "steps": 3, "layer_bytes": 64, "block": FLOPS}, {"kind": "resident"})


def effect_of(found: Sensitivity, path: str) -> Effect:
    return next(e for e in found.effects if path in e.factor.paths)


# ---- factors -------------------------------------------------------------------------------------------------------


def test_a_cap_and_the_link_that_it_fills_are_one_measurement() -> None:
    by_name = {f.name: f for f in factors(load_profile("h200x4-hostpath-20261121d"))}
    assert by_name["h2d.cap + topology.links[0].there"][1:] == (53.63e9, 0.0054)
    assert by_name["d2h.cap + topology.links[0].back"][1:] == (55.49e9, 0.00081)
    assert "topology.links[0].both_ways" in by_name and "h2d.cap" not in by_name


def test_a_link_of_another_capacity_is_a_measurement_of_its_own() -> None:
    names = {f.name for f in factors(tiny_profile(changes={"h2d.cap": 7.0}))}
    assert {"h2d.cap", "topology.links[1].there", "d2h.cap + topology.links[1].back"} <= names
    assert {p for f in factors(tiny_profile()) for p in f.paths} == set(numbers(tiny_profile()))


def test_one_capacity_of_both_ways_joins_both_caps() -> None:
    limit = {"value": 8.0, "source": "test"}
    topology = {
        "nodes": {"memory": {"kind": "memory"}},
        "links": [{"ends": ["memory", "gpu{gpu}"], "each_way": limit}],
        "peers": "host",
    }
    assert factors(tiny_profile(topology=topology))[0].paths == ("h2d.cap", "topology.links[0].each_way", "d2h.cap")


# ---- elasticities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"h2d.cap": 7.0}])
def test_a_step_bound_by_copies_goes_with_their_cap(changes: dict[str, float]) -> None:
    found = sensitivity(COPY_BOUND, tiny_profile(changes=changes), change=1e-3)
    assert effect_of(found, "h2d.cap").elasticity == pytest.approx(-1, abs=1e-5)
    assert [e.factor.paths[0] for e in found.effects if e.elasticity is not None] == ["h2d.cap"]
    assert ("topology.links[1].there" in found.unmoved) == bool(changes)


@pytest.mark.parametrize("change", [0.05, 1e-4])
def test_a_step_of_one_kind_of_kernel_goes_with_their_efficiency(change: float) -> None:
    found = sensitivity(RESIDENT, tiny_profile(), change=change)
    expected = -1 / (1 - change**2)  # of 1/x by central differences
    for path in ("device.compute_efficiency", "device.peak_flops"):
        assert effect_of(found, path).elasticity == pytest.approx(expected, rel=1e-9)
    assert {"device.hbm_efficiency", "device.hbm_bandwidth", "h2d.cap + topology.links[1].there"} <= set(found.unmoved)
    assert found.figure == pytest.approx(12.0)
    assert effect_of(found, "device.peak_flops").moved == pytest.approx(12 * expected * change, rel=1e-9)


def test_collectives_alone_and_what_is_zero() -> None:
    waiting = scenario({"layers": 2, "steps": 3, "layer_bytes": 2, "block": [collective(16), compute(1.0)]}, {"kind": "resident"})  # fmt: skip
    found = sensitivity(waiting, tiny_profile(changes={"all_to_all.latency": 0.25, "all_to_all.cap": 4.0}))
    table, event = (effect_of(found, path) for path in ("collectives.all_to_all.alone", "streams.event"))
    # a rank sends 8 B at 4 B/s after 0.25 s: 2.25 of 3.25 s a layer
    assert (table.factor.value, table.elasticity) == (None, pytest.approx(2.25 / 3.25))
    # an event a step
    assert (event.elasticity, event.moved) == (None, pytest.approx(NUDGE_S, rel=1e-3))
    assert [e.factor.name for e in found.effects][0] == "collectives.all_to_all.alone"


def test_changes_that_are_not_valid_are_skipped_and_said() -> None:
    profile = tiny_profile(changes={"all_to_all.latency": 5.0})
    waiting = scenario({"layers": 2, "steps": 3, "layer_bytes": 2, "block": [collective(16)]}, {"kind": "resident"})
    found = sensitivity(waiting, profile, change=0.5)
    table = effect_of(found, "collectives.all_to_all.alone")
    assert table.remark.startswith("skipped -50 %: latency must be shorter")
    assert table.elasticity == pytest.approx(1.0), "by the other way alone"
    narrow = Factor(("collectives.all_to_all.latency", "h2d.cap"), 5.0, None)
    _, [slope] = slopes(partial(figure, waiting, "step_time_s"), changed(profile, {"h2d.cap": lambda v: 1e-30}), [(narrow, 0.5)])  # fmt: skip
    assert slope.value is None and slope.remark.startswith("skipped")


def program_figure(program: Program, profile: Profile) -> float:
    return median(SimulatedMachine(profile).run(program).step_times()[1:])


def euler(program: Program, profile: Profile, change: float = 1e-5) -> float:
    """Elasticities of all times less those of all rates: 1, as the step takes t times as long when all of them do."""
    chosen = [f for f in factors(profile) if f.value != 0]
    base, found = slopes(partial(program_figure, program), profile, [(f, change) for f in chosen])
    total = 0.0
    for factor, slope in zip(chosen, found, strict=True):
        number = numbers(profile)[factor.paths[0]].number
        kind = type(getattr(number, "value", Seconds()))
        assert slope.value is not None
        total += slope.value * (issubclass(kind, Seconds) - issubclass(kind, Bandwidth | FlopRate))
    longer, shorter = (program_figure(scaled(program, 1 + by), profile) for by in (change, -change))
    return (total + (longer - shorter) / (2 * change)) / base


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_elasticities_of_times_less_those_of_rates_are_one(file: Path) -> None:
    golden = Scenario.load(file)
    assert euler(golden.program(), golden.profile()) == pytest.approx(1, abs=1e-3)


def generic(case: Case, seed: int) -> Profile:
    """The profile of a case with every number a little off: what happens at the same time by chance does so no more."""
    draw = random.Random(seed)
    spread = {path: 1 + 0.1 * draw.random() for f in factors(case.profile) for path in f.paths}
    return changed(case.profile, {path: partial(_times, by) for path, by in spread.items()})


def _times(by: float, value: float) -> float:
    return value * by


@given(cases(policy=offloading), st.integers(0, 10**6))
def test_elasticities_of_anything_sum_to_one(case: Case, seed: int) -> None:
    assert euler(case.scenario.program(), generic(case, seed), 1e-7) == pytest.approx(1, abs=1e-3)
