"""CPU time of pieces of work and of whole commands, taken in turns, so that a busy machine slows all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import simpy

REPEATS = 5
UNIT = 1_000
"""Timeouts of what other times are multiples of."""
REFERENCE = 50 * UNIT
"""Timeouts that are run to measure it."""


def timeouts(count: int) -> None:
    """The least that SimPy can do for `count` commands: one process that waits so often."""
    env = simpy.Environment()

    def process() -> Iterator[simpy.Event]:
        for _ in range(count):
            yield env.timeout(1.0)

    env.process(process())  # type: ignore[arg-type]
    env.run()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process for `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(*works: Callable[[], float], repeats: int = REPEATS) -> list[float]:
    """The median of what each of `works` gives; they take turns."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for work, numbers in zip(works, found, strict=True):
            numbers.append(work())
    return [median(numbers) for numbers in found]


def thousand_timeouts() -> float:
    """CPU seconds of a thousand timeouts."""
    return cpu_seconds(lambda: timeouts(REFERENCE)) * UNIT / REFERENCE


def in_timeouts(*works: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """CPU time of each of `works` in this process, as a multiple of a thousand timeouts'."""
    unit, *found = in_turns(
        thousand_timeouts, *((lambda work=work: cpu_seconds(work)) for work in works), repeats=repeats
    )
    return [seconds / unit for seconds in found]


class Command(NamedTuple):
    """What a command took, with all processes that it started and waited for."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    """Of its largest process."""
    output: bytes


def command(arguments: Sequence[object]) -> Command:
    """Run Python with these arguments. Raises `subprocess.CalledProcessError` where it fails."""
    line = [sys.executable, *map(str, arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout as stdout:
        output = stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, line)
    wall = time.perf_counter() - start
    return Command(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024, output)
