"""What `make bench` prints: figures beside committed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import baseline
from benchmarks.baseline import Figure
from benchmarks.problems import Problem
from sim.policies import count_commands
from sim.program import Collective, Copy
from sim.run import simulate


def test_figures_stand_beside_the_committed_ones() -> None:
    found = [Figure("a", 3.0), Figure("b", 7), Figure("c", 8), Figure("d", None, "skipped"), Figure("e", 0.5)]
    lines = [line.split() for line in baseline.rows(found, {"a": 2.0, "b": 7, "c": 7, "d": 1.0})]
    assert lines == [
        ["a", "3", "2", "+50", "%"],
        ["b", "7", "7", "equal"],
        ["c", "8", "7", "DIFFERS"],
        ["d", "skipped"],
        ["e", "0.5", "new"],
    ]


def test_an_update_keeps_what_was_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline.write([Figure("a", 1.23456), Figure("n", 5)], file)
    baseline.write([Figure("a", 2.0), Figure("n", None, "skipped"), Figure("z", 3)], file)
    assert baseline.read(file) == {"a": 2.0, "n": 5, "z": 3}


def test_the_problem_has_as_many_flows_as_it_is_said_to() -> None:
    problem = Problem("yielding")
    scenario = problem.scenario()
    program = scenario.program()
    flows = [c for rank in program.ranks for c in rank.commands() if isinstance(c, Copy | Collective)]
    assert len(flows) == 3840 + 2 * 44  # and what is copied for the step that would follow
    workload = scenario.workload.resolve(2)
    assert count_commands(workload, scenario.policy, 2) >= sum(len(list(r.commands())) for r in program.ranks)


@pytest.mark.parametrize("policy", ["chunked", "yielding"])
def test_nothing_but_links_and_kernels_takes_time(policy: str) -> None:
    """Kernels and isolated all-to-alls of a layer take 10.12 ms and 4 x 1.685 ms; copies of 738 MB, 13.3 ms."""
    problem = Problem(policy, layers=6)
    figures = simulate(problem.scenario(), problem.profile()).metrics
    alone = 6 * (10.12e-3 + 4 * 79_872_000 / 2 / 23.7e9)
    assert alone < figures["step_time_s"] < alone + 7 * 44 * 16 * 2**20 / 55.35e9


def test_counts_are_committed_as_whole_numbers() -> None:
    exact = (": commands", ": points", ": layers simulated")
    counts = {name: value for name, value in baseline.read().items() if name.endswith(exact)}
    assert counts and all(isinstance(value, int) for value in counts.values())
