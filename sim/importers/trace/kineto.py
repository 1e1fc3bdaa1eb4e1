"""The fields of a Kineto trace that are read, typed; all others are skipped without taking memory."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sim.inputs.config import InputError

Text = str | int | float | None
"""Fields that are words in some versions and numbers in others."""


class Args(msgspec.Struct, frozen=True, gc=False):
    """Arguments of an event, by their names in the file."""

    external: Any = msgspec.field(default=None, name="External id")
    correlation: Any = None
    device: Any = None
    stream: Any = None
    bytes: Any = None
    collective: Any = msgspec.field(default=None, name="Collective name")
    elements_in: Any = msgspec.field(default=None, name="In msg nelems")
    elements_out: Any = msgspec.field(default=None, name="Out msg nelems")
    group_size: Any = msgspec.field(default=None, name="Group size")
    dtype: Any = None
    ranks: Any = msgspec.field(default=None, name="Process Group Ranks")
    group_name: Any = msgspec.field(default=None, name="Process Group Name")
    sync_kind: Any = msgspec.field(default=None, name="cuda_sync_kind")
    waits_on_stream: Any = msgspec.field(default=None, name="wait_on_stream")
    record_correlation: Any = msgspec.field(default=None, name="wait_on_cuda_event_record_corr_id")
    dims: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input Dims")
    types: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="Input type")
    """Left as they are: most operators have some, and few are looked at."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One entry of `traceEvents`: times in us."""

    ph: Text = ""
    cat: Text = ""
    name: Text = ""
    pid: Text = 0
    tid: Text = 0
    ts: Text = 0.0
    dur: Text = 0.0
    args: Args | None = None


class Device(msgspec.Struct, frozen=True):
    """An entry of `deviceProperties`."""

    id: int = 0
    name: str = ""
    memory: int = msgspec.field(default=0, name="totalGlobalMem")


class Group(msgspec.Struct, frozen=True):
    """An entry of `pg_config`: a process group and its ranks."""

    name: Text = msgspec.field(default="", name="pg_name")
    ranks: tuple[int, ...] | None = None


class Distributed(msgspec.Struct, frozen=True):
    """`distributedInfo`."""

    rank: int | None = None
    world_size: int | None = None
    groups: tuple[Group, ...] = msgspec.field(default=(), name="pg_config")


class Document(msgspec.Struct, frozen=True):
    """A trace."""

    events: list[Event] = msgspec.field(name="traceEvents")
    devices: tuple[Device, ...] = msgspec.field(default=(), name="deviceProperties")
    distributed: Distributed | None = msgspec.field(default=None, name="distributedInfo")
    schema: Any = msgspec.field(default=None, name="schemaVersion")


_PLACE = re.compile(r" - at `\$\.?(.*)`$")


def decode(content: bytes, source: str) -> Document:
    """A trace from its JSON.

    Raises:
        InputError: it is cut off, is not JSON, or a field is not what a trace has there.
    """
    bare = content[:1024].lstrip()[:1] == b"["
    try:
        if bare:
            return Document(msgspec.json.decode(content, type=list[Event]))
        return msgspec.json.decode(content, type=Document)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        problem = _PLACE.sub("", text)
        if "traceEvents" in problem and "missing" in problem:
            problem = "has no traceEvents: it is no trace of torch.profiler (Kineto)"
        else:
            problem = f"{problem[:1].lower()}{problem[1:]}"
        raise InputError(source, place[1] if place else "", problem) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        text = str(error)
        if "truncated" in text:
            raise InputError(source, "", "is cut off: its JSON ends before it is complete") from None
        raise InputError(source, "", f"is not JSON: {text}") from None


def number(value: object) -> float | None:
    """A finite number, given as one or as text; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < 1e300 else None


def whole(value: object) -> int | None:
    """A whole number of at most 2**63, given as one or as text; else None."""
    found = number(value)
    if found is None or abs(found) > 2**63:
        return None
    return int(value) if isinstance(value, int | str) and str(value).lstrip("-").isdigit() else int(found)


def plain(value: msgspec.Raw) -> Any:
    """What a field that was left as it is holds; None for nothing."""
    return msgspec.json.decode(value) if bytes(value) else None


def words(value: object) -> str:
    """Text, of at most 300 characters."""
    return value[:300] if isinstance(value, str) else "" if value is None else str(value)[:300]
