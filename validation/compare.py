"""Predictions against measurements: simulate each measured case and compare step times and operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from statistics import mean, median
from typing import NamedTuple

from sim.hardware import Profile
from sim.machine import SimulatedMachine
from sim.metrics import metrics
from sim.program import Collective, Copy, Kernel, instrument
from sim.timeline import Span, Timeline
from validation.wan14b import BISTABLE, BLOCK, OPERATIONS, Case


class Comparison(NamedTuple):
    """One case, measured and predicted (s)."""

    case: Case
    predicted_s: float
    lower_bound_s: float
    operations: dict[str, tuple[float, float]]
    """Operation -> (measured, predicted): medians over the layers that were measured."""

    @property
    def error(self) -> float:
        """Predicted / measured step time - 1."""
        return self.predicted_s / self.case.step_time_s - 1


def compare(case: Case, profile: Profile | None = None) -> Comparison:
    """Simulate `case` twice: for the step times as it is, for the operations with events around every copy."""
    profile = profile or case.scenario.profile()
    machine = SimulatedMachine(profile)
    program = case.scenario.program()
    timeline = machine.run(program)
    figures = metrics(timeline, profile)
    predicted = operation_times(machine.run(instrument(program, (Copy,)).program))
    operations = {}
    for name in OPERATIONS:
        operations[name] = (
            median(case.durations(name)),
            median(predicted[p.layer, name] for p in case.parts if p.name == name),
        )
    # the first simulated step is the measurement's warm-up step
    step = median(timeline.step_times()[2:])
    return Comparison(case, step, figures["lower_bound_s"], operations)


def compare_all(cases: Sequence[Case], executor: Executor | None = None) -> Iterable[Comparison]:
    """Compare cases in order, on `executor` if given."""
    return executor.map(compare, cases) if executor else map(compare, cases)


def operation_times(timeline: Timeline) -> dict[tuple[int, str], float]:
    """(layer, operation) -> duration (s) on rank 0 in the first step, which like the measured one starts idle.

    An operation lasts from the end of the one before to the end of its last item, as events around parts see it.
    """
    work: list[tuple[Span, Kernel | Collective]] = [
        *timeline.commands(0, Kernel),
        *timeline.commands(0, Collective),
    ]
    times: dict[tuple[int, str], float] = {}
    for layer in {c.layer for _, c in work}:
        items = sorted((s for s, c in work if c.step == 0 and c.layer == layer), key=lambda s: s.end)
        begin = items[0].start
        for name, parts in OPERATIONS.items():
            last = BLOCK.index(parts[-1])
            times[layer, name] = items[last].end - begin
            begin = items[last].end
    return times


class Summary(NamedTuple):
    """Absolute relative errors of a set of cases."""

    cases: int
    median: float
    mean: float
    maximum: float
    worst: str


def summarise(comparisons: Iterable[Comparison]) -> Summary:
    """Errors of step times; the bistable case and resident ones are left out."""
    errors = {c.case.name: abs(c.error) for c in comparisons if c.case.policy != "resident" and c.case.name != BISTABLE}
    worst = max(errors, key=lambda name: errors[name])
    return Summary(len(errors), median(errors.values()), mean(errors.values()), errors[worst], worst)
