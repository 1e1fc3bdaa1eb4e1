"""Sweeps: one scenario, some of its keys over ranges, one row of figures a point.

Points are the product of all axes, the first axis slowest, without those that say the same twice. They run on any
`concurrent.futures.Executor`; rows come back, and are written, in the order of the points, so that a sweep that was
stopped continues where its file ends.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from sim import units
from sim.config import InputError
from sim.metrics import SCHEMA_VERSION
from sim.run import simulate
from sim.scenario import Scenario

Axes = Mapping[str, Sequence[object]]
"""Key path -> values, as they would stand in the YAML file."""

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
)
"""The metrics in each row."""

CASE = "case"
"""The axis whose values are named settings of several keys."""

_RANGE = re.compile(r"(.+?)\.\.(.+?):([x+])(.+)")
MOST_POINTS = 1_000_000


class Point(NamedTuple):
    """One scenario of a sweep: the values on its axes (None where its policy has no such key) and its plain data."""

    values: dict[str, object]
    data: dict[str, Any]


def parse_axis(text: str) -> tuple[str, list[object]]:
    """Read "key.path=values": a list "a,b,c", or a range "first..last:x2" (factor) or "first..last:+4 MiB" (step).

    Raises:
        InputError: naming the axis and what was expected.
    """
    path, equals, given = text.partition("=")
    path = path.strip()
    if not equals or not path or not given.strip():
        raise InputError("--set", text, "expected key.path=value, such as policy.chunk_bytes=1MiB..256MiB:x2")
    values: list[object] = []
    for item in given.split(","):
        match = _RANGE.fullmatch(item.strip())
        values += _range(text, *match.groups()) if match else [_scalar(text, item.strip())]
    return path, values


def _scalar(axis: str, text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise InputError("--set", axis, f"{text!r} is no value as YAML has them") from None


def _range(axis: str, first: str, last: str, how: str, by: str) -> list[object]:
    low, high, step = (_number(axis, t) for t in (first, last, by))
    if low > high or (step <= 1 if how == "x" else step <= 0) or (how == "x" and low <= 0):
        raise InputError("--set", axis, "expected a range that ascends, such as 1MiB..256MiB:x2 or 0..1:+0.25")
    values: list[object] = []
    while low <= high:
        values.append(int(low) if low == int(low) else float(low))
        low = low * step if how == "x" else low + step
        if len(values) > MOST_POINTS:
            raise InputError("--set", axis, f"has more than {MOST_POINTS} values")
    return values


def _number(axis: str, text: str) -> Decimal:
    for kind in units.QUANTITIES:
        try:
            quantity = units.parse(kind, text)
        except ValueError:
            continue
        return Decimal(repr(units.plain(quantity)))
    raise InputError("--set", axis, f"{text.strip()!r} is no number with a unit")


def points(data: Mapping[str, Any], axes: Axes, source: str = "scenario") -> list[Point]:
    """All points of a sweep over plain scenario data, each checked. Raises `InputError` for a wrong one.

    A value of the axis "case" is {"name": ..., "set": {key path: value}}: several keys that change together.
    """
    if not isinstance(data, Mapping):
        raise InputError(source, "", "holds no scenario: expected a mapping of keys to values")
    made: list[Point] = []
    seen: set[str] = set()
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_POINTS:
        raise InputError(source, "", f"the sweep has {count} points, at most {MOST_POINTS} are run")
    for values in itertools.product(*axes.values()):
        point = copy.deepcopy(dict(data))
        chosen = dict(zip(axes, values, strict=True))
        for path, value in list(chosen.items()):
            if path == CASE and isinstance(value, Mapping):
                chosen[CASE] = value["name"]
                for inner, setting in value["set"].items():
                    _set(point, inner, setting, source)
            else:
                _set(point, path, value, source)
        for path in _inapplicable(point) if "policy.kind" in axes else ():
            chosen[path] = None
        key = identity(point)
        if key in seen:
            continue
        seen.add(key)
        Scenario.from_plain(point, ", ".join([source, *(f"{k}={v}" for k, v in chosen.items())]))
        made.append(Point({k: chosen.get(k) for k in axes}, point))
    return made


def _set(data: dict[str, Any], path: str, value: object, source: str) -> None:
    at: Any = data
    *parents, last = re.split(r"\.|(?=\[)", path)
    for key in parents:
        at = _step(at, key, path, source)
    if last.startswith("["):
        _step(at, last, path, source)
        at[int(last[1:-1])] = value
    elif isinstance(at, dict):
        at[last] = value
    else:
        raise InputError(source, path, "leads into something that has no keys")


def _step(at: Any, key: str, path: str, source: str) -> Any:
    try:
        return at[int(key[1:-1])] if key.startswith("[") else at[key]
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(source, path, f"there is no {key!r} in the scenario") from None


def _inapplicable(data: dict[str, Any]) -> list[str]:
    """Drop the keys that the point's kind of policy does not have; returns their paths."""
    from sim.policies import fields_of

    policy = data.get("policy", {})
    known = fields_of(policy.get("kind"))
    dropped = [key for key in policy if known is not None and key not in known]
    data["policy"] = {k: v for k, v in policy.items() if k not in dropped}
    return [f"policy.{key}" for key in dropped]


