"""How fast the simulator is, as ratios within one run: machines differ, and are noisy.

    python -m benchmarks.speed [--update] [GROUP ...]

prints each figure beside the committed one (benchmarks/baseline.json), which `--update` replaces. What is compared runs
in turns, in CPU time. docs/performance.md says what the figures are.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import baseline, simgrid_runs
from benchmarks.baseline import Figure
from benchmarks.problems import MIB, Problem
from benchmarks.timing import Command, command, cpu_seconds, in_timeouts, in_turns, thousand_timeouts
from sim.inputs.config import convert
from sim.machine import SimulatedMachine
from sim.policies import union
from sim.program import Collective, Copy
from sim.run import simulate
from sim.scenario import Scenario
from sim.timeline.metrics import metrics
from validation.datasets import case_name, load_set

MEASURED = "wan-14b block 1950"
SCHEDULES = ("whole_layer", "yielding 16 MiB", "yielding 4 MiB", "yielding 1 MiB")
CHUNKS = (1, 4, 16, 64)
"""MiB."""
RANKS = (2, 4, 8, 16, 64, 256, 1024)
RANKS_LAYERS = 4
LONGEST = 10.0
"""CPU seconds that a number of ranks may be expected to take; with more it is not run."""
UNEQUAL = Problem("yielding", ranks=64, layers=2, slow=0.99)
"""Ranks that are not all alike: one link is 1 % slower."""
NEEDS = {"C++": "g++ and libsimgrid-dev are", "Python": "python3-simgrid is"}
AGREE = 1e-9
"""By how much makespans may differ from SimGrid's, relative."""
WAN = Path(__file__).with_name("wan2.2-14b.yaml")
SHORTENED = (("whole_layer", ""), ("chunked", "16 MiB"), ("yielding", "4 MiB"))
"""Schedules whose layers that repeat are left out."""
SWEEP = ("policy.chunk_bytes=1MiB,2MiB,4MiB,8MiB,16MiB,32MiB,64MiB", "policy.resident_fraction=0,0.25,0.5,0.75")
"""28 points."""
PLANS = {
    "wan2.2-14b": {"model": "wan2.2-14b", "frames": 81, "height": 480, "width": 832},
    "flux.1-dev, batch 8": {"model": "flux.1-dev", "height": 1024, "width": 1024, "batch": 8},
    "hunyuanvideo": {"model": "hunyuanvideo", "frames": 129, "height": 720, "width": 1280},
}
PLAN_HOSTS = ("rtx4090x2-gen4-x8", "h100x2-pcie")
TIMEOUTS = "thousand timeouts"


def commands() -> Iterator[Figure]:
    """Building, running and figures of a command, as multiples of a timeout; and of a flow."""
    cases = {case_name(case): case for case in load_set("h200x2-hostpath").cases}
    given = [(name, (s := cases[f"{MEASURED} {name}"].load_scenario()), s.profile()) for name in SCHEDULES]
    problems = (Problem("chunked"), Problem("yielding"))
    given += [(f"40 layers {p.policy}", p.scenario(), p.profile()) for p in problems]
    for name, scenario, profile in given:
        machine, program = SimulatedMachine(profile), scenario.program()
        timeline = machine.run(program)
        count = len(timeline.spans)
        flows = sum(isinstance(span.command, Copy | Collective) for span in timeline.spans)
        build, run, shown = in_timeouts(
            scenario.program,
            lambda machine=machine, program=program: machine.run(program),
            # a timeline of its own, as each run has
            lambda timeline=timeline, profile=profile: metrics(timeline._replace(), profile),
            repeats=3,
        )
        yield Figure(f"{name}: commands", count)
        for what, cost in (("build", build), ("run", run), ("figures", shown)):
            yield Figure(f"{name}: {what}, timeouts a command", 1_000 * cost / count)
        yield Figure(f"{name}: run, timeouts a flow", 1_000 * run / flows)


