"""The numbers of a profile: where each stands, and the profile with some of them changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from sim.hardware import IsolatedTimes
from sim.hardware.topology import Capacity, Sourced

T = TypeVar("T")
Change = Callable[[float], float]
Number = Sourced[Any] | Capacity | IsolatedTimes
"""A table of isolated times is one number: all its seconds change together."""

_Path = tuple[str | int, ...]


class Entry(NamedTuple):
    """A number and its place."""

    path: _Path
    number: Number

    @property
    def value(self) -> float | None:
        """In SI units; None of a table."""
        return None if isinstance(self.number, IsolatedTimes) else float(self.number.value)

    @property
    def uncertainty(self) -> float | None:
        """Relative, one standard deviation; None where the profile does not say."""
        return None if isinstance(self.number, IsolatedTimes) else self.number.uncertainty


def numbers_by_path(data: object) -> dict[str, Entry]:
    """Every number of a profile (or a part of one) by its key path, such as `topology.links[0].there`."""
    return {
        key_path(path): Entry(path, v) for path, v in leaves(data) if isinstance(v, Sourced | Capacity | IsolatedTimes)
    }


def changed(data: T, changes: Mapping[str, Change]) -> T:
    """`data` with the values at some key paths put through a function each.

    Raises:
        KeyError: there is no number at a path.
        ValueError: what it makes is not a valid profile.
    """
    known = numbers_by_path(data)
    return cast(T, _replaced(data, {known[name].path: change for name, change in changes.items()}))


def leaves(data: object, path: _Path = ()) -> Iterator[tuple[_Path, object]]:
    """(path, value) of all that a profile (or a part of one) holds, in its order; a number with its source is one."""
    if isinstance(data, Sourced | Capacity | IsolatedTimes):
        yield path, data
    elif isinstance(data, msgspec.Struct):
        for name in data.__struct_fields__:
            yield from leaves(getattr(data, name), (*path, name))
    elif isinstance(data, dict):
        for key, item in data.items():
            yield from leaves(item, (*path, key))
    elif isinstance(data, tuple) and any(isinstance(item, msgspec.Struct) for item in data):
        for i, item in enumerate(data):
            yield from leaves(item, (*path, i))
    elif data is not None and data is not msgspec.UNSET and data != ():
        yield path, data


def key_path(path: _Path) -> str:
    """A path as text, such as `topology.links[0].there`.

    Indices of lists stand in brackets; the numbers of ranks by which tables are kept do too.
    """
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _replaced(data: Any, changes: Mapping[_Path, Change]) -> Any:
    """All at once: numbers that are valid together need not be so one by one."""
    if () in changes:
        return _changed_number(data, changes[()])
    inner: dict[str | int, dict[_Path, Change]] = {}
    for (key, *rest), change in changes.items():
        inner.setdefault(key, {})[tuple(rest)] = change
    if isinstance(data, msgspec.Struct):
        return msgspec.structs.replace(data, **{str(k): _replaced(getattr(data, str(k)), c) for k, c in inner.items()})
    if isinstance(data, dict):
        return data | {key: _replaced(data[key], change) for key, change in inner.items()}
    return tuple(_replaced(item, inner[i]) if i in inner else item for i, item in enumerate(data))


def _changed_number(number: Number, change: Change) -> Number:
    if isinstance(number, IsolatedTimes):
        return msgspec.structs.replace(number, seconds=tuple(type(s)(change(s)) for s in number.seconds))
    return msgspec.structs.replace(number, value=type(number.value)(change(number.value)))
