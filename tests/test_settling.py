"""Runs whose steps do not settle to one length: they are noticed, simulated on, and reported as means over a period."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
import yaml
from conftest import Command
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import Case, Plain, cases, collective, compute, workloads

from sim.analysis.explain import explain
from sim.program import Collective, Copy
from sim.run import Result, simulate
from sim.scenario import Scenario
from sim.timeline.critical_path import causes, critical_path
from sim.timeline.metrics import metrics
from sim.timeline.settling import MAX_PERIOD, MAX_STEPS, TOLERANCE, period, words

ALTERNATING: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {"model": "flux.1-dev", "height": 512, "width": 1024, "batch": 4, "layers": 1, "steps": 4},
    "policy": {"kind": "sharded", "chunk_bytes": "1 GiB"},
}
"""Its steps take 9.4 and 31.4 ms in turn: gathers of the next step's layer that come late make that step short."""


def alternating(steps: int, **policy: Any) -> Result:
    data = {**ALTERNATING, "workload": {**ALTERNATING["workload"], "steps": steps}}
    return simulate(Scenario.from_plain({**data, "policy": {**ALTERNATING["policy"], **policy}}))


@pytest.fixture(scope="module")
def result() -> Result:
    return alternating(4)


# ---- how steps repeat ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "found"),
    [
        pytest.param([9, 3, 3, 3], 1, id="settled"),
        pytest.param([9, 3, 3 * (1 + 0.9 * TOLERANCE), 3], 1, id="alike within the tolerance"),
        pytest.param([9, 3, 3 * (1 + 1.1 * TOLERANCE), 3], 0, id="not alike"),
        pytest.param([9, 4, 3, 3, 3], 1, id="a second step that warms up"),
        pytest.param([9, 6, 5, 4, 3, 3, 3], 0, id="the median is of steps that warm up"),
        pytest.param([3, 3, 3], 0, id="the first step never counts"),
        pytest.param([9, 3], 0, id="one step says nothing"),
        pytest.param([9, 1, 2, 1, 2], 2, id="two in turn"),
        pytest.param([9, 1, 2, 1], 0, id="a period must be seen twice"),
        pytest.param([9, 1, 1, 2, 1, 1, 2], 3, id="two alike in a period of three"),
        pytest.param([9, 1, 2, 1, 1], 0, id="two alike at the end are not enough"),
        pytest.param([9, 7, *[1, 2, 3, 4, 5, 6, 7, 8] * 2], MAX_PERIOD, id="the longest period"),
        pytest.param([9, *[1, 2, 3, 4, 5, 6, 7, 8, 9] * 2], 0, id="beyond the longest period"),
    ],
)
def test_the_period_of_steps(times: list[float], found: int) -> None:
    assert period([times]) == found
    assert period([times, times]) == found
    assert period([times, [float(i * i) for i in range(len(times))]]) == 0, "all ranks repeat, or none does"


# ---- a run that alternates -----------------------------------------------------------------------------------------


def test_an_alternating_run_is_a_mean_over_its_period(result: Result) -> None:
    found = result.metrics
    *_, short, long = sorted(found["step_times_s"][-2:]) * 2
    assert long > 3 * short
    assert (found["settled"], found["period_steps"]) == (False, 2)
    assert found["simulated_steps"] == len(found["step_times_s"]) > 4
    assert found["step_time_s"] == pytest.approx(mean(found["step_times_s"][-2:]))
    assert found["step_time_spread_s"] == pytest.approx(long - short)
    assert found["lower_bound_s"] <= found["step_time_s"]


@pytest.mark.parametrize("steps", [2, 3, 5, 8, 13])
def test_metrics_of_an_unsettled_run_do_not_depend_on_the_requested_steps(steps: int, result: Result) -> None:
    figures: Any = result.metrics
    found: Any = alternating(steps).metrics
    for name in figures:
        if name not in ("step_times_s", "simulated_steps", "request_time_s") and figures[name] is not None:
            assert found[name] == pytest.approx(figures[name], rel=1e-6), name


