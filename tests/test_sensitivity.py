"""Elasticities where they are known, Euler's theorem where they are not, and intervals against draws of the numbers."""

from __future__ import annotations

import json
import random
from functools import partial
from math import hypot
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
import yaml
from conftest import Command
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Case, cases, collective, compute, offloading, scaled, scenario, tiny_profile

from sim import Scenario, SimulatedMachine
from sim.analysis.computed_kernels import remark
from sim.analysis.model_error import model_error
from sim.analysis.sensitivity import (
    NUDGE_S,
    Effect,
    Factor,
    Interval,
    Sensitivity,
    around,
    factors,
    interval,
    metric_value,
    most_runs,
    sensitivity,
    slopes,
    uncertain,
)
from sim.hardware import Profile, load_profile, to_plain
from sim.hardware.profile_parameters import changed, numbers_by_path
from sim.inputs.config import convert
from sim.inputs.units import Bandwidth, FlopRate, Seconds
from sim.program import Program
from sim.report.uncertainty import print_interval
from sim.sweeps.evaluation import Evaluator

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
    host = spread(tiny_profile(), {"h2d.cap": 0.01, "topology.links[1].there": 0.02})
    by_name = {f.name: f for f in factors(host)}
    assert by_name["h2d.cap + topology.links[1].there"][1:] == (8.0, 0.02)
    assert by_name["d2h.cap + topology.links[1].back"][1:] == (8.0, None)
    assert "topology.links[1].both_ways" in by_name and "h2d.cap" not in by_name


def test_a_link_of_another_capacity_is_a_measurement_of_its_own() -> None:
    names = {f.name for f in factors(tiny_profile(changes={"h2d.cap": 7.0}))}
    assert {"h2d.cap", "topology.links[1].there", "d2h.cap + topology.links[1].back"} <= names
    assert {p for f in factors(tiny_profile()) for p in f.paths} == set(numbers_by_path(tiny_profile()))


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
    assert found.value == pytest.approx(12.0)
    assert effect_of(found, "device.peak_flops").moved == pytest.approx(12 * expected * change, rel=1e-9)


def test_elasticities_of_isolated_collectives_and_of_zero_costs() -> None:
    waiting = scenario({"layers": 2, "steps": 3, "layer_bytes": 2, "block": [collective(16), compute(1.0)]}, {"kind": "resident"})  # fmt: skip
    found = sensitivity(waiting, tiny_profile(changes={"all_to_all.latency": 0.25, "all_to_all.cap": 4.0}))
    table, event = (effect_of(found, path) for path in ("collectives.all_to_all.alone", "streams.event"))
    # a rank sends 8 B at 4 B/s after 0.25 s: 2.25 of 3.25 s a layer
    assert (table.factor.value, table.elasticity) == (None, pytest.approx(2.25 / 3.25))
    # an event a step
    assert (event.elasticity, event.moved) == (None, pytest.approx(NUDGE_S, rel=1e-3))
    assert found.effects[0].factor.name == "collectives.all_to_all.alone"


def test_the_largest_effect_comes_first_whatever_its_sign() -> None:
    moved = [e.moved or 0.0 for e in sensitivity(MIXED, uncertain_host()).effects]
    assert [abs(m) for m in moved] == sorted(map(abs, moved), reverse=True)
    assert moved[0] < 0 < moved[1]


def test_changes_that_are_not_valid_are_skipped_and_said() -> None:
    profile = tiny_profile(changes={"all_to_all.latency": 5.0})
    waiting = scenario({"layers": 2, "steps": 3, "layer_bytes": 2, "block": [collective(16)]}, {"kind": "resident"})
    found = sensitivity(waiting, profile, change=0.5)
    table = effect_of(found, "collectives.all_to_all.alone")
    assert table.remark.startswith("skipped -50 %: latency must be shorter")
    assert table.elasticity == pytest.approx(1.0), "by the other way alone"
    narrow = Factor(("collectives.all_to_all.latency", "h2d.cap"), 5.0, None)
    _, [slope] = slopes(partial(metric_value, waiting, "step_time_s"), changed(profile, {"h2d.cap": lambda v: 1e-30}), [(narrow, 0.5)])  # fmt: skip
    assert slope.value is None and slope.remark.startswith("skipped")


