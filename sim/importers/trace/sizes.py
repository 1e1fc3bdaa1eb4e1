"""Bytes of collectives of which a trace does not tell any: as many as take their time on its profile."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from sim.hardware import Profile
from sim.hardware.collectives import isolated_time
from sim.importers.trace.notes import Notes
from sim.importers.trace.reference import Reference
from sim.program import CollectiveKind

_MOST = 2**36
"""Bytes that a collective may be taken to have."""


def with_sizes(found: Reference, profile: Profile, notes: Notes) -> Reference:
    """The reference whose collectives of unknown bytes have those that take their median time on `profile`."""
    times: defaultdict[tuple[CollectiveKind, tuple[int, ...] | None, str], list[float]] = defaultdict(list)
    unknown = {number: met for number, met in found.met.items() if not met.known}
    for number, met in unknown.items():
        times[met.kind, met.group, found.operations[number].name].append(met.seconds)
    if not unknown:
        return found
    notes.assume(
        f"{len(unknown)} collectives of unknown bytes have as many as take their time on the profile; "
        "torch 2.3 and later record bytes"
    )
    sizes = {}
    for (kind, group, name), seconds in times.items():
        sizes[kind, group, name] = _size(profile, kind, len(group) if group else found.world_size, median(seconds))
    sized = {
        number: one if one.known else one._replace(bytes=sizes[one.kind, one.group, found.operations[number].name])
        for number, one in found.met.items()
    }
    return found._replace(met=sized)


def _size(profile: Profile, kind: CollectiveKind, ranks: int, seconds: float) -> int:
    """The largest size, of those a factor of 1 % apart, that takes no longer; at least 2 bytes a rank."""
    low, high = 2 * ranks, _MOST
    while high > low * 1.01:
        middle = int((low * high) ** 0.5)
        if isolated_time(profile, kind, middle, range(ranks)) <= seconds:
            low = max(middle, low + 1)
        else:
            high = middle
    return low // 2 * 2
