"""Copies: rates, setup and least time of each direction, and the resources that they share."""

from __future__ import annotations

from collections.abc import Sequence

from calibration.fitting.estimators import FitError, Fitted, affine, undisturbed
from calibration.fitting.selection import Rows
from calibration.probes.plan import LONG
from sim.datasets.probe_rows import Row

LEAST = 2**18
"""Copies of at least this size (B) lie on a line; smaller ones all take the least time."""

FLOOR = 1.03
"""Copies that take less than this times the least time take the least time: they say nothing of the line."""

SHARED = 0.99
"""Copies that get less than this share of their isolated rate contend for something."""

NEGATIVE_S = 2e-6
"""A line may miss the origin by this much below it; more is nonsense."""


def fit_copies(rows: Rows) -> dict[str, Fitted]:
    """`h2d` and `d2h` classes by key path. Raises FitError; D2H that was not measured is taken as H2D."""
    found = _direction(rows, "h2d")
    if rows.find("copy", directions=["d2h"], ranks=1):
        found |= _direction(rows, "d2h")
    else:
        found |= {f"d2h.{k}": Fitted(found[f"h2d.{k}"].value, None, "not measured: as h2d") for k in _KEYS}
    found["h2d.weight"] = Fitted(1.0, None, "definition")
    both = _both(rows, 1)
    if both is None:
        found["d2h.weight"] = Fitted(1.0, None, "not measured: as h2d")
    else:
        down, up, row = both
        found["d2h.weight"] = Fitted(up / down, rows.spread([row], "d2h"), f"{row.case}: rates of d2h over h2d")
    return found


_KEYS = ("cap", "setup", "minimum")


def _direction(rows: Rows, direction: str) -> dict[str, Fitted]:
    trains = [r for r in rows.find("copy", directions=[direction], ranks=1) if r.params["count"] > 1]
    found = by_size(rows, trains, direction, f"copy/{direction}/1/train")
    return {f"{direction}.{key}": value for key, value in found.items()}


