"""The profile that measurements are put into: one that was imported, another one, or a host of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.hardware import shipped
from sim.hardware.profile_files import KEYS, profile_file, read_profile
from sim.importers.host_profile import Wanted, host_profile, profile_of
from sim.importers.host_tree import HostTree, Place
from sim.inputs.config import InputError
from sim.inputs.other_formats import read_kind

Plain = dict[str, Any]


def base_of(into: Path | None, hardware: str | None) -> Plain | None:
    """Plain data of the profile to fill; None where neither is given. Raises InputError.

    `into` keeps what it is like; of `hardware` all numbers are taken over, each with the profile that gave it.
    """
    if into is not None:
        plain = read_kind(into, "hardware profile", KEYS)
        if not isinstance(plain, dict):
            raise InputError(str(into), "", "is no hardware profile, expected a mapping")
        if "like" in plain and plain["like"] not in shipped():
            return _whole(into) | {"name": plain.get("name", into.stem)}
        profile_of(plain, str(into))
        return plain if "topology" in plain and "like" in plain else _whole(into)
    if hardware is None:
        return None
    return _whole(profile_file(hardware))


def _whole(file: Path) -> Plain:
    """A profile without `like`: numbers keep whom they are from."""
    plain = read_profile(file)
    profile_of(plain, str(file))
    whole = _given(plain)
    assert isinstance(whole, dict)
    return whole


def _given(value: Any) -> Any:
    """Plain data without keys that say nothing, which `hardware --json` writes, too."""
    if isinstance(value, dict):
        return {key: _given(inner) for key, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list | tuple) else value


def unknown_host(count: int, gpus: Sequence[str], wanted: Wanted, name: str, evidence: str) -> tuple[Plain, list[str]]:
    """A host of which only the number of GPUs is known, and perhaps their names: each has a root port of its own."""
    if count < 1:
        raise InputError(evidence, "", "tells of no GPU")
    called = gpus[0] if gpus else ""
    names = gpus if len(gpus) == count else (called,) * count
    tree = HostTree(tuple(Place(name, 0, "", ()) for name in names), {}, (), {}, "nothing")
    made = host_profile(tree, wanted, name, evidence)
    remark = (
        f"nothing tells how the {count} GPUs are joined: each is taken to have a PCIe link of its own to one memory; "
        "`import topo` tells, then --into"
    )
    return made.plain, [*made.remarks, *([remark] if count > 1 else [])]
