"""How fast the simulator is, as ratios within one run (machines are noisy).

    python benchmarks/speed.py

prints, for measured cases with few and with many chunks, microseconds per command simulated and the ratio to a plain
SimPy process that does nothing but one timeout per command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median

import simpy

from sim.machine import SimulatedMachine
from validation.datasets import case_name, load_set

WORKLOAD = "wan-14b block 1950"
SCHEDULES = ("whole_layer", "yielding 16 MiB", "yielding 4 MiB", "yielding 1 MiB")
REPEATS = 5


def timed(work: Callable[[], object]) -> float:
    """Median seconds of `work` over a few runs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def timeouts(count: int) -> None:
    """The least that SimPy can do for `count` commands."""
    env = simpy.Environment()

    def process() -> Iterator[simpy.Event]:
        for _ in range(count):
            yield env.timeout(1.0)

    env.process(process())  # type: ignore[arg-type]
    env.run()


def main() -> None:
    """Print one line a case."""
    cases = {case_name(case): case for case in load_set("h200x2-hostpath").cases}
    print(f"{'case':24s} {'commands':>9s} {'build us':>9s} {'run us':>9s} {'x timeouts':>10s}   per command")
    for name in SCHEDULES:
        scenario = cases[f"{WORKLOAD} {name}"].load_scenario()
        program, machine = scenario.program(), SimulatedMachine(scenario.profile())
        count = sum(1 for rank in program.ranks for _ in rank.commands())
        build, run = timed(scenario.program), timed(lambda p=program, m=machine: m.run(p))  # type: ignore[misc]
        floor = timed(lambda n=count: timeouts(n))  # type: ignore[misc]
        print(f"{name:24s} {count:9d} {1e6 * build / count:9.2f} {1e6 * run / count:9.2f} {run / floor:10.1f}")


if __name__ == "__main__":
    main()
