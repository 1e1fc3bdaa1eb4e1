"""What a file is that was given in place of another kind: formats of other tools, and our own kinds of files."""

from __future__ import annotations

import json
import re
import shlex
import zlib
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from sim.inputs.config import InputError
from sim.inputs.format_marks import BINARY, JSON, MARKUP, PROTOBUF, SUFFIXES, TEXT, Format
from sim.inputs.input_files import read_bytes, text_of
from sim.inputs.yaml_files import parse_yaml

_HEAD = 2**18
"""Bytes at a file's start that are looked at; compressed ones are unpacked up to this size."""
_GZIP = b"\x1f\x8b"
_WHOLE = 2**22
"""Bytes of JSON that are parsed to see what it is."""


class Ours(NamedTuple):
    """One of our own kinds of files: a file of it has all of `every` key, and one of `some`, if there are any."""

    kind: str
    every: frozenset[str]
    some: frozenset[str]
    advice: str

    def fits(self, keys: Set[str]) -> bool:
        """Whether a file with these keys is one."""
        return keys >= self.every and (not self.some or bool(keys & self.some))


def _kind(kind: str, every: str, some: str, advice: str) -> Ours:
    return Ours(kind, frozenset(every.split()), frozenset(some.split()), advice)


OURS = (
    _kind("scenario", "", "workload policy world_size", "run it with `chunkflow-sim run FILE`"),
    _kind("serving scenario", "", "classes arrivals scheduler serving", "run it with `chunkflow-sim serve FILE`"),
    _kind("experiment", "scenario", "axes cases x plot", "run it with `chunkflow-sim experiment FILE`"),
    _kind("model's shapes", "transformer", "", "give its path as workload.model, or see `chunkflow-sim models FILE`"),
    _kind("result of `chunkflow-sim run --json`", "step_times_s", "", "give the scenario that it came from"),
    _kind("result of `chunkflow-sim plan --json`", "best pareto", "", "`plan -o SCENARIO` writes the chosen scenario"),
    _kind("result of `chunkflow-sim explain --json`", "sentences waterfall", "", "give the scenario that it came from"),
    _kind("configuration of a published model", "", "_class_name architectures _diffusers_version model_type",
        "name the model as workload.model, or write its shapes as docs/models.md shows"),
    _kind("hardware profile", "", "topology like gpus", "give it as `hardware` in a scenario, or as --hardware"),
)  # fmt: skip
"""First those whose keys others have, too."""


def ours_of(data: Any) -> Ours | None:
    """Which of our kinds of files plain data are; None for none, as far as keys tell."""
    if not isinstance(data, Mapping):
        return None
    keys = {key for key in data if isinstance(key, str)}
    return next((one for one in OURS if one.fits(keys)), None)


def other_file(data: Any, wanted: str) -> str | None:
    """What is wrong with giving plain data as the kind `wanted`, if they are another of our files; else None."""
    found = ours_of(data)
    if found is None or found.kind == wanted:
        return None
    return f"is {_article(found.kind)}, no {wanted}: {found.advice}"


def _article(kind: str) -> str:
    if kind.startswith(("result", "configuration")):
        return f"the {kind}"
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def read_kind(file: Path, wanted: str, keys: Set[str]) -> Any:
    """The plain data of a YAML file of the kind `wanted`. Raises InputError, as `parse_kind`."""
    if (problem := foreign_content(file, wanted)) is not None:  # a trace may be longer than any input that is read
        raise InputError(str(file), "", named(problem, file))
    return parse_kind(read_bytes(file), str(file), wanted, keys)


def parse_kind(content: bytes, source: str, wanted: str, keys: Set[str]) -> Any:
    """The plain data of YAML of the kind `wanted`, every one of which has one of `keys`.

    Raises:
        InputError: of `source`: it cannot be read, or is of another kind or format, which the message names.
    """
    problem = foreign_content(content, wanted)
    data: Any = None
    if problem is None:
        try:
            data = parse_yaml(text_of(content, source), source)
        except InputError:
            if (problem := foreign_text(content, wanted)) is None:
                raise
    if problem is None:
        problem = other_file(data, wanted)
    if problem is None and not (isinstance(data, Mapping) and data.keys() & keys):
        problem = foreign_text(content, wanted)
    if problem is not None:
        raise InputError(source, "", named(problem, source))
    return data


def named(problem: str, file: Path | str) -> str:
    """`problem` with the file's name in its commands."""
    return problem.replace("FILE", shlex.quote(str(file)))


