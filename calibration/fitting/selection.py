"""The rows that a fit may use, and what is refused: ranks that disagree, times that shrink, too few rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from calibration.fitting.estimators import FitError
from sim.datasets.probe_rows import ABOUT, Row

MAX_RANK_RATIO = 2.0
"""Ranks whose times differ by more than this factor did not do the same work."""

MAX_DECREASE = 0.1
"""A larger size may take less time than a smaller one by this share (measurements scatter); more is an error."""


class Rows:
    """Usable rows of one host. On a CPU, whose times mean nothing, only rows that cannot be used are refused."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rejected = [row for row in rows if row.rejected is not None]
        usable = [row for row in rows if row.rejected is None]
        self.host: dict[str, str] = next((row.sampled for row in usable if row.kind == "host"), {})
        self.all = [row for row in usable if row.kind not in ABOUT]
        if not self.all:
            raise FitError("there are no usable rows to fit")
        for what, values in (("device", {r.device for r in self.all}), ("GPU", {r.gpu for r in self.all})):
            if len(values) > 1:
                raise FitError(f"the rows come from more than one {what}: {', '.join(sorted(values))}")
        self.device, self.gpu = self.all[0].device, self.all[0].gpu
        self.gpus = max(len(row.ranks) for row in self.all)
        self.strict = self.device == "cuda"

    def find(self, kind: str, **params: object) -> list[Row]:
        """Rows of `kind` with these parameters."""
        return [r for r in self.all if r.kind == kind and all(r.params.get(k) == v for k, v in params.items())]

    def has(self, row: Row, quantity: str) -> bool:
        """Whether every rank of `row` measured `quantity`."""
        return bool(row.ranks) and all(quantity in found for found in row.ranks)

    def value(self, row: Row, quantity: str) -> float:
        """Median over the ranks of `row`.

        Raises:
            FitError: it is missing or not positive, or ranks differ twofold.
        """
        if not self.has(row, quantity):
            raise FitError(f"{row.case}: not every rank has {quantity!r}")
        values = [found[quantity].median for found in row.ranks]
        if min(values) <= 0:
            raise FitError(f"{row.case}: {quantity} is {min(values):.4g}, expected more than 0")
        if self.strict and max(values) > MAX_RANK_RATIO * min(values):
            ranks = ", ".join(f"{v:.4g}" for v in values)
            raise FitError(f"{row.case}: ranks disagree more than twofold on {quantity}: {ranks}")
        return median(values)

    def spread(self, rows: Sequence[Row], quantity: str) -> float | None:
        """Median relative spread of `quantity` over the repeats of `rows`."""
        spreads = [found[quantity].spread for row in rows for found in row.ranks if quantity in found]
        return median(spreads) if spreads else None

    def curve(self, rows: Sequence[Row], quantity: str, least: int, what: str) -> tuple[list[int], list[float]]:
        """Sizes and times of `rows`, ascending in both.

        Raises:
            FitError: there are fewer than `least`, or a larger size takes clearly less time.
        """
        from scipy.optimize import isotonic_regression

        if len(rows) < least:
            raise FitError(f"{what}: {len(rows)} usable rows, at least {least} are needed")
        ordered = sorted(rows, key=lambda row: int(row.params["bytes"]))
        sizes = [int(row.params["bytes"]) for row in ordered]
        times = [self.value(row, quantity) for row in ordered]
        for (a, s), (b, t) in pairwise(zip(sizes, times, strict=True)):
            if self.strict and t < s * (1 - MAX_DECREASE):
                raise FitError(f"{what}: {b} B take {t:.4g} s, less than the {s:.4g} s of {a} B")
        level = [float(t) for t in isotonic_regression(times).x]
        return sizes, [t * (1 + 1e-6 * i) for i, t in enumerate(level)]
