"""Every number of a profile, one by one, with its unit and source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from sim.hardware import AloneTime, Profile
from sim.steady import gb
from sim.units import Bandwidth, Bytes, FlopRate, Seconds, show_bytes, show_seconds

ANOTHER_TOPOLOGY = "of another topology than this profile has"
"""Said of what a profile keeps of another one though it gives a topology of its own."""


class Listed(NamedTuple):
    """A value of a profile at its key path; `source` is empty for what is no number."""

    path: str
    value: object
    source: str = ""
    uncertainty: float | None = None


def numbers(profile: Profile) -> Iterator[Listed]:
    """All that a profile holds, but for its name and description, in its order."""
    for field in msgspec.structs.fields(profile):
        if field.name not in ("name", "description", "kept"):
            yield from _walk(field.name, getattr(profile, field.name))


def _walk(path: str, value: object) -> Iterator[Listed]:
    if isinstance(value, AloneTime):
        yield Listed(path, value, value.source)
    elif isinstance(value, msgspec.Struct) and hasattr(value, "source"):
        number, uncertainty = getattr(value, "value", None), getattr(value, "uncertainty", None)
        yield Listed(path, number, str(value.source), uncertainty)
        if (carries := getattr(value, "carries", "all")) != "all":
            yield Listed(f"{path}.carries", carries)
    elif isinstance(value, msgspec.Struct):
        for key in value.__struct_fields__:
            yield from _walk(f"{path}.{key}", getattr(value, key))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(f"{path}.{key}", inner)
    elif isinstance(value, tuple) and any(isinstance(inner, msgspec.Struct) for inner in value):
        for i, inner in enumerate(value):
            yield from _walk(f"{path}[{i}]", inner)
    elif value is not None and value != ():
        yield Listed(path, value)


def shown(value: object) -> str:
    """A value for people, with its unit."""
    if isinstance(value, AloneTime):
        ends = (f"{show_bytes(value.bytes[i])} in {show_seconds(value.seconds[i])}" for i in (0, -1))
        return " to ".join(dict.fromkeys(ends))
    if isinstance(value, Seconds):
        return show_seconds(value)
    if isinstance(value, Bandwidth):
        return f"{gb(value)} GB/s"
    if isinstance(value, FlopRate):
        return f"{value / 1e12:.4g} TFLOP/s"
    if isinstance(value, Bytes):
        return show_bytes(value)
    if isinstance(value, tuple):
        return ", ".join(f"[{shown(inner)}]" if isinstance(inner, tuple) else shown(inner) for inner in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
