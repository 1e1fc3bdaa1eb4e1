"""How fast the simulator is, as ratios within one run (machines are noisy).

    python benchmarks/speed.py [--commands]

prints, for programs with few and with many commands, what building the program, running it and reading its figures cost
a command, as multiples of a plain SimPy process that does nothing but one timeout a command. The three are measured in
turns with the timeouts, so that a machine that is busy for a while slows all of them. Then it prints what `simulate`
takes where layers that repeat are left out, as a share of what a run of all layers takes. With `--commands` it also
measures whole commands in processes of their own, as multiples of a bare start of Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import simpy

from sim.inputs.config import convert
from sim.machine import SimulatedMachine
from sim.policies import union
from sim.run import simulate
from sim.scenario import Scenario
from sim.timeline.metrics import metrics
from validation.datasets import case_name, load_set

MEASURED = "wan-14b block 1950"
SCHEDULES = ("whole_layer", "yielding 16 MiB", "yielding 4 MiB", "yielding 1 MiB")
HOSTS = {2: "h200x2-hostpath", 4: "h200x4-hostpath", 8: "h200x8-hostpath", 16: "h100x16-nvlink-2nodes"}
"""Ranks -> the profile on which they are simulated."""
SHORTENED = (("whole_layer", ""), ("chunked", "16 MiB"), ("yielding", "4 MiB"), ("yielding", "1 MiB"))
"""Schedules whose layers that repeat are left out."""
REPEATS = 5
EXAMPLE = Path(__file__).parent.parent / "examples" / "wan2.2-14b.yaml"
COMMANDS = (["--help"], ["run", EXAMPLE, "--no-cache"], ["explain", EXAMPLE, "--no-cache"])


def timed(*works: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each of `works`, which take turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS):
        for work, found in zip(works, times, strict=True):
            start = time.process_time()
            work()
            found.append(time.process_time() - start)
    return [median(found) for found in times]


def timeouts(count: int) -> None:
    """The least that SimPy can do for `count` commands."""
    env = simpy.Environment()

    def process() -> Iterator[simpy.Event]:
        for _ in range(count):
            yield env.timeout(1.0)

    env.process(process())  # type: ignore[arg-type]
    env.run()


def problem(policy: str, ranks: int) -> Scenario:
    """40 layers of 44 chunks and 4 all-to-alls."""
    calls = [{"collective": {"kind": "all_to_all", "bytes": 79872000}}] * 3
    block = [
        {"compute": {"name": "qkv", "seconds": 2e-3}},
        *calls,
        {"compute": {"name": "attention", "seconds": 4e-3}},
        calls[0],
        {"compute": {"name": "mlp", "seconds": 4e-3}},
    ]
    plain = {
        "hardware": HOSTS[ranks],
        "world_size": ranks,
        "workload": {"layers": 40, "steps": 1, "layer_bytes": 44 * 2**24, "block": block},
        "policy": {"kind": policy, "chunk_bytes": "16 MiB"},
    }
    return Scenario.from_plain(plain, "benchmark")


def scenarios() -> Iterator[tuple[str, Scenario]]:
    """What is simulated, each with its name."""
    cases = {case_name(case): case for case in load_set("h200x2-hostpath").cases}
    for name in SCHEDULES:
        yield name, cases[f"{MEASURED} {name}"].load_scenario()
    for ranks in HOSTS:
        for policy in ("chunked", "yielding") if ranks == 2 else ("yielding",):
            yield f"40 layers {policy} {ranks} ranks", problem(policy, ranks)


def whole_commands() -> None:
    """Print one line a command: its time as a multiple of Python's start."""
    lines = [["-c", ""], *(["-m", "sim", *map(str, given)] for given in COMMANDS)]
    times: list[list[float]] = [[] for _ in lines]
    for _ in range(REPEATS):
        for line, found in zip(lines, times, strict=True):
            start = time.perf_counter()
            subprocess.run([sys.executable, *line], check=True, capture_output=True)
            found.append(time.perf_counter() - start)
    bare, *others = map(median, times)
    print(f"\n{'command':24s} {'x python':>10s}")
    for given, seconds in zip(COMMANDS, others, strict=True):
        print(f"{given[0]:24s} {seconds / bare:10.1f}")


def shortened() -> Iterator[tuple[str, str, float]]:
    """Of each schedule of the example: layers that are simulated, and `simulate`'s time as a share of one of all."""
    example = Scenario.load(EXAMPLE).with_steps(4)
    profile = example.profile()
    for kind, chunk in SHORTENED:
        policy = {"kind": kind} | ({"chunk_bytes": chunk} if chunk else {})
        scenario = example.with_policy(convert(policy, union(), "policy"))
        result = simulate(scenario, profile)
        short, full = timed(
            lambda s=scenario: simulate(s, profile),  # type: ignore[misc]
            lambda s=scenario: simulate(s, profile, shortcuts=False),  # type: ignore[misc]
        )
        layers = result.simulated_layers + result.repeated_layers
        yield f"{kind} {chunk}".strip(), f"{result.simulated_layers}/{layers}", short / full


def measured(scenario: Scenario) -> tuple[int, list[float]]:
    """How many commands a scenario has, and what building, running and figures cost, as multiples of timeouts."""
    profile, program = scenario.profile(), scenario.program()
    machine = SimulatedMachine(profile)
    timeline = machine.run(program)
    count = len(timeline.spans)
    *costs, floor = timed(
        scenario.program,
        lambda: machine.run(program),
        lambda: metrics(timeline._replace(), profile),  # a timeline of its own, as each run has
        lambda: timeouts(count),
    )
    return count, [seconds / floor for seconds in costs]


def main() -> None:
    """Print one line a scenario, and one a command if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", action="store_true", help="measure whole commands too")
    given = parser.parse_args()
    print(f"{'x timeouts a command':30s} {'commands':>9s} {'build':>7s} {'run':>7s} {'figures':>7s}")
    for name, scenario in scenarios():
        count, (build, run, figures) = measured(scenario)
        print(f"{name:30s} {count:9d} {build:7.1f} {run:7.1f} {figures:7.1f}", flush=True)
    print(f"\n{'simulate, of 4 steps':30s} {'layers':>9s} {'share':>7s}")
    for name, layers, share in shortened():
        print(f"{name:30s} {layers:>9s} {share:7.3f}", flush=True)
    if given.commands:
        whole_commands()


if __name__ == "__main__":
    main()