def identity(data: object) -> str:
    """A short hash of plain data: which scenario a row belongs to."""
    return hashlib.sha256(msgspec.json.encode(data, order="sorted")).hexdigest()[:16]


def run_point(data: dict[str, Any]) -> dict[str, Any]:
    """Simulate one point; its figures, or {"error": message} where the simulation fails."""
    try:
        figures = cast(Mapping[str, Any], simulate(Scenario.from_plain(data)).metrics)
    except (InputError, ValueError, RuntimeError) as error:
        return {"error": str(error).splitlines()[0]}
    return {name: figures[name] for name in FIGURES}


class Row(NamedTuple):
    """The figures of one point (SI units); `error` says why there are none."""

    values: dict[str, object]
    figures: dict[str, float]
    error: str = ""


def sweep(
    chosen: Sequence[Point],
    executor: Executor | None = None,
    output: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Row]:
    """Run all points, on `executor` if given; rows in the order of the points.

    With `output`, a CSV file, each row is written as it comes, and rows that the file already holds are not run again.
    `progress` is called with the number of finished points.

    Raises:
        InputError: `output` belongs to another sweep.
        OSError: `output` cannot be written.
    """
    done = _resume(output, chosen) if output else []
    rows = list(done)
    progress(len(rows))
    todo = [p.data for p in chosen[len(rows) :]]
    results: Iterator[dict[str, Any]] = executor.map(run_point, todo) if executor else map(run_point, todo)
    file = output.open("a", newline="", encoding="utf-8") if output else None
    try:
        for point, result in zip(chosen[len(rows) :], results, strict=True):
            error = result.pop("error", "")
            rows.append(Row(point.values, result, error))
            if file:
                file.write(_line(_cells(point, rows[-1])))
                file.flush()
            progress(len(rows))
    finally:
        if file:
            file.close()
    return rows


def _header(chosen: Sequence[Point]) -> list[str]:
    return [f"scenario_v{SCHEMA_VERSION}", *chosen[0].values, *FIGURES, "error"]


def _cells(point: Point, row: Row) -> list[object]:
    figures = [row.figures.get(name, "") for name in FIGURES]
    return [identity(point.data), *("" if v is None else v for v in point.values.values()), *figures, row.error]


def _line(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _resume(output: Path, chosen: Sequence[Point]) -> list[Row]:
    """Rows that `output` holds for the first points; cuts off a half-written last line, writes a missing header."""
    header = _line(_header(chosen))
    other = InputError(str(output), "", "is not the result of this sweep: give another --out or remove it")
    content = output.read_bytes() if output.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        if not header.encode().startswith(content):
            raise other
        output.write_text(header, encoding="utf-8")
        return []
    try:
        lines = list(csv.reader(io.StringIO(whole.decode())))
    except (UnicodeDecodeError, csv.Error):
        raise other from None
    expected = [identity(p.data) for p in chosen]
    if lines[0] != _header(chosen) or [line[:1] for line in lines[1:]] != [[e] for e in expected[: len(lines) - 1]]:
        raise other
    if whole != content:
        output.write_bytes(whole)
    first = 1 + len(chosen[0].values)
    return [
        Row(
            point.values,
            {n: float(v) for n, v in zip(FIGURES, line[first:], strict=False) if v},
            line[-1],
        )
        for point, line in zip(chosen, lines[1:], strict=False)
    ]