def program_metric(program: Program, profile: Profile) -> float:
    return sum(SimulatedMachine(profile).run(program).step_times())


def euler(program: Program, profile: Profile, change: float = 1e-5) -> float:
    """Elasticities of all times less those of all rates: 1, as a run takes t times as long when all of them do."""
    chosen = [f for f in factors(profile) if f.value != 0]
    base, found = slopes(partial(program_metric, program), profile, [(f, change) for f in chosen])
    total = 0.0
    for factor, slope in zip(chosen, found, strict=True):
        number = numbers_by_path(profile)[factor.paths[0]].number
        kind = type(getattr(number, "value", Seconds()))
        assert slope.value is not None
        total += slope.value * (issubclass(kind, Seconds) - issubclass(kind, Bandwidth | FlopRate))
    longer, shorter = (program_metric(scaled(program, 1 + by), profile) for by in (change, -change))
    return (total + (longer - shorter) / (2 * change)) / base


@pytest.mark.slow
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


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 6)
@given(cases(policy=offloading), st.integers(0, 10**6))
def test_elasticities_of_anything_sum_to_one(case: Case, seed: int) -> None:
    assume(program_metric(case.scenario.program(), case.profile) > 0)
    assert euler(case.scenario.program(), generic(case, seed), 1e-7) == pytest.approx(1, abs=1e-3)


# ---- intervals -----------------------------------------------------------------------------------------------------

SPREADS = {
    "h2d.cap": 0.02,
    "topology.links[1].there": 0.02,
    "h2d.setup": 0.1,
    "device.compute_efficiency": 0.05,
    "collectives.all_to_all.weight": 0.1,
    "collectives.all_to_all.overhead": 0.05,
    "streams.event": 0.1,
    "host.kernel": 0.2,
}


def spread(profile: Profile, spreads: dict[str, float]) -> Profile:
    """The profile with the uncertainties of some of its numbers."""

    def put(plain: Any, path: str) -> Any:
        if isinstance(plain, dict):
            more = {"uncertainty": spreads[path]} if path in spreads else {}
            return {k: put(v, f"{path}.{k}".strip(".")) for k, v in plain.items()} | more
        if isinstance(plain, list | tuple):
            return [put(v, f"{path}[{i}]") for i, v in enumerate(plain)]
        return plain

    return convert(put(to_plain(profile), ""), Profile, "spread")


def uncertain_host() -> Profile:
    costs = {"h2d.setup": 0.2, "streams.event": 0.1, "host.kernel": 0.05, "all_to_all.cap": 4.0, "all_to_all.overhead": 1.5}  # fmt: skip
    return spread(tiny_profile(changes=costs), SPREADS)


MIXED = scenario(
    {"layers": 3, "steps": 3, "layer_bytes": 64, "block": [*FLOPS, collective(16), compute(1.0)]},
    {"kind": "chunked", "chunk_bytes": 16},
)


@pytest.mark.slow
def test_an_interval_is_where_draws_of_all_numbers_lie() -> None:
    profile, draw = uncertain_host(), random.Random(0)
    run = partial(metric_value, MIXED, "step_time_s")
    found = interval(run, profile, 0.9)
    drawn = []
    for _ in range(200):
        by = {factor: 1 + spread * draw.gauss() for factor, spread in uncertain(profile)}
        drawn.append(run(changed(profile, {p: partial(_times, share) for f, share in by.items() for p in f.paths})))
    low, *_, high = quantiles(drawn, n=20)
    width = found.high - found.low
    assert 0.02 < width / found.value < 0.2, "something is uncertain, and little enough for a first order"
    assert (high - low) / width == pytest.approx(1, abs=0.2)
    assert (low - found.low, high - found.high) == pytest.approx((0, 0), abs=0.15 * width)
    inside = sum(found.low <= value <= found.high for value in drawn)
    assert inside / len(drawn) == pytest.approx(0.9, abs=0.06)


def test_only_what_is_uncertain_makes_an_interval() -> None:
    run = partial(metric_value, MIXED, "step_time_s")
    sure = interval(run, tiny_profile())
    assert sure.low == sure.value == sure.high and (sure.known, sure.unknown) == (0, len(factors(tiny_profile())))
    found = interval(run, uncertain_host())
    assert found.known == len(SPREADS) - 1, "the cap and its link are one"
    assert found.known + found.unknown == len(factors(uncertain_host()))
    more = interval(run, uncertain_host(), model=0.05)
    reach = 1.6448536 * 0.05 * found.value
    assert (more.high - more.low) / 2 == pytest.approx((reach**2 + ((found.high - found.low) / 2) ** 2) ** 0.5)


