"""Figures of a benchmark beside those that are committed: ratios within one run, and numbers that must be equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

FILE = Path(__file__).with_name("baseline.json")


class Figure(NamedTuple):
    """One figure: a ratio, or a count (an `int`) that is the same on every machine; None where it was not measured."""

    name: str
    value: float | int | None
    remark: str = ""
    """Why it was not measured."""


def read(file: Path = FILE) -> dict[str, float | int]:
    """The committed figures by name."""
    return msgspec.json.decode(file.read_bytes(), type=dict[str, float | int]) if file.exists() else {}


def write(figures: Iterable[Figure], file: Path = FILE) -> None:
    """Commit figures; those that were not measured stay as they are."""
    new = {f.name: f.value if isinstance(f.value, int) else round(f.value, 4) for f in figures if f.value is not None}
    content = msgspec.json.format(msgspec.json.encode(dict(sorted((read(file) | new).items()))), indent=1)
    file.write_bytes(content + b"\n")


def rows(figures: Iterable[Figure], committed: Mapping[str, float | int]) -> Iterator[str]:
    """A line a figure: name, current, baseline, change."""
    for name, value, remark in figures:
        if value is None:
            yield f"{name:66s} {remark}"
            continue
        before = committed.get(name)
        if before is None:
            change = "new"
        elif isinstance(value, int):
            change = "equal" if value == before else "DIFFERS"
        else:
            change = f"{100 * (value / before - 1):+.0f} %"
        yield f"{name:66s} {_shown(value):>10s} {'' if before is None else _shown(before):>10s} {change:>9s}"


def _shown(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
