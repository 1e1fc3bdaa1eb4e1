"""Published cases as tables: figures next to predictions, and what was fitted and broken, in words."""

from __future__ import annotations

from collections.abc import Sequence

from validation.markdown import table
from validation.published import FASTER_THAN, FigureName, Outcome, Row

HEADERS = ("case", "run", "figure", "kind", "published", "predicted", "error %", "bound")

_UNITS: dict[FigureName, tuple[str, float, str]] = {
    "step_s": ("step, s", 1.0, ".3f"),
    "request_s": ("request, s", 1.0, ".2f"),
    "speedup": (f"speed-up over {FASTER_THAN}", 1.0, ".3f"),
    "uncovered_s": ("H2D uncovered, ms", 1e3, ".0f"),
    "collective_s": ("NCCL, ms", 1e3, ".0f"),
    "overlap_s": ("H2D during NCCL, ms", 1e3, ".0f"),
    "inflation_per_overlap": ("NCCL inflation / overlap", 1.0, ".2f"),
    "h2d_bytes": ("H2D, GB", 1e-9, ".2f"),
    "h2d_rate": ("H2D, GB/s", 1e-9, ".1f"),
    "copying_rate": ("H2D while copying, GB/s", 1e-9, ".1f"),
    "chunk_p50_s": ("chunk p50, ms", 1e3, ".2f"),
    "chunk_p90_s": ("chunk p90, ms", 1e3, ".2f"),
}
"""Figure -> how it is called, what it is multiplied by, how it is written."""


def cells(row: Row) -> tuple[str, ...]:
    """A row under `HEADERS`."""
    name, scale, form = _UNITS[row.figure.figure]

    def show(value: float) -> str:
        return "" if value == float("inf") else format(value * scale, form)

    published = show(row.figure.published) + (f" to {show(row.figure.to)}" if row.figure.to else "")
    bounds = row.figure.bounds
    stated = "" if bounds is None else f"{show(bounds[0])} to {show(bounds[1])}".removesuffix(" to ")
    bound = "fitted" if row.fitted else f"{stated}, broken" if row.broken else stated
    error = "" if row.error is None else f"{100 * row.error:+.1f}"
    return row.case, row.run, name, row.figure.kind, published, show(row.predicted), error, bound


def verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """What was fitted in each case, and whether the bounds and the order of runs hold."""
    said = [f"{o.case.name}: {o.fitted}{_median(o)}." for o in outcomes]
    faults = [fault for o in outcomes for fault in o.faults]
    stated = sum(r.figure.bounds is not None for o in outcomes for r in o.rows)
    said.append(f"{stated} bounds stated; runs in the published order: {_share(outcomes)}.")
    return said + [f"Broken: {fault}." for fault in faults]


def _median(outcome: Outcome) -> str:
    if outcome.case.median_error is None:
        return ""
    return f"; median error {100 * outcome.median_error:.1f} %, at most {100 * outcome.case.median_error:g} % stated"


def _share(outcomes: Sequence[Outcome]) -> str:
    right = sum(not o.disorder for o in outcomes)
    return f"{right} of {len(outcomes)} cases"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table and the verdicts for docs/modelling.md."""
    rows = table(HEADERS, (cells(row) for o in outcomes for row in o.rows), 4)
    return "\n".join([rows, "", *(f"- {sentence}" for sentence in verdicts(outcomes))])
