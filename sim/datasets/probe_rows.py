"""Raw rows: what a finished probe case writes, one line of JSON each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sim.datasets.probe_parameters import PARAMETERS
from sim.inputs.atomic_files import append, cut_torn_line, naming, open_alone
from sim.inputs.config import Config, InputError, convert
from sim.inputs.json_lines import load_lines

SCHEMA = 1
"""Version of `Row`; rows of another one are refused."""

ABOUT = ("host", "sampled")
"""Kinds of rows that say something of the host and measure nothing."""

RAW = "raw.jsonl"
"""The file of a folder of raw rows."""


class RowError(InputError):
    """A file of raw rows that cannot be used."""


class Stat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One quantity over a case's repeats, in SI units."""

    median: Annotated[float, Meta(ge=-1e18, le=1e18)]
    spread: Annotated[float, Meta(ge=0, le=1e18)]
    """1.4826 x the median absolute deviation, relative to the median: one standard deviation of normal errors."""
    repeats: Annotated[int, Meta(ge=1)]


class Row(Config, frozen=True):
    """A finished case. `ranks` holds a mapping of quantities for every rank that took part, in order."""

    schema: int
    case: str
    """The case's name, unique in a plan."""
    kind: str
    params: dict[str, Any]
    device: Literal["cuda", "cpu"]
    """"cuda" or "cpu"; times on a CPU mean nothing."""
    gpu: str
    """What the device calls itself."""
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d", description="a date such as 2026-01-31")]
    seconds: Annotated[float, Meta(ge=0)]
    """Wall time that the case took, s."""
    ranks: list[dict[str, Stat]]
    rejected: str | None = None
    """Why the row must not be used; None if it may."""
    attempts: Annotated[int, Meta(ge=1)] = 1
    sampled: Any = None
    """Of rows of the kind "sampled": clocks, power and temperature during a group; of kind "host": its fingerprint."""

    def stat(self, quantity: str, rank: int = 0) -> Stat:
        """A quantity of one rank. Raises KeyError."""
        return self.ranks[rank][quantity]


def stat(samples: Sequence[float]) -> Stat:
    """Median and spread of `samples`, at least one."""
    centre = median(samples)
    deviation = 1.4826 * median(abs(s - centre) for s in samples)
    return Stat(centre, deviation / abs(centre) if centre else 0.0, len(samples))


def stats(samples: Mapping[str, Sequence[float]]) -> dict[str, Stat]:
    """`stat` of every quantity."""
    return {name: stat(values) for name, values in samples.items()}


def load_rows(file: Path) -> list[Row]:
    """The last row of every case in `file`, in the order of their first; a half-written last line is left out.

    Raises:
        RowError: the file cannot be read, or a line is not a row of this schema.
    """
    found: dict[str, Row] = {}
    try:
        for where, row in load_lines(file, Row, SCHEMA):
            _check(row, where)
            found[row.case] = row
    except InputError as error:
        raise RowError.of(error.source, error.faults) from None
    return list(found.values())


def _check(row: Row, where: str) -> None:
    """Raise InputError for parameters that are none of its kind's, and for results of too few or too many ranks."""
    if row.kind not in PARAMETERS:
        raise InputError(where, "kind", f"is {row.kind!r}, expected one of {', '.join(sorted(PARAMETERS))}")
    if row.kind == "host":
        convert(row.sampled, dict[str, str], f"{where}: sampled")
    elif row.kind == "sampled":
        convert(row.sampled, dict[str, dict[str, float]], f"{where}: sampled")
    elif row.rejected is None:
        ranks = convert(row.params, PARAMETERS[row.kind], f"{where}: params").ranks
        if len(row.ranks) != ranks:
            raise InputError(where, "ranks", f"has {len(row.ranks)}, expected {ranks}")


class Journal:
    """The file of raw rows, open for appending and locked: each row is on the disk when `append` returns.

    Raises:
        RowError: a line is not a row of this schema.
        InputError: another run holds it.
        OSError: it cannot be opened or read.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = open_alone(file)
        try:
            self.rows = load_rows(file)
            cut_torn_line(self._file, file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def done(self) -> set[str]:
        """Names of cases that have a row that may be used."""
        return {row.case for row in self.rows if row.rejected is None}

    def append(self, row: Row) -> None:
        """Write `row` as one line."""
        with naming(self._path):
            append(self._file, msgspec.json.encode(row) + b"\n")
            os.fsync(self._file.fileno())
        self.rows = [r for r in self.rows if r.case != row.case] + [row]
