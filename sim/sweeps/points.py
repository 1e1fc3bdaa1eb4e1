"""The points of a sweep: known by its axes, and made as they are read."""

from __future__ import annotations

import copy
import difflib
import hashlib
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, Self, overload

from sim.hardware import Profile, load_profile
from sim.inputs.config import Config, InputError
from sim.inputs.faults import unreadable
from sim.policies import all_fields, fields_of
from sim.scenario import Scenario
from sim.sweeps.axes import MAX_POINTS
from sim.sweeps.job import NAMING, Identity, Job, canonical, code_digest, models_digest, profile_digest, scenario_digest
from sim.sweeps.results_file import Point
from sim.workloads.named import remembered

Axes = Mapping[str, Sequence[object]]
"""Key path -> values, as they would stand in the YAML file."""


class Setting(Config, frozen=True):
    """Keys that change together, under one name."""

    name: str
    set: dict[str, Any]


class Points(Sequence[Point]):
    """All points of a sweep over plain scenario data: the product of all axes, the first axis slowest.

    Points that say the same as an earlier one are left out. A point is made, and checked, when it is read, and not
    kept: reading one raises `InputError` if it is wrong. What is kept is four bytes for each point, and nothing where
    no two can be equal.

    A value of any axis may be a `Setting`: several keys that change together, shown by its name. Where kinds of policy
    are swept, a key that only others of them have is left out of a point, and `note` is told so once a key. Hardware
    profiles and models are read once each, and go with the points. Without `check_gpu_count`, a point may have
    more ranks than the profile has GPUs: such points are measured, not simulated.

    Raises:
        InputError: `data` is not a scenario, an axis has no values, or there are more than `MAX_POINTS` points.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        axes: Axes,
        source: str = "scenario",
        note: Callable[[str], None] = lambda text: None,
        check_gpu_count: bool = True,
    ) -> None:
        if not isinstance(data, Mapping):
            raise InputError(source, "", "holds no scenario: expected a mapping of keys to values")
        for path, values in axes.items():
            if not values:
                raise InputError(source, path, "has no values")
        count = math.prod(map(len, axes.values()))
        if count > MAX_POINTS:
            raise InputError(source, "", f"the sweep has {count} points, at most {MAX_POINTS} are run")
        self._data = copy.deepcopy(dict(data))
        self._axes = dict(axes)
        self._source = source
        self._note = note
        self._read = _Read({}, {}, {}, check_gpu_count)
        self._combinations = range(count)
        self._kept: Sequence[int] | None = self._combinations if _all_differ(axes) else None
        self._change: Callable[[Point], Point] = lambda point: point
        self.profiles: dict[str, Profile] = {}
        """Of the points of several ranks that were made: hardware profiles by the names that scenarios give."""

    def changed(self, change: Callable[[Point], Point]) -> Self:
        """Apply `change` to each point as it is made; which of them are equal stays as it is."""
        self._change = change
        return self

    def checked(self) -> Self:
        """Make each point once. Raises `InputError` for the first wrong one."""
        self._go_through(self._point)
        return self

    def __len__(self) -> int:
        return len(self._numbers())

    @overload
    def __getitem__(self, at: int) -> Point: ...
    @overload
    def __getitem__(self, at: slice) -> list[Point]: ...
    def __getitem__(self, at: int | slice) -> Point | list[Point]:
        chosen = self._numbers()[at]
        if isinstance(chosen, int):
            return self._point(self._plain(chosen))
        return [self._point(self._plain(number)) for number in chosen]

    def __iter__(self) -> Iterator[Point]:
        for number in self._numbers():
            yield self._point(self._plain(number))

    def _numbers(self) -> Sequence[int]:
        """Of the combinations that are points: those that say what no earlier one does."""
        if self._kept is None:
            self._go_through(lambda plain: None)
        assert self._kept is not None
        return self._kept

    def _go_through(self, visit: Callable[[_Plain], object]) -> None:
        """Visit every point in turn; finds those that are left out, and notes keys that are."""
        kept, seen = array("L"), set[bytes]()
        dropped: dict[str, dict[str, None]] = {}
        for number in self._combinations if self._kept is None else self._kept:
            plain = self._plain(number)
            for path in plain.dropped:
                dropped.setdefault(path, {})[str(plain.data["policy"]["kind"])] = None
            if self._kept is None:
                key = hashlib.sha256(plain.canonical).digest()[:16]
                if key in seen:
                    continue
                seen.add(key)
                kept.append(number)
            visit(plain)
        if self._kept is None:
            self._kept = kept
            for path, kinds in dropped.items():
                self._note(f"{path} is left out where policy.kind is {' or '.join(kinds)}, which has no such key")

    def _plain(self, number: int) -> _Plain:
        """The combination `number` of values as plain data."""
        data = copy.deepcopy(self._data)
        chosen: dict[str, object] = {}
        for path, values in reversed(self._axes.items()):
            number, digit = divmod(number, len(values))
            chosen[path] = values[digit]
        chosen = dict(reversed(chosen.items()))
        for path, value in list(chosen.items()):
            if isinstance(value, Setting):
                chosen[path] = value.name
                for inner, setting in value.set.items():
                    _set(data, inner, setting, self._source)
            else:
                _set(data, path, value, self._source)
        where = ", ".join([self._source, *(f"{k}={_as_yaml(v)}" for k, v in chosen.items())])
        dropped = _inapplicable(data, where) if "policy.kind" in self._axes else []
        chosen |= dict.fromkeys(dropped)
        return _Plain({k: chosen[k] for k in self._axes}, data, where, dropped, canonical(data))

    def _point(self, plain: _Plain) -> Point:
        """The point of plain data. Raises `InputError` if it is wrong."""
        identity, job = self._read.job(plain.data, plain.where)
        identity = identity._replace(scenario=scenario_digest(plain.data))
        point = self._change(Point(plain.values, plain.data, identity, job))
        if job.scenario.world_size > 1:
            self.profiles[job.scenario.hardware] = point.job.profile
        return point


def points(
    data: Mapping[str, Any],
    axes: Axes,
    source: str = "scenario",
    note: Callable[[str], None] = lambda text: None,
    check_gpu_count: bool = True,
) -> Points:
    """All points of a sweep, each checked; see `Points`. Raises `InputError` for a wrong one."""
    return Points(data, axes, source, note, check_gpu_count).checked()


class _Plain(NamedTuple):
    """A point before anything is read for it: its values, its data, how messages call it, the keys it does not have."""

    values: dict[str, object]
    data: dict[str, Any]
    where: str
    dropped: list[str]
    canonical: bytes


def _all_differ(axes: Axes) -> bool:
    """Whether no two combinations can say the same, as each axis is a key of its own with values that differ.

    Where kinds of policy are swept, keys are dropped, and a `Setting` has several keys: there two may be equal.
    """
    places = [re.sub(r"\[[^]]*\]", ".[]", path).split(".") for path in axes]
    if "policy.kind" in axes or any(a == b[: len(a)] or b == a[: len(b)] for a, b in combinations(places, 2)):
        return False
    for path, values in axes.items():
        if any(isinstance(value, Setting) or any(unreadable(value, path)) for value in values):
            return False
        if len(set(map(canonical, values))) < len(values):
            return False
    return True


def _as_yaml(value: object) -> object:
    """A value for a message, as a file or `--set` would give it."""
    return "null" if value is None else value


class _Read(NamedTuple):
    """What has been read, by the names that scenarios give: profiles, their digests, models. Each is read once."""

    profiles: dict[str, Profile]
    digests: dict[str, str]
    models: dict[str, dict[str, Any]]
    check_gpu_count: bool

    def job(self, data: dict[str, Any], source: str) -> tuple[Identity, Job]:
        """What is run for plain scenario data, and of which content it is. Raises `InputError`."""
        workload = data.get("workload")
        model = repr([workload.get(key) for key in NAMING]) if isinstance(workload, Mapping) else ""
        with remembered(self.models.setdefault(model, {})) as used:
            scenario = Scenario.from_plain(data, source, known=self.profiles)
        name = scenario.hardware
        if name not in self.profiles:
            self.profiles[name] = load_profile(name)
            self.digests[name] = profile_digest(self.profiles[name])
        if self.check_gpu_count:
            scenario.check(self.profiles[name], source)
        job = Job(scenario, self.profiles[name], used, code_digest())
        return Identity("", self.digests[name], models_digest(used), code_digest()), job


def _set(data: dict[str, Any], path: str, value: object, source: str) -> None:
    at: Any = data
    if faults := list(unreadable(value, path)) + list(unreadable(path, path)):
        raise InputError.of(source, faults)
    *parents, last = re.split(r"\.|(?=\[)", path)
    for key in parents:
        at = _step(at, key, path, source)
    if last.startswith("[") and isinstance(at, list):
        _step(at, last, path, source)
        at[int(last[1:-1])] = copy.deepcopy(value)
    elif isinstance(at, dict):
        at[last] = copy.deepcopy(value)  # what another axis changes in it is of this point alone
    else:
        raise InputError(source, path, f"leads into something that has no keys{_hint(at, last, path)}")


def _step(at: Any, key: str, path: str, source: str) -> Any:
    try:
        return at[int(key[1:-1])] if key.startswith("[") and isinstance(at, list) else at[key]
    except (KeyError, IndexError, TypeError, ValueError):
        hint = _hint(at, key, path)
        raise InputError(source, path, f"there is no {key!r} in the scenario{hint}") from None


def _hint(at: Any, key: str, path: str) -> str:
    """How an entry of a list is named, where `key` is the number of one."""
    if not (isinstance(at, list) and key.isdecimal()):
        return ""
    return f": an entry of a list is written {re.sub(rf'[.]{key}(?=[.]|$)', f'[{key}]', path, count=1)}"


def _inapplicable(data: dict[str, Any], source: str) -> list[str]:
    """Drop the keys that the point's kind of policy does not have, but others do; returns their paths.

    Raises:
        InputError: no policy has such a key.
    """
    policy = data.get("policy")
    if not isinstance(policy, dict) or (known := fields_of(policy.get("kind"))) is None:
        return []  # wrong, and said so where the point is read
    every = all_fields()
    for key in policy:
        if key not in every:
            close = difflib.get_close_matches(str(key), every, 1, 0.6)
            hint = f"did you mean {close[0]!r}? " if close else ""
            expected = f"unknown key, which no policy has; {hint}expected one of {', '.join(sorted(every))}"
            raise InputError(source, f"policy.{key}", expected)
    dropped = [key for key in policy if key not in known]
    data["policy"] = {k: v for k, v in policy.items() if k in known}
    return [f"policy.{key}" for key in dropped]
