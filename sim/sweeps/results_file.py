"""The CSV file of a sweep: a row is added as soon as its point has finished, and nothing in it is ever run again."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec

from sim.inputs.atomic_files import (
    UnwritableError,
    append,
    cut_torn_line,
    naming,
    open_alone,
    whole_lines,
    write_atomically,
)
from sim.inputs.config import InputError
from sim.inputs.input_files import read_bytes
from sim.inputs.notebook_html import html_table
from sim.inputs.safe_text import csv_cell, csv_text
from sim.inputs.units import show_bytes, show_seconds
from sim.sweeps.job import Identity, Job
from sim.timeline.metrics import SCHEMA_VERSION

MAX_BYTES = 2**30
"""Largest results file that can be resumed: two million rows have less."""
METRICS = (
    "step_time_s",
    "lower_bound_s",
    "peak_memory_bytes",
    "h2d_bytes_per_step",
    "h2d_busy_s",
    "h2d_uncovered_s",
    "collective_time_s",
    "collective_inflation_s",
    "h2d_collective_overlap_s",
    "exposed_prefetch_s",
    "device_memory_bytes",
    "fits_memory",
    "step_time_spread_s",
    "period_steps",
)
"""The metrics in each row."""

Failure = Literal["", "scenario", "environment"]
"""What made a point fail: it would again (scenario), or may not next time (environment: memory, files, processes)."""

DIED = "its worker process died: killed, or out of memory"
"""The error of a point that took its worker with it."""


class Point(NamedTuple):
    """One scenario of a sweep: the values on its axes (None where its policy has no such key) and its plain data.

    `job` is what is run: the scenario with the content of all files that it names. `identity` says of which content
    its metrics are.
    """

    values: dict[str, object]
    data: dict[str, Any]
    identity: Identity
    job: Job


class Row(NamedTuple):
    """The metrics of one point (SI units); `error` says why there are none, `failure` whether that may pass."""

    values: dict[str, object]
    metrics: dict[str, float]
    error: str = ""
    failure: Failure = ""


class Rows(list[Row]):
    """The rows of a sweep, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        def cells(row: Row) -> list[object]:
            values = ["" if value is None else value for value in row.values.values()]
            if row.error:
                return [*values, row.error]
            times = (row.metrics[name] for name in ("step_time_s", "lower_bound_s", "exposed_prefetch_s"))
            fits = "yes" if row.metrics["fits_memory"] else "NO"
            return [*values, *map(show_seconds, times), show_bytes(row.metrics["peak_memory_bytes"]), fits]

        headers = ("step time", "lower bound", "wait for prefetch", "peak memory", "fits")
        return html_table(f"{len(self)} points", [*(self[0].values if self else ()), *headers], map(cells, self))


