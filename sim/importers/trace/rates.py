"""The nearest shipped profile to a trace, and its rates as the trace has them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from statistics import median
from typing import Any, NamedTuple

from sim.analysis.fit_collective import with_byte_times
from sim.analysis.roots import Point, bracket, solve
from sim.hardware import Profile, is_session, load_profile, profile_file, shipped, to_plain
from sim.hardware.collectives import isolated_time
from sim.hardware.inheritance import merged
from sim.hardware.profile_files import read_profile
from sim.importers.trace.notes import Notes
from sim.importers.trace.reference import Met, Reference
from sim.inputs import units
from sim.inputs.config import InputError, convert
from sim.inputs.units import show_seconds
from sim.program import CollectiveKind

LARGE = 2**20
"""Bytes of a copy from which its rate counts."""
_CHANGED = 0.01
"""Relative difference from which a profile's number is replaced."""


_SAME_RATE = 0.25
"""Logarithm of a factor that does not set two hosts apart."""
_MAKERS = {"nvidia": ("nvidia", "tesla", "geforce"), "amd": ("amd", "instinct"), "intel": ("intel",)}


class CallCosts(NamedTuple):
    """What calls of the host take, s: medians of the trace; None where it has none."""

    kernel: float | None
    copy: float | None
    wake: float | None


class Rates(NamedTuple):
    """Rates of the trace's copies, B/s; None where it has no large ones."""

    h2d: float | None
    d2h: float | None
    pageable_h2d: float | None
    pageable_d2h: float | None


def rates_of(found: Reference) -> Rates:
    """Rates of large copies: of pinned memory the median beside no collective, or else the 90th percentile.

    Those of pageable memory count from when the stream gets to them until the call returns.
    """
    rows: defaultdict[tuple[str, bool], list[float]] = defaultdict(list)
    free: defaultdict[tuple[str, bool], list[float]] = defaultdict(list)
    exchanges = [(op.start, op.end) for op in found.operations if op.exchange]
    for op in found.operations:
        if op.transfer is None or op.transfer.bytes < LARGE or op.seconds <= 0:
            continue
        pageable = op.transfer.memory == "pageable"
        took = op.seconds
        if pageable and op.call is not None:
            took = max(op.call.end, op.end) - max(op.call.start, min(op.start, op.call.end))
            took = took if op.transfer.kind == "d2h" else max(op.call.end - op.call.start, op.seconds)
        if took > 0:
            rows[op.transfer.kind, pageable].append(op.transfer.bytes / took)
            if all(end <= op.start or op.end <= start for start, end in exchanges):
                free[op.transfer.kind, pageable].append(op.transfer.bytes / took)
    high = {key: _percentile(values, 0.9) for key, values in rows.items()}
    high |= {key: median(values) for key, values in free.items() if len(values) >= 3 and not key[1]}
    middle = {key: median(values) for key, values in rows.items()}
    return Rates(high.get(("h2d", False)), high.get(("d2h", False)), middle.get(("h2d", True)), high.get(("d2h", True)))


def call_costs(found: Reference) -> CallCosts:
    """Medians of calls that launch kernels and pinned copies, and of what passes until a blocked thread goes on."""
    kernels = [op.call.end - op.call.start for op in found.operations if op.call and not op.transfer]
    copies = [
        op.call.end - op.call.start
        for op in found.operations
        if op.call and op.transfer and op.transfer.memory != "pageable"
    ]
    ends = sorted(op.end for op in found.operations)
    wakes = []
    for call in found.trace.calls:
        if "Synchronize" in call.name and call.end - call.start > 1e-4:
            late = [call.end - end for end in ends if 0 <= call.end - end < 1e-4]
            if late:
                wakes.append(min(late))
    return CallCosts(*(median(values) if values else None for values in (kernels, copies, wakes)))


def nearest(found: Reference) -> tuple[str, Profile]:
    """The shipped profile, none of a session, that is most like the trace's host.

    The same GPU counts most, then how far times of collectives and rates of copies are off, then the number of GPUs.

    Raises:
        InputError: none has as many GPUs.
    """
    world = found.world_size
    copied, alone = rates_of(found).h2d, [met for met in found.met.values() if met.alone and met.known]
    best: tuple[tuple[float, ...], str, Profile] | None = None
    largest = 0
    for name, profile in _hosts():
        largest = max(largest, profile.gpus)
        if profile.gpus < world:
            continue
        off = [math.log(copied / profile.h2d.cap.value)] if copied else []
        off += _off(profile, alone, world)
        score = (
            _unlike(profile.device.name, found.trace.device.name),
            int(sum(map(abs, off)) / _SAME_RATE),
            abs(profile.gpus - max(world, found.trace.gpus)),
            bool(profile.kept),  # what was measured before what is derived
            sum(map(abs, off)),
        )
        if best is None or score < best[0]:
            best = score, name, profile
    if best is None:
        problem = f"is {world}, but no shipped profile has more than {largest} GPUs: give one that has with --hardware"
        raise InputError(found.trace.source, "distributedInfo.world_size", problem)
    return best[1], best[2]


