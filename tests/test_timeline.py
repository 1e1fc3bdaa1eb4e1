"""Intervals, memory and the table of a timeline."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, collective, compute, scenario, tiny_profile

from sim.machine import SimulatedMachine
from sim.program import Collective, Command, Copy, Kernel, Program, RankBuilder
from sim.run import simulate
from sim.timeline import Timeline, clip, measure, overlap, union

ends = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda pair: (min(pair), max(pair)))
sets = st.lists(ends, max_size=8)


def covered(intervals: list[tuple[int, int]]) -> set[int]:
    """The unit cells that intervals cover: arithmetic on integers needs no interval logic."""
    return {cell for start, end in intervals for cell in range(start, end)}


@given(sets, sets, ends)
def test_interval_arithmetic_is_set_arithmetic(
    first: list[tuple[int, int]], second: list[tuple[int, int]], window
) -> None:  # type: ignore[no-untyped-def]
    a, b = union(first), union(second)
    assert all(start < end for start, end in a)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(a))
    assert covered(a) == covered(first)  # type: ignore[arg-type]
    assert measure(a) == len(covered(first))
    assert overlap(a, b) == overlap(b, a) == len(covered(first) & covered(second))
    assert measure(clip(a, *window)) == len(covered(first) & covered([window]))


def run(build, gpus: int = 1) -> Timeline:  # type: ignore[no-untyped-def]
    rank = RankBuilder()
    build(rank)
    return SimulatedMachine(tiny_profile(gpus)).run(Program((rank.build(),) * gpus))


def test_memory_is_a_step_function_of_live_buffers() -> None:
    def build(rank: RankBuilder) -> None:
        rank.buffer("resident", 100, "weights", static=True)
        rank.buffer("slot", 16, "slot")
        rank.buffer("scratch", 5, "activations")
        rank.buffer("unused", 7, "slot")
        rank.kernel("s", "before", seconds=1)
        rank.copy("s", "a", 8, "slot")  # 1 to 2
        rank.copy("s", "b", 8, "slot", offset=8)  # 2 to 3
        rank.kernel("s", "idle", seconds=1)
        rank.kernel("s", "use", seconds=2, reads=("slot",), writes=("scratch",))  # 4 to 6
        rank.kernel("s", "again", seconds=1, reads=("slot", "resident"))  # 6 to 7
        rank.kernel("s", "idle", seconds=1)
        rank.copy("s", "c", 8, "slot")  # 8 to 9: a new layer
        rank.kernel("s", "use", seconds=1, reads=("slot",))  # 9 to 10

    assert run(build).memory() == [(0, 100), (1, 116), (4, 121), (6, 116), (7, 100), (8, 116), (10, 100)]


def test_collective_buffers_live_from_the_arrival_of_the_last_rank() -> None:
    timeline = simulate(
        scenario(
            {"layers": 1, "steps": 1, "layer_bytes": 10, "block": [compute(1), collective(16)]}, {"kind": "resident"}
        ),
        tiny_profile(2),
    ).timeline
    assert timeline.memory(1) == [(0, 10), (1, 42), (2, 10)]


def test_slots_are_taken_once() -> None:
    timeline = simulate(
        scenario(
            {"layers": 1, "steps": 3, "layer_bytes": 16, "block": [compute(2)], "activation_bytes": 3},
            {"kind": "whole_layer", "prefetch_layers": 1},
        ),
        tiny_profile(2),
    ).timeline
    assert timeline.memory() == [(0, 35)]


@given(cases())
def test_memory_stays_between_what_is_static_and_what_is_declared(case: Case) -> None:
    result = case.run()
    for rank, program in enumerate(result.timeline.program.ranks):
        memory = result.timeline.memory(rank)
        static = sum(b.bytes for b in program.buffers if b.static)
        assert [time for time, _ in memory] == sorted({time for time, _ in memory})
        assert memory[0][0] == 0
        assert memory[-1][1] == static
        assert all(static <= level <= sum(b.bytes for b in program.buffers) for _, level in memory)
    assert result.metrics["peak_memory_bytes"] == max(level for _, level in result.timeline.memory())


@given(cases())
def test_steps_tile_the_run_and_spans_are_found_by_rank_and_type(case: Case) -> None:
    timeline = case.run().timeline
    for rank in range(case.ranks):
        assert math.fsum(timeline.step_times(rank)) == pytest.approx(timeline.steps[rank][-1] - timeline.steps[rank][0])
        assert len(timeline.step_times(rank)) == case.workload["steps"]
        assert all(s.rank == rank for s in timeline.of(rank))
        for kind in (Kernel, Copy, Collective):
            found = timeline.commands(rank, kind)
            assert [s for s, _ in found] == [s for s in timeline.of(rank) if s.kind == kind.__name__]
            assert all(s.command is c for s, c in found)
    assert sum(len(timeline.of(rank)) for rank in range(case.ranks)) == len(timeline.spans)


def test_the_table_has_a_row_a_span() -> None:
    def build(rank: RankBuilder) -> None:
        rank.buffer("slot", 16, "slot")
        rank.copy("copy", "chunk", 16, "slot", step=0, layer=3)
        rank.wait("compute", rank.record("copy"))
        rank.kernel("compute", "gemm", seconds=1, reads=("slot",), step=0, layer=3)

    frame = run(build).to_frame()
    frame = frame[~frame.kind.isin(["RecordEvent"])]
    assert frame.to_dict("list") == {
        "rank": [0, 0, 0],
        "stream": ["copy", "compute", "compute"],
        "kind": ["Copy", "WaitEvent", "Kernel"],
        "name": ["chunk", "", "gemm"],
        "step": [0, -1, 0],
        "layer": [3, -1, 3],
        "bytes": [16, 0, 0],
        "start_s": [0, 0, 2],
        "ready_s": [0, 0, 2],
        "end_s": [2, 2, 3],
        "alone_s": [2, 0, 1],
    }


def test_a_simulation_and_its_explanation_load_no_data_frames_and_plots() -> None:
    program = """
import sys, sim
from sim.analysis.explain import explain
block = [{"compute": {"name": "a", "seconds": 1e-3}}]
workload = {"layers": 2, "steps": 2, "layer_bytes": 1000000, "block": block}
policy = {"kind": "chunked", "chunk_bytes": 1000000}
made = sim.Scenario.from_plain({"hardware": "h200x1", "world_size": 1, "workload": workload, "policy": policy})
explain(sim.simulate(made))
print([m for m in ("numpy", "pandas", "plotly", "scipy", "torch", "rich") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@given(cases())
def test_spans_by_type_are_those_of_the_rank_in_order(case: Case) -> None:
    timeline = case.run().timeline
    for rank in range(case.ranks):
        spans = timeline.of(rank)
        for kind in (Kernel, Copy, Collective, Command):
            expected = [(s, s.command) for s in spans if isinstance(s.command, kind)]
            assert timeline.commands(rank, kind) == expected
    assert timeline.commands(case.ranks, Command) == []


def test_a_timeline_that_was_looked_at_is_sent_as_small_as_before() -> None:
    timeline = run(lambda rank: rank.kernel("s", "a", seconds=1))
    before = pickle.dumps(timeline)
    assert len(timeline.commands(0, Kernel)) == 1
    assert len(pickle.dumps(timeline)) == len(before)
    again = pickle.loads(pickle.dumps(timeline))
    assert (type(again), again) == (Timeline, timeline)
