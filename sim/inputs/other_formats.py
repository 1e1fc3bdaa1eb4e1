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

_HEAD = 2**18
"""Bytes at a file's start that are looked at; compressed ones are unpacked up to this size."""
_GZIP = b"\x1f\x8b"
_SCENARIO = {"workload", "policy", "world_size"}
_PROFILE = {"topology", "like", "gpus"}


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
    text, known = _text_and_formats(head)
    if any(one.command == command and one.pattern.search(text) for one in known):
        return
    found = _first(known, text)
    if found is None and (ours := _ours(text)) is not None:
        raise InputError(source, "", ours)
    if found is not None:
        raise InputError(source, "", f"is {found.name}: {_advice(found)}".replace("FILE", shlex.quote(source)))


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


def _ours(text: str) -> str | None:
    """What a file of ours is, by its keys at the start of lines."""
    keys = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    if keys >= {"workload", "policy"} or keys >= {"hardware", "workload"}:
        return "is a scenario: run it with `chunkflow-sim run`"
    if "name" in keys and keys & _PROFILE:
        return "is a hardware profile: give it as --into, to fill it in, or as --hardware"
    return None


def other_file(data: Any) -> str | None:
    """What is wrong with giving plain data as a scenario, if they are another file of ours; else None."""
    if not isinstance(data, Mapping) or data.keys() & _SCENARIO:
        return None
    if "scenario" in data and data.keys() & {"axes", "cases", "x", "plot"}:
        return "is an experiment, no scenario: run it with `chunkflow-sim experiment FILE`"
    if "transformer" in data:
        return "is a model's shapes, no scenario: give its path as workload.model, or see `chunkflow-sim models FILE`"
    if data.keys() & _PROFILE:
        return "is a hardware profile, no scenario: give it as `hardware` in a scenario"
    return None


def is_scenario(data: Any) -> bool:
    """Whether plain data have a key that only scenarios have."""
    return isinstance(data, Mapping) and bool(data.keys() & _SCENARIO)


def other_than_model(data: Any) -> str | None:
    """What is wrong with giving plain data as a model's shapes, if they are another known kind of file; else None."""
    if not isinstance(data, Mapping) or "transformer" in data:
        return None
    if "workload" in data:
        return "is a scenario, no model's shapes"
    if data.keys() & _PROFILE:
        return "is a hardware profile, no model's shapes"
    if data.keys() & {"_class_name", "num_attention_heads", "architectures"}:
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
