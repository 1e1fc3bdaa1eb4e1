"""When requests arrive, and of which class: Poisson, bursts, phases of a day, or a recorded trace."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import Fault, refuse
from sim.inputs.input_files import read_text
from sim.inputs.units import Number, Seconds

MAX_REQUESTS = 2_000_000
MAX_STEPS = 1_000_000
"""Of a request of a trace."""


class Arrival(NamedTuple):
    """One request: when it comes (s), its class, and what a trace says of it besides."""

    at: float
    cls: str
    steps: int | None = None
    deadline: float | None = None
    """s after its arrival."""


class _Random(Config, frozen=True, tag_field="kind"):
    """Base of arrivals at a mean rate: `rate` a second, or `load` of what all GPUs can do.

    A load of 1 is as much work as all GPUs do when each request runs on its class's smallest degree.
    """

    rate: Number | None = None
    load: Number | None = None

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        if (self.rate is None) == (self.load is None):
            yield Fault("", "expected either rate (requests a second) or load (a share of what all GPUs can do)")
        elif not (self.rate or self.load or 0.0) > 0.0:
            yield Fault("rate" if self.load is None else "load", "is 0, expected more")

    def mean_rate(self, work: float, gpus: int) -> float:
        """Requests a second, where a mean request takes `work` GPU-seconds."""
        return float(self.rate) if self.rate is not None else float(self.load or 0.0) * gpus / work

    def intensity(self, at: float) -> float:
        """The rate at time `at`, s, over the mean rate."""
        return 1.0

    def peak(self) -> float:
        """The largest intensity."""
        return 1.0


class Poisson(_Random, frozen=True, tag="poisson"):
    """Independent arrivals at a constant rate."""


class Bursts(_Random, frozen=True, tag="bursts"):
    """Poisson arrivals whose rate is `factor` times as high for the first `length` of every `period` as after it."""

    factor: Number = Number(5.0)
    period: Seconds = Seconds(300.0)
    length: Seconds = Seconds(60.0)

    def _wrong(self) -> Iterator[Fault]:
        yield from super()._wrong()
        if self.factor < 1.0:
            yield Fault("factor", f"is {self.factor:g}, expected 1 or more")
        if not 0.0 < self.length < self.period:
            yield Fault("length", "expected more than 0 s and less than period")

    def _low(self) -> float:
        return float(self.period / (self.factor * self.length + (self.period - self.length)))

    def intensity(self, at: float) -> float:
        """Keeps the mean at 1."""
        return self._low() * (float(self.factor) if at % self.period < self.length else 1.0)

    def peak(self) -> float:
        """Within a burst."""
        return self._low() * float(self.factor)


class Phase(Config, frozen=True):
    """Arrivals at a constant rate for `seconds`, with shares of classes of its own."""

    seconds: Seconds
    rate: Number
    shares: dict[str, Number] = {}  # noqa: RUF012 - a frozen struct's default, copied by msgspec


class Phases(Config, frozen=True, tag_field="kind", tag="phases"):
    """Poisson arrivals in phases, one after the other."""

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        refuse([] if self.phases else [Fault("phases", "expected at least one")])


class Trace(Config, frozen=True, tag_field="kind", tag="trace"):
    """Recorded arrivals: a CSV file with a header, or JSON lines.

    Columns, or keys: `arrival_s` and `class`; `steps` and `deadline_s` (after the arrival) where they are not the
    class's. `speed` 2 plays it twice as fast.
    """

    file: str
    speed: Number = Number(1.0)

    KEYS: ClassVar[tuple[str, ...]] = ("arrival_s", "class", "steps", "deadline_s")

    def __post_init__(self) -> None:
        refuse([] if self.speed > 0.0 else [Fault("speed", "is 0, expected more")])


Arrivals = Poisson | Bursts | Phases | Trace


class _Row(Config, frozen=True, rename={"cls": "class"}):
    arrival_s: Seconds
    cls: str
    steps: int | None = None
    deadline_s: Seconds | None = None


def arrivals(
    given: Arrivals, shares: Mapping[str, float], duration: float, rate: float, seed: int
) -> Iterator[Arrival]:
    """Arrivals in order of time. `rate` is the mean one (a second), of those that have one.

    Equal seeds give equal arrivals. When requests come and of which class they are is drawn apart from each other, so
    that other shares change no time.

    Raises:
        InputError: a trace cannot be read.
    """
    gaps, kinds = random.Random(f"gaps {seed}"), random.Random(f"classes {seed}")
    if isinstance(given, Trace):
        yield from read_trace(given, shares)
        return
    if isinstance(given, Phases):
        start = 0.0
        for phase in given.phases:
            of = {name: float(phase.shares.get(name, 0.0)) for name in shares} if phase.shares else shares
            at, end = start, min(start + phase.seconds, duration)
            while phase.rate > 0.0 and (at := at + gaps.expovariate(float(phase.rate))) < end:
                yield Arrival(at, _drawn(of, kinds))
            start += phase.seconds
        return
    at, peak = 0.0, given.peak()
    while (at := at + gaps.expovariate(rate * peak)) < duration:
        if peak == 1.0 or gaps.random() * peak < given.intensity(at):  # thinning
            yield Arrival(at, _drawn(shares, kinds))


def _drawn(shares: Mapping[str, float], source: random.Random) -> str:
    at, last = source.random() * math.fsum(shares.values()), ""
    for name, share in shares.items():
        if share > 0.0:
            last = name
            if (at := at - share) < 0.0:
                break
    return last


def read_trace(trace: Trace, classes: Mapping[str, Any]) -> Sequence[Arrival]:
    """The arrivals of a trace's file, in order. Raises InputError, which names the line."""
    source = trace.file
    text = read_text(Path(source))
    lines = text.splitlines()
    found: list[Arrival] = []
    for number, plain in _rows(lines, source):
        where = f"{source}: line {number}"
        row = convert(plain, _Row, where)
        if row.cls not in classes:
            raise InputError(where, "class", f"is {row.cls!r}, expected one of {', '.join(classes)}")
        if row.steps is not None and not 1 <= row.steps <= MAX_STEPS:
            raise InputError(where, "steps", f"is {row.steps}, expected 1 to {MAX_STEPS}")
        found.append(Arrival(row.arrival_s / trace.speed, row.cls, row.steps, row.deadline_s))
        if len(found) > MAX_REQUESTS:
            raise InputError(source, "", f"has more than {MAX_REQUESTS} requests")
    if not found:
        raise InputError(source, "", "has no requests")
    found.sort(key=lambda arrival: arrival.at)
    return found


