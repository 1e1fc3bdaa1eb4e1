"""What a file is that was given in place of a scenario: formats of other tools, and our own other kinds of files."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_HEAD = 2**18
"""Bytes at a file's start that are looked at; compressed ones are unpacked up to this size."""
_GZIP = b"\x1f\x8b"
_LATER = "cannot be imported yet: write a scenario by hand"


class _Format(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    """What its first bytes hold."""


_JSON = (
    _Format(
        "a profiler's trace (Kineto, Chrome trace format)", re.compile(r'"traceEvents"\s*:|\A\s*\[[^\]]{,400}"ph"\s*:')
    ),
    _Format("a profiler's trace (Kineto, Chrome trace format)", re.compile(r'"deviceProperties"\s*:\s*\[')),
    _Format("the output of nvbandwidth (JSON)", re.compile(r'\A\s*\{\s*"nvbandwidth"\s*:')),
)
"""Told by keys that no scenario has. Traces are large: they are recognised before they are parsed."""
_TEXT = (
    _Format("the output of nccl-tests", re.compile(r"^#.*\b(?:algbw|nccl-tests|nThread)\b", re.MULTILINE)),
    _Format(
        "the output of nvidia-smi topo -m",
        re.compile(r"^\s*(?:\x1b\[4m)?GPU0\s+(?:GPU1\b|CPU Affinity|NIC0\b|NUMA)", re.MULTILINE),
    ),
    _Format(
        "the output of nvbandwidth (text)",
        re.compile(r"^(?:nvbandwidth Version:|memcpy .*bandwidth \(GB/s\))", re.MULTILINE),
    ),
)
"""May stand in comments of a scenario: looked for only in what is not a mapping."""


def foreign_json(given: Path | bytes) -> str | None:
    """What is wrong with giving a file, or content, as a scenario, if it is JSON of another tool, also compressed.

    None if it is not.
    """
    head = _head(given)
    return _said(_JSON, head) if head.lstrip()[:1] in ("{", "[") else None


def foreign_text(given: Path | bytes) -> str | None:
    """The same for text of other tools; for what holds no mapping of keys."""
    return _said(_TEXT, _head(given))


def other_file(data: Any) -> str | None:
    """What is wrong with giving plain data as a scenario, if they are another file of ours; else None."""
    if not isinstance(data, Mapping) or data.keys() & {"workload", "policy", "world_size"}:
        return None
    if "scenario" in data and data.keys() & {"axes", "cases", "x", "plot"}:
        return "is an experiment, no scenario: run it with `chunkflow-sim experiment FILE`"
    if "transformer" in data:
        return "is a model's shapes, no scenario: give its path as workload.model, or see `chunkflow-sim models FILE`"
    if data.keys() & {"topology", "like", "gpus"}:
        return "is a hardware profile, no scenario: give it as `hardware` in a scenario"
    return None


def other_than_model(data: Any) -> str | None:
    """What is wrong with giving plain data as a model's shapes, if they are another known kind of file; else None."""
    if not isinstance(data, Mapping) or "transformer" in data:
        return None
    if "workload" in data:
        return "is a scenario, no model's shapes"
    if data.keys() & {"topology", "like", "gpus"}:
        return "is a hardware profile, no model's shapes"
    if data.keys() & {"_class_name", "num_attention_heads", "architectures"}:
        return "is the configuration of a published model: write its shapes as docs/models.md shows"
    return None


def _said(formats: tuple[_Format, ...], head: str) -> str | None:
    found = next((known.name for known in formats if known.pattern.search(head)), None)
    return None if found is None else f"is {found}, no scenario: it {_LATER}"


def _head(given: Path | bytes) -> str:
    """The text that content or a regular file begins with; nothing for what cannot be read."""
    try:
        if isinstance(given, bytes):
            content = given[:_HEAD]
        elif not given.is_file():  # opening a pipe waits for who writes to it
            return ""
        else:
            with given.open("rb") as opened:
                content = opened.read(_HEAD)
        if content.startswith(_GZIP):
            content = zlib.decompressobj(wbits=31).decompress(content, _HEAD)
    except (OSError, ValueError, zlib.error):
        return ""
    return content.decode(errors="replace")
