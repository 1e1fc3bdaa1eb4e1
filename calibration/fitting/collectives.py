"""Collectives: isolated times, latencies, and their contention with copies, if they share a link at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

from calibration.fitting.copies import MIN_LINE_SIZE
from calibration.fitting.estimators import Fitted, affine, latency, median_and_spread, share
from calibration.fitting.selection import Rows
from calibration.probes.plan import LONG
from sim.datasets.probe_rows import Row
from sim.hardware import Collectives
from sim.hardware.collectives import sent_per_rank

RATE_SIZE = 16 * 2**20
"""Collectives above this size (B) show their rate: the latency is a small part of their time."""

MIN_CONTENTION = 0.05
"""Collectives and copies that slow each other by less than this share are taken to use different resources."""

KINDS: tuple[str, ...] = Collectives.__struct_fields__
"""Kinds of collective that a profile holds."""

OPTIONAL = ("reduce_scatter", "send_recv")
"""Kinds that a profile may leave out: another kind's values are used then."""


class Kind(NamedTuple):
    """A kind of collective: numbers by key, its isolated times by bytes sent, and where those come from."""

    numbers: dict[str, Fitted]
    bytes: list[int]
    seconds: list[float]
    source: str
    by_ranks: Mapping[int, tuple[list[int], list[float]]]
    """Number of ranks -> (bytes, s), for more ranks than the fewest that were measured."""


class CollectivePath(NamedTuple):
    """What collectives cross: NVLink of capacity `nvlink` (B/s), or host memory by the links of copies if that is None.

    `why` is the evidence, in words.
    """

    nvlink: float | None
    why: str


def sent(row: Row) -> int:
    """Bytes that each rank sends in the collective of `row`."""
    return round(sent_per_rank(row.params["collective"], int(row.params["bytes"]), int(row.params["ranks"])))


def contended_rows(rows: Rows, kind: str) -> list[Row]:
    """Rows of `kind` with H2D copies in flight."""
    return rows.find("beside", collective=kind, direction="h2d")


def _rows_of_rates(found: list[Row]) -> list[Row]:
    """Rows that show rates: long chunks and large collectives; the largest ones if none is so large."""
    if not found:
        return []
    chunk = min(max(int(r.params["chunk"]) for r in found), LONG)
    size = min(max(int(r.params["bytes"]) for r in found), RATE_SIZE + 1)
    return [r for r in found if r.params["chunk"] >= chunk and r.params["bytes"] >= size]


def _uncontended_copy_rate(row: Row, copies: dict[str, Fitted], event: float) -> float:
    """Rate of the copies of a `beside` row without collectives, each with its share of an event, B/s."""
    chunk = int(row.params["chunk"])
    per_copy = copies["h2d.setup"].value + event / int(row.params["events_every"])
    return chunk / (chunk / copies["h2d.cap"].value + per_copy)


def collective_path(rows: Rows, copies: dict[str, Fitted], event: float) -> CollectivePath:
    """NVLink if collectives and copies do not slow each other, host memory otherwise."""
    slower, lost, number = [], [], 0
    for kind in KINDS:
        found = _rows_of_rates(contended_rows(rows, kind))
        number += len(found)
        if found:
            slower.append(median(rows.value(r, "seconds") / rows.value(r, "alone_seconds") - 1 for r in found))
            lost.append(median(1 - rows.value(r, "rate") / _uncontended_copy_rate(r, copies, event) for r in found))
    if number:
        effect = f"collectives take {100 * max(slower):+.1f} %, copies move {-100 * max(lost):+.1f} %, at worst"
        quiet = max(slower) < MIN_CONTENTION and max(lost) < MIN_CONTENTION
        return CollectivePath(_fastest(rows) if quiet else None, f"{effect} ({number} rows beside copies)")
    fastest = _fastest(rows)
    if fastest > 1.2 * copies["h2d.cap"].value:
        return CollectivePath(fastest, "not measured beside copies; faster than the link of copies")
    return CollectivePath(None, "not measured beside copies; not faster than the link of copies")


def _fastest(rows: Rows) -> float:
    """Largest rate at which a rank sends, B/s, without latency, over all kinds and sizes."""
    best = 0.0
    for kind in KINDS:
        found = _isolated_rows(rows, kind)
        if found:
            sizes, seconds = _curve(rows, found, kind)
            late = latency(sizes, seconds)
            best = max(best, *(s / (t - late) for s, t in zip(sizes, seconds, strict=True) if t > late))
            best = max(best, (sizes[-1] - sizes[-2]) / (seconds[-1] - seconds[-2]))
    return best * 1.001


def _isolated_rows(rows: Rows, kind: str) -> list[Row]:
    """Rows of isolated collectives, of the fewest ranks."""
    found = rows.find("collective", collective=kind)
    fewest = min((int(r.params["ranks"]) for r in found), default=0)
    return [r for r in found if r.params["ranks"] == fewest]


def _curves_by_ranks(rows: Rows, kind: str, fewest: int) -> dict[int, tuple[list[int], list[float]]]:
    """Number of ranks -> (bytes sent by a rank, isolated s), for more ranks than `fewest`."""
    found = rows.find("collective", collective=kind)
    counts = sorted({int(r.params["ranks"]) for r in found} - {fewest})
    return {n: _curve(rows, [r for r in found if r.params["ranks"] == n], kind) for n in counts}


