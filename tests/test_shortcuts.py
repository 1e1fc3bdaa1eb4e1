"""Shortcuts change times by no more than rounding: layers are left out only where the machine's state repeats."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import Case, cases, chunked, gated, sharded, whole_layer, workloads

from sim.machine import SimulatedMachine
from sim.program import RecordEvent, WaitEvent
from sim.shortcuts import expanded, run_layers
from sim.timeline import Sections, Timeline
from sim.timeline.critical_path import causes
from sim.timeline.metrics import metrics

REL, ABS = 1e-9, 1e-12


def both(case: Case, steps: int = 2) -> tuple[Timeline, Timeline, int]:
    """The case with shortcuts and without, and how many layers were left out."""
    machine, scenario = SimulatedMachine(case.profile), case.scenario
    workload = scenario.workload.resolve(scenario.world_size)._replace(steps=steps)
    short = run_layers(machine, workload, scenario.policy, scenario.world_size, worth=0)
    full = run_layers(machine, workload, scenario.policy, scenario.world_size, shortcuts=False)
    assert full.repeated_layers == 0
    assert short.simulated_layers + short.repeated_layers == full.simulated_layers
    return short.timeline, full.timeline, short.repeated_layers


def assert_same(simulated: Timeline, full: Timeline, case: Case) -> None:
    """Spans of the whole timeline, and figures and causes of what was simulated, are those of the full run."""
    short = expanded(simulated)
    for rank in range(case.ranks):
        assert short.steps[rank] == pytest.approx(full.steps[rank], rel=REL, abs=ABS)
        since = full.window(rank)[0]
        for stream in full.program.ranks[rank].streams:
            found, expected = (spans_of(t, rank, stream, since) for t in (short, full))
            assert [kind for kind, _ in found] == [kind for kind, _ in expected]
            assert [times for _, times in found] == [pytest.approx(times, rel=REL, abs=ABS) for _, times in expected]
    for rank in range(case.ranks):
        if Sections.of(simulated, rank) is None:
            simulated = short
    found_causes, expected_causes = causes(simulated, case.profile), causes(full, case.profile)
    assert found_causes == pytest.approx(expected_causes, rel=REL, abs=ABS)
    figures, expected_figures = metrics(simulated, case.profile), metrics(full, case.profile)
    for key, value in expected_figures.items():
        assert figures[key] == (pytest.approx(value, rel=REL, abs=ABS) if isinstance(value, float | list) else value), (
            key
        )  # type: ignore[literal-required]


def spans_of(timeline: Timeline, rank: int, stream: str, since: float) -> list[tuple[str, tuple[float, ...]]]:
    """Kind and times of a stream's spans after `since`; those of waits with the time of what they wait for."""
    recorded = {c.event: s.end for s, c in timeline.commands(rank, RecordEvent)}
    return [
        (
            s.kind,
            (
                s.start,
                s.ready,
                s.end,
                s.isolated_time,
                recorded[s.command.event] if isinstance(s.command, WaitEvent) else 0.0,
            ),
        )
        for s in timeline.of(rank)
        if s.command.stream == stream and s.start > since + ABS
    ]


@st.composite
def deep(draw: st.DrawFn) -> Case:
    """Scenarios of many equal layers on hosts whose queues are short."""
    case = draw(cases(workloads(), chunked | gated | whole_layer | sharded))
    workload = dict(case.workload)
    longer = draw(st.integers(20, 60))
    if "blocks" in workload:
        workload["blocks"] = [
            group | {"repeat": longer if i == 0 else group["repeat"]} for i, group in enumerate(workload["blocks"])
        ]
    else:
        workload["layers"] = longer
    return case._replace(workload=workload, changes={**case.changes, "host.queue_depth": draw(st.integers(2, 40))})


@given(deep())
def test_shortcuts_change_nothing(case: Case) -> None:
    short, full, left_out = both(case)
    event(f"left out: {left_out > 0}")
    assert_same(short, full, case)


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
    case = example(policy)
    short, full, left_out = both(case)
    assert left_out > 160 / 3
    assert_same(short, full, case)
