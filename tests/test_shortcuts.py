"""Shortcuts change times by no more than rounding: layers are left out only where the machine's state repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import Case, cases, chunked, gated, policies, sharded, whole_layer, workloads

from sim.machine import SimulatedMachine
from sim.shortcuts import Shortened, run_layers
from sim.timeline import Sections, Span, Timeline
from sim.timeline.critical_path import causes
from sim.timeline.metrics import Metrics, metrics
from validation.datasets import case_name, load_set

REL, ABS = 1e-9, 1e-12


class Both(NamedTuple):
    """A case with shortcuts, with them inside of steps only, and without."""

    short: Shortened
    short_steps: Shortened
    full: Timeline


def both(case: Case, steps: int = 2) -> Both:
    machine, scenario = SimulatedMachine(case.profile), case.scenario
    workload = scenario.workload.resolve(scenario.world_size)._replace(steps=steps)
    given = machine, workload, scenario.policy, scenario.world_size
    full = run_layers(*given, shortcuts=False)
    assert full.repeated_layers == 0
    runs = [run_layers(*given, worth=0, all_steps=all_steps) for all_steps in (False, True)]
    for run in runs:
        assert run.simulated_layers + run.repeated_layers == full.simulated_layers
        if run.left_out_steps == 0:
            assert run.commands == full.commands
    assert runs[1].left_out_steps == 0
    return Both(*runs, full.timeline)


def assert_same(runs: Both, case: Case) -> None:
    """Spans, steps, figures and causes are those of the full run."""
    short, full = runs.short.timeline, runs.full
    for rank in range(case.ranks):
        assert short.steps[rank] == pytest.approx(full.steps[rank], rel=REL, abs=ABS)
        found, expected = spans_of(runs.short_steps.timeline, rank), spans_of(full, rank)
        assert found.keys() == expected.keys()
        for stream, spans in expected.items():
            assert [kind for kind, *_ in found[stream]] == [kind for kind, *_ in spans]
            times = [time for _, *times in found[stream] for time in times]
            assert times == pytest.approx([time for _, *times in spans for time in times], rel=REL, abs=ABS)
    if Sections.of(short, 0) is None or short.simulated_shown.start < 1:
        return
    found_causes, expected_causes = causes(short, case.profile), causes(full, case.profile)
    assert found_causes == pytest.approx(expected_causes, rel=REL, abs=ABS * full.steps[0][-1])
    assert_figures(metrics(short, case.profile), metrics(full, case.profile))


def assert_figures(found: Metrics, expected: Metrics) -> None:
    for key, value in expected.items():
        close = pytest.approx(value, rel=REL, abs=ABS) if isinstance(value, float | list) else value
        assert found[key] == close, key  # type: ignore[literal-required]


def spans_of(timeline: Timeline, rank: int) -> dict[str, list[tuple[str, float, float, float, float]]]:
    """Stream -> kind and times of its spans, with what repeats as often as it does."""
    found: dict[str, list[tuple[str, float, float, float, float]]] = {}
    at, shift, rank = 0, 0.0, timeline.simulated_as(rank)

    def play(spans: Sequence[Span], shift: float) -> None:
        for s in spans:
            if s.rank == rank:
                times = s.start + shift, s.ready + shift, s.end + shift
                found.setdefault(s.command.stream, []).append((s.kind, *times, s.isolated_time))

    for repeat in timeline.repeats:
        play(timeline.spans[at : repeat.spans[1]], shift)
        at = repeat.spans[1]
        for _ in range(repeat.copies):
            shift += repeat.end - repeat.start
            play(timeline.spans[slice(*repeat.spans)], shift)
    play(timeline.spans[at:], shift)
    return found


@st.composite
def deep(draw: st.DrawFn) -> Case:
    """Scenarios of many equal layers on hosts whose queues are short."""
    case = draw(cases(workloads(), chunked | gated | whole_layer | sharded | policies))
    workload = dict(case.workload)
    longer = draw(st.integers(20, 60))
    if "blocks" in workload:
        workload["blocks"] = [
            group | {"repeat": longer if i == 0 else group["repeat"]} for i, group in enumerate(workload["blocks"])
        ]
    else:
        workload["layers"] = longer
    return case._replace(
        workload=workload, changes={**case.changes, "host.queue_depth": draw(st.integers(2, 40) | st.just(1000))}
    )


@given(deep(), st.sampled_from([1, 2, 2, 3, 5]))
def test_shortcuts_change_nothing(case: Case, steps: int) -> None:
    runs = both(case, steps)
    event(f"left out: {runs.short.repeated_layers > 0}, steps: {runs.short.left_out_steps > 0}")
    assert_same(runs, case)


def example(policy: dict[str, Any], **changes: float) -> Case:
    block = [{"compute": {"name": "a", "seconds": 1.0}}, {"collective": {"kind": "all_to_all", "bytes": 16}}]
    workload = {"layers": 40, "steps": 2, "passes_per_step": 2, "layer_bytes": 40, "block": block}
    return Case(
        workload, policy, 2, {"host.queue_depth": 12.0, "collective.latency": 0.25, "streams.event": 0.125, **changes}
    )


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param({"kind": "chunked", "chunk_bytes": 4}, id="chunked"),
        pytest.param({"kind": "chunked", "chunk_bytes": 4, "prefetch_layers": 2}, id="ahead by two"),
        pytest.param({"kind": "yielding", "chunk_bytes": 4}, id="gated"),
        pytest.param({"kind": "yielding", "chunk_bytes": 4, "drain": True}, id="draining"),
        pytest.param({"kind": "whole_layer", "issue": "after_compute"}, id="whole layer"),
        pytest.param({"kind": "sharded", "chunk_bytes": 4}, id="sharded"),
        pytest.param({"kind": "resident"}, id="resident"),
    ],
)
def test_most_layers_are_left_out(policy: dict[str, Any]) -> None:
    blocked = both(case := example(policy), 4)
    assert blocked.short.repeated_layers > 320 * 0.8
    assert_same(blocked, case)
    ahead = both(case := example(policy, **{"host.queue_depth": 1000.0}), 4)
    assert ahead.short.left_out_steps == 2
    assert ahead.short.repeated_layers > 320 * 0.9
    assert_same(ahead, case)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["whole_layer", "yielding 16 MiB", "yielding 4 MiB"])
def test_measured_workloads_come_to_the_same_both_ways(schedule: str) -> None:
    cases = {case_name(case): case for case in load_set("h200x2-hostpath").cases}
    scenario = cases[f"wan-14b block 1950 {schedule}"].load_scenario().with_steps(3)
    measured, machine = scenario.workload.resolve(scenario.world_size), SimulatedMachine(scenario.profile())
    workload = measured._replace(layers=measured.layers * 4)  # only a few were measured
    short, full = (
        run_layers(machine, workload, scenario.policy, scenario.world_size, shortcuts, worth=0).timeline
        for shortcuts in (True, False)
    )
    assert short.repeats
    expected = metrics(full, machine.profile)
    assert_figures(metrics(short, machine.profile), expected)
    assert causes(short, machine.profile) == pytest.approx(causes(full, machine.profile), rel=REL, abs=1e-9)
