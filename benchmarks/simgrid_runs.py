"""The benchmark's problem on SimGrid, in C++ and in Python, where it is installed (Debian: libsimgrid-dev, python3-simgrid)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which
from typing import NamedTuple

from benchmarks.problems import Problem

PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent
# max-min fairness: no factors for TCP, and no weight of latencies
OPTIONS = [
    *(
        f"--cfg={option}"
        for option in (
            "network/model:CM02",
            "network/TCP-gamma:0",
            "network/bandwidth-factor:1",
            "network/latency-factor:1",
            "network/weight-S:0",
            "network/crosstraffic:0",
        )
    ),
    "--log=root.thres:error",
]


class Run(NamedTuple):
    """A run: simulated seconds, and CPU seconds of making the problem and of running it."""

    makespan: float
    program: float
    run: float


def python_driver() -> list[str] | None:
    """The command of the driver in Python; None where the binding is not installed."""
    try:
        found = subprocess.run([PYTHON, "-c", "import simgrid"], capture_output=True).returncode == 0
    except OSError:
        return None
    return [PYTHON, str(HERE / "simgrid_driver.py")] if found else None


def cpp_driver(folder: Path) -> list[str] | None:
    """The command of the driver in C++, made in `folder`; None where there is no compiler or library."""
    if which("g++") is None:
        return None
    made = folder / "simgrid_driver"
    line = ["g++", "-O2", "-std=c++17", str(HERE / "simgrid_driver.cpp"), "-o", str(made), "-lsimgrid"]
    if subprocess.run(line, capture_output=True).returncode:
        return None
    return [str(made), "--cfg=contexts/factory:raw"]


def run(driver: list[str], problem: Problem) -> Run:
    """Run the problem in a process of its own."""
    program, *options = driver[: 1 + driver[0].endswith("python3")], *driver[1 + driver[0].endswith("python3") :]
    line = [*program, *problem.arguments(), *options, *OPTIONS]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return Run(*map(float, done.stdout.split()))
