"""Sweeps: one scenario, some of its keys over ranges, one row of metrics a point.

Points are made as they are read (`sim.sweeps.points`), and run on any `concurrent.futures.Executor`; rows are written
as they come, so that a sweep that was stopped, however it was, resumes with what its file does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, cast

from sim.inputs.config import InputError
from sim.sweeps.evaluation import Evaluated, Evaluator, Store
from sim.sweeps.job import Job, StaleCodeError
from sim.sweeps.points import Axes, Points, Setting, points
from sim.sweeps.results_file import DIED, METRICS, Failure, Point, ResultsFile, Row, Rows

__all__ = ["Axes", "Outcome", "Point", "Points", "Row", "Rows", "Setting", "outcome", "points", "sweep"]


class Outcome(NamedTuple):
    """What became of one point: its metrics, or its error and what made it."""

    metrics: dict[str, Any]
    error: str = ""
    failure: Failure = ""


def outcome(evaluated: Evaluated) -> Outcome:
    """The metrics of a row, or its error: any error, expected or not, concerns one point; the others still run."""
    error = evaluated.raised
    if error is None:
        metrics = cast(Mapping[str, Any], evaluated.figures().metrics)
        return Outcome({name: metrics[name] for name in METRICS})
    if isinstance(error, MemoryError):
        return Outcome({}, "the memory is full", "environment")
    if isinstance(error, BrokenExecutor):
        return Outcome({}, DIED, "environment")
    if evaluated.of_executor or isinstance(error, (OSError, StaleCodeError)):
        return Outcome({}, _line(str(error)) or type(error).__name__, "environment")
    if isinstance(error, (InputError, ValueError, RuntimeError)):
        return Outcome({}, _line(str(error)), "scenario")
    return Outcome({}, _line(f"{type(error).__name__}: {error}"), "scenario")


def _line(text: str) -> str:
    return " ".join(text.split())


def sweep(
    chosen: Sequence[Point],
    executor: Executor | None = None,
    output: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
    recompute: bool = False,
    note: Callable[[str], None] = lambda text: None,
    cache: Store | None = None,
) -> Rows:
    """Run all points, on `executor` if given; rows in the order of the points. Results in `cache` are taken from it.

    `chosen` may be `Points`: each is read when there is room to run it, and not kept. Rows are.

    With `output`, a CSV file, each row is written as it comes, and rows that the file already holds are not run again,
    but for those that failed by their environment. With `recompute` those are run again, too, that were made with
    another hardware profile, model or version of this package, and `note` is told how many; without it, such a file is
    refused. `progress` is called with the number of finished points.

    Raises:
        InputError: `output` belongs to another sweep.
        OSError: `output` cannot be written, or was moved or removed.
        NoWorkersError: `executor` has no processes.
    """
    rows: dict[int, Row] = {}
    with ExitStack() as stack:
        results = stack.enter_context(ResultsFile(output, chosen, recompute)) if output else None
        if results:
            rows |= results.done
            if results.outdated:
                note(results.outdated)
        progress(len(rows))
        running: dict[int, tuple[int, Point]] = {}

        def jobs(todo: Iterator[int]) -> Iterator[Job]:
            for place, number in enumerate(todo):
                point = chosen[number]
                running[place] = number, point
                yield point.job

        left = len(chosen) - len(rows)
        todo = (number for number in range(len(chosen)) if number not in rows)
        for place, evaluated in Evaluator(executor, cache).as_completed(jobs(todo), left):
            number, point = running.pop(place)
            rows[number] = Row(point.values, *outcome(evaluated))
            if results:
                results.add(number, point.identity, rows[number])
            progress(len(rows))
        if results:
            results.finish(rows)
    return Rows(rows[i] for i in range(len(chosen)))