def repeats() -> Iterator[Figure]:
    """`simulate` where layers that repeat are left out, as a share of a run of all layers."""
    example = Scenario.load(WAN)
    profile = example.profile()
    for kind, chunk in SHORTENED:
        policy = {"kind": kind} | ({"chunk_bytes": chunk} if chunk else {})
        scenario = example.with_policy(convert(policy, union(), "policy"))
        name = f"wan2.2-14b {kind} {chunk}".strip()
        result = simulate(scenario, profile)
        short, full = in_timeouts(
            lambda scenario=scenario: simulate(scenario, profile),
            lambda scenario=scenario: simulate(scenario, profile, shortcuts=False),
            repeats=1,
        )
        yield Figure(f"{name}: layers simulated", result.simulated_layers)
        yield Figure(f"{name}: share of a run of all layers", short / full)


def simgrid() -> Iterator[Figure]:
    """The 40-layer problem beside SimGrid, in C++ and in Python."""
    with tempfile.TemporaryDirectory() as folder:
        drivers = {"C++": simgrid_runs.cpp_driver(Path(folder)), "Python": simgrid_runs.python_driver()}
        for language, driver in drivers.items():
            if driver is None:
                yield Figure(f"SimGrid {language}", None, f"skipped: {NEEDS[language]} not installed")
                continue
            for policy in ("chunked", "yielding"):
                yield from _beside(f"SimGrid {language}", driver, Problem(policy))
        if drivers["C++"] is not None:
            yield from _beside("SimGrid C++", drivers["C++"], UNEQUAL, whole=False)


def _beside(peer: str, driver: simgrid_runs.Driver, problem: Problem, whole: bool = True) -> Iterator[Figure]:
    """A problem as multiples of a peer's program and run. Raises `ValueError` where makespans are not the same."""
    scenario, profile = problem.scenario(), problem.profile()
    machine, program = SimulatedMachine(profile), scenario.program()
    timeline = machine.run(program)
    theirs = simgrid_runs.run(driver, problem)
    makespan = max(span.end for span in timeline.spans)
    if not math.isclose(makespan, theirs.makespan, rel_tol=AGREE):
        raise ValueError(f"{problem}: {makespan} s, {peer}: {theirs.makespan} s")
    works: dict[str, Callable[[], object]] = {
        "program": scenario.program,
        "run": lambda: machine.run(program),
        "figures": lambda: metrics(timeline._replace(), profile),
        "simulate, every layer": lambda: simulate(scenario, profile, shortcuts=False),
        "simulate": lambda: simulate(scenario, profile),
    }
    if not whole:
        works = {"run": works["run"]}
    ours = [lambda work=work: cpu_seconds(work) for work in works.values()]
    theirs_s, *costs = in_turns(lambda: sum(simgrid_runs.run(driver, problem)[1:]), *ours, repeats=5 if whole else 1)
    name = f"{problem.layers} layers {problem.policy}, {problem.ranks} ranks" + ", unequal" * (problem.slow != 1)
    for what, seconds in zip(works, costs, strict=True):
        yield Figure(f"{name}: {what}, x {peer}", seconds / theirs_s)


def chunks() -> Iterator[Figure]:
    """`simulate` by size of chunks."""
    for size in CHUNKS:
        problem = Problem("yielding", chunk_bytes=size * MIB)
        scenario, profile = problem.scenario(), problem.profile()
        full, short = in_timeouts(
            lambda scenario=scenario, profile=profile: simulate(scenario, profile, shortcuts=False),
            lambda scenario=scenario, profile=profile: simulate(scenario, profile),
            repeats=2,
        )
        yield Figure(f"40 layers yielding {size} MiB: every layer, {TIMEOUTS}", full)
        yield Figure(f"40 layers yielding {size} MiB: {TIMEOUTS}", short)


def ranks() -> Iterator[Figure]:
    """`simulate` by number of ranks, as multiples of two."""
    times: list[tuple[int, float]] = []
    for count in RANKS:
        name = f"{RANKS_LAYERS} layers yielding {count} ranks: x 2 ranks"
        if len(times) > 1:
            (less, before), (last, now) = times[-2:]
            growth = max(math.log(now / before) / math.log(last / less), 0.0)
            expected = now * (count / last) ** growth
            if expected > LONGEST:
                yield Figure(name, None, f"not run: would take {expected / times[0][1]:.0f} x 2 ranks or so")
                continue
        problem = Problem("yielding", ranks=count, layers=RANKS_LAYERS)
        scenario, profile = problem.scenario(), problem.profile()
        run = partial(simulate, scenario, profile)
        seconds = min(cpu_seconds(run) for _ in range(3 if count <= 16 else 1))
        times.append((count, seconds))
        if count > 2:
            yield Figure(name, seconds / times[0][1])


