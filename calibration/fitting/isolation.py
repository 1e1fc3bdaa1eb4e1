"""What collectives take of the host while nothing is copied, where that is less than with copies in flight."""

from __future__ import annotations

from calibration.fitting.estimators import Fitted
from sim.hardware import Profile
from sim.hardware.collectives import flows
from sim.hardware.profile_check import Check, contradictions
from sim.program import CollectiveKind

COPIED = 1.0
"""What a copied byte takes: the least that is assumed unless tables need less."""


def isolated_overheads(profile: Profile) -> dict[CollectiveKind, Fitted]:
    """By kind, for those whose measured isolated times contradict the overhead with copies in flight.

    Both were measured: the times with nothing else in flight, the overhead beside copies. So a byte takes less while
    nothing is copied: what a copied byte takes, or, where the isolated times need that, still less.
    """
    found: dict[CollectiveKind, list[Check]] = {}
    for check in contradictions(profile):
        if check.isolated_s > check.table_s:
            found.setdefault(check.kind, []).append(check)
    return {kind: _isolated(profile, kind, checks) for kind, checks in found.items()}


def _isolated(profile: Profile, kind: CollectiveKind, checks: list[Check]) -> Fitted:
    room = min(_room(profile, check) for check in checks)
    overhead = profile.collective_class(kind).overhead.value
    said = f"times alone allow {room:.3g}: {len(checks)} rows are faster than an overhead of {overhead:.4g} lets them"
    value = float(min(COPIED, room * (1 - 1e-3), overhead))
    return Fitted(value, None, f"taken as a copied byte; {said}" if value == COPIED else said)


def _room(profile: Profile, check: Check) -> float:
    """The largest overhead with which the row of `check` is no slower than measured."""
    load = [0.0] * len(profile.capacities)
    for phase in flows(profile, check.kind, check.buffer, range(check.ranks)):
        for spec, part in phase.flows:
            for resource, taken in profile.peer_route(part.edges, 1.0):
                load[resource] += taken * spec.cap
    return min(c / used for c, used in zip(profile.capacities, load, strict=True) if used)
