"""Figures that compare predictions with measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import plotly.graph_objects as go

from sim.report.figure_base import blank, key, log_ticks
from sim.report.theme import BAND, BLUE, GREY, NEUTRAL, YELLOW, duration, faded, plain, signed, styles

_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "bowtie"]
_GROUPS = {"unseen": BLUE, "fitted": YELLOW, "resident": GREY}


class Case(NamedTuple):
    """A measured and predicted step time, s. `host` is the kind of host.

    `group` is "resident", "fitted" (the case may have been used to fit constants, so it proves little) or "unseen".
    """

    label: str
    host: str
    policy: str
    measured_s: float
    predicted_s: float
    group: str

    @property
    def error(self) -> float:
        """Signed relative error of the prediction, %."""
        return 100 * (self.predicted_s / self.measured_s - 1)


def error_against_step(rows: Sequence[Case]) -> go.Figure:
    """Error of each prediction, %, against the measured step time, ms, with bands of 1 % and 5 %.

    Colour is the policy, symbol the kind of host; cases that are not unseen are open.
    """
    times = [r.measured_s * 1e3 for r in rows] or [10.0, 100.0]
    ends = [min(times) / 1.12, max(times) * 1.12]
    figure = blank(height=520)
    for percent in (5, 1):
        figure.add_hrect(y0=-percent, y1=percent, fillcolor=BAND, line_width=0, layer="below")
    hosts = list(dict.fromkeys(r.host for r in rows))
    symbols = dict(zip(hosts, _SYMBOLS * (1 + len(hosts) // len(_SYMBOLS)), strict=False))
    for policy, (colour, _) in styles(r.policy for r in rows).items():
        mine = [r for r in rows if r.policy == policy]
        key(figure, plain(policy), "circle", colour, policy)
        figure.add_scatter(
            x=[r.measured_s * 1e3 for r in mine],
            y=[r.error for r in mine],
            mode="markers",
            name=plain(policy),
            marker={
                "color": colour,
                "size": 9,
                "symbol": [symbols[r.host] + ("" if r.group == "unseen" else "-open") for r in mine],
                "line": {"width": 1.5, "color": colour},
                "opacity": 0.8,
            },
            hovertext=[_case_text(r) for r in mine],
            hoverinfo="text",
            legendgroup=policy,
            showlegend=False,
        )
    for host, symbol in symbols.items():
        key(figure, plain(host), symbol)
    if any(r.group != "unseen" for r in rows):
        key(figure, "resident or fitted (open)", "circle-open")
    figure.update_xaxes(
        title_text="measured step time, ms", type="log", range=[math.log10(e) for e in ends], **log_ticks(ends)
    )
    reach = 1.15 * max([abs(r.error) for r in rows] + [5.0])
    figure.update_yaxes(title_text="error of the predicted step time, %", range=[-reach, reach])
    return figure


def error_histogram(rows: Sequence[Case], width: float = 0.25) -> go.Figure:
    """How many cases have which error, in bins of `width` %, fitted, unseen and baselines stacked."""
    figure = blank(height=340, barmode="stack", bargap=0.06)
    for percent in (5, 1):
        figure.add_vrect(x0=-percent, x1=percent, fillcolor=BAND, line_width=0, layer="below")
    for group, colour in _GROUPS.items():
        bins = [math.floor(r.error / width) for r in rows if r.group == group]
        if bins:
            places = sorted(set(bins))
            figure.add_bar(
                x=[(b + 0.5) * width for b in places],
                y=[bins.count(b) for b in places],
                width=width,
                name=group,
                marker={"color": colour, "line_width": 0},
                hovertext=[
                    f"{bins.count(b)} {group}<br>from {signed(b * width, '%')} to {signed((b + 1) * width, '%')}"
                    for b in places
                ],
                hoverinfo="text",
            )
    figure.update_xaxes(title_text="error of the predicted step time, %")
    figure.update_yaxes(title_text="cases")
    return figure


def error_ranges(groups: Mapping[str, Sequence[Case]]) -> go.Figure:
    """Signed errors, %, of each named group in a lane of its own: every case, and a bar at the median."""
    names = list(groups)
    figure = blank(height=110 + 30 * max(len(names), 3))
    for percent in (5, 1):
        figure.add_vrect(x0=-percent, x1=percent, fillcolor=BAND, line_width=0, layer="below")
    rows = [(name, r) for name in names for r in groups[name]]
    for policy, (colour, _) in styles(r.policy for _, r in rows).items():
        mine = [(name, r) for name, r in rows if r.policy == policy]
        figure.add_scatter(
            x=[r.error for _, r in mine],
            y=[plain(name) for name, _ in mine],
            mode="markers",
            name=plain(policy),
            marker={"color": faded(colour, 0.55), "size": 8, "line": {"width": 1, "color": colour}},
            hovertext=[_case_text(r) for _, r in mine],
            hoverinfo="text",
            showlegend=False,
        )
    figure.add_scatter(
        x=[median(r.error for r in groups[name]) for name in names],
        y=[plain(name) for name in names],
        mode="markers",
        name="median",
        marker={"symbol": "line-ns", "size": 17, "line": {"width": 2.5, "color": NEUTRAL}},
        hovertemplate="median %{x:.2f} %<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(title_text="error of the predicted step time, %")
    figure.update_yaxes(categoryorder="array", categoryarray=[plain(n) for n in reversed(names)], showgrid=False)
    return figure


class Pair(NamedTuple):
    """Something measured and simulated of a case, in whatever unit."""

    label: str
    policy: str
    measured: float
    simulated: float


def pairs(rows: Sequence[Pair], what: str, write: Callable[[float], str], log: bool = False) -> go.Figure:
    """Simulated against measured `what`, a point a case, with the diagonal. `write` makes a number readable."""
    figure = blank(height=460)
    values = [v for r in rows for v in (r.measured, r.simulated)] or [1.0]
    ends = [min(values) / 1.1 if log else 0.0, 1.05 * max(values)]
    axis: dict[str, Any] = {"range": ends}
    if log:
        axis = {"type": "log", "range": [math.log10(e) for e in ends], **log_ticks(ends)}
    line = {"color": NEUTRAL, "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for policy, (colour, symbol) in styles(r.policy for r in rows).items():
        mine = [r for r in rows if r.policy == policy]
        figure.add_scatter(
            x=[r.measured for r in mine],
            y=[r.simulated for r in mine],
            mode="markers",
            name=plain(policy),
            marker={"color": faded(colour, 0.6), "symbol": symbol, "size": 8, "line": {"width": 1, "color": colour}},
            hovertext=[
                f"<b>{plain(r.label)}</b><br>measured {write(r.measured)}<br>simulated {write(r.simulated)}"
                for r in mine
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text=f"{what}, measured", **axis)
    figure.update_yaxes(title_text="simulated", **axis)
    return figure


def _case_text(case: Case) -> str:
    return (
        f"<b>{plain(case.label)}</b><br>{plain(case.host)}, {plain(case.policy)}, {case.group}<br>"
        f"measured {duration(case.measured_s)}<br>predicted {duration(case.predicted_s)}<br>"
        f"error {signed(case.error, '%')}"
    )
