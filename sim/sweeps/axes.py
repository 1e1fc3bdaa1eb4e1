"""Axes of a sweep as text: lists and ranges of values, as `--set` and experiments give them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from sim.inputs import units
from sim.inputs.config import InputError
from sim.inputs.faults import shown_value
from sim.inputs.yaml_files import parse_yaml

_RANGE = re.compile(r"(.+?)\.\.(.+?):([x+])(.+)")
_NEEDS = "expected a range that ascends, with a factor or step, such as 1MiB..256MiB:x2 or 0..1:+0.25"
MAX_POINTS = 1_000_000


def parse_axis(text: str, option: str = "--set") -> tuple[str, list[object]]:
    """Read "key.path=values": a list "a,b,c", or a range "first..last:x2" (factor) or "first..last:+4 MiB" (step).

    Raises:
        InputError: naming the `option`, the axis and what was expected.
    """
    path, equals, given = text.partition("=")
    path = path.strip()
    if not equals or not path or not given.strip():
        example = "arrivals.load=0.3..1.1:+0.2" if option == "--vary" else "policy.chunk_bytes=1MiB..256MiB:x2"
        raise InputError(option, text, f"expected key.path=value, such as {example}")
    return path, parse_values(given, option, text)


def parse_values(given: str, source: str, path: str) -> list[object]:
    """Read the values of an axis: a list "a,b,c", or a range. Raises `InputError` of `source` and `path`."""
    values: list[object] = []
    try:
        for item in _items(given):
            match = _RANGE.fullmatch(item.strip())
            if match is None and _like_range(item):
                raise InputError("--set", given, f"{shown_value(item.strip())} has no factor or step: {_NEEDS}")
            values += _range(given, *match.groups()) if match else [_scalar(given, item.strip())]
    except InputError as error:
        raise InputError(source, path, error.problem) from None
    return values


def parse_axes(texts: Sequence[str], option: str = "--set") -> dict[str, list[object]]:
    """What `parse_axis` reads of each of `texts`, in their order. Raises InputError, also for an axis given twice."""
    axes: dict[str, list[object]] = {}
    for text in texts:
        path, values = parse_axis(text, option)
        if path in axes:
            raise InputError(option, text, f"{path} is given twice")
        axes[path] = values
    return axes


def parse_settings(texts: Sequence[str], several: str) -> dict[str, object]:
    """As `parse_axes`, of one value each; `several` says what takes more. Raises InputError."""
    settings: dict[str, object] = {}
    for (path, values), text in zip(parse_axes(texts).items(), texts, strict=True):
        if len(values) != 1:
            raise InputError("--set", text, f"expected one value for {path}, got {len(values)}: {several}")
        settings[path] = values[0]
    return settings


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
    try:
        return parse_yaml(text, "--set")
    except InputError as error:
        problem = f"{shown_value(text)} is not a YAML value: {error.problem}"
        raise InputError("--set", axis, problem) from None


def _range(axis: str, first: str, last: str, how: str, by: str) -> list[object]:
    low, high, step = (_number(axis, t) for t in (first, last, by))
    name, least = ("factor", 1) if how == "x" else ("step", 0)
    problem = ""
    if low > high:
        problem = f"{_NEEDS}; this one begins above its end"
    elif step <= least:
        problem = f"{_NEEDS}; this one has the {name} {by.strip()}, which must be above {least}"
    elif how == "x" and low <= 0:
        problem = f"{_NEEDS}; this one multiplies from {first.strip()}, which must be above 0"
    elif (high * step if how == "x" else high + step) == high:
        problem = f"has the {name} {by.strip()}, which is too small beside {last.strip()} to be told from none"
    elif (math.log(high / low) / math.log(step) if how == "x" else (high - low) / step) >= MAX_POINTS:
        problem = f"has more than {MAX_POINTS} values: take a larger {name}"
    if problem:
        raise InputError("--set", axis, problem)
    values: list[object] = []
    while low <= high:
        values.append(int(low) if low == int(low) else float(low))
        low = low * step if how == "x" else low + step
    return values


def _like_range(item: str) -> bool:
    """Whether text is meant as a range, of which something is missing: what begins with a number, and is not a path."""
    first, dots, last = item.partition("..")
    return bool(dots and last.strip()) and "/" not in item and units.number(first.strip()) is not None


def _number(axis: str, text: str) -> Decimal:
    if (found := units.number(text)) is None:
        problem = f"{shown_value(text.strip())} is not a number with a unit, up to {units.MAX_VALUE:g}: {_NEEDS}"
        raise InputError("--set", axis, problem)
    return found