def test_one_uncertain_number_carries_as_far_as_it_moves() -> None:
    one = spread(tiny_profile(), {"h2d.cap": 0.02, "topology.links[1].there": 0.01})
    found = interval(partial(metric_value, COPY_BOUND, "step_time_s"), one, 0.6827)
    assert (found.high - found.value) / found.value == pytest.approx(0.02, rel=2e-3)
    ranked = sensitivity(COPY_BOUND, one)
    assert effect_of(ranked, "h2d.cap").deviation == pytest.approx(-0.02 * found.value, rel=2e-3)
    assert ranked.deviation == pytest.approx(0.02 * found.value, rel=2e-3)


def test_a_number_that_may_be_twice_itself_stays_positive() -> None:
    wild = spread(tiny_profile(changes={"streams.event": 0.25}), {"streams.event": 3.0})
    found = interval(partial(metric_value, RESIDENT, "step_time_s"), wild, 0.6827)
    assert found.high - found.value == pytest.approx(0.75, rel=1e-3)


def test_nothing_is_uncertain_of_what_is_zero() -> None:
    assert uncertain(spread(tiny_profile(), {"streams.event": 0.5})) == []


@pytest.mark.parametrize(("level", "reach"), [(0.6827, 1.0), (0.9, 1.6449), (0.9545, 2.0)])
def test_levels_are_those_of_a_normal_variable(level: float, reach: float) -> None:
    assert around(10.0, [3.0, 0.0, 4.0], level) == pytest.approx((10 - 5 * reach, 10 + 5 * reach), abs=1e-3)


# ---- the commands --------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A scenario file beside its profile."""
    (tmp_path / "host.yaml").write_text(yaml.safe_dump(to_plain(uncertain_host())))
    plain = {"hardware": "host.yaml", "world_size": 2, "policy": {"kind": "chunked", "chunk_bytes": 16}}
    workload = {"layers": 3, "steps": 3, "layer_bytes": 64, "block": [*FLOPS, collective(16), compute(1.0)]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(plain | {"workload": workload}))
    return tmp_path / "s.yaml"


@pytest.mark.slow
def test_the_command_gives_what_the_function_gives(file: Path, chunkflow: Command) -> None:
    expected = sensitivity(MIXED, uncertain_host(), change=0.02)
    done = chunkflow("sensitivity", file, "--json", "--change", "2%", "--workers", "2")
    plain = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, f"note: {remark()}\n")
    assert [(tuple(n["paths"]), n["elasticity"], n["moved"], n["deviation"], n["remark"]) for n in plain["numbers"]] == [
        (e.factor.paths, *e[1:]) for e in expected.effects
    ]  # fmt: skip
    assert (plain["step_time_s"], plain["deviation"], plain["unmoved"]) == (expected.value, expected.deviation, expected.unmoved)  # fmt: skip


def test_the_table_ranks_numbers_and_sums_up_the_rest(file: Path, chunkflow: Command) -> None:
    found = sensitivity(MIXED, uncertain_host())
    lines = chunkflow("sensitivity", file, "--workers", "2").stdout.splitlines()
    rows = [line.split()[0] for line in lines if line.startswith("  ") and "." in line]
    assert [row for row in rows if row in {e.factor.paths[0] for e in found.effects}] == [e.factor.paths[0] for e in found.effects]  # fmt: skip
    zero = next(i for i, line in enumerate(lines) if "streams.beside_kernel" in line)
    assert lines[zero + 1].strip() == "is 0: raised by 1 us"
    assert any(line.startswith(f"{len(found.unmoved)} parameters have no effect: ") for line in lines)


MEASURED = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {"layers": 2, "steps": 3, "layer_bytes": "64 MiB", "block": [compute(1e-3), collective(2**24)]},
    "policy": {"kind": "whole_layer"},
}


