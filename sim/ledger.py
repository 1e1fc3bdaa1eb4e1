"""The CSV file of a sweep: a row is added as soon as its point has finished, and nothing in it is ever run again."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from sim.config import InputError
from sim.metrics import SCHEMA_VERSION
from sim.output import append, naming, open_alone, write_atomically

FIGURES = (
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
    "step_time_spread_s",
    "period_steps",
)
"""The metrics in each row."""

DIED = "its worker process died: killed, or out of memory"
"""The error of a point that took its worker with it; another run of the sweep tries it again."""


class Point(NamedTuple):
    """One scenario of a sweep: the values on its axes (None where its policy has no such key) and its plain data.

    `identity` is a hash of all that its figures follow from: the data, and the content of its hardware profile.
    """

    values: dict[str, object]
    data: dict[str, Any]
    identity: str


class Row(NamedTuple):
    """The figures of one point (SI units); `error` says why there are none."""

    values: dict[str, object]
    figures: dict[str, float]
    error: str = ""


class Ledger:
    """The rows of `points` in `file`, which is made with its folders if it is missing. A context manager.

    `done` holds rows by number of their point, as the file had them. Rows are added in any order, each by one write;
    `finish` puts them in the order of the points. A half-written last line is cut off. The file is held until the end.

    Raises:
        InputError: the file is not the result of a sweep over these points, or another run holds it.
        OSError: it cannot be written.
    """

    def __init__(self, file: Path, points: Sequence[Point]) -> None:
        self.file = file
        self.points = points
        self.header = [f"scenario_v{SCHEMA_VERSION}", *points[0].values, *FIGURES, "error"]
        self.done: dict[int, Row] = {}

    def __enter__(self) -> Ledger:
        with naming(self.file):
            self._out: BinaryIO = open_alone(self.file)
            try:
                content = self.file.read_bytes() if self.file.is_file() else b""
                self._read(content)
                if len(content) > len(self._whole(content)):
                    self._out.truncate(len(self._whole(content)))
                if not self._whole(content):
                    append(self._out, _line(self.header))
            except BaseException:
                self._out.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def add(self, number: int, row: Row) -> None:
        """Write the row of the point `number`."""
        with naming(self.file):
            append(self._out, _line(self._cells(number, row)))

    def finish(self, rows: Mapping[int, Row]) -> None:
        """Put all rows in the order of the points, unless they are, or went to a device."""
        ordered = _line(self.header) + b"".join(_line(self._cells(i, rows[i])) for i in range(len(self.points)))
        if self.file.is_file() and self.file.read_bytes() != ordered:
            write_atomically(self.file, ordered)

    def _cells(self, number: int, row: Row) -> list[object]:
        point = self.points[number]
        figures = [row.figures.get(name, "") for name in FIGURES]
        return [point.identity, *("" if v is None else v for v in point.values.values()), *figures, row.error]

    def _whole(self, content: bytes) -> bytes:
        return content[: content.rfind(b"\n") + 1]

    def _read(self, content: bytes) -> None:
        other = InputError(str(self.file), "", "is not the result of this sweep: give another --out or remove it")
        whole = self._whole(content)
        if not whole:
            if not _line(self.header).startswith(content):
                raise other
            return
        try:
            first, *lines = csv.reader(io.StringIO(whole.decode(), newline=""))
        except (UnicodeDecodeError, csv.Error):
            raise other from None
        numbers = {point.identity: i for i, point in enumerate(self.points)}
        if first != self.header or any(len(line) != len(first) or line[0] not in numbers for line in lines):
            raise other
        for line in lines:
            number = numbers[line[0]]
            if number in self.done:
                raise other
            if line[-1] != DIED:
                cells = zip(FIGURES, line[-1 - len(FIGURES) : -1], strict=True)
                try:
                    figures = {name: msgspec.json.decode(cell, type=int | float) for name, cell in cells if cell}
                except msgspec.DecodeError:
                    raise other from None
                self.done[number] = Row(self.points[number].values, figures, line[-1])


def _line(cells: Sequence[object]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue().encode()
