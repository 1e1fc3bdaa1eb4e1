"""Typed, frozen structs from plain data, with errors that say where each fault is and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Self, TypeVar

import msgspec

from sim.inputs import units
from sim.inputs.faults import Fault, find, join, unreadable

T = TypeVar("T")

MAX_FAULTS = 20
"""Faults of one file that are reported; of further ones only that there are more."""


class InputError(Exception):
    """Input that cannot be read or is wrong: names the source, and for every fault the key path and what was expected.

    `path` and `problem` are those of the first of `faults`. Printed, each fault is a line.
    """

    def __init__(self, source: str, path: str, problem: str, more: Sequence[tuple[str, str]] = ()) -> None:
        self.source = _line(source)
        self.faults = tuple(Fault(_line(p), _line(said)) for p, said in ((path, problem), *more))
        self.path, self.problem = self.faults[0]
        lines = [": ".join(part for part in (self.source, *fault) if part) for fault in self.faults[:MAX_FAULTS]]
        if len(self.faults) > MAX_FAULTS:
            lines.append(": ".join(part for part in (self.source, "has more faults") if part))
        super().__init__("\n".join(lines))

    def __reduce__(self) -> Any:  # workers hand their errors on
        return type(self), (self.source, self.path, self.problem, self.faults[1:])

    @classmethod
    def of(cls, source: str, faults: Iterable[tuple[str, str]]) -> Self:
        """The error of one or several (path, problem); only those that are reported are kept."""
        first, *more = islice(dict.fromkeys(faults), MAX_FAULTS + 1)
        return cls(source, *first, more)

    def within(self, source: str, path: str = "") -> Self:
        """The same faults as faults of `source`, at `path` in it."""
        inner = ((join(path, fault.path) if fault.path else path, fault.problem) for fault in self.faults)
        return type(self).of(source, inner)


def _line(text: str) -> str:
    """One line of text that holds what was given, however long that is; control characters are escaped."""
    line = " ".join(text.splitlines())
    if len(line) > 800:
        line = f"{line[:400]} ... {line[-300:]}"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything that is read from YAML."""


def faults_of(data: object, kind: Any) -> list[Fault]:
    """Faults that keep plain data from being of `kind`, with paths; at most one more than is reported."""
    first = list(islice(unreadable(data), MAX_FAULTS + 1))
    if any(fault.problem == "is nested too deeply" for fault in first):  # it may be endless
        return first
    paths = {fault.path for fault in first}
    typed = list(islice(find(data, kind), MAX_FAULTS + 1))
    reported = {fault.path for fault in typed}
    # a number that is not finite is reported with what was expected there, if that is known
    first = [fault for fault in first if fault.path not in reported or "finite" not in fault.problem]
    known = {fault.path for fault in first}
    # a check of a whole struct says little where one of its values is unreadable
    typed = [f for f in typed if f.path not in known and not any(_around(f.path, path) for path in paths)]
    return [*first, *typed][: MAX_FAULTS + 1]


def _around(path: str, inner: str) -> bool:
    """Whether what is at `path` holds what is at `inner`."""
    return inner != path and (not path or inner.startswith((f"{path}.", f"{path}[")))


def convert(data: object, kind: type[T], source: str) -> T:
    """Turn plain data into `kind`. Raises `InputError` that names the exact key path of every fault."""
    if next(unreadable(data), None) is None:
        try:
            return msgspec.convert(data, kind, dec_hook=units.parse)
        except (msgspec.ValidationError, ValueError, ArithmeticError):
            pass  # the walk below says what is wrong in words of ours
    raise InputError.of(source, faults_of(data, kind))