def _rows(lines: Sequence[str], source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, keys and values) of CSV or JSON lines."""
    if lines and lines[0].lstrip().startswith("["):
        raise InputError(source, "", "is a JSON list: expected JSON lines, an object a line, or CSV")
    if lines and lines[0].lstrip().startswith("{"):
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    plain = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{source}: line {number}", "", f"is not JSON: {error}") from None
                if not isinstance(plain, dict):
                    raise InputError(f"{source}: line {number}", "", "expected a mapping of keys to values")
                yield number, plain
        return
    reader = csv.reader(io.StringIO("\n".join(lines)))
    try:
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in Trace.KEYS[:2] if name not in header]:
            problem = f"has no column {' and '.join(missing)}: expected {', '.join(Trace.KEYS)} in its first line"
            raise InputError(source, "", f"{problem}, or JSON lines")
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise InputError(f"{source}: line {reader.line_num}", "", f"expected {len(header)} columns")
                values = dict(zip(header, (cell.strip() for cell in row), strict=True))
                yield reader.line_num, {key: _number(key, cell) for key, cell in values.items() if cell}
    except csv.Error as error:
        raise InputError(f"{source}: line {reader.line_num}", "", f"is not CSV: {error}") from None


def _number(key: str, cell: str) -> object:
    return int(cell) if key == "steps" and cell.isdecimal() and len(cell) < 10 else cell
