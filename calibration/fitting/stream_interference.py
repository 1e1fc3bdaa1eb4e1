"""How collectives of one stream slow collectives and kernels of another, as in a sharded schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from calibration.fitting.collectives import KINDS, Kind
from calibration.fitting.estimators import Fitted, borrowed, median_and_spread
from calibration.fitting.selection import Rows
from calibration.probes.plan import BLOCK_KERNELS
from sim.datasets.probe_rows import Row
from sim.hardware import Profile, load_profile

LIKE_TWO, LIKE_MORE = "h200x2-hostpath-20261121i", "h200x4-hostpath-20261121j"
LIKE_NVLINK = "h200x2-nvlink-20261121i"
"""Shipped hosts where it was measured: of two GPUs and of more over host memory, and over NVLink."""

MIN_RATE = 0.01
"""Collectives keep at least this share of their isolated rate."""


class StreamInterference(NamedTuple):
    """`rate_factors`: kind -> kind of the concurrent collective -> rate relative to the isolated rate.

    The others are costs of kernels under a collective, by their keys in a profile.
    """

    rate_factors: Mapping[str, Mapping[str, Fitted]]
    beside_collective: Fitted
    crowd_delay: Fitted


def fit_stream_interference(rows: Rows, kinds: Mapping[str, Kind | None], nvlink: bool) -> StreamInterference:
    """From rows of concurrent collectives (`pair`) and of kernels under collectives (`crowd`).

    What was not measured has the value of a similar shipped host. Raises FitError.
    """
    like = load_profile(LIKE_NVLINK if nvlink else LIKE_MORE if rows.gpus > 2 else LIKE_TWO)
    fallback = borrowed(like.device.beside_collective, like.name), borrowed(like.streams.crowd_delay, like.name)
    found = _rate_factors(rows, kinds)
    factors = {kind: shipped | found.get(kind, {}) for kind, shipped in _rate_factors_of(like).items()}
    return StreamInterference(factors, *(_kernel_costs(rows) or fallback))


def _rate_factors(rows: Rows, kinds: Mapping[str, Kind | None]) -> dict[str, dict[str, Fitted]]:
    factors: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in rows.find("pair"):
        p = row.params
        for kind, other, of in ((p["collective"], p["other"], ""), (p["other"], p["collective"], "other_")):
            if (measured := kinds.get(kind)) is not None:
                late = measured.numbers["latency"].value
                isolated, concurrent = rows.value(row, f"{of}alone_seconds"), rows.value(row, f"{of}seconds")
                factors.setdefault((kind, other), []).append(((isolated - late) / (concurrent - late), row))
    found: dict[str, dict[str, Fitted]] = {}
    for (kind, other), values in factors.items():
        value, spread = median_and_spread([v for v, _ in values])
        where = f"{', '.join(row.case for _, row in values)}: rates beside {other} over alone"
        found.setdefault(kind, {})[other] = Fitted(min(max(value, MIN_RATE), 1.0), spread, where)
    return found


def _kernel_costs(rows: Rows) -> tuple[Fitted, Fitted] | None:
    """(`device.beside_collective`, `streams.crowd_delay`).

    A kernel under a collective takes its isolated time x beside_collective + crowd_delay: some of its blocks
    find no SM and run after the rest. Short and long kernels tell the two apart.
    """
    found = sorted((r for r in rows.find("crowd") if rows.has(r, "beside")), key=lambda r: rows.value(r, "alone"))
    if not found:
        return None
    (isolated, extra), (longer, more) = (_a_kernel(rows, row) for row in (found[0], found[-1]))
    slope = (more - extra) / (longer - isolated) if longer > isolated else 0.0
    slope = max(min(slope, extra / isolated), 0.0)
    where = f"{', '.join(row.case for row in found)}: beside less alone"
    spread = rows.spread(found, "beside")
    return (
        Fitted(1 + slope, spread, f"{where}, in proportion to alone"),
        Fitted(max(extra - slope * isolated, 0.0), spread, f"{where}, of a launch"),
    )


def _a_kernel(rows: Rows, row: Row) -> tuple[float, float]:
    """Isolated seconds of a kernel of a `crowd` row, on average, and how much longer it takes with the collectives."""
    kernels = BLOCK_KERNELS * int(row.params["count"])
    isolated = rows.value(row, "alone")
    return isolated / kernels, (rows.value(row, "beside") - isolated) / kernels


def _rate_factors_of(like: Profile) -> dict[str, dict[str, Fitted]]:
    return {
        kind: {other: borrowed(factor, like.name) for other, factor in cls.beside.items()}
        for kind in KINDS
        if (cls := getattr(like.collectives, kind)) is not None
    }
