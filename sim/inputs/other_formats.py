"""What a file is that was given in place of another kind: formats of other tools, and our own kinds of files."""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sim.inputs.config import InputError
from sim.inputs.format_marks import BINARY, JSON, MARKUP, PROTOBUF, SUFFIXES, TEXT, Format
from sim.inputs.own_formats import kind_of, named

_HEAD = 2**18
"""Bytes at a file's start that are looked at; compressed ones are unpacked up to this size."""
_GZIP = b"\x1f\x8b"


def foreign_content(given: Path | bytes) -> str | None:
    """What is wrong with giving a file, or content, as a scenario, if its start tells that it is another format.

    JSON of other tools, markup and binary files, also packed with gzip; None for what may be a scenario.
    """
    head = _head(given)
    if (problem := _binary(given, head)) is not None:
        return problem
    text = head.decode(errors="replace").removeprefix("\ufeff")
    start = text.lstrip()[:1]
    formats = JSON if start in ("{", "[") else MARKUP if start == "<" else ()
    found = _first(formats, text)
    return None if found is None else _no_scenario(found)


def foreign_text(given: Path | bytes) -> str | None:
    """The same for text of other tools; for what holds no scenario's mapping of keys."""
    found = _first(TEXT, _head(given).decode(errors="replace").removeprefix("\ufeff"))
    return None if found is None else _no_scenario(found)


def refuse_other(content: bytes, source: str, command: str) -> None:
    """Refuse content that is known to be of another kind than `chunkflow-sim import` `command` reads.

    Raises:
        InputError: of `source`; it names the format, and the command that reads it.
    """
    head = content[:_HEAD]
    if (problem := _binary(Path(source), head)) is not None:
        raise InputError(source, "", problem.replace(", no scenario", ""))
    text = head.decode(errors="replace").removeprefix("\ufeff")
    start = text.lstrip()[:1]
    by_start = {"{": JSON, "[": (*JSON, *TEXT), "<": (*MARKUP, *TEXT)}
    known = by_start.get(start, TEXT)
    if any(one.command == command and one.pattern.search(text) for one in known):
        return
    found = _first(known, text)
    if found is None and (ours := _ours(text, source)) is not None:
        raise InputError(source, "", ours)
    if found is not None:
        raise InputError(source, "", f"is {found.name}: {_advice(found)}".replace("FILE", shlex.quote(source)))


def _ours(text: str, source: str) -> str | None:
    """What a file of ours is, by its keys at the start of lines."""
    keys = dict.fromkeys(re.findall(r"^(\w+):", text, re.MULTILINE))
    if kind_of(keys) == "profile":
        return "is a hardware profile: give it as --into, to fill it in, or as --hardware" if "name" in keys else None
    return None if len(keys) < 2 else named(keys, source)


def published_configuration(data: Any) -> str | None:
    """What is wrong with giving plain data as a model's shapes, if they are a published model's own; else None."""
    if isinstance(data, Mapping) and data.keys() & {"_class_name", "num_attention_heads", "architectures"}:
        return "is the configuration of a published model: write its shapes as docs/models.md shows"
    return None


def _first(formats: Iterable[Format], text: str) -> Format | None:
    return next((known for known in formats if known.pattern.search(text)), None)


def _no_scenario(found: Format) -> str:
    return f"is {found.name}, no scenario: {_advice(found)}"


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
