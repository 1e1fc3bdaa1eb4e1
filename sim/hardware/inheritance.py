"""Inheritance between profiles (`like`): what one gives replaces what it inherits; the inherited parts are listed.

What was measured is true of the host that it was measured on. A profile that gives a topology of its own describes
another host, so what it inherits of the other's description, fingerprint and measurements is marked. Every inherited
number names the profile that gave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sim.hardware.collective_classes import IsolatedTimes
from sim.hardware.topology import Capacity, Sourced
from sim.inputs.config import Config


class Inherited(Config, frozen=True):
    """A part of a profile that it inherits from another one."""

    key: str
    """Its key path."""
    profile: str
    """The one that gave it."""
    another_topology: bool = False
    """Whether it describes or was measured on a topology that this profile does not have."""


def tables_of_another_topology(inherited: Iterable[Inherited]) -> tuple[str, ...]:
    """Profiles whose tables of isolated times are inherited, although their hosts have another topology."""
    found = (part for part in inherited if part.another_topology and _holds_table(part.key))
    return tuple(dict.fromkeys(part.profile for part in found))


def _holds_table(key: str) -> bool:
    section, *inner = key.split(".")
    return section == "collectives" and (len(inner) < 2 or inner[1] in ("alone", "alone_by_ranks"))


_WHOLE = ("topology", "fingerprint", "alone", "alone_by_ranks", "contention_by_ranks")
"""Parts of a profile that are given whole or not at all; so is every number, with its source."""

_OF_THE_HOST = ("name", "description", "fingerprint", "h2d", "d2h", "p2p", "collectives")
"""Parts that a topology decides, or that say which host it is."""


def merged(base: Any, name: str, data: dict[str, Any]) -> Any:
    """Plain data of a profile: `data` over that of `base`, the profile `name`.

    Inherited numbers name their profile, and `kept` lists the inherited parts.
    """
    if not isinstance(base, dict):
        return data
    replaced = "topology" in data
    entries = base.get("kept", [])
    entries = entries if isinstance(entries, list) else []
    known = [e for e in entries if isinstance(e, dict) and isinstance(e.get("key"), str) and "profile" in e]
    before = {entry["key"]: entry["profile"] for entry in known}
    marked = {entry["key"] for entry in known if entry.get("another_topology")}
    base = {key: _without_memory(value) if key == "host" else value for key, value in base.items() if key != "kept"}
    inherited = []
    for key in _left_out(base, data, "", tuple(before)):
        another = key in marked or (replaced and key.split(".")[0] in _OF_THE_HOST)
        of = next((before[k] for k in _above(key) if k in before), name)
        inherited.append({"key": key, "profile": of, "another_topology": another})
    over: dict[str, Any] = _over(_inherited(base, name, replaced), data)
    return over | {"kept": inherited}


def _without_memory(host: Any) -> Any:
    """Of the other host, all but how much memory it has."""
    return {key: value for key, value in host.items() if key != "memory"} if isinstance(host, dict) else host


def _above(key: str) -> Iterator[str]:
    """`key` and the key paths of what it is part of."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _left_out(base: dict[str, Any], data: dict[str, Any], path: str, before: tuple[str, ...]) -> Iterator[str]:
    """Key paths of what `base` has and `data` leaves out; as deep as those `before`, which `base` itself left out."""
    for key, value in base.items():
        at = f"{path}.{key}" if path else key
        if key not in data:
            yield from _parts(value, at, before)
        elif isinstance(value, dict) and isinstance(data[key], dict) and key not in _WHOLE and not _is_number(value):
            yield from _left_out(value, data[key], at, before)


def _parts(value: Any, path: str, before: tuple[str, ...]) -> Iterator[str]:
    deeper = path in ("collectives", "device") or any(key.startswith(f"{path}.") for key in before)
    if deeper and isinstance(value, dict):
        for key, item in value.items():
            yield from _parts(item, f"{path}.{key}", before)
    elif value is not None:
        yield path


def _over(base: Any, data: Any) -> Any:
    """`base` with all that `data` gives in its place."""
    if not (isinstance(base, dict) and isinstance(data, dict)) or _is_number(base) or _is_number(data):
        return data
    return base | {k: v if k in _WHOLE else _over(base.get(k, {}), v) for k, v in data.items()}


def _inherited(data: Any, name: str, replaced: bool) -> Any:
    """Data of the profile `name`, its numbers naming it unless it inherits them itself.

    With `replaced`, the inheriting profile has a topology of its own: tables of isolated times say that theirs differs.
    """
    if isinstance(data, list):
        return [_inherited(item, name, replaced) for item in data]
    if not isinstance(data, dict):
        return data
    if not _is_number(data):
        return {k: v if k == "fingerprint" else _inherited(v, name, replaced) for k, v in data.items()}
    data = data | {"inherited_from": data.get("inherited_from") or name}
    return data | {"another_topology": True} if replaced and "seconds" in data else data


def _is_number(data: dict[str, Any]) -> bool:
    """Whether plain data are those of a number, or of a table of isolated times."""
    value = data.get("value", {})  # a topology may have a node of that name
    return not isinstance(value, dict | list) or {"bytes", "seconds"} <= data.keys()


def provenance(number: Sourced[Any] | Capacity | IsolatedTimes) -> str:
    """Where a number comes from, in words: its source, and the profile that it is inherited from."""
    if isinstance(number, IsolatedTimes) and number.another_topology:
        return f"measured on {number.inherited_from}, another topology: {number.source}"
    return f"as {number.inherited_from}: {number.source}" if number.inherited_from else number.source
