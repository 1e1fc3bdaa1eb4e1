"""Reading JSON files into typed structs: one object a file, or one a line with the version of its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from sim.inputs.config import InputError, convert
from sim.inputs.input_files import read_bytes

T = TypeVar("T")

MAX_LINES_BYTES = 2**30
"""Size of a file of lines: a data set of thousands of cases, each with its operations."""


def load_json(file: Path, kind: type[T]) -> T:
    """The one object of `file`. Raises InputError, which names the key."""
    return convert(_parse(read_bytes(file), str(file)), kind, str(file))


def load_lines(file: Path, kind: type[T], schema: int) -> list[tuple[str, T]]:
    """(where it stands, the object) of every line of `file`; a last line that was left half-written is left out.

    Raises:
        InputError: it cannot be read, or a line is none of `schema`; names the line and the key.
    """
    found = []
    for number, line in enumerate(read_bytes(file, MAX_LINES_BYTES).split(b"\n")[:-1], 1):
        where = f"{file}: line {number}"
        plain = _parse(line, where)
        if not isinstance(plain, dict):
            raise InputError(where, "", "expected a mapping of keys to values")
        if "schema" in plain and plain["schema"] != schema:  # first: another schema has other keys
            raise InputError(where, "schema", f"is {plain['schema']!r}, expected {schema}")
        found.append((where, convert(plain, kind, where)))
    return found


def _parse(text: bytes, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise InputError(where, "", "is not a text file (UTF-8 expected)") from None
    except (ValueError, RecursionError) as error:
        raise InputError(where, "", f"is not JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} appears twice")
    return found


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")
