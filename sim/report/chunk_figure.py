"""Step time against chunk size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from sim.inputs.units import show_bytes
from sim.report.figure_base import Point, axis_unit, blank, key, point_text
from sim.report.theme import NEUTRAL, TimeUnit, plain, styles


def chunk_sweep(
    points: Sequence[Point], floor_s: float | None, resident_s: float | None, measured: Sequence[Point] = ()
) -> go.Figure:
    """Step time against chunk size, a line per policy; measured points are open markers on top.

    Horizontal lines: the lower bound (`floor_s`), all weights resident (`resident_s`), and policies without chunks.
    """
    chosen = styles(p.policy for p in (*points, *measured))
    unit = axis_unit([*(p.step_s for p in (*points, *measured)), floor_s or 0.0, resident_s or 0.0])
    figure = blank(height=460)
    for policy, (colour, symbol) in chosen.items():
        mine = sorted((p.chunk_bytes, p) for p in points if p.policy == policy and p.chunk_bytes)
        if mine:
            figure.add_scatter(
                x=[size for size, _ in mine],
                y=[p.step_s * unit.per_second for _, p in mine],
                mode="lines+markers",
                name=plain(policy),
                line={"color": colour, "width": 2},
                marker={"symbol": symbol, "size": 6},
                hovertext=[point_text(p, "predicted") for _, p in mine],
                hoverinfo="text",
            )
    sizes = [p.chunk_bytes for p in (*points, *measured) if p.chunk_bytes] or [2**20]
    axis = _chunk_axis(sizes)
    ends = [10**e for e in axis["range"]]
    levels = [(plain(p.policy), p.step_s, chosen[p.policy][0], "dash") for p in points if not p.chunk_bytes]
    if resident_s is not None:
        levels.append(("all resident", resident_s, NEUTRAL, "dash"))
    if floor_s is not None:
        levels.append(("lower bound", floor_s, NEUTRAL, "dot"))
    _levels(figure, ends, sorted(levels, key=lambda level: level[1]), [p.step_s for p in (*points, *measured)], unit)
    for policy, (colour, symbol) in chosen.items():
        seen = [p for p in measured if p.policy == policy]
        figure.add_scatter(
            x=[p.chunk_bytes or ends[1] for p in seen],
            y=[p.step_s * unit.per_second for p in seen],
            mode="markers",
            name=f"{plain(policy)}, measured",
            marker={"symbol": f"{symbol}-open", "size": 12, "color": colour, "line": {"width": 2}},
            hovertext=[point_text(p, "measured") for p in seen],
            hoverinfo="text",
            showlegend=False,
            cliponaxis=False,
        )
    if measured:
        key(figure, "measured", "circle-open")
    figure.update_xaxes(title_text="chunk size", **axis)
    figure.update_yaxes(title_text=f"step time, {unit.name}")
    return figure


def _levels(
    figure: go.Figure,
    ends: list[float],
    levels: Sequence[tuple[str, float, str, str]],
    others: Sequence[float],
    unit: TimeUnit,
) -> None:
    """Horizontal lines over `ends` for (label, s, colour, dash), ascending, labelled at the right without overlap."""
    drawn = [*others, *(seconds for _, seconds, _, _ in levels)]
    places = _apart(
        [seconds for _, seconds, _, _ in levels], 0.115 * (max(drawn, default=0.0) - min(drawn, default=0.0))
    )
    for (label, seconds, colour, dash), place in zip(levels, places, strict=True):
        figure.add_scatter(
            x=ends,
            y=[seconds * unit.per_second] * 2,
            mode="lines",
            name=label,
            showlegend=False,
            line={"color": colour, "width": 1.5, "dash": dash},
            hovertext=f"{label} {unit.show(seconds)}",
            hoverinfo="text",
        )
        figure.add_annotation(
            text=f"{label}<br>{unit._replace(digits=unit.digits - 1).show(seconds)}",
            x=1,
            xref="paper",
            xanchor="left",
            align="left",
            y=place * unit.per_second,
            xshift=4,
            showarrow=False,
            font_size=11,
        )
    if levels:
        figure.update_layout(margin_r=84)


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Ascending `values` moved as little as it takes for consecutive ones to be nearly `gap` apart."""
    places = list(values)
    for _ in range(4 * len(places)):
        for i in range(len(places) - 1):
            push = max(gap - (places[i + 1] - places[i]), 0.0) / 2
            places[i] -= push
            places[i + 1] += push
    return places


def _chunk_axis(sizes: Sequence[int]) -> dict[str, Any]:
    """A log2 axis of sizes with at most 7 labels."""
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
    ticks = [2**e for e in range(low, high + 1, 1 + (high - low) // 7)]
    return {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [show_bytes(t) for t in ticks],
        "range": [(low - 0.4) * math.log10(2), (high + 0.4) * math.log10(2)],
    }