def by_size(rows: Rows, trains: Sequence[Row], quantity: str, named: str, shared: bool = True) -> dict[str, Fitted]:
    """`cap`, `setup` and `minimum` of copies, from `quantity`, s, of rows of several sizes.

    `shared`: they cross a link that others may use meanwhile, so that rows can be late.

    Raises:
        FitError: there are too few rows, or they make no sense.
    """
    sizes, seconds = rows.curve(trains, quantity, 3, named)
    floor = FLOOR * seconds[0]
    line = [(s, t) for s, t in zip(sizes, seconds, strict=True) if s >= LEAST and (t > floor or not rows.strict)]
    if len(line) < 3:
        raise FitError(f"{named}: {len(line)} usable rows of 256 KiB and more, at least 3 are needed")
    good = undisturbed([s for s, _ in line], [t for _, t in line]) if shared else [True] * len(line)
    kept = [row for row, fast in zip(line, good, strict=True) if fast]
    if len(kept) < max(3, len(line) // 3):
        kept = line
    setup, cap = affine([s for s, _ in kept], [t for _, t in kept])
    if cap <= 0 or (rows.strict and setup < -NEGATIVE_S):
        raise FitError(f"{named}: a line through the times gives {setup:.3g} s + size / {cap:.4g} B/s")
    # rows can be late together, but a link lets pass what it has
    cap = max([cap, *(s / (t - setup) for s, t in line if shared and s >= LONG)])
    late = f" ({len(line) - len(kept)} of {len(line)} rows late)" if len(kept) < len(line) else ""
    where = f"{named}, {sizes[sizes.index(line[0][0])] // 2**10} KiB and more{late}: setup + size / rate"
    spread = rows.spread(trains, quantity)
    setup = max(setup, 0.0)
    least = Fitted(seconds[0], spread, f"{named}/{sizes[0]}")
    if seconds[0] < FLOOR * (setup + sizes[0] / cap):  # the smallest copy lies on the line: no least time is seen
        least = Fitted(setup, None, f"{named}/{sizes[0]} lies on the line: as setup")
    return {"cap": Fitted(cap, spread, where), "setup": Fitted(setup, None, where), "minimum": least}


def _most(rows: Rows, directions: list[str], ranks: int) -> tuple[list[float], Row] | None:
    """Rates of one GPU in each of `directions` with `ranks` GPUs at once, B/s, and their row: the one that moved most.

    What shares a resource can be late together (a neighbour's traffic), but never moves more than it lets pass.
    """
    found = [r for r in rows.find("copy", directions=directions, ranks=ranks) if r.params["count"] > 1]
    long = min(max((int(r.params["bytes"]) for r in found), default=0), LONG)
    rates = [
        ([int(r.params["bytes"]) / rows.value(r, d) for d in directions], r)
        for r in found
        if int(r.params["bytes"]) >= long
    ]
    return max(rates, key=lambda pair: sum(pair[0]), default=None)


def _both(rows: Rows, ranks: int) -> tuple[float, float, Row] | None:
    """Rates down and up of one GPU with both directions at once on `ranks` GPUs, B/s."""
    found = _most(rows, ["h2d", "d2h"], ranks)
    return None if found is None else (found[0][0], found[0][1], found[1])


def fit_resources(rows: Rows, copies: dict[str, Fitted]) -> dict[str, Fitted]:
    """Capacities by resource: the links of a GPU, both directions together, and what all GPUs share if that binds."""
    found = {}
    caps = {"down": copies["h2d.cap"], "up": copies["d2h.cap"]}
    for name, cap in caps.items():
        found[f"gpu{{gpu}}.{name}"] = Fitted(cap.value, cap.spread, f"{cap.rows}: a copy alone fills the link")
    total = caps["down"].value + caps["up"].value
    both = _both(rows, 1)
    if both is None:
        found["gpu{gpu}.duplex"] = Fitted(total, None, "not measured: both directions in full")
        pair = total
    else:
        down, up, row = both
        pair = min(down + up, total)
        found["gpu{gpu}.duplex"] = Fitted(
            pair, rows.spread([row], "h2d"), f"{row.case}: {down / 1e9:.1f} down + {up / 1e9:.1f} up, GB/s"
        )
    if rows.gpus > 1:
        found |= _memory(rows, caps, pair)
    return found


def _memory(rows: Rows, caps: dict[str, Fitted], pair: float) -> dict[str, Fitted]:
    """What all GPUs share at the host's memory, if it binds: `out_of`, `into`, `through` and `write_cost` of it.

    A capacity each way, or, where both ways together get less than that, one through the memory of which a byte
    written takes `write_cost` times what a byte read does: only reads may then be more than both ways together.
    """
    found, alone = {}, {}
    for key, name, direction in (("out_of", "down", "h2d"), ("into", "up", "d2h")):
        at_once = _most(rows, [direction], rows.gpus)
        if at_once:
            [rate], row = at_once
            alone[name] = rate * rows.gpus
            if rate < SHARED * caps[name].value:
                found[key] = _of_all(rows, row, direction, rate)
    both = _both(rows, rows.gpus)
    if both is None or both[0] + both[1] >= SHARED * pair:
        return found
    down, up, row = both
    if "into" not in found:
        return found | {"through": _of_all(rows, row, "h2d", down + up)}
    # down / through + write_cost up / through = 1, and writes alone reach `into`
    into = found.pop("into")
    left = 1 - up * rows.gpus / into.value
    through = max(down * rows.gpus / left, alone["down"]) if left > 0 else alone["down"]
    ways = f"{rows.gpus} x ({down / 1e9:.1f} down + {up / 1e9:.1f} up)"
    said = f"{row.case}: {ways}; up alone {into.value / 1e9:.0f} GB/s"
    return found | {
        "through": Fitted(through, rows.spread([row], "h2d"), said),
        "write_cost": Fitted(through / into.value, into.spread, said),
    }


def _of_all(rows: Rows, row: Row, direction: str, rate: float) -> Fitted:
    where = f"{row.case}: {rows.gpus} x {rate / 1e9:.1f} GB/s"
    return Fitted(rate * rows.gpus, rows.spread([row], direction), where)
