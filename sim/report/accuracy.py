"""Figures of predictions beside measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from sim.report.draw import blank, key
from sim.report.theme import BAND, FAINT, faded, ms, plain, signed, styles

_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "bowtie"]


class Case(NamedTuple):
    """A measured and predicted step time, s. `fitted`: the case was used to fit the profile, so it proves little."""

    label: str
    workload: str
    policy: str
    measured_s: float
    predicted_s: float
    fitted: bool

    @property
    def error(self) -> float:
        """Signed relative error of the prediction, %."""
        return 100 * (self.predicted_s / self.measured_s - 1)


def predicted_against_measured(rows: Sequence[Case]) -> go.Figure:
    """Predicted against measured step time, ms, with the diagonal and bands of 1 % and 5 %.

    Colour is the policy, symbol the workload; fitted cases are open.
    """
    low = min((min(r.measured_s, r.predicted_s) for r in rows), default=0.01) * 1e3
    high = max((max(r.measured_s, r.predicted_s) for r in rows), default=0.1) * 1e3
    log = high > 8 * low
    ends = [low / 1.15, high * 1.15] if log else [low - 0.06 * (high - low + low), high + 0.06 * (high - low + low)]
    figure = blank(height=560)
    for percent in (5, 1):
        edge = [e * (1 + percent / 100) for e in ends] + [e * (1 - percent / 100) for e in reversed(ends)]
        figure.add_scatter(
            x=ends + ends[::-1],
            y=edge,
            fill="toself",
            fillcolor=BAND,
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            name=f"within {percent} %",
            showlegend=False,
        )
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": FAINT, "width": 1},
        hoverinfo="skip",
        name="predicted = measured",
        showlegend=False,
    )
    workloads = list(dict.fromkeys(r.workload for r in rows))
    symbols = dict(zip(workloads, _SYMBOLS * (1 + len(workloads) // len(_SYMBOLS)), strict=False))
    for policy, (colour, _) in styles(r.policy for r in rows).items():
        mine = [r for r in rows if r.policy == policy]
        key(figure, plain(policy), "circle", colour, policy)
        figure.add_scatter(
            x=[r.measured_s * 1e3 for r in mine],
            y=[r.predicted_s * 1e3 for r in mine],
            mode="markers",
            name=plain(policy),
            marker={
                "color": colour,
                "size": 9,
                "symbol": [symbols[r.workload] + ("-open" if r.fitted else "") for r in mine],
                "line": {"width": 1.5, "color": colour},
                "opacity": 0.85,
            },
            hovertext=[_case_text(r) for r in mine],
            hoverinfo="text",
            legendgroup=policy,
            showlegend=False,
        )
    if len(workloads) > 1:
        for workload, symbol in symbols.items():
            key(figure, plain(workload), symbol)
    if any(r.fitted for r in rows):
        key(figure, "fitted (open)", "circle-open")
    scale: dict[str, Any] = {"type": "log" if log else "linear", "range": ends}
    if log:
        scale["range"] = [math.log10(e) for e in ends]
    # the corner below the diagonal is the emptiest place of such a plot
    figure.add_annotation(
        text="bands: ±1 % and ±5 %",
        x=1,
        y=0.02,
        xref="paper",
        yref="paper",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        font_size=11,
    )
    figure.update_xaxes(title_text="measured step time, ms", **scale)
    figure.update_yaxes(title_text="predicted step time, ms", **scale)
    return figure


def error_bars(rows: Sequence[Case]) -> go.Figure:
    """Signed error of each prediction, %, largest first, with bands of 1 % and 5 %. Fitted cases are hollow."""
    ordered = sorted(rows, key=lambda r: r.error)
    reach = max(1.5 * max((abs(r.error) for r in rows), default=0.0), 1.5)
    figure = blank(height=110 + 21 * max(len(rows), 3), barmode="overlay", margin_l=16)
    for percent in (5, 1):
        if percent < reach:
            figure.add_shape(
                type="rect",
                x0=-percent,
                x1=percent,
                y0=0,
                y1=1,
                yref="paper",
                fillcolor=BAND,
                line_width=0,
                layer="below",
            )
    for policy, (colour, _) in styles(r.policy for r in rows).items():
        mine = [(i, r) for i, r in enumerate(ordered) if r.policy == policy]
        key(figure, plain(policy), "square", colour, policy)
        figure.add_bar(
            orientation="h",
            y=[i for i, _ in mine],
            x=[r.error for _, r in mine],
            name=plain(policy),
            width=0.56,
            marker={
                "color": [faded(colour, 0.2) if r.fitted else colour for _, r in mine],
                "line": {"color": colour, "width": 1},
            },
            hovertext=[_case_text(r) for _, r in mine],
            hoverinfo="text",
            legendgroup=policy,
            showlegend=False,
        )
    # Labels stand on the empty side of zero: this leaves the whole width to the bars, also on a phone.
    right = [r.error >= 0 for r in ordered]
    _texts(figure, [0.0] * len(ordered), [plain(r.label) for r in ordered], [not r for r in right])
    _texts(figure, [r.error for r in ordered], [signed(r.error, "%") for r in ordered], right)
    if any(r.fitted for r in rows):
        key(figure, "fitted (hollow)", "square-open")
    figure.update_xaxes(title_text="error of the predicted step time, %", range=[-reach, reach])
    figure.update_yaxes(range=[-0.8, len(ordered) - 0.2], showticklabels=False, showgrid=False, zeroline=False)
    return figure


def _texts(figure: go.Figure, x: list[float], texts: list[str], right: list[bool]) -> None:
    """A line of text at each of `x`, one below the other from the last to the first, to its right or its left."""
    figure.add_scatter(
        x=x,
        y=list(range(len(x))),
        mode="text",
        text=[f" {text} " for text in texts],
        textposition=["middle right" if r else "middle left" for r in right],
        textfont_size=11,
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )


def _case_text(case: Case) -> str:
    return (
        f"<b>{plain(case.label)}</b><br>{plain(case.workload)}, {plain(case.policy)}<br>"
        f"measured {ms(case.measured_s)}<br>predicted {ms(case.predicted_s)}<br>error {signed(case.error, '%')}"
        + ("<br>used for fitting" if case.fitted else "")
    )
