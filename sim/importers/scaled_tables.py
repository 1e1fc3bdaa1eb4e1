"""Tables of isolated times that are another host's: scaled with the link, by a measurement, slowed by resources."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sim.hardware import Profile
from sim.hardware.collectives import isolated_time, sent_per_rank
from sim.hardware.profile_check import TOLERANCE, Check, check_profile
from sim.program import CollectiveKind

Plain = dict[str, Any]

SCALED = "rates scaled with the link"
"""Marks such tables in their source."""
_SLOWED = ", and no faster than as the resources move"
_MEASURED = "by "
"""Begins the source of a table that was scaled by a measurement."""

SIZES = (1_000_000, 1_000_000_000)
"""Bytes of scaled tables: two rows, as a line is all that scaling knows."""


def tables(plain: Plain) -> Iterator[tuple[CollectiveKind, int, Plain]]:
    """(kind, ranks, table) of all tables of plain data; `alone` is of 2 ranks."""
    for kind, given in plain.get("collectives", {}).items():
        if given.get("alone"):
            yield kind, 2, given["alone"]
        for ranks, table in (given.get("alone_by_ranks") or {}).items():
            yield kind, int(ranks), table


def is_scaled(table: Plain) -> bool:
    """Whether a table is another host's."""
    return SCALED in table.get("source", "")


def table_of(plain: Plain, check: Check) -> Plain:
    """The table of plain data that a check's row is in; empty where the profile inherits it."""
    return next((t for kind, ranks, t in tables(plain) if (kind, ranks) == (check.kind, check.ranks)), {})


def scaled_tables(base: Profile, ratio: float, gpus: int) -> Plain:
    """Tables of `base` for up to `gpus` ranks, their rates times `ratio`, as `collectives` of a profile."""
    plain: Plain = {}
    for kind in ("all_to_all", "all_reduce", "all_gather", "reduce_scatter", "send_recv"):
        cls = getattr(base.collectives, kind)
        if cls is None:
            continue

        def table(ranks: int, cls: Any = cls) -> Plain:
            late = float(cls.latency_of(ranks))
            seconds = [float(f"{late + size / (cls.demand_cap(ranks, size) * ratio):.6g}") for size in SIZES]
            return {"bytes": list(SIZES), "seconds": seconds, "source": f"{base.name}, {SCALED}"}

        plain[kind] = {"alone": table(2)}
        if cls.alone_by_ranks:
            plain[kind]["alone_by_ranks"] = {ranks: table(ranks) for ranks in cls.alone_by_ranks if ranks <= gpus}
    return plain


def scale(table: Plain, latency: float, factor: float, source: str = "") -> None:
    """Multiply what bytes take in a table by `factor`; `source`, if given, is said before its own."""
    table["seconds"] = [float(f"{latency + factor * (float(t) - latency):.6g}") for t in table["seconds"]]
    if source:
        table["source"] = f"{_MEASURED}{factor:.3g}, {source}: {table['source']}"


def rescale(plain: Plain, before: Profile, ratio: float) -> None:
    """Scale tables with a link that moves `ratio` times what it was taken to; not those that a measurement scaled."""
    for kind, ranks, table in tables(plain):
        if is_scaled(table) and not table["source"].startswith(_MEASURED):
            scale(table, before.collective_class(kind).latency_of(ranks), 1 / ratio)


def fit_tables(plain: Plain, profile_of: Callable[[Plain, str], Profile], source: str) -> None:
    """Slow tables down to what the resources move: a switch's uplink may be what limits two GPUs."""
    profile = profile_of(plain, source)
    for check in check_profile(profile):
        table = table_of(plain, check)
        if not check.contradicts or not is_scaled(table):
            continue
        share = sent_per_rank(check.kind, 1, check.ranks)
        times = [isolated_time(profile, check.kind, round(size / share), check.gpus) for size in table["bytes"]]
        table["seconds"] = [float(f"{t * (1 + TOLERANCE / 4):.6g}") for t in times]
        if _SLOWED not in table["source"]:
            table["source"] += _SLOWED