def test_the_lower_bound_of_an_unsettled_run_is_called_one_of_the_mean(result: Result) -> None:
    first, *_ = explain(result).sentences
    assert re.match(r"A step takes [0-9.]+ m?s in the mean under .* takes less than [0-9.]+ m?s in the mean\.$", first)
    assert "takes less in the mean" in result._repr_html_()


def test_causes_of_an_unsettled_run_sum_to_the_mean_step(result: Result) -> None:
    step = result.metrics["step_time_s"]
    assert sum(causes(result.timeline, result.profile).values()) == pytest.approx(step)
    path = critical_path(result.timeline, result.profile)
    assert (path[-1].start, path[0].end) == result.timeline.window()
    assert explain(result).waterfall.step_s == pytest.approx(step)


def test_bytes_and_times_of_an_unsettled_run_are_means_of_a_step(result: Result) -> None:
    start, end = result.timeline.window()
    copies = result.timeline.commands(0, Copy)
    assert result.metrics["h2d_bytes_per_step"] == sum(c.bytes for _, c in copies if c.step == 3)
    inside = sum(max(min(s.end, end) - max(s.ready, start), 0.0) for s, _ in copies)  # one copy at a time
    assert result.metrics["h2d_busy_s"] == pytest.approx(inside / 2)
    calls = [s.ready - s.start for s, c in result.timeline.commands(0, Collective) if c.step in result.timeline.shown]
    assert result.metrics["skew_s"] == pytest.approx(sum(calls) / 2)


@pytest.mark.parametrize("steps", [3, 4])
def test_run_reports_that_steps_have_not_settled(steps: int, tmp_path: Path, chunkflow: Command) -> None:
    data = {**ALTERNATING, "workload": {**ALTERNATING["workload"], "steps": steps}}
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(data))
    shown = chunkflow("run", file)
    assert shown.returncode == 0
    assert "Steps have not settled to one length: they repeat every 2 steps" in shown.stdout
    assert "no schedule with these copies takes less in the mean" in shown.stdout
    found = json.loads(chunkflow("run", file, "--json").stdout)
    assert (found["settled"], found["period_steps"]) == (False, 2)
    assert sum(found["causes_s"].values()) == pytest.approx(found["step_time_s"])


def test_a_sweep_has_a_column_and_says_so(tmp_path: Path, chunkflow: Command) -> None:
    file, out = tmp_path / "s.yaml", tmp_path / "r.csv"
    file.write_text(yaml.safe_dump(ALTERNATING))
    done = chunkflow("sweep", file, "--set", "policy.store=host,device", "--out", out, "--workers", "1")
    assert "1 of 2 points have steps that do not settle" in done.stdout
    rows = list(csv.DictReader(out.open()))
    assert [row["period_steps"] for row in rows] == ["2", "1"]
    assert float(rows[0]["step_time_spread_s"]) > 0 == float(rows[1]["step_time_spread_s"])


