"""Predictions of measured cases: the program that ran, with its kernels' times from the resident case beside it.

What a kernel takes alone is not for the fabric to predict: it comes from the resident cases of the same workload in
the same data set, less what the events around it took. All else is the profile's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean, median
from typing import NamedTuple

import msgspec

from sim.hardware import Profile
from sim.machine import SimulatedMachine
from sim.program import AnyCommand, Kernel, Program, RankProgram
from sim.timeline import Timeline
from validation.measured import MeasuredCase

KernelTimes = dict[tuple[int, str, int], float]
"""(layer, name, how many of that name came before in the layer) -> s."""


class Prediction(NamedTuple):
    """One case, measured and predicted (s). `timeline` is the predicted one."""

    case: MeasuredCase
    predicted_s: float
    timeline: Timeline

    @property
    def error(self) -> float:
        """Predicted / measured step time - 1."""
        return self.predicted_s / self.case.step_time_s - 1


def references(cases: Sequence[MeasuredCase]) -> dict[str, list[MeasuredCase]]:
    """The resident cases of each workload."""
    found: dict[str, list[MeasuredCase]] = defaultdict(list)
    for case in cases:
        if case.scenario["policy"]["kind"] == "resident" and not case.error:
            found[workload_key(case)].append(case)
    return dict(found)


def workload_key(case: MeasuredCase) -> str:
    """What a case shares with those that do the same work."""
    return msgspec.json.encode((case.scenario["workload"], case.scenario["world_size"]), order="sorted").decode()


def kernel_times(residents: Sequence[MeasuredCase]) -> KernelTimes:
    """Seconds of each kernel of a layer: means over resident cases of the layers' own times."""
    times: dict[tuple[int, str, int], list[float]] = defaultdict(list)
    for case in residents:
        operations = case.operations
        lengthened = median(case.instrumented_step_times_s[1:]) - case.step_time_s
        event = max(lengthened, 0.0) / max(len(operations), 1)
        kernels = [op for op in operations if op.kind == "Kernel"]
        for op, number in zip(kernels, _numbers((op.layer, op.name) for op in kernels), strict=True):
            times[op.layer, op.name, number].append(max((op.end - op.start) * 1e-6 - event, 0.0))
    return {key: mean(values) for key, values in times.items()}


def with_kernel_times(program: Program, times: KernelTimes) -> Program:
    """`program` with the seconds of its kernels as given."""
    done: dict[int, RankProgram] = {}
    for rank in program.ranks:
        if id(rank) not in done:
            threads = tuple(_timed(thread, times) for thread in rank.threads)
            done[id(rank)] = msgspec.structs.replace(rank, threads=threads)
    return Program(tuple(done[id(rank)] for rank in program.ranks))


def _timed(thread: Sequence[AnyCommand], times: KernelTimes) -> tuple[AnyCommand, ...]:
    known = Counter((layer, name) for layer, name, _ in times)
    numbers = _numbers((c.layer, c.name) for c in thread if isinstance(c, Kernel))

    def timed(command: AnyCommand) -> AnyCommand:
        if not isinstance(command, Kernel):
            return command
        place = command.layer, command.name
        return msgspec.structs.replace(command, seconds=times[*place, next(numbers) % known[place]])

    return tuple(map(timed, thread))


def _numbers(kernels: Iterable[tuple[int, str]]) -> Iterator[int]:
    """For kernels given as (layer, name): how many of that name have run since their layer began."""
    seen: Counter[str] = Counter()
    before = None
    for layer, name in kernels:
        if layer != before:
            before = layer
            seen.clear()
        yield seen[name]
        seen[name] += 1


def predict(case: MeasuredCase, residents: Sequence[MeasuredCase], profile: Profile) -> Prediction:
    """Simulate a measured case on `profile` with the kernel times of `residents`, of the same workload."""
    program = with_kernel_times(case.load_scenario().program(), kernel_times(residents))
    timeline = SimulatedMachine(profile).run(program)
    return Prediction(case, median(timeline.step_times()[1:]), timeline)
