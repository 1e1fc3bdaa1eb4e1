"""What is wrong with plain data that is to be of a type: every fault, each with its key path, in this project's words.

msgspec converts, and judges single values; the wording of its errors changes between its versions and is not shown.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from sim.inputs import units

MAX_WHOLE = 10**30
"""The largest whole number that is read."""
MAX_DEPTH = 50
"""Levels of nesting that are read: deeper ones could overflow the stack."""

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
_FORM_FIELDS = 6
_NOT_GIVEN = (type(None), msgspec.UnsetType)
"""Types of fields that may be left out: nothing that a file would hold."""


class Fault(NamedTuple):
    """A problem and the key path of the value that has it."""

    path: str
    problem: str


class FaultsError(ValueError):
    """Several faults of one struct, for its `__post_init__`; their paths begin at the struct."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(": ".join(part for part in fault if part) for fault in self.faults))


def refuse(faults: Iterable[Fault]) -> None:
    """Raise `FaultsError` if there are any."""
    found = tuple(faults)
    if found:
        raise FaultsError(found)


def unreadable(data: object, path: str = "", depth: int = 0) -> Iterator[Fault]:
    """Values that no file may hold, whatever type is expected: nested too deeply, not finite, or not Unicode text."""
    if depth > MAX_DEPTH:
        yield Fault(path, "is nested too deeply")
    elif isinstance(data, Mapping):
        for key, item in data.items():
            if isinstance(key, bool) or not isinstance(key, str | int):
                yield Fault(path, f"has the key {key!r}: a key must be a word or a whole number")
                continue
            where = join(path, shown_key(key))
            yield from unreadable(key, where, MAX_DEPTH)
            yield from unreadable(item, where, depth + 1)
    elif isinstance(data, list | tuple):
        for i, item in enumerate(data):
            yield from unreadable(item, f"{path}[{i}]", depth + 1)
    elif isinstance(data, int) and abs(data) > MAX_WHOLE:
        yield Fault(path, f"has {len(hex(data)) - 2} hexadecimal digits: expected a number below 1e30")
    elif isinstance(data, float) and not math.isfinite(data):
        yield Fault(path, f"expected a finite number, got {data}")
    elif isinstance(data, str) and not data.isascii():
        try:
            data.encode()
        except UnicodeEncodeError:
            yield Fault(path, f"expected Unicode text, got {data!r}")


def find(data: Any, kind: Any, path: str = "") -> Iterator[Fault]:
    """Every fault of `data`, which is to be converted to `kind`; none if it can be."""
    try:
        msgspec.convert(data, kind, dec_hook=units.parse)
        return
    # SystemError: of msgspec before 0.22, for a whole number beyond a float
    except (msgspec.ValidationError, ValueError, ArithmeticError, SystemError) as error:
        cause = error.__cause__ if isinstance(error, msgspec.ValidationError) else error
    found = list(_inside(data, kind, path))
    if found:
        yield from found
    elif isinstance(cause, FaultsError):
        yield from (Fault(join(path, fault.path) if fault.path else path, fault.problem) for fault in cause.faults)
    elif cause is not None:  # raised by a check of our own, such as a __post_init__
        yield Fault(path, str(cause))
    else:
        yield Fault(path, f"expected {_name(kind)}, got {shown(data)}")


