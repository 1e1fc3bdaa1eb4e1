"""Whether the steps of a run have settled, and more steps where they have not.

The first steps of a run warm up, and some schedules never settle to one length: their steps come in a period, say a
short one and a long one in turn. A metric of the last step then depends on how many steps were requested. So a run
is simulated on until its steps repeat, or to a stated limit, and its metrics are means over the last period.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from sim.inputs.units import show_seconds
from sim.timeline import Timeline

TOLERANCE = 0.005
"""Steps whose lengths differ by less than this share match: measured steps of one schedule spread by that."""
MIN_ALIKE = 3
"""Minimum number of last steps that must match the step one period earlier."""
MAX_PERIOD = 8
"""Longest period that is looked for, in steps."""
MAX_STEPS = 64
"""Unless a caller gives a limit of its own."""
MAX_COMMANDS = 2_000_000
"""Of all ranks: a run is not simulated beyond these two limits to see it settle."""


def period(ranks: Sequence[Sequence[float]]) -> int:
    """In how many steps the durations of each rank's steps (s) repeat at the end; 0 if they do not.

    It is 1 only where the median of all steps but the first is also what the last one takes, so that steps from before
    the run settled do not decide the step time.
    """
    for steps in range(1, MAX_PERIOD + 1):
        if all(_repeats(times[1:], steps) for times in ranks):
            if steps == 1 and not all(_alike(median(times[1:]), times[-1]) for times in ranks):
                return 0
            return steps
    return 0


def _repeats(times: Sequence[float], steps: int) -> bool:
    needed = max(2 * steps, MIN_ALIKE)
    last = times[-needed:]
    return len(last) == needed and all(map(_alike, last, last[steps:]))


def _alike(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def settle(first: Timeline, commands: int, longer: Callable[[int], Timeline], max_steps: int = MAX_STEPS) -> Timeline:
    """`first`, or a run with more steps where that one has not settled; its `period` says what the steps do.

    `commands` is how many `first` has, of all ranks, simulated or not. `longer` runs the same program with the given
    number of steps, of which the first are those of `first`. A run whose step time is what it would be with more steps
    is returned unchanged. A run of one step is not made longer: its user wants to see the first step. No run is made
    longer than `max_steps`.
    """
    steps = count = len(first.steps[0]) - 1
    if count < 2:
        return first._replace(period=0)
    timeline, found = first, period(_durations(first))
    while not found:
        more = max(2 * steps if steps > MIN_ALIKE else 0, MIN_ALIKE + 1)  # no more than needed at first
        if more > max_steps or commands * (more / count) > MAX_COMMANDS:
            break
        steps = more
        timeline = longer(steps)
        found = period(_durations(timeline))
    if found == 1 and all(
        _alike(before[-1], after[-1]) and _alike(median(before[1:]), after[-1])
        for before, after in zip(_durations(first), _durations(timeline), strict=True)
    ):
        return first
    return timeline._replace(period=found)


def words(timeline: Timeline, rank: int = 0) -> str:
    """What the steps do and what figures are of, in a sentence or two; nothing where they have settled."""
    times, shown = timeline.step_times(rank), timeline.shown
    if timeline.period == 1:
        return ""
    if len(times) == 1:
        return "Only one step was simulated, which also warms up: whether it has settled is not known."
    lasting = [times[step] for step in shown]
    ends = f"{show_seconds(min(lasting))} to {show_seconds(max(lasting))}"
    if timeline.period:
        return (
            f"Steps have not settled to one length: they repeat every {timeline.period} steps ({ends}). Figures are "
            f"means over the last {timeline.period} of {len(times)} simulated steps."
        )
    return (
        f"Steps have not settled in {len(times)} simulated steps: the last {len(shown)} take {ends}. Figures are means "
        "over them."
    )


def _durations(timeline: Timeline) -> list[list[float]]:
    return [timeline.step_times(rank) for rank in range(len(timeline.steps))]
