"""Copies from and to pageable memory: how fast the driver stages them, and how far ahead of the stream."""

from __future__ import annotations

from collections.abc import Mapping

from calibration.fitting.estimators import Fitted, affine
from calibration.fitting.selection import Rows


def fit_pageable(rows: Rows, copies: Mapping[str, Fitted]) -> dict[str, Fitted]:
    """`pageable.h2d` and `pageable.d2h` by key path, of the directions that were measured. Raises FitError."""
    found: dict[str, Fitted] = {}
    staging = _staging(rows)
    for direction in ("h2d", "d2h"):
        idle = rows.find("pageable", direction=direction, busy=0.0)
        if len(idle) < 2:
            continue
        sizes, seconds = rows.curve(idle, "call", 2, f"pageable/{direction}/idle")
        where = f"pageable/{direction}/idle, until the call returns: setup + size / rate"
        if direction == "d2h":  # what is staged first comes over the link before any of it is passed on
            cap = copies["d2h.cap"].value
            early = [min(size, staging.value) / cap for size in sizes]
            seconds = [max(t - first, t / 10) for t, first in zip(seconds, early, strict=True)]
            where += " + what is staged first / d2h.cap"
        setup, rate = affine(sizes, seconds)
        found[f"pageable.{direction}.rate"] = Fitted(abs(rate), rows.spread(idle, "call"), where)
        found[f"pageable.{direction}.setup"] = Fitted(max(setup, 0.0), None, where)
        found[f"pageable.{direction}.staging"] = staging
    return found


def _staging(rows: Rows) -> Fitted:
    """The largest copy to the device whose call returned before the stream got to it."""
    behind = [row for row in rows.find("pageable", direction="h2d") if row.params["busy"]]
    sizes = {int(row.params["bytes"]): row.ranks[0]["ahead"].median == 1 for row in behind}
    taken = max((size for size, ahead in sizes.items() if ahead), default=0)
    blocked = min((size for size, ahead in sizes.items() if not ahead and size > taken), default=None)
    where = f"pageable/h2d/behind: calls of up to {taken} B returned before the stream got to them"
    return Fitted(float(taken), None, where + (f", those of {blocked} B did not" if blocked else ""))