class ResultsFile:
    """The rows of `points` in `file`, which is made with its folders if it is missing. A context manager.

    `done` holds rows by number of their point, as the file had them, but for those that failed by their environment.
    Rows are added in any order, each by one write; `finish` puts them in the order of the points. A half-written last
    line is cut off. The file stays locked until the end.

    Rows that were made with another hardware profile, model or version of this package than there is now are not
    taken: the file is refused, or, with `recompute`, they stay in it until `finish`; `outdated` says how many, and why.

    Raises:
        InputError: the file is not the result of a sweep over these points, or another run holds it.
        OSError: it cannot be written, or was moved or removed while it was locked.
    """

    def __init__(self, file: Path, points: Sequence[Point], recompute: bool = False) -> None:
        self.file = file
        self.points = points
        self.recompute = recompute
        self.header = [
            f"scenario_v{SCHEMA_VERSION}",
            *map(str, map(_one_line, points[0].values)),
            *METRICS,
            "failure",
            "error",
        ]
        self.done: dict[int, Row] = {}
        self.outdated = ""
        self._identities: dict[int, Identity] = {}

    def __enter__(self) -> ResultsFile:
        self._out: BinaryIO = open_alone(self.file)
        try:
            content = read_bytes(self.file, MAX_BYTES) if self.file.is_file() else b""
            self._read(content)
            cut_torn_line(self._out, self.file)
            if not whole_lines(content):
                with naming(self.file):
                    append(self._out, _line(self.header))
        except BaseException:
            self._out.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def add(self, number: int, identity: Identity, row: Row) -> None:
        """Write the row of the point `number`, which has this identity."""
        self._check_place()
        self._identities[number] = identity
        with naming(self.file):
            append(self._out, _line(self._cells(number, row)))

    def finish(self, rows: Mapping[int, Row]) -> None:
        """Put all rows in the order of the points, unless they are, or went to a device."""
        self._check_place()
        ordered = _line(self.header) + b"".join(_line(self._cells(i, rows[i])) for i in range(len(self.points)))
        if self.file.is_file() and not self._holds(ordered):
            write_atomically(self.file, ordered)

    def _holds(self, content: bytes) -> bool:
        try:
            with self.file.open("rb") as file:
                return file.read(len(content) + 1) == content
        except OSError:
            return False

    def _check_place(self) -> None:
        try:
            there = os.path.samestat(os.fstat(self._out.fileno()), self.file.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise UnwritableError(errno.ENOENT, "it was moved, removed or replaced while the sweep ran", str(self.file))

    def _cells(self, number: int, row: Row) -> list[object]:
        metrics = [row.metrics.get(name, "") for name in METRICS]
        values = ["" if v is None else v for v in row.values.values()]
        return [str(self._identities[number]), *values, *metrics, row.failure, row.error]

    def _read(self, content: bytes) -> None:
        whole = whole_lines(content)
        if not whole:
            if not _line(self.header).startswith(content):
                raise self._other("it holds something else")
            return
        try:
            first, *lines = _lines(whole)
        except (UnicodeDecodeError, csv.Error):
            raise self._other("it holds something else") from None
        if first != self.header:
            raise self._other(self._of_columns(first))
        identities = [Identity.parse(line[0]) if len(line) == len(first) else None for line in lines]
        here = self._of_scenarios({identity.scenario for identity in identities if identity is not None})
        outdated: dict[str, list[str]] = {}
        for identity, line in zip(identities, lines, strict=True):
            if identity is None or identity.scenario not in here:
                raise self._other("it holds rows of other scenarios")
            number, now, values = here[identity.scenario]
            if line[-2] == "environment":
                continue
            if identity == now:
                self._take(number, now, values, line)
            else:
                outdated[identity.scenario] = now.changes(identity)
        current = {self._identities[number].scenario for number in self.done}
        self._judge([changes for scenario, changes in outdated.items() if scenario not in current], len(lines))

    def _of_scenarios(self, wanted: Set[str]) -> dict[str, tuple[int, Identity, dict[str, object]]]:
        """Number, identity and values of the points whose scenarios are `wanted`, by scenario."""
        found = {}
        for number, point in enumerate(self.points if wanted else ()):
            if point.identity.scenario in wanted:
                found[point.identity.scenario] = number, point.identity, point.values
        return found

    def _take(self, number: int, identity: Identity, values: dict[str, object], line: Sequence[str]) -> None:
        """Take `line` for the row of the point `number`."""
        if number in self.done:
            raise self._other("it holds two rows of one point")
        cells = zip(METRICS, line[-2 - len(METRICS) : -2], strict=True)
        try:
            metrics = {name: msgspec.json.decode(cell, type=bool | int | float) for name, cell in cells if cell}
            failure = msgspec.convert(line[-2], Failure)
        except (msgspec.DecodeError, msgspec.ValidationError):
            raise self._other("it holds a row that no sweep writes") from None
        self._identities[number] = identity
        self.done[number] = Row(values, metrics, line[-1], failure)

    def _judge(self, outdated: Sequence[Sequence[str]], count: int) -> None:
        """Refuse rows made with what has changed since, or say that they are made again."""
        if not outdated:
            return
        changed = " and ".join(dict.fromkeys(word for words in outdated for word in words))
        rows = f"{len(outdated)} of its {count} rows were made with another {changed}"
        if not self.recompute:
            raise InputError(str(self.file), "", f"{rows}: --recompute makes them again, or give another --out")
        self.outdated = f"{self.file}: {rows}: they are made again"

    def _of_columns(self, found: Sequence[str]) -> str:
        axes = f"its columns differ: here they would be {', '.join(self.header)}"
        return axes if found and found[0].startswith("scenario_v") else "it holds something else"

    def _other(self, why: str) -> InputError:
        problem = f"is not the result of this sweep: give another --out or remove it ({why})"
        return InputError(str(self.file), "", problem)


def _lines(content: bytes) -> list[list[str]]:
    """The cells of each line, however long they are. Raises UnicodeDecodeError and csv.Error."""
    usual = csv.field_size_limit(sys.maxsize)
    try:
        return [[*map(csv_text, line)] for line in csv.reader(io.StringIO(content.decode(), newline=""))]
    finally:
        csv.field_size_limit(usual)


def _line(cells: Sequence[object]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([csv_cell(_one_line(cell)) for cell in cells])
    return out.getvalue().encode()


def _one_line(cell: object) -> object:
    """Text with control characters or line ends as JSON; all else as it is."""
    return json.dumps(cell) if isinstance(cell, str) and not cell.isprintable() else cell