def starts() -> Iterator[Figure]:
    """The command line's start beside bare Python's."""
    lines = (["-c", ""], ["-c", "import sim"], ["-m", "sim", "--help"])
    bare, *others = in_turns(*(lambda line=line: command(line).cpu_s for line in lines))
    for line, seconds in zip(lines[1:], others, strict=True):
        yield Figure(f"{' '.join(line)}: x bare Python", seconds / bare)


def whole_commands() -> Iterator[Figure]:
    """Four commands on Wan2.2-14B, without cache: CPU time of all their processes, and the largest one's memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.csv"
        sets = [word for axis in SWEEP for word in ("--set", axis)]
        lines = {
            "run": ["run", WAN, "--no-cache"],
            "explain": ["explain", WAN, "--no-cache"],
            "sensitivity": ["sensitivity", WAN, "--no-cache"],
            "sweep of 28 points": ["sweep", WAN, *sets, "--out", out, "--recompute", "--no-cache"],
        }
        for name, line in lines.items():
            done, cost = _costs(line)
            yield Figure(f"{name}: {TIMEOUTS}", cost)
            yield Figure(f"{name}: peak memory of a process, MiB", done.peak_mib)
        yield from _workers(["-m", "sim", *lines["sweep of 28 points"]])


def _costs(line: list[object]) -> tuple[Command, float]:
    """A command of chunkflow-sim, and its CPU time in thousand timeouts, measured before and after it."""
    before = thousand_timeouts()
    done = command(["-m", "sim", *line])
    return done, done.cpu_s / ((before + thousand_timeouts()) / 2)


def _workers(line: list[object]) -> Iterator[Figure]:
    """How much sooner two workers are done than one: wall time, so that it needs a machine with two idle cores."""
    one, two = in_turns(*(lambda n=n: command([*line, "--workers", n]).wall_s for n in (1, 2)), repeats=1)
    yield Figure("sweep of 28 points: one worker's time, x two workers'", one / two)


def plans() -> Iterator[Figure]:
    """`plan` of three models on two hosts within 24 GiB: points simulated, and CPU time of all processes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scenario.yaml"
        for model, workload in PLANS.items():
            for host in PLAN_HOSTS:
                plain = {"hardware": host, "world_size": 2, "policy": {"kind": "resident"}}
                plain["workload"] = workload | {"parallelism": "ulysses", "steps": 4}
                file.write_text(json.dumps(plain))
                done, cost = _costs(["plan", file, "--memory", "24GiB", "--json", "--no-cache"])
                name = f"plan {model} on {host}"
                yield Figure(f"{name}: points", int(json.loads(done.output)["simulated"]))
                yield Figure(f"{name}: {TIMEOUTS}", cost)


GROUPS = {
    "start": starts,
    "commands": commands,
    "simgrid": simgrid,
    "chunks": chunks,
    "ranks": ranks,
    "repeats": repeats,
    "whole": whole_commands,
    "plans": plans,
}


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all unless given")
    parser.add_argument("--update", action="store_true", help="commit what was measured")
    given = parser.parse_args()
    if unknown := [name for name in given.groups if name not in GROUPS]:
        parser.error(f"no group {', '.join(unknown)}: expected some of {', '.join(GROUPS)}")
    committed, found = baseline.read(), []
    print(f"{'':66s} {'current':>10s} {'baseline':>10s} {'change':>9s}")
    for name in given.groups or GROUPS:
        began = time.perf_counter()
        print(f"\n{name}: {GROUPS[name].__doc__.splitlines()[0] if GROUPS[name].__doc__ else ''}")
        for figure in GROUPS[name]():
            found.append(figure)
            print(*baseline.rows([figure], committed), sep="\n", flush=True)
        print(f"({time.perf_counter() - began:.0f} s)")
    if given.update:
        baseline.write(found)


if __name__ == "__main__":
    main()
