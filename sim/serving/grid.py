"""Grids of serving scenarios: keys over values, several seeds a point."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import Fault, refuse
from sim.serving.replicates import Figures, Mean, mean, replicate, to_plain
from sim.serving.scenario import ServingScenario, read_plain
from sim.serving.serve import Known, prepare
from sim.serving.step_times import Cell
from sim.sweeps.evaluation import Evaluator

MAX_POINTS = 10_000
RANDOM = ("poisson", "bursts")
"""Kinds of arrivals at a mean rate, or load."""


class Grid(NamedTuple):
    """Plain data of a serving scenario, and axes: key path -> values."""

    data: Any
    axes: Mapping[str, Sequence[object]]
    seeds: int = 1
    source: str = "scenario"


class GridRow(NamedTuple):
    """A point of a grid, and the figures of its runs."""

    values: dict[str, object]
    runs: Figures

    @property
    def classes(self) -> list[str]:
        """Names of its classes."""
        return list(self.runs[0]["classes"])

    def mean(self, *path: str) -> Mean:
        """Of a figure over seeds."""
        return mean(self.runs, *path)

    def to_plain(self) -> dict[str, Any]:
        """As `serve --json` prints it."""
        return {"values": {key: str(value) for key, value in self.values.items()}, **to_plain(self.runs)}


def with_value(data: Any, path: str, value: object, source: str = "scenario") -> Any:
    """A copy of plain data with one key set; keys above it are made where they are missing.

    Another kind of scheduler, or of arrivals, keeps what both kinds have, and drops the rest.

    Raises:
        InputError: a key above it is no mapping.
    """
    made = copy.deepcopy(data)
    if not isinstance(made, dict):
        raise InputError(source, "", "holds no serving scenario: expected a mapping of keys to values")
    # YAML reads keys such as a number of GPUs as numbers
    *above, last = (int(key) if key.isdecimal() and len(key) < 10 else key for key in path.split("."))
    at = made
    for key in above:
        if at.get(key) is None:
            at[key] = {}
        at = at[key]
        if not isinstance(at, dict):
            raise InputError(source, path, f"{key} is no mapping: there is no key {last} in it")
    if last == "kind" and at.get("kind") != value:
        kept = {"load", "rate"} if above == ["arrivals"] and value in RANDOM else set()
        for key in [key for key in at if key not in kept]:
            del at[key]
    at[last] = copy.deepcopy(value)
    return made


def points(grid: Grid) -> Iterator[tuple[dict[str, object], Any]]:
    """(values, plain data) of each point; the first axis is the slowest. Raises InputError."""
    count = math.prod(map(len, grid.axes.values()))
    if count > MAX_POINTS:
        raise InputError(grid.source, "", f"the grid has {count} points, at most {MAX_POINTS} are run")
    # a kind drops keys of other kinds: it is set before them
    order = sorted(grid.axes, key=lambda path: not path.endswith(".kind"))
    for values in product(*grid.axes.values()):
        chosen = dict(zip(grid.axes, values, strict=True))
        data = grid.data
        for path in order:
            data = with_value(data, path, chosen[path], grid.source)
        yield chosen, data


def run_grid(
    grid: Grid,
    evaluator: Evaluator | None = None,
    progress: Callable[[int], None] = lambda done: None,
    executor: Executor | None = None,
) -> list[GridRow]:
    """Run all points, on `executor` if given. Step times of classes are simulated once for all of them.

    Raises:
        InputError: as `prepare` and `serve`; all points are read before any runs.
    """
    evaluator, known = evaluator or Evaluator(), Known({}, {})
    chosen = list(points(grid))
    prepared = [prepare(ServingScenario.from_plain(d, grid.source), evaluator, grid.source, known) for _, d in chosen]
    rows: list[GridRow] = []
    if executor is None:
        found: Iterable[Figures] = (replicate(of, grid.seeds).figures for of in prepared)
    else:
        futures = [executor.submit(_run, data, grid.source, grid.seeds, known.cells) for _, data in chosen]
        found = (future.result() for future in futures)
    for (values, _), runs in zip(chosen, found, strict=True):
        rows.append(GridRow(values, runs))
        progress(len(rows))
    return rows


def _run(data: Any, source: str, seeds: int, cells: dict[bytes, Cell]) -> Figures:
    """One point, in another process."""
    scenario = ServingScenario.from_plain(data, source)
    return replicate(prepare(scenario, None, source, Known(cells, {})), seeds).figures


class Assumptions(Config, frozen=True):
    """Keys that are varied one at a time, at each point of further axes."""

    vary: dict[str, list[Any]]
    axes: dict[str, list[Any]] = {}  # noqa: RUF012 - a frozen struct's default, copied by msgspec


class GridFile(Config, frozen=True):
    """A grid as a YAML file: a serving scenario, axes of keys, and assumptions that are varied one at a time."""

    serving: str
    axes: dict[str, list[Any]]
    seeds: int = 1
    assumptions: Assumptions | None = None

    def __post_init__(self) -> None:
        wrong = [Fault("seeds", f"is {self.seeds}, expected 1 to 1000")] if not 1 <= self.seeds <= 1000 else []
        wrong += [Fault(f"axes.{axis}", "has no values") for axis, values in self.axes.items() if not values]
        refuse(wrong)


def is_grid(data: Any) -> bool:
    """Whether plain data are of a grid's file."""
    return isinstance(data, Mapping) and "serving" in data


def grids_of(data: Any, folder: Path, source: str, settings: Mapping[str, object]) -> Iterator[tuple[str, Grid]]:
    """(what is varied, grid) of a grid's file read in `folder`: first its axes, then each assumption.

    `settings` are keys of the serving scenario that are set for all points.

    Raises:
        InputError: it is wrong, or its serving scenario is.
    """
    given = convert(data, GridFile, source)
    plain = read_plain(folder / given.serving)
    for path, value in settings.items():
        plain = with_value(plain, path, value, source)
    yield "", Grid(plain, given.axes, given.seeds, source)
    if given.assumptions is not None:
        for path, values in given.assumptions.vary.items():
            axes = {**given.assumptions.axes, path: values}
            yield path, Grid(plain, axes, given.seeds, source)
