"""The fabric against SimGrid, an independent simulator: `make test-oracle` installs it and runs this."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import simgrid_runs
from benchmarks.problems import MIB, Problem
from sim.environment import Environment
from sim.fluid import Fabric, FlowSpec
from sim.machine import SimulatedMachine

PYTHON = "/usr/bin/python3"
PROBLEMS = 300


def has_simgrid() -> bool:
    try:
        return subprocess.run([PYTHON, "-c", "import simgrid"], capture_output=True).returncode == 0
    except OSError:
        return False


def problem(draw: random.Random) -> dict[str, Any]:
    """Random links and flows; SimGrid's sizes are whole numbers, and it has no multipliers."""
    links = draw.randint(1, 5)

    def flow() -> dict[str, Any]:
        return {
            "route": draw.sample(range(links), draw.randint(1, min(links, 3))),
            "cap": draw.choice([draw.uniform(1, 20), 8.0, 1000.0]),
            "weight": draw.choice([1.0, 0.5, 2.0, draw.uniform(0.2, 5)]),
            "size": draw.choice([1, 8, 16, draw.randint(1, 100)]),
            "start": draw.choice([0.0, 0.0, 1.0, draw.uniform(0, 5)]),
        }

    return {
        "capacities": [draw.choice([4.0, 8.0, draw.uniform(1, 20)]) for _ in range(links)],
        "flows": [flow() for _ in range(draw.randint(1, 8))],
    }


def ends(problem: dict[str, Any]) -> list[float]:
    """When each flow ends on the fabric."""
    env = Environment()
    fabric = Fabric(env, problem["capacities"])
    found: dict[int, float] = {}

    def run(number: int, flow: dict[str, Any]):  # type: ignore[no-untyped-def]
        yield env.at(flow["start"])
        route = tuple((r, 1.0) for r in sorted(flow["route"]))
        yield fabric.transfer(FlowSpec(route, flow["cap"], flow["weight"]), flow["size"]).done
        found[number] = env.now

    for number, flow in enumerate(problem["flows"]):
        env.process(run(number, flow))
    env.run()
    return [found[i] for i in range(len(found))]


@pytest.mark.skipif(not has_simgrid(), reason=f"{PYTHON} has no simgrid: make test-oracle installs it")
def test_flows_end_when_simgrid_says() -> None:
    draw = random.Random(11)
    problems = [problem(draw) for _ in range(PROBLEMS)]
    peer = Path(__file__).with_name("simgrid_peer.py")
    done = subprocess.run([PYTHON, str(peer)], input=json.dumps(problems), capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    for given, found in zip(problems, theirs, strict=True):
        assert ends(given) == pytest.approx(found, rel=0, abs=5e-9), given


LAYERS = [
    Problem("chunked", layers=3),
    Problem("yielding", layers=3),
    Problem("yielding", layers=2, chunk_bytes=5 * MIB),
    Problem("chunked", ranks=4, layers=2, chunk_bytes=64 * MIB, slow=0.7),
    Problem("yielding", ranks=3, layers=2, slow=0.99),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, simgrid_runs.Driver | None]:
    folder = tmp_path_factory.mktemp("simgrid")
    return {"C++": simgrid_runs.cpp_driver(folder), "Python": simgrid_runs.python_driver()}


@pytest.mark.parametrize("problem", LAYERS, ids=str)
@pytest.mark.parametrize("language", ["C++", "Python"])
def test_layers_of_chunks_and_all_to_alls_end_when_simgrid_says(
    language: str, problem: Problem, compiled: dict[str, simgrid_runs.Driver | None]
) -> None:
    """A whole program: streams, slots, gates and collectives."""
    driver = compiled[language]
    if driver is None:
        pytest.skip(f"SimGrid for {language} is not installed")
    timeline = SimulatedMachine(problem.profile()).run(problem.scenario().program())
    last = max(span.end for span in timeline.spans)
    assert last == pytest.approx(simgrid_runs.run(driver, problem).makespan, rel=1e-11)
