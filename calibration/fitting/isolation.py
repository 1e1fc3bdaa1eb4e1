"""Overhead of isolated collectives, where it is smaller than with copies in flight."""

from __future__ import annotations

from calibration.fitting.estimators import Fitted
from sim.hardware import Profile
from sim.hardware.collectives import flows
from sim.hardware.profile_check import Check, contradictions
from sim.program import CollectiveKind

COPIED_BYTE = 1.0
"""Overhead of a copied byte: the smallest that is assumed unless the tables need less."""


def isolated_overheads(profile: Profile) -> dict[CollectiveKind, Fitted]:
    """By kind, for those whose measured isolated times contradict the overhead with copies in flight.

    Both were measured: the times with nothing else in flight, the overhead during copies. So a byte takes less while
    nothing is copied: what a copied byte takes, or, where the isolated times need that, still less.
    """
    found: dict[CollectiveKind, list[Check]] = {}
    for check in contradictions(profile):
        if check.isolated_s > check.table_s:
            found.setdefault(check.kind, []).append(check)
    return {kind: _isolated(profile, kind, checks) for kind, checks in found.items()}


def _isolated(profile: Profile, kind: CollectiveKind, checks: list[Check]) -> Fitted:
    limit = min(_max_overhead(profile, check) for check in checks)
    overhead = profile.collective_class(kind).overhead.value
    faster = f"{len(checks)} rows are faster than an overhead of {overhead:.4g} lets them"
    source = f"times alone allow {limit:.3g}: {faster}"
    value = float(min(COPIED_BYTE, limit * (1 - 1e-3), overhead))
    return Fitted(value, None, f"taken as a copied byte; {source}" if value == COPIED_BYTE else source)


def _max_overhead(profile: Profile, check: Check) -> float:
    """The largest overhead with which the row of `check` is no slower than measured."""
    load = [0.0] * len(profile.capacities)
    for phase in flows(profile, check.kind, check.buffer, range(check.ranks)):
        for spec, part in phase.flows:
            for resource, taken in profile.peer_route(part.edges, 1.0):
                load[resource] += taken * spec.cap
    return min(c / used for c, used in zip(profile.capacities, load, strict=True) if used)