def _inside(data: Any, kind: Any, path: str) -> Iterator[Fault]:
    """Faults that follow from `data` and `kind` alone, without a check of the struct's own."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        found = list(find(data, args[0], path))
        yield from found or (fault for meta in args[1:] for fault in _out_of_limits(data, meta, path))
    elif origin in (typing.Union, types.UnionType):
        yield from _of_union(data, [m for m in args if m not in _NOT_GIVEN], path)
    elif origin is Literal:
        yield from _of_choices(data, args, path)
    elif kind in units.QUANTITIES:
        return  # units.parse says what was expected
    elif is_struct(kind):
        yield from _of_struct(data, kind, path)
    elif (origin or kind) in (list, tuple):
        if not isinstance(data, list | tuple):
            yield Fault(path, f"expected a list, got {shown(data)}")
        elif args:
            yield from _of_list(data, args, path)
    elif (origin or kind) is dict:
        if not isinstance(data, Mapping):
            yield Fault(path, f"expected a mapping of keys to values, got {shown(data)}")
        elif args:
            for key, item in data.items():
                yield from _of_key(key, args[0], path)
                yield from find(item, args[1], join(path, shown_key(key)))


def _of_list(data: Sequence[Any], args: tuple[Any, ...], path: str) -> Iterator[Fault]:
    any_length = len(args) == 1 or args[-1] is ...
    if not any_length and len(data) != len(args):
        yield Fault(path, f"expected {len(args)} values, got {len(data)}")
    for i, item in enumerate(data if any_length else data[: len(args)]):
        yield from find(item, args[0] if any_length else args[i], f"{path}[{i}]")


def _of_key(key: Any, kind: Any, path: str) -> Iterator[Fault]:
    if typing.get_origin(kind) is Literal and isinstance(key, str) and key not in typing.get_args(kind):
        yield _unknown(key, typing.get_args(kind), path)
        return
    for fault in find(key, kind, path):
        yield fault._replace(path=join(path, shown_key(key)), problem=f"as a key, {fault.problem}")


def _of_struct(data: Any, kind: Any, path: str) -> Iterator[Fault]:
    config, fields = _config(kind), msgspec.structs.fields(kind)
    if config.array_like:
        if not isinstance(data, list | tuple):
            yield Fault(path, f"expected a list of {', '.join(f.name for f in fields)}, got {shown(data)}")
            return
        least = sum(f.required for f in fields)
        if not least <= len(data) <= len(fields):
            names = ", ".join(f.name for f in fields)
            yield Fault(path, f"expected {len(fields)} values ({names}), got {len(data)}")
        for i, (item, field) in enumerate(zip(data, fields, strict=False)):
            yield from find(item, field.type, f"{path}[{i}]")
        return
    if not isinstance(data, Mapping):
        yield Fault(path, f"expected a mapping of keys to values, got {shown(data)}; write {form(kind, data)}")
        return
    known = {f.encode_name: f for f in fields}
    tag = config.tag_field
    if tag and tag in data and data[tag] != config.tag:
        yield Fault(join(path, tag), f"is {shown_value(data[tag])}; expected {config.tag}")
    for key in data if config.forbid_unknown_fields else ():
        if key not in known and key != tag:
            yield _unknown(key, [*known, *([tag] if tag else [])], path)
    for name, field in known.items():
        if name in data:
            yield from find(data[name], field.type, join(path, name))
        elif field.required:
            yield Fault(join(path, name), "is missing")


def _unknown(key: object, known: Sequence[str], path: str) -> Fault:
    problem = f"unknown key; {close_to(str(key), known)}expected one of {', '.join(sorted(known))}"
    return Fault(join(path, shown_key(key)), problem)


def _of_union(data: Any, members: list[Any], path: str) -> Iterator[Fault]:
    """Faults of the member that `data` means: by its tag, its shape, or as the only one."""
    tagged = {_config(m).tag: m for m in members if is_struct(m) and _config(m).tag_field}
    if tagged and isinstance(data, Mapping):
        field = next(_config(m).tag_field for m in tagged.values())
        given = data.get(field)
        if isinstance(given, str) and given in tagged:
            yield from find(data, tagged[given], path)
        elif field in data:
            yield from _of_choices(given, tuple(sorted(tagged)), join(path, field))
        else:
            yield Fault(join(path, field), f"is missing; one of {', '.join(sorted(tagged))}")
    elif len(members) == 1:
        yield from find(data, members[0], path)
    elif tagged:
        first = next(iter(tagged.values()))
        problem = f"expected a mapping of keys to values, got {shown(data)}; write {form(first, data)}"
        yield Fault(path, problem)
    else:
        alike = [m for m in members if _takes(m, data)]
        if len(alike) == 1 and isinstance(data, Mapping | list | tuple):
            yield from find(data, alike[0], path)
        else:
            choices = [c for m in members if typing.get_origin(m) is Literal for c in typing.get_args(m)]
            close = close_to(data, choices) if isinstance(data, str) else ""
            expected = " or ".join(map(_name, members))
            yield Fault(path, f"{close}expected {expected}, got {shown(data)}")


def _takes(kind: Any, data: Any) -> bool:
    """Whether data of this shape can be meant to be of `kind`."""
    origin = typing.get_origin(kind) or kind
    if isinstance(data, Mapping):
        return origin is dict or is_struct(kind)
    if isinstance(data, list | tuple):
        return origin in (list, tuple)
    return origin not in (dict, list, tuple) and not is_struct(kind)


def _of_choices(data: Any, choices: tuple[Any, ...], path: str) -> Iterator[Fault]:
    if any(type(data) is type(choice) and data == choice for choice in choices):
        return
    close = close_to(data, [c for c in choices if isinstance(c, str)]) if isinstance(data, str) else ""
    known = ", ".join(map(str, choices))
    yield Fault(path, f"is {shown_value(data)}; {close}expected {'one of ' if len(choices) > 1 else ''}{known}")


def _out_of_limits(data: Any, meta: Any, path: str) -> Iterator[Fault]:
    """Faults of a value of the right type against the limits that a `msgspec.Meta` states."""
    if not isinstance(meta, msgspec.Meta):
        return
    for limit, holds, words in (
        (meta.ge, operator.ge, "at least"),
        (meta.gt, operator.gt, "more than"),
        (meta.le, operator.le, "at most"),
        (meta.lt, operator.lt, "less than"),
    ):
        if limit is not None and not holds(data, limit):
            yield Fault(path, f"expected {words} {limit:g}, got {shown_value(data)}")
    if meta.min_length is not None and len(data) < meta.min_length:
        yield Fault(path, f"expected at least {meta.min_length} values, got {len(data)}")
    if meta.max_length is not None and len(data) > meta.max_length:
        yield Fault(path, f"expected at most {meta.max_length} values, got {len(data)}")
    if meta.pattern is not None and not re.search(meta.pattern, data):
        expected = meta.description or f"text that matches {meta.pattern}"
        yield Fault(path, f"expected {expected}, got {shown_value(data)}")


def _name(kind: Any) -> str:
    """What a value of `kind` is called."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _name(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(m) for m in args if m not in _NOT_GIVEN)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if kind in units.QUANTITIES:
        return str(kind.expected)
    if (origin or kind) in (list, tuple):
        return "a list"
    return _NAMES.get(kind, "a mapping of keys to values" if is_struct(kind) or origin is dict else "another value")