@cache
def _hosts() -> tuple[tuple[str, Profile], ...]:
    """Shipped profiles of hosts that users mean, by name."""
    return tuple((name, load_profile(name)) for name in shipped() if not is_session(name))


def _unlike(name: str, other: str) -> int:
    """0 for the same GPU by its name, 1 for one of the same maker, 2 for others."""
    if _words(name) == _words(other):
        return 0
    makers = [next((m for m in _MAKERS if any(w in n.lower() for w in _MAKERS[m])), "") for n in (name, other)]
    return 1 if makers[0] == makers[1] else 2


def _words(name: str) -> list[str]:
    return [word for word in name.lower().replace("-", " ").split() if word not in ("nvidia", "amd", "tesla")]


def _off(profile: Profile, alone: Iterable[Met], world: int) -> list[float]:
    """How far the median time of each kind and size is off, as a logarithm; the mean over them."""
    times: defaultdict[tuple[CollectiveKind, int, int], list[float]] = defaultdict(list)
    for met in alone:
        times[met.kind, met.bytes, len(met.group) if met.group else world].append(met.seconds)
    logs = []
    for (kind, size, ranks), seconds in times.items():
        try:
            expected = isolated_time(profile, kind, size, range(ranks))
        except InputError:
            continue
        logs.append(math.log(max(median(seconds), 1e-9) / expected) * sum(seconds))
    total = sum(sum(s) for s in times.values())
    return [sum(logs) / total] if logs and total else []


def fitted(
    found: Reference, like: str, profile: Profile, own: str, notes: Notes, per_launch: float | None
) -> dict[str, Any]:
    """What a profile like `like` gives of its own: the rates and costs of the trace, as plain data.

    `own` is its name, `per_launch` what a launch costs, s; the call alone unless given.
    """
    changes: dict[str, Any] = {}
    source = f"from {_file(found)}"
    rates, costs = rates_of(found), call_costs(found)
    profile = _collectives(found, profile, changes, source, notes)
    for key, rate in (("h2d", rates.h2d), ("d2h", rates.d2h)):
        cls = profile.h2d if key == "h2d" else profile.d2h
        if rate is not None and abs(rate / cls.cap.value - 1) > _CHANGED:
            changes[key] = {"cap": _number(rate, "B/s", f"{source}: copies of 1 MiB and more")}
    if rates.h2d is not None and rates.h2d > profile.h2d.cap.value * (1 + _CHANGED):
        changes["topology"] = _faster_links(profile, rates.h2d / profile.h2d.cap.value, source)
        notes.assume(
            f"all links of {like} are {rates.h2d / profile.h2d.cap.value:.3g} times as fast, as its copies are"
        )
    staged: dict[str, Any] = {}
    for key, rate in (("h2d", rates.pageable_h2d), ("d2h", rates.pageable_d2h)):
        if rate is not None:
            staged[key] = {"rate": _number(rate, "B/s", f"{source}: pageable copies of 1 MiB and more")}
    if staged:
        changes["pageable"] = staged
    host = {"kernel": per_launch or costs.kernel, "copy": costs.copy, "wake": costs.wake}
    given = {
        key: _number(value, "s", f"{source}: median, with the profiler's own cost")
        for key, value in host.items()
        if value
    }
    if given:
        changes["host"] = given
    head: dict[str, Any] = {
        "name": own,
        "like": like,
        "description": f"{like} with rates of {_file(found)}",
    }
    if found.trace.device.name and _words(profile.device.name) != _words(found.trace.device.name):
        memory = found.trace.device.memory or int(profile.device.memory.value)
        head["device"] = {"name": found.trace.device.name, "memory": _number(memory, "B", source)}
        notes.assume(
            f"no shipped profile of as many GPUs is of {found.trace.device.name}: {like} is the nearest; "
            "times of kernels are the trace's, contention and latencies are that profile's"
        )
    return {**head, **changes}


