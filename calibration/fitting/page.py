"""The page of a calibration: measured against fitted, and residuals by probe."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from calibration.fitting.residuals import Residual

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from calibration.fitting import Calibrated
    from sim.datasets.probe_rows import Row

HEADERS = ("row", "quantity", "measured", "fitted", "error %")


def residual_page(calibrated: Calibrated, rows: Sequence[Row]) -> str:
    """HTML in one file: errors by probe, measured against fitted, all rows, those left out, clocks and power."""
    from sim.report.html import Section, Table, page

    found = calibrated.residuals
    profile = calibrated.profile
    sections = [
        Section(
            "Residuals by probe",
            "Error of the fitted profile on every row that it was fitted to. Rows of a roofline or of launches beside "
            "copies show how far one number serves all sizes.",
            error_figure(found),
        ),
        Section("Summary", "Absolute errors of each probe.", Table(*_summary(found))),
        Section("Measured against fitted", "Times; rates are in the table.", agreement_figure(found)),
        Section("Rows", "", Table(HEADERS, residual_rows(found))),
    ]
    if calibrated.rejected:
        text = "Rows that were measured and not used, and why."
        sections.append(Section("Left out", text, Table(("row", "reason"), list(calibrated.rejected.items()))))
    sampled = [row for row in rows if row.kind == "sampled" and row.sampled]
    if sampled:
        text = "Least, median and most while a group of probes ran."
        sections.append(Section("Clocks and power", text, Table(*_clocks(sampled))))
    title = f"Calibration of {profile.name}"
    return page(title, profile.description, sections, profile.fingerprint)


def residual_rows(found: Sequence[Residual]) -> list[tuple[str, ...]]:
    """One row a residual under `HEADERS`."""
    return [(r.case, r.quantity, shown(r.measured, r.unit), shown(r.fitted, r.unit), f"{r.error:+.1f}") for r in found]


def shown(value: float, unit: str) -> str:
    """A time or a rate for people."""
    return f"{value * 1e6:,.4g} us" if unit == "s" else f"{value / 1e9:.4g} GB/s"


def error_figure(found: Sequence[Residual]) -> Figure:
    """Signed errors, %, of every row, a line of points for each probe."""
    from sim.report.figure_base import blank
    from sim.report.theme import plain, styles

    probes = list(dict.fromkeys(r.probe for r in found))
    figure = blank(height=160 + 44 * max(len(probes), 2), showlegend=False)
    for probe, (colour, symbol) in styles(probes).items():
        mine = [r for r in found if r.probe == probe]
        figure.add_scatter(
            x=[r.error for r in mine],
            y=[plain(probe)] * len(mine),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.7},
            hovertext=[_text(r) for r in mine],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text="error of the fit, %", zeroline=True)
    return figure


def agreement_figure(found: Sequence[Residual]) -> Figure:
    """Fitted against measured times, us, with the diagonal."""
    from sim.report.figure_base import blank
    from sim.report.theme import FAINT, plain, styles

    times = [r for r in found if r.unit == "s"]
    ends = [min((r.measured for r in times), default=1e-6) * 0.7e6, max((r.measured for r in times), default=1) * 1.4e6]
    figure = blank(height=560)
    line: dict[str, Any] = {"color": FAINT, "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for probe, (colour, symbol) in styles(r.probe for r in times).items():
        mine = [r for r in times if r.probe == probe]
        figure.add_scatter(
            x=[r.measured * 1e6 for r in mine],
            y=[r.fitted * 1e6 for r in mine],
            mode="markers",
            name=plain(probe),
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.7},
            hovertext=[_text(r) for r in mine],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text="measured, us", type="log")
    figure.update_yaxes(title_text="fitted, us", type="log")
    return figure


def _text(r: Residual) -> str:
    from sim.report.theme import plain

    return (
        f"<b>{plain(r.case)}</b><br>{plain(r.quantity)}: measured {shown(r.measured, r.unit)}, "
        f"fitted {shown(r.fitted, r.unit)}, {r.error:+.1f} %"
    )


Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Headers and rows of a table."""


def _summary(found: Sequence[Residual]) -> Cells:
    rows: list[tuple[str, ...]] = []
    for probe in dict.fromkeys(r.probe for r in found):
        mine = [r for r in found if r.probe == probe]
        worst = max(mine, key=lambda r: abs(r.error))
        middle = median(abs(r.error) for r in mine)
        rows.append((probe, str(len(mine)), f"{middle:.1f}", f"{abs(worst.error):.1f}", worst.case))
    return ("probe", "rows", "median %", "largest %", "of"), rows


def _clocks(sampled: Sequence[Row]) -> Cells:
    rows: list[tuple[str, ...]] = []
    for row in sampled:
        for name, values in row.sampled.items():
            said = ", ".join(f"{k} {v:g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in values.items())
            rows.append((row.case.split("/", 1)[1], str(name), said))
    return ("probes", "GPU and quantity", "values"), rows
