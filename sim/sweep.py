"""Sweeps: one scenario, some of its keys over ranges, one row of figures a point.

Points are the product of all axes, the first axis slowest, without those that say the same twice. They run on any
`concurrent.futures.Executor`; rows are written as they come, so that a sweep that was stopped, however it was, goes on
with what its file does not hold.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec

from sim import units
from sim.config import Config, InputError
from sim.hardware import load_profile, to_plain
from sim.ledger import DIED, FIGURES, Ledger, Point, Row, Rows
from sim.run import simulate
from sim.scenario import Scenario

Axes = Mapping[str, Sequence[object]]
"""Key path -> values, as they would stand in the YAML file."""

_RANGE = re.compile(r"(.+?)\.\.(.+?):([x+])(.+)")
MOST_POINTS = 1_000_000


class Setting(Config, frozen=True):
    """Keys that change together, under one name."""

    name: str
    set: dict[str, Any]


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
    for item in _items(given):
        match = _RANGE.fullmatch(item.strip())
        values += _range(text, *match.groups()) if match else [_scalar(text, item.strip())]
    return path, values


def parse_axes(texts: Sequence[str]) -> dict[str, list[object]]:
    """What `parse_axis` reads of each of `texts`, in their order. Raises InputError, also for an axis given twice."""
    axes: dict[str, list[object]] = {}
    for text in texts:
        path, values = parse_axis(text)
        if path in axes:
            raise InputError("--set", text, f"{path} is given twice")
        axes[path] = values
    return axes


def _items(given: str) -> Iterator[str]:
    """Cut at the commas that are in no bracket."""
    start = depth = 0
    for at, letter in enumerate(given):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            yield given[start:at]
            start = at + 1
    yield given[start:]


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

    A value of any axis may be a `Setting`: several keys that change together, shown by its name.
    """
    if not isinstance(data, Mapping):
        raise InputError(source, "", "holds no scenario: expected a mapping of keys to values")
    made: list[Point] = []
    seen: set[bytes] = set()
    hosts: dict[str, str] = {}
    count = 1
    for path, values in axes.items():
        if not values:
            raise InputError(source, path, "has no values")
        count *= len(values)
    if count > MOST_POINTS:
        raise InputError(source, "", f"the sweep has {count} points, at most {MOST_POINTS} are run")
    for values in itertools.product(*axes.values()):
        point = copy.deepcopy(dict(data))
        chosen = dict(zip(axes, values, strict=True))
        for path, value in list(chosen.items()):
            if isinstance(value, Setting):
                chosen[path] = value.name
                for inner, setting in value.set.items():
                    _set(point, inner, setting, source)
            else:
                _set(point, path, value, source)
        for path in _inapplicable(point) if "policy.kind" in axes else ():
            chosen[path] = None
        key = _canonical(point)
        if key in seen:
            continue
        seen.add(key)
        name = Scenario.from_plain(point, ", ".join([source, *(f"{k}={v}" for k, v in chosen.items())])).hardware
        if name not in hosts:
            hosts[name] = _digest(_canonical(to_plain(load_profile(name))))
        made.append(Point({k: chosen.get(k) for k in axes}, point, _digest(key + hosts[name].encode())))
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


def _canonical(data: object) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(data, str_keys=True), order="sorted")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def run_point(data: dict[str, Any]) -> dict[str, Any]:
    """Simulate one point; its figures, or {"error": message} where the simulation fails."""
    try:
        figures = cast(Mapping[str, Any], simulate(Scenario.from_plain(data)).metrics)
    except (InputError, ValueError, RuntimeError) as error:
        return {"error": " ".join(str(error).split())}
    except Exception as error:  # not foreseen; the other points go on
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    return {name: figures[name] for name in FIGURES}


def sweep(
    chosen: Sequence[Point],
    executor: Executor | None = None,
    output: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Rows:
    """Run all points, on `executor` if given; rows in the order of the points.

    With `output`, a CSV file, each row is written as it comes, and rows that the file already holds are not run again,
    but for those whose worker died. `progress` is called with the number of finished points.

    Raises:
        InputError: `output` belongs to another sweep.
        OSError: `output` cannot be written.
    """
    rows: dict[int, Row] = {}
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(output, chosen)) if output else None
        if ledger:
            rows |= ledger.done
        progress(len(rows))
        for number, figures in _results(chosen, [i for i in range(len(chosen)) if i not in rows], executor):
            error = figures.pop("error", "")
            rows[number] = Row(chosen[number].values, figures, error)
            if ledger:
                ledger.add(number, rows[number])
            progress(len(rows))
        if ledger:
            ledger.finish(rows)
    return Rows(rows[i] for i in range(len(chosen)))


def _results(
    chosen: Sequence[Point], todo: Sequence[int], executor: Executor | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the point, what `run_point` gives), as they come."""
    if executor is None:
        for number in todo:
            yield number, run_point(chosen[number].data)
        return
    running = {executor.submit(run_point, chosen[number].data): number for number in todo}
    for future in as_completed(running):
        try:
            yield running[future], future.result()
        except BrokenExecutor:
            yield running[future], {"error": DIED}