def test_a_run_that_never_settles_ends_at_the_limit() -> None:
    # every wake-up of the thread that polls for the window takes its own time
    case = Case(
        {"steps": 4, "layers": 1, "layer_bytes": 16, "block": [compute(0.5), collective(16), compute(0.5)]},
        {"kind": "yielding", "chunk_bytes": 4, "window": "launch"},
        2,
        {"host.wake": 1.0, "host.wake_spread": 1.0, "host.queue_depth": 3.0},
    )
    found = simulate(case.scenario, case.profile)
    assert (found.metrics["settled"], found.metrics["period_steps"]) == (False, 0)
    assert found.metrics["simulated_steps"] == MAX_STEPS
    assert found.metrics["step_time_s"] == pytest.approx(mean(found.metrics["step_times_s"][MAX_STEPS // 2 :]))
    assert f"have not settled in {MAX_STEPS} simulated steps" in words(found.timeline)


def test_one_step_is_asked_for_to_see_the_first() -> None:
    case = Case(
        {"steps": 1, "layers": 1, "layer_bytes": 16, "block": [compute(3)]}, {"kind": "whole_layer", "prefetch_layers": 1}, 1
    )  # fmt: skip
    found = simulate(case.scenario, case.profile)
    assert found.metrics["step_times_s"] == [5]
    assert (found.metrics["step_time_s"], found.metrics["settled"]) == (5, False)
    assert "Only one step was simulated" in words(found.timeline)


# ---- what holds of all ---------------------------------------------------------------------------------------------


SETTLES_LATE = Case(
    {"steps": 2, "layers": 1, "layer_bytes": 31, "block": [{"compute": {"name": "a", "flops": 1.0, "bytes": 1.0}}, {"collective": {"kind": "all_to_all", "bytes": 1}}]},
    {"kind": "yielding", "chunk_bytes": 1, "window": "launch", "poll": 0.0, "prefetch_layers": 2},
    2,
    {"host.event": 0.125},
)  # fmt: skip
"""Eight steps are simulated until it has settled."""

ENDS_OTHERWISE = Case(
    {"steps": 2, "layers": 1, "layer_bytes": 2, "block": [collective(1, "all_reduce"), compute(0)]},
    {"kind": "diffusers_group_offload", "stream": True, "record_stream": True, "new_pages": False, "hook": 0.0, "per_tensor": 0.0},
)  # fmt: skip
"""Steps take 0.375 s, but for the last one: no copy slows its collective."""


@given(cases(workload=workloads(min_steps=2)))
@example(SETTLES_LATE)
@example(ENDS_OTHERWISE)
def test_a_settled_run_is_left_as_it_is(case: Case) -> None:
    plain, found = case.run(), simulate(case.scenario, case.profile)
    settled = found.metrics["settled"]
    if settled and found.metrics["simulated_steps"] == case.workload["steps"]:
        assert (found.timeline, found.metrics) == (plain.timeline, plain.metrics)
        assert found.metrics["step_time_s"] == median(found.metrics["step_times_s"][1:])
    assert (words(found.timeline) == "") == settled
    if not case.policy.get("stream"):
        # Group offload with a stream issues the next step's copies while the last kernels of this one run, and there is
        # no next step at the end: its last steps are those of a run that ends, whose copies nothing follows.
        asked = case.workload["steps"]
        assert found.metrics["step_times_s"][:asked] == pytest.approx(plain.metrics["step_times_s"])


@given(cases(workload=workloads(min_steps=2)), st.integers(1, 5))
def test_the_step_time_does_not_depend_on_the_steps_asked_for(case: Case, more: int) -> None:
    longer = case.workload | {"steps": case.workload["steps"] + more}
    one, two = (simulate(c.scenario, c.profile).metrics for c in (case, case._replace(workload=longer)))
    assume(one["period_steps"] and two["period_steps"])
    assert one["step_time_s"] == pytest.approx(two["step_time_s"], rel=2 * TOLERANCE)


@given(cases(workload=workloads(min_steps=2)))
def test_figures_of_a_period_fit_together(case: Case) -> None:
    result = simulate(case.scenario, case.profile)
    for rank in range(case.ranks):
        found = metrics(result.timeline, result.profile, rank)
        step = found["step_time_s"]
        near = TOLERANCE * step + 1e-9
        assert found["lower_bound_s"] <= step + near
        assert found["h2d_busy_s"] <= step + near and found["collective_time_s"] <= step + near
        assert found["exposed_prefetch_s"] <= step + near
        assert found["skew_s"] >= 0 and found["contention_s"] >= 0
        assert 0 <= found["step_time_spread_s"] <= max(found["step_times_s"][1:]) - min(found["step_times_s"][1:])
        assert sum(causes(result.timeline, result.profile, rank).values()) == pytest.approx(
            step, rel=TOLERANCE, abs=1e-9
        )
