"""Copy engines: how many copies of a direction move at once; copies within a GPU and between two."""

from __future__ import annotations

from statistics import median

from calibration.fitting.copies import by_size
from calibration.fitting.estimators import Fitted
from calibration.fitting.selection import Rows
from sim.datasets.probe_rows import Row

MAX_SWITCH_SIZE = 2**22
"""Copies of at most this size (B) show what switching streams costs: their times scatter by less than that."""

MIN_ENGINE_SIZE = 2**20
"""Copies of at least this size (B) show how many move at once: issuing them takes a small part of their time."""


def fit_copy_engines(rows: Rows) -> dict[str, Fitted]:
    """Numbers of `h2d`, `d2h`, `d2d` and `p2p` by key path, of those that were measured. Raises FitError."""
    found = {}
    for direction in ("h2d", "d2h", "d2d"):
        if (engines := _engines(rows, direction)) is not None:
            found[f"{direction}.engines"] = engines
        if (switch := _switch(rows, direction)) is not None:
            found[f"{direction}.switch"] = switch
    for name, trains, quantity, named in (
        ("d2d", rows.find("copy", directions=["d2d"]), "d2d", "d2d/train"),
        ("p2p", rows.find("peer_copy"), "seconds", "peer"),
    ):
        if trains:
            fitted = by_size(rows, trains, quantity, named, shared=name == "p2p")
            found |= {f"{name}.{key}": value for key, value in fitted.items()}
            found[f"{name}.weight"] = Fitted(1.0, None, "definition")
    return found


def equal_trains(rows: Rows, direction: str) -> list[Row]:
    """Rows of equal single copies of `direction` that were posted together, one a stream."""
    return [
        row
        for row in rows.find("engine", posted="together")
        if len(trains := row.params["trains"]) > 1
        and all(train == trains[0] for train in trains)
        and (trains[0]["direction"], trains[0]["count"]) == (direction, 1)
    ]


def _switch(rows: Rows, direction: str) -> Fitted | None:
    """What the second of two equal copies takes beyond its isolated time once the first has ended."""
    pairs = [r for r in equal_trains(rows, direction) if len(r.params["trains"]) == 2]
    short = [r for r in pairs if r.params["trains"][0]["bytes"] <= MAX_SWITCH_SIZE]
    if not short:
        return None
    taken = [rows.value(r, "end_1") - rows.value(r, "end_0") - rows.value(r, "alone_0") for r in short]
    where = f"engine/{direction}/2 of up to 4 MiB: from the first copy's end to the second's, less its isolated time"
    return Fitted(max(median(taken), 0.0), None, where)


def _engines(rows: Rows, direction: str) -> Fitted | None:
    """Number of engines: if n share a link, each of n copies takes n times as long; with one, the first takes its time.

    From the row of most streams, of those the largest copies; the others stand in the source.
    """
    found = equal_trains(rows, direction)
    if not found:
        return None
    ratios = {row.case: rows.value(row, "end_0") / rows.value(row, "alone_0") for row in found}
    chosen = max(found, key=lambda row: (len(row.params["trains"]), row.params["trains"][0]["bytes"]))
    streams, ratio = len(chosen.params["trains"]), ratios[chosen.case]
    where = f"{chosen.case}: the first of {streams} copies ended after {ratio:.3g} of its time alone"
    clear = [ratios[row.case] for row in found if row.params["trains"][0]["bytes"] >= MIN_ENGINE_SIZE]
    if len(clear) > 1:
        where += f"; {min(clear):.3g} to {max(clear):.3g} in {len(clear)} rows of 1 MiB and more"
    return Fitted(float(min(max(round(ratio), 1), streams)), None, where)
