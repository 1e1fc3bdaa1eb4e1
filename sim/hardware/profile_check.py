"""Whether a profile contradicts itself: its measured times of collectives against its simulated ones.

A table of isolated times gives the demand caps of a collective's flows. They reach these only if every resource on
their route has room: a link that is too narrow, or an overhead that is too large, makes the simulated time longer than
the table. Then one of the two numbers is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

import msgspec

from sim.fluid import rates_together
from sim.hardware import IsolatedTimes, Profile
from sim.hardware import to_plain as plain_profile
from sim.hardware.collectives import flows, isolated_time, phases_of, sent_per_rank
from sim.inputs.config import InputError
from sim.program import CollectiveKind

LARGE = 2**20
"""Smallest buffer (bytes on each rank) that `TOLERANCE` is for."""
TOLERANCE = 0.02
"""Relative."""
SMALL_TOLERANCE = 0.10
"""Relative, of smaller buffers, or `SMALL_SECONDS` if that is more."""
SMALL_SECONDS = 5e-6


class Check(NamedTuple):
    """A row of a table and what is simulated for it, s; `buffer` is the bytes on each rank."""

    table: str
    """Its key path in the profile."""
    kind: CollectiveKind
    ranks: int
    buffer: int
    table_s: float
    isolated_s: float
    bottlenecks: tuple[str, ...]
    """Resources that are full while it runs; `holds` in JSON."""
    gpus: tuple[int, ...]
    """Where the ranks sit: on the first GPUs; of a table that another host's was scaled to, spread over the host where
    these share too narrow a link, as such a table is of no placement."""

    @property
    def error(self) -> float:
        """Simulated / table - 1."""
        return self.isolated_s / self.table_s - 1

    @property
    def allowed_s(self) -> float:
        """Largest allowed difference of the two, s."""
        if self.buffer >= LARGE:
            return TOLERANCE * self.table_s
        return max(SMALL_TOLERANCE * self.table_s, SMALL_SECONDS)

    @property
    def contradicts(self) -> bool:
        """Whether the row and the resources cannot both be right."""
        return abs(self.isolated_s - self.table_s) > self.allowed_s


_FOUND: dict[bytes, tuple[Check, ...]] = {}
"""By the content of the profile."""


def check_profile(profile: Profile) -> tuple[Check, ...]:
    """Every row of every table of `profile` for as many ranks as it has GPUs; found once for each content."""
    content = msgspec.json.encode(plain_profile(profile))
    if content not in _FOUND:
        _FOUND[content] = tuple(_checks(profile))
    return _FOUND[content]


def contradictions(profile: Profile) -> tuple[Check, ...]:
    """The rows of `check_profile` that contradict the profile's resources."""
    return tuple(check for check in check_profile(profile) if check.contradicts)


def to_plain(profile: Profile, checks: Sequence[Check]) -> dict[str, object]:
    """For JSON: every row, and what contradicts in words."""
    rows = []
    for check in checks:
        row = check._asdict()
        row["holds"] = row.pop("bottlenecks")
        row["gpus"] = list(row["gpus"])
        rows.append({**row, "error": check.error, "contradicts": check.contradicts})
    return {"profile": profile.name, "contradictions": summaries(checks), "rows": rows}


def summaries(checks: Sequence[Check]) -> list[str]:
    """A sentence for each table with a contradiction: its worst row, and which full resources slow the collective."""
    tables: dict[str, list[Check]] = {}
    for check in checks:
        if check.contradicts:
            tables.setdefault(check.table, []).append(check)
    sentences = []
    for table, rows in tables.items():
        worst = max(rows, key=lambda c: abs(c.error))
        bottleneck = f"; bottleneck: {', '.join(worst.bottlenecks)}" if worst.bottlenecks else ""
        sentences.append(
            f"{table}: {len(rows)} {'row contradicts' if len(rows) == 1 else 'rows contradict'} the resources; worst: "
            f"{worst.kind} of {worst.buffer} B on {worst.ranks} ranks, table: {worst.table_s * 1e6:,.0f} us, "
            f"from resources: {worst.isolated_s * 1e6:,.0f} us ({100 * worst.error:+.1f} %){bottleneck}"
        )
    return sentences


def _checks(profile: Profile) -> Iterator[Check]:
    for kind in get_args(CollectiveKind):
        cls = getattr(profile.collectives, kind)
        if cls is None:
            continue  # as another kind
        by_ranks: dict[int, tuple[str, IsolatedTimes]] = {2: (f"collectives.{kind}.alone", cls.alone)}
        by_ranks |= {n: (f"collectives.{kind}.alone_by_ranks[{n}]", t) for n, t in cls.alone_by_ranks.items()}
        for ranks, (path, table) in sorted(by_ranks.items()):
            if ranks <= profile.gpus and _is_whole(profile, kind, ranks):
                yield from _rows(profile, kind, ranks, path, table)


def _is_whole(profile: Profile, kind: CollectiveKind, ranks: int) -> bool:
    """Whether the table of `ranks` ranks times the whole collective, not one of several phases.

    Each phase takes its demand cap from the table of as many ranks as take part in it, for the bytes that it sends.
    """
    try:
        found = phases_of(profile, kind, 2**20, range(ranks))
    except InputError:  # hierarchical, on domains that the ranks do not fill evenly: cannot run
        return False
    return len(found) == 1 and found[0].ranks == ranks


def _rows(profile: Profile, kind: CollectiveKind, ranks: int, path: str, table: IsolatedTimes) -> Iterator[Check]:
    for sent, seconds in zip(table.bytes, table.seconds, strict=True):
        buffer = round(sent / sent_per_rank(kind, 1, ranks))
        gpus = tuple(range(ranks))
        isolated = isolated_time(profile, kind, buffer, gpus)
        check = Check(path, kind, ranks, buffer, float(seconds), isolated, (), gpus)
        if check.contradicts and table.scaled_from:
            spread = tuple(rank * profile.gpus // ranks for rank in range(ranks))
            apart = check._replace(isolated_s=isolated_time(profile, kind, buffer, spread), gpus=spread)
            check = min(check, apart, key=lambda c: c.isolated_s)
        yield check._replace(bottlenecks=_full(profile, kind, buffer, check.gpus)) if check.contradicts else check


def _full(profile: Profile, kind: CollectiveKind, size: int, gpus: Sequence[int]) -> tuple[str, ...]:
    """Resources that a collective of one phase fills as it begins."""
    specs = [spec for phase in flows(profile, kind, size, gpus) for spec, _ in phase.flows]
    load = [0.0] * len(profile.capacities)
    for spec, rate in zip(specs, rates_together(specs, profile.capacities), strict=True):
        for resource, multiplier in spec.route:
            load[resource] += multiplier * rate
    full = (used >= capacity * (1 - 1e-9) for used, capacity in zip(load, profile.capacities, strict=True))
    return tuple(name for name, is_full in zip(profile.resource_names, full, strict=True) if is_full)
