"""The one reader of YAML, for files and for values on the command line: only plain data.

Refused are tags, aliases, merges, keys that appear twice or are not words, more nesting or values than stated here.
Of YAML 1.1's numbers only those are read that cannot be taken for something else: `1:30` (base 60), `017` (base 8),
`.nan` and `.inf` stay text, as dates do.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from sim.inputs.config import InputError
from sim.inputs.faults import MAX_DEPTH
from sim.inputs.input_files import read_text

MAX_VALUES = 2_000_000
"""Keys and values in one text."""

_NESTING = re.compile(r"""\"(?:\\.|[^"\\])*\"|'[^']*'|\#[^\n]*|[\[\]{}]""", re.DOTALL)
"""What opens and closes flow collections, and what hides brackets: quoted text and comments."""
_INT = re.compile(r"(?:[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+))\Z")
_FLOAT = re.compile(r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?)\Z")
_PREFIX = "tag:yaml.org,2002:"


class _NotPlainError(Exception):
    """What the loader refuses."""


def read_yaml(file: Path) -> Any:
    """The plain data of a YAML file. Raises `InputError`."""
    return parse_yaml(read_text(file), str(file))


def parse_yaml(text: str, source: str) -> Any:
    """The plain data of YAML text. Raises `InputError` of `source`, which names the line."""
    import yaml

    loader = _loader()
    try:
        _check(yaml.parse(text, loader), source)
        return yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        # YAML libraries have limits of their own, in their own words, and scan ahead of what they hand over
        if deep := _nested_too_deeply(text[: mark.index + 1] if mark else text):
            raise InputError(source, "", f"line {deep}: is nested too deeply") from None
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(source, "", f"{where}is not YAML: {getattr(error, 'problem', error)}") from None
    except _NotPlainError as refused:
        raise InputError(source, "", str(refused)) from None
    except UnicodeError:
        raise InputError(source, "", "is not Unicode text") from None
    except (ValueError, ArithmeticError) as error:
        raise InputError(source, "", f"holds a value that cannot be read: {error}") from None


def _check(events: Any, source: str) -> None:
    """Raise `InputError` for what plain data does not have, before anything is built of it."""
    import yaml

    depth = 0
    for count, event in enumerate(events):
        line = event.start_mark.line + 1 if event.start_mark else 0
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = "YAML aliases are not supported"
        elif getattr(event, "tag", None) is not None:
            problem = "YAML tags are not supported"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            problem = "is nested too deeply"
        elif count > MAX_VALUES:
            problem = f"holds more than {MAX_VALUES} keys and values"
        if problem:
            raise InputError(source, "", f"line {line}: {problem}")


@cache
def _loader() -> Any:
    """A loader of plain data without keys that appear twice."""
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    ours = {f"{_PREFIX}int": _INT, f"{_PREFIX}float": _FLOAT}

    class Loader(base):  # type: ignore[misc, valid-type]
        """Safe loading of plain data."""

        yaml_implicit_resolvers = {  # noqa: RUF012, yaml's own name
            first: [(tag, ours.get(tag, regexp)) for tag, regexp in resolvers if tag != f"{_PREFIX}timestamp"]
            for first, resolvers in base.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            written: set[str] = set()
            made: set[object] = set()
            for key, _ in node.value:
                line = f"line {key.start_mark.line + 1}: "
                if not isinstance(key, yaml.ScalarNode):
                    raise _NotPlainError(f"{line}a key must be a word, not a list or a mapping")
                if key.tag == f"{_PREFIX}merge":
                    raise _NotPlainError(f"{line}YAML merges (<<) are not supported")
                value = self.construct_object(key)
                if isinstance(value, bool) or not isinstance(value, str | int):
                    raise _NotPlainError(f"{line}the key {key.value!r} is read as {value!r}: put it in quotes")
                if key.value in written or value in made:
                    raise _NotPlainError(f"{line}the key {key.value!r} appears twice")
                written.add(key.value)
                made.add(value)
            return super().construct_mapping(node, deep)

    return Loader


def _nested_too_deeply(text: str) -> int:
    """The line at which more than `MAX_DEPTH` brackets are open; 0 if there is none."""
    depth = 0
    for match in _NESTING.finditer(text):
        depth += (match[0] in "[{") - (match[0] in "]}")
        if depth > MAX_DEPTH:
            return text.count("\n", 0, match.start()) + 1
    return 0
