"""Reading YAML files into typed, frozen structs, with errors that say where and what was expected."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sim import files_read, units

T = TypeVar("T")

_MOST = 10**30
_DEEPEST = 50
"""Levels of nesting in a YAML file: deeper ones could overflow the parser's stack."""


class InputError(Exception):
    """Input that cannot be read or is wrong: names the source, the key path and what was expected."""

    def __init__(self, source: str, path: str, problem: str) -> None:
        self.source = _short(source)
        self.path = _short(path)
        self.problem = _short(problem)
        super().__init__(": ".join(part for part in (self.source, self.path, self.problem) if part))

    def __reduce__(self) -> Any:  # workers hand their errors on
        return type(self), (self.source, self.path, self.problem)


def _short(text: str) -> str:
    """One line of text that holds what was given, however long that is."""
    line = " ".join(text.splitlines())
    return line if len(line) <= 800 else f"{line[:400]} ... {line[-300:]}"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything that is read from YAML."""


def read_yaml(file: Path) -> Any:
    """The plain data of a YAML file. Raises `InputError`."""
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc, valid-type]
        """Safe loading without duplicate keys; dates stay text."""

        yaml_implicit_resolvers = {  # noqa: RUF012, yaml's own name
            first: [r for r in resolvers if r[0] != "tag:yaml.org,2002:timestamp"]
            for first, resolvers in base.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError(str(file), "", f"line {line}: a key must be a word, not a list or a mapping")
                if key.value in seen:
                    raise InputError(str(file), "", f"line {line}: the key {key.value!r} appears twice")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    files_read.note(file)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(str(file), "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(str(file), "", "is not a text file (UTF-8 expected)") from None
    except ValueError as error:
        raise InputError(str(file), "", f"is no path: {error}") from None
    try:
        depth = 0
        for event in yaml.parse(text, base):
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent):
                raise InputError(str(file), "", f"line {line}: YAML aliases are not supported")
            if getattr(event, "tag", None) is not None:
                raise InputError(str(file), "", f"line {line}: YAML tags are not supported")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise InputError(str(file), "", f"line {line}: is nested too deeply")
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(str(file), "", f"{where}is not YAML: {getattr(error, 'problem', error)}") from None
    except (ValueError, ArithmeticError) as error:
        raise InputError(str(file), "", f"holds a value that cannot be read: {error}") from None


def convert(data: object, kind: type[T], source: str) -> T:
    """Turn plain data into `kind`. Raises `InputError` naming the exact key path."""
    _refuse_endless(data, source, "")
    try:
        return msgspec.convert(data, kind, dec_hook=units.parse)
    except (msgspec.ValidationError, ValueError) as error:
        _explain(data, kind, source, "")
        raise InputError(source, "", _plain(error)) from None


def _refuse_endless(data: object, source: str, path: str) -> None:
    """Raise `InputError` for a whole number that nothing has so many of."""
    if isinstance(data, Mapping):
        for key, item in data.items():
            _refuse_endless(item, source, _join(path, key))
    elif isinstance(data, list):
        for i, item in enumerate(data):
            _refuse_endless(item, source, f"{path}[{i}]")
    elif isinstance(data, int) and abs(data) > _MOST:
        raise InputError(source, path, f"has {len(hex(data)) - 2} hexadecimal digits: expected a number below 1e30")


def _plain(error: Exception) -> str:
    message = str(error).split(" - at `", 1)[0].replace(" | null`", "`")
    for theirs, ours in (
        ("`object`", "a mapping of keys to values"),
        ("`array`", "a list"),
        ("`int`", "a whole number"),
        ("`str`", "text"),
        ("`bool`", "true or false"),
        ("`null`", "nothing"),
        ("`float`", "a number"),
    ):
        message = message.replace(theirs, ours)
    return message[:1].lower() + message[1:]


def _explain(data: Any, kind: Any, source: str, path: str) -> None:
    """Raise `InputError` for the innermost fault in `data`; return if there is none."""
    try:
        msgspec.convert(data, kind, dec_hook=units.parse)
        return
    except (msgspec.ValidationError, ValueError) as error:
        fault = error
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    kind = _chosen(data, kind, source, path)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple) and isinstance(data, list):
        for i, item in enumerate(data):
            _explain(item, args[min(i, len(args) - 1) if args[-1] is not ... else 0], source, f"{path}[{i}]")
    elif origin is dict and isinstance(data, Mapping):
        for key, item in data.items():
            _explain(item, args[1], source, _join(path, key))
    elif _is_struct(kind) and isinstance(data, Mapping) and not _config(kind).array_like:
        _explain_struct(data, kind, source, path)
    raise InputError(source, path, _plain(fault)) from None


def _explain_struct(data: Mapping[Any, Any], kind: Any, source: str, path: str) -> None:
    config = _config(kind)
    tag = config.tag_field
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    known = [*fields, *([tag] if tag else [])]
    for key in data if config.forbid_unknown_fields else ():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1, 0.6)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(source, _join(path, key), f"unknown key; {hint}expected one of {', '.join(sorted(known))}")
    for name, field in fields.items():
        if name in data:
            _explain(data[name], field.type, source, _join(path, name))
        elif field.required:
            raise InputError(source, _join(path, name), "is missing")


def _chosen(data: Any, kind: Any, source: str, path: str) -> Any:
    """The member of a union that `data` means: by its tag, or the one that is not None."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    members = [m for m in typing.get_args(kind) if m is not type(None)]
    configs = [(_config(m), m) for m in members if _is_struct(m)]
    tagged = {config.tag: m for config, m in configs if config.tag_field}
    if not tagged or not isinstance(data, Mapping):
        return members[0] if len(members) == 1 else kind
    field = next(config.tag_field for config, _ in configs)
    given = data.get(field)
    if not isinstance(given, str) or given not in tagged:
        known = ", ".join(sorted(tagged))
        close = difflib.get_close_matches(str(given), list(tagged), 1, 0.6)
        hint = f"did you mean {close[0]!r}? " if close else ""
        problem = f"is {given!r}; {hint}expected one of {known}" if field in data else f"is missing; one of {known}"
        raise InputError(source, _join(path, field), problem)
    return tagged[given]


def _is_struct(kind: Any) -> bool:
    return isinstance(typing.get_origin(kind) or kind, type) and issubclass(
        typing.get_origin(kind) or kind, msgspec.Struct
    )


def _config(kind: Any) -> Any:
    return (typing.get_origin(kind) or kind).__struct_config__


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