@pytest.mark.slow
def test_an_interval_includes_the_models_error(tmp_path: Path, chunkflow: Command) -> None:
    scenario, profile = Scenario.from_plain(MEASURED), load_profile("h200x2-hostpath")
    known = model_error(profile, 2)
    assert known is not None
    without = interval(partial(metric_value, scenario, "step_time_s"), profile)
    expected = hypot(1.6448536 * known.deviation * without.value, (without.high - without.low) / 2)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(MEASURED))
    plain = json.loads(chunkflow("run", tmp_path / "s.yaml", "--json", "--interval").stdout)
    low, high = plain["step_time_interval_s"]
    assert ((low + high) / 2, (high - low) / 2) == pytest.approx((without.value, expected))
    assert plain["step_time_s"] == without.value
    said = chunkflow("run", tmp_path / "s.yaml", "--interval").stdout.splitlines()[-1]
    assert (
        f"by the model's error on 2 GPUs through host memory (one standard deviation {100 * known.deviation:.2g} %"
        in said
    )
    assert f"{known.cases} measured cases) and the {without.known} numbers of the profile" in said
    assert "step_time_interval_s" not in json.loads(chunkflow("run", tmp_path / "s.yaml", "--json").stdout)


@pytest.mark.parametrize(
    ("ends", "shown"),
    [
        ((1.25, 1.0, 1.5), "1.25 s (1.00 to 1.50, 90 %)"),
        ((0.12345678, 0.12341, 0.12349), "123.457 ms (123.410 to 123.490, 90 %)"),
        ((0.0123, 0.0113, 0.0133), "12.3 ms (11.3 to 13.3, 90 %)"),
        ((0.3, 0.18, 0.42), "300 ms (180 to 420, 90 %)"),
        ((5e-5, 4.9e-5, 5.2e-5), "50.0 us (49.0 to 52.0, 90 %)"),
        ((2e-3, 2e-3, 2e-3), "2.00000 ms (2.00000 to 2.00000, 90 %)"),
        ((0.0, 0.0, 0.0), "0 us (0 to 0, 90 %)"),
    ],
)
def test_an_interval_is_shown_to_a_tenth_of_its_width(
    ends: tuple[float, float, float], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_interval(Interval(*ends, level=0.9, known=3, unknown=4), load_profile("h200x2-hostpath"), 2)
    assert capsys.readouterr().out.startswith(f"step {shown}, by the model's error on 2 GPUs")


@pytest.mark.parametrize("hardware", ["h100x2-pcie", "h200x8-hostpath", "rtx4090x2-gen4-x8", "h200x2-gen6"])
def test_where_the_models_error_is_not_known_there_is_no_interval(
    hardware: str, tmp_path: Path, chunkflow: Command
) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(MEASURED | {"hardware": hardware}))
    plain = json.loads(chunkflow("run", tmp_path / "s.yaml", "--json", "--interval").stdout)
    assert plain["step_time_interval_s"] is None
    said = chunkflow("run", tmp_path / "s.yaml", "--interval").stdout.splitlines()[-1]
    assert said.startswith(f"no interval: how far the model is off is not known for {hardware} ")
    assert "2 GPUs over NVLink" in said, "it says where it is known"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--change", "0"], "--change: 0: expected a share such as 5% or 0.05"),
        (["--change", "100%"], "--change: 100%: expected a share"),
        (["--change", "nan"], "--change: nan: expected a share"),
        (["--change", "much"], "--change: much: expected a share"),
        (["--metric", "step"], "--metric: step: expected one of step_time_s, "),
    ],
)
def test_wrong_options_are_told_in_one_line(args: list[str], told: str, file: Path, chunkflow: Command) -> None:
    done = chunkflow("sensitivity", file, *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"Error: {told}")


def test_a_wrong_scenario_is_told_in_one_line(tmp_path: Path, chunkflow: Command) -> None:
    done = chunkflow("sensitivity", tmp_path / "none.yaml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "none.yaml: cannot be read" in done.stderr


def test_progress_counts_every_simulation() -> None:
    seen: list[int] = []
    evaluator = Evaluator(progress=lambda now: seen.append(now.done))
    sensitivity(COPY_BOUND, uncertain_host(), evaluator=evaluator)
    # what is 0, and what cannot be less than it is, is changed one way
    one_way = sum(f.value == 0 or f.name == "device.beside_collective" for f in factors(uncertain_host()))
    assert seen == list(range(1, len(seen) + 1)) and len(seen) == most_runs(uncertain_host(), True) - one_way