def form(kind: Any, given: object = None, depth: int = 0) -> str:
    """How a value of `kind` is written, such as {value: 55.4 GB/s, source: ...}; `given` in the place it fits."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return form(args[0], given, depth)
    if origin in (typing.Union, types.UnionType):
        return form(args[0], given, depth)
    if origin is Literal:
        return str(args[0])
    if kind in units.QUANTITIES:
        try:
            units.parse(kind, given)
        except ValueError:
            return str(kind.example)
        return str(given)
    if is_struct(kind):
        config, fields = _config(kind), msgspec.structs.fields(kind)
        chosen = [f for f in fields if f.required] or list(fields[: depth == 0])
        if depth > 1 or not (chosen or config.tag_field):
            return "{...}"
        parts = [f"{config.tag_field}: {config.tag}"] if config.tag_field else []
        for field in chosen[:_FORM_FIELDS]:
            parts.append(f"{field.encode_name}: {form(field.type, given if not parts else None, depth + 1)}")
        return "{" + ", ".join(parts + ["..."] * (len(chosen) > _FORM_FIELDS)) + "}"
    if (origin or kind) in (list, tuple):
        return "[...]"
    return {int: "1", float: "0.5", bool: "true"}.get(kind, "{...}" if (origin or kind) is dict else "...")


def close_to(given: str, known: Iterable[str]) -> str:
    """A hint at the known name that `given` may mean, with a space at its end; nothing if there is none."""
    if len(given) > 100:
        return ""
    close = difflib.get_close_matches(given, list(known), 1, 0.6)
    return f"did you mean {close[0]!r}? " if close else ""


def shown(data: object) -> str:
    """What was given, for a message: scalars with their value."""
    if data is None:
        return "nothing"
    if isinstance(data, bool):
        return str(data).lower()
    if isinstance(data, str):
        return f"text {shown_value(data)}" if data else "empty text"
    if isinstance(data, int | float):
        return f"the number {shown_value(data)}"
    if isinstance(data, Mapping):
        return "a mapping of keys to values"
    return "a list" if isinstance(data, list | tuple) else f"a {type(data).__name__}"


def shown_value(data: object) -> str:
    """A short `repr` of what was given."""
    if isinstance(data, int) and abs(data) > MAX_WHOLE:
        return f"a number of {len(hex(data)) - 2} hexadecimal digits"
    text = "nothing" if data is None else repr(data)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-15:]}"


def shown_key(key: object) -> str:
    """A key as it stands in a path."""
    return shown_value(key) if isinstance(key, int) and abs(key) > MAX_WHOLE else str(key)


def join(path: str, key: object) -> str:
    """The path of `key` inside of what is at `path`."""
    inner = str(key)
    return f"{path}{'' if inner.startswith('[') else '.'}{inner}" if path else inner


def is_struct(kind: Any) -> bool:
    """Whether `kind` is a msgspec struct, or one with type parameters."""
    origin = typing.get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, msgspec.Struct)


def _config(kind: Any) -> Any:
    return (typing.get_origin(kind) or kind).__struct_config__
