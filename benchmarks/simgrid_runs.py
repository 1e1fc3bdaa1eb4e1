"""The benchmark's problem on SimGrid, in C++ and in Python, where that is installed.

Debian's packages are g++ and libsimgrid-dev, and python3-simgrid.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which
from typing import NamedTuple

from benchmarks.problems import Problem

PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent
# max-min fairness: no factors for TCP, and no weight of latencies
SETTINGS = {
    "model": "CM02",
    "TCP-gamma": "0",
    "bandwidth-factor": "1",
    "latency-factor": "1",
    "weight-S": "0",
    "crosstraffic": "0",
}
OPTIONS = ["--log=root.thres:error", *(f"--cfg=network/{name}:{value}" for name, value in SETTINGS.items())]


class Driver(NamedTuple):
    """A program that runs problems, and its options."""

    program: tuple[str, ...]
    options: tuple[str, ...] = ()


class Run(NamedTuple):
    """A run: simulated seconds, and CPU seconds of making the problem and of running it."""

    makespan: float
    program: float
    run: float


def python_driver() -> Driver | None:
    """The driver in Python; None where the binding is not installed."""
    try:
        found = subprocess.run([PYTHON, "-c", "import simgrid"], capture_output=True).returncode == 0
    except OSError:
        return None
    return Driver((PYTHON, str(HERE / "simgrid_driver.py"))) if found else None


def cpp_driver(folder: Path) -> Driver | None:
    """The driver in C++, compiled in `folder`; None where there is no compiler or library."""
    if which("g++") is None:
        return None
    made = folder / "simgrid_driver"
    line = ["g++", "-O2", "-std=c++17", str(HERE / "simgrid_driver.cpp"), "-o", str(made), "-lsimgrid"]
    if subprocess.run(line, capture_output=True).returncode:
        return None
    return Driver((str(made),), ("--cfg=contexts/factory:raw",))


def run(driver: Driver, problem: Problem) -> Run:
    """Run the problem in a process of its own."""
    line = [*driver.program, *problem.arguments(), *driver.options, *OPTIONS]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return Run(*map(float, done.stdout.split()))