def changed_profile(like: str, changes: dict[str, Any]) -> Profile:
    """The shipped profile `like` with what a file beside a scenario changes."""
    own = {key: value for key, value in changes.items() if key != "like"}
    return convert(merged(read_profile(profile_file(like)), like, own), Profile, str(changes["name"]))


def _collectives(found: Reference, profile: Profile, changes: dict[str, Any], source: str, notes: Notes) -> Profile:
    """`profile` on which all uncontended collectives of a kind take as long together as in the trace."""
    kinds: defaultdict[CollectiveKind, list[Met]] = defaultdict(list)
    for met in found.met.values():
        if met.known:
            kinds[met.kind].append(met)
    for kind, all_of in kinds.items():
        alone = [met for met in all_of if met.alone]
        if not alone:
            notes.assume(f"every {kind} of the trace shares the link with copies: isolated times are the profile's")
            continue
        like = profile.like(kind)
        # of the class that several kinds share, the one that takes most time decides
        if any(profile.like(k) == like and _total(m) > _total(alone) for k, m in kinds.items() if k != kind):
            continue
        if found.offloaded:  # a peer's copies slow some, and peers are late: neither is part of an isolated time
            alone = _typical(alone)
        wanted = _total(alone)

        def take(
            factor: float, base: Profile = profile, like: CollectiveKind = like, alone: list[Met] = alone
        ) -> float:
            scaled = with_byte_times(base, factor, "", (like,))
            return _predicted(scaled, alone, found.world_size)

        low, one = Point(1e-6, take(1e-6)), Point(1.0, take(1.0))
        factor = None
        if wanted > low.value * (1 + 1e-6):
            factor = solve(take, wanted, *bracket(take, wanted, low, one, 1e9))
        if factor is None:
            notes.assume(
                f"{len(alone)} {kind} take {show_seconds(wanted)} in all, less than their latencies and links on "
                f"{profile.name}, {show_seconds(low.value)}: isolated times are the profile's"
            )
            continue
        said = f"{source}: {len(alone)} {kind} that no copy slowed"
        profile = with_byte_times(profile, factor, said, (like,))
        plain: Any = units_plain(getattr(profile.collectives, like))
        given = {key: plain[key] for key in ("alone", "alone_by_ranks") if plain.get(key)}
        changes.setdefault("collectives", {})[like] = _bare(given)
        notes.find(f"{kind} take {factor:.3g} times as long a byte as on {profile.name}")
    return profile


def _predicted(profile: Profile, of: Iterable[Met], world: int) -> float:
    counted: defaultdict[tuple[CollectiveKind, int, int], int] = defaultdict(int)
    for met in of:
        counted[met.kind, met.bytes, len(met.group) if met.group else world] += 1
    return sum(n * isolated_time(profile, kind, size, range(ranks)) for (kind, size, ranks), n in counted.items())


def _typical(of: list[Met]) -> list[Met]:
    """Each with the median time of those of its bytes and group."""
    times: defaultdict[tuple[int, object], list[float]] = defaultdict(list)
    for met in of:
        times[met.bytes, met.group].append(met.seconds)
    return [met._replace(seconds=median(times[met.bytes, met.group])) for met in of]


def _total(of: Iterable[Met]) -> float:
    return sum(met.seconds for met in of)


def units_plain(config: object) -> Any:
    """A part of a profile as plain data."""
    import msgspec

    return msgspec.to_builtins(config, enc_hook=units.plain)


def _bare(data: Any) -> Any:
    """Plain data without marks of inheritance, which loading sets again."""
    if isinstance(data, dict):
        return {k: _bare(v) for k, v in data.items() if k not in ("inherited_from", "another_topology")}
    return [_bare(item) for item in data] if isinstance(data, list | tuple) else data


def _faster_links(profile: Profile, factor: float, source: str) -> Any:
    """The topology with all capacities times `factor`."""
    plain = _bare(to_plain(profile)["topology"])

    def scale(data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("value"), int | float) and "source" in data:
            return {**data, "value": data["value"] * factor, "source": f"{data['source']}, x {factor:.4g} {source}"}
        if isinstance(data, dict):
            return {k: scale(v) for k, v in data.items() if v not in (None, [], {})}
        return [scale(item) for item in data] if isinstance(data, list) else data

    return scale(plain)


def _number(value: float, unit: str, source: str) -> dict[str, object]:
    return {"value": int(value) if unit == "B" else float(f"{value:.6g}"), "source": source}


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _file(found: Reference) -> str:
    return found.trace.source.rsplit("/", 1)[-1]
