"""Every number of a profile, one by one, with its unit and source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sim.analysis.steady_state import gb
from sim.hardware import IsolatedTimes, Profile
from sim.hardware.inheritance import provenance
from sim.hardware.profile_parameters import key_path, leaves
from sim.hardware.topology import Capacity, Sourced
from sim.inputs.units import Bandwidth, Bytes, FlopRate, Seconds, show_bytes, show_seconds

ANOTHER_TOPOLOGY = "of another topology than this profile has"
"""Said of what a profile keeps of another one though it gives a topology of its own."""


class ProfileRow(NamedTuple):
    """A value of a profile at its key path; `source` is empty for what is not a number."""

    path: str
    value: object
    source: str = ""
    uncertainty: float | None = None


def rows_of(profile: Profile) -> Iterator[ProfileRow]:
    """All that a profile holds, but for its name and description, in its order."""
    for path, value in leaves(profile):
        name = key_path(path)
        if isinstance(value, IsolatedTimes):
            yield ProfileRow(name, value, provenance(value))
        elif isinstance(value, Sourced | Capacity):
            yield ProfileRow(name, value.value, provenance(value), value.uncertainty)
            if isinstance(value, Capacity) and value.carries != "all":
                yield ProfileRow(f"{name}.carries", value.carries)
        elif path[0] not in ("name", "description", "kept"):
            yield ProfileRow(name, value)


def shown(value: object) -> str:
    """A value for people, with its unit."""
    if isinstance(value, IsolatedTimes):
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