def foreign_content(given: Path | bytes, wanted: str = "scenario") -> str | None:
    """What is wrong with giving a file, or content, as `wanted`, if its start tells that it is another format.

    JSON of other tools, markup and binary files, also packed with gzip; None for what may be a `wanted`.
    """
    head = _head(given)
    if (problem := _binary(given, head)) is not None:
        return problem.replace("no scenario", f"no {wanted}")
    text = head.decode(errors="replace").removeprefix("\ufeff")
    start = text.lstrip()[:1]
    formats = JSON if start in ("{", "[") else MARKUP if start == "<" else ()
    found = _first(formats, text)
    return None if found is None else f"is {found.name}, no {wanted}: {_advice(found)}"


def foreign_text(given: Path | bytes, wanted: str = "scenario") -> str | None:
    """The same for text of other tools; for what holds no mapping of a `wanted`'s keys."""
    found = _first(TEXT, _head(given).decode(errors="replace").removeprefix("\ufeff"))
    return None if found is None else f"is {found.name}, no {wanted}: {_advice(found)}"


def refuse_other(content: bytes, source: str, command: str) -> None:
    """Refuse content that is known to be of another kind than `chunkflow-sim import` `command` reads.

    Raises:
        InputError: of `source`; it names the format, and the command that reads it.
    """
    head = content[:_HEAD]
    if (problem := _binary(Path(source), head)) is not None:
        raise InputError(source, "", problem.replace(", no scenario", ""))
    text, known = _text_and_formats(head)
    found = _first(known, text)
    choice = known if found is None or found in TEXT else (found,)  # a report of text may hold several
    if command and any(one.command == command and one.pattern.search(text) for one in choice):
        return
    if found is not None:
        raise InputError(source, "", named(f"is {found.name}: {_advice(found)}", source))
    if (ours := ours_of(_top_level(content, text))) is not None:
        filled = "give it as --into, to fill it in, or as --hardware"
        advice = filled if ours.kind == "hardware profile" else ours.advice
        raise InputError(source, "", named(f"is {_article(ours.kind)}: {advice}", source))


def import_of(content: bytes) -> str | None:
    """Which `chunkflow-sim import` reads content; None for content that none reads, or that is not recognised."""
    text, known = _text_and_formats(content[:_HEAD])
    found = _first(known, text)
    return found.command or None if found is not None else None


def _text_and_formats(head: bytes) -> tuple[str, tuple[Format, ...]]:
    """The text of a file's start, and the formats that it may have."""
    text = (
        head.decode("utf-16", errors="replace")  # what PowerShell redirects
        if head.startswith((b"\xff\xfe", b"\xfe\xff"))
        else head.decode(errors="replace").removeprefix("\ufeff")
    )
    by_start = {"{": JSON, "[": (*JSON, *TEXT), "<": (*MARKUP, *TEXT)}
    return text, by_start.get(text.lstrip()[:1], TEXT)


def _top_level(content: bytes, text: str) -> dict[str, None]:
    """Keys at the top of a mapping in YAML or JSON."""
    if text.lstrip()[:1] == "{" and len(content) <= _WHOLE:
        try:
            data = json.loads(content)
        except (ValueError, RecursionError):
            return {}
        return dict.fromkeys(data) if isinstance(data, dict) else {}
    return dict.fromkeys(re.findall(r"^(\w+):(?:\s|$)", text, re.MULTILINE))


def _first(formats: Iterable[Format], text: str) -> Format | None:
    return next((known for known in formats if known.pattern.search(text)), None)


def _advice(found: Format) -> str:
    if found.command:
        return f"import it with `chunkflow-sim import {found.command} FILE -o OUT.yaml`"
    return found.advice or "it cannot be imported"


def _binary(given: Path | bytes, head: bytes) -> str | None:
    """What a binary file is."""
    for mark, place, name, advice in BINARY:
        if head[place : place + len(mark)] == mark:
            return f"is {name}, no scenario: {advice}"
    if isinstance(given, Path) and b"\0" in head and (known := SUFFIXES.get(given.suffix)) is not None:
        return f"is {known}"
    if head[:1] == b"\x0a" and b"\0" in head:
        return f"is {PROTOBUF}"
    return None


def _head(given: Path | bytes) -> bytes:
    """What content or a regular file begins with, unpacked; nothing for what cannot be read."""
    try:
        if isinstance(given, bytes):
            content = given[:_HEAD]
        elif not given.is_file():  # opening a pipe waits for who writes to it
            return b""
        else:
            with given.open("rb") as opened:
                content = opened.read(_HEAD)
        if content.startswith(_GZIP):
            content = zlib.decompressobj(wbits=31).decompress(content, _HEAD)
    except (OSError, ValueError, zlib.error):
        return b""
    return content
