"""The rate at which GPUs exchange data, fitted to one measured collective.

Profiles of hosts that nobody has measured scale isolated times of collectives from another host. How fast a transport
through host memory is depends on the processor as much as on the link, so one measured collective says more: one factor
on what bytes take, in the tables of all kinds, with which that collective takes as long on an idle host as measured.
Latencies, weights and overheads stay, as do the host's links, which may be what limits a collective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import msgspec

from sim.analysis.roots import TOLERANCE, Point, bracket, solve
from sim.hardware import CollectiveClass, IsolatedTimes, Profile
from sim.hardware.collectives import isolated_time
from sim.inputs.config import InputError
from sim.inputs.units import Seconds, show_bytes, show_seconds
from sim.program import CollectiveKind

_MIN_FACTOR, _MAX_FACTOR = 1e-6, 1e9


class Measured(NamedTuple):
    """A collective of `size` bytes on each rank that took `seconds` on an idle host, all ranks arriving together."""

    kind: CollectiveKind
    size: int
    seconds: float


def fit_collective(
    profile: Profile, measured: Measured, gpus: Sequence[int], source: str = "--fit-collective"
) -> tuple[Profile, float]:
    """`profile` on which `measured` takes its time on ranks that sit on `gpus`, and the factor on what bytes take.

    Raises:
        InputError: of `source`: there is one rank, or latency and links alone take longer.
    """
    kind, size, seconds = measured
    if len(gpus) < 2:
        raise InputError(source, "", "a collective needs at least 2 ranks: give a scenario of several, or their number")
    said = f"{source} {kind}:{show_bytes(size)}:{show_seconds(seconds)} on {len(gpus)} ranks"

    def isolated(factor: float) -> float:
        return isolated_time(with_byte_times(profile, factor, said), kind, size, gpus)

    low = Point(_MIN_FACTOR, isolated(_MIN_FACTOR))
    if seconds <= low.value * (1 + TOLERANCE):
        problem = f"is {show_seconds(seconds)}, but {kind} of {show_bytes(size)} takes {show_seconds(low.value)} "
        raise InputError(source, "", problem + f"on {len(gpus)} ranks of {profile.name} by its latency and links alone")
    found = solve(isolated, seconds, *bracket(isolated, seconds, low, Point(1.0, isolated(1.0)), _MAX_FACTOR))
    if found is None:
        raise InputError(source, "", f"is {show_seconds(seconds)}: no rate gives exactly that")
    return with_byte_times(profile, found, said), found


def with_byte_times(
    profile: Profile, factor: float, source: str, kinds: Sequence[CollectiveKind] = get_args(CollectiveKind)
) -> Profile:
    """`profile` whose tables of isolated times have all that is beyond the latency times `factor`, said by `source`.

    Those of all kinds, or only of some of `kinds`.
    """
    replace = msgspec.structs.replace
    classes = {}
    for kind in kinds:
        cls: CollectiveClass | None = getattr(profile.collectives, kind)
        if cls is not None:
            by_ranks = {n: _slower(t, cls.latency_of(n), factor, source) for n, t in cls.alone_by_ranks.items()}
            alone = _slower(cls.alone, cls.latency.value, factor, source)
            classes[kind] = replace(cls, alone=alone, alone_by_ranks=by_ranks)
    return replace(profile, collectives=replace(profile.collectives, **classes))


def _slower(table: IsolatedTimes, latency: float, factor: float, source: str) -> IsolatedTimes:
    seconds = tuple(Seconds(latency + factor * (s - latency)) for s in table.seconds)
    return msgspec.structs.replace(
        table, seconds=seconds, source=f"{source}; by bytes as before: {table.source}", another_topology=False
    )