def peak_host_traffic(rows: Rows, gpus: int) -> float:
    """Largest rate at which isolated collectives of all `gpus` write host memory, B/s; they read as fast."""
    found = [r for kind in KINDS for r in rows.find("collective", collective=kind) if r.params["ranks"] == gpus]
    return max((gpus * sent(r) / rows.value(r, "seconds") for r in found), default=0.0)


def _curve(rows: Rows, found: list[Row], kind: str) -> tuple[list[int], list[float]]:
    """(bytes sent by a rank, s) of `found`."""
    _, seconds = rows.curve(found, "seconds", 2, f"collective/{kind}")
    return sorted(sent(r) for r in found), seconds


def fit_collective(rows: Rows, kind: str, copies: dict[str, Fitted], event: float, nvlink: bool) -> Kind | None:
    """The class of `kind`; None if it was not measured."""
    found = _isolated_rows(rows, kind)
    if not found:
        return None
    sizes, seconds = _curve(rows, found, kind)
    ranks = int(found[0].params["ranks"])
    named = f"collective/{kind}/{ranks}"
    late = min(max(latency(sizes, seconds), 0.0), 0.95 * seconds[0])
    numbers = {
        "latency": Fitted(late, rows.spread(found, "seconds"), f"{named}: before the first byte"),
        "latency_per_rank": _per_rank(rows, kind, sizes, seconds, ranks),
    }
    numbers |= _contention(rows, kind, copies, event, nvlink, late)
    if kind == "all_to_all":
        numbers |= _one_way(rows)
    curves = _curves_by_ranks(rows, kind, ranks)
    shortest = min((times[0] - late) / (n - ranks) for n, (_, times) in curves.items()) if curves else math.inf
    per_rank = numbers["latency_per_rank"]
    numbers["latency_per_rank"] = per_rank._replace(value=min(per_rank.value, max(0.95 * shortest, 0.0)))
    return Kind(numbers, sizes, seconds, f"{named}, by bytes that a rank sends", curves)


def _one_way(rows: Rows) -> dict[str, Fitted]:
    """How much faster a send is with none in reverse; sends have the values of an all_to_all of two ranks."""
    slopes, where = [], []
    for both in (True, False):
        found = sorted(rows.find("transfer", both=both), key=lambda r: int(r.params["bytes"]))
        if len(found) < 2:
            return {}
        slopes.append(rows.value(found[-1], "seconds") - rows.value(found[0], "seconds"))
        where.append(f"{found[0].case} to {found[-1].case}")
    factor = slopes[0] / slopes[1] if slopes[1] > 0 else 1.0
    return {"one_way": Fitted(max(factor, 1.0), None, f"{' over '.join(where)}: seconds a byte")}


def _per_rank(rows: Rows, kind: str, sizes: list[int], seconds: list[float], fewest: int) -> Fitted:
    """`latency_per_rank`, from small collectives of more than `fewest` ranks."""
    from numpy import interp

    more = [r for r in rows.find("collective", collective=kind) if r.params["ranks"] > fewest]
    small = [r for r in more if r.params["bytes"] <= 4 * MIN_LINE_SIZE]
    if not small:
        return Fitted(0.0, None, f"not measured: all rows have {fewest} ranks")
    values = [
        (rows.value(r, "seconds") - float(interp(sent(r), sizes, seconds))) / (int(r.params["ranks"]) - fewest)
        for r in small
    ]
    value, spread = median_and_spread(values)
    return Fitted(max(value, 0.0), spread, f"collective/{kind}, small ones of more than {fewest} ranks")


def _contention(
    rows: Rows, kind: str, copies: dict[str, Fitted], event: float, nvlink: bool, late: float
) -> dict[str, Fitted]:
    found = contended_rows(rows, kind)
    cap = copies["h2d.cap"].value
    long = _rows_of_rates(found)
    if not long:
        source = "not measured beside copies: as a copy"
        return {k: Fitted(v, None, source) for k, v in (("weight", 1.0), ("overhead", 1.0), ("copy_start", 0.0))}
    where = f"beside/{kind}, {len(long)} rows of large collectives and long chunks"
    size = min(int(r.params["bytes"]) for r in long)
    chunked = [r for r in found if int(r.params["bytes"]) >= size]
    chunks = [int(r.params["chunk"]) for r in chunked]
    # short chunks show the fixed time of a copy, long ones its rate
    times = [
        int(r.params["chunk"]) / rows.value(r, "rate") - event / int(r.params["events_every"]) for r in chunked
    ]  # fmt: skip
    if len(set(chunks)) > 1:
        taken, rate = affine(chunks, times)
        start = Fitted(
            max(taken - copies["h2d.setup"].value, 0.0),
            None,
            f"beside/{kind}, {len(chunked)} rows: time + chunk / rate",
        )
    else:
        rate = median(rows.value(r, "rate") for r in long)
        start = Fitted(0.0, None, "not measured: chunks of one size")
    if nvlink:
        quiet = Fitted(1.0, None, f"{where}: no contention")
        return {"weight": quiet, "overhead": quiet, "copy_start": start}
    rates = [sent(r) / (rows.value(r, "seconds") - late) for r in long]
    weight, overhead = share(rates, [min(rate, cap * 0.999)] * len(rates), cap)
    return {"weight": Fitted(*weight, where), "overhead": Fitted(*overhead, where), "copy_start": start}
