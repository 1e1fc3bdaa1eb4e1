"""Figures of reports: plain data in, plotly figures out.

Times are given in s and drawn in ms, sizes in B and drawn in binary units. Hover texts carry the full detail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from sim.inputs.units import show_bytes
from sim.report.accuracy import Case, Pair, error_against_step, error_histogram, error_ranges, pairs
from sim.report.figure_base import blank, key
from sim.report.gantt import stacked_timelines, timeline
from sim.report.theme import BAD, FAINT, GOOD, NEUTRAL, chunk, ms, plain, signed, styles

__all__ = [
    "Case",
    "Pair",
    "Point",
    "bars_by_case",
    "chunk_sweep",
    "curves",
    "error_against_step",
    "error_histogram",
    "error_ranges",
    "heat_map",
    "memory_against_step",
    "pairs",
    "stacked_timelines",
    "timeline",
    "waterfall",
]


class Point(NamedTuple):
    """One configuration and its step time, s. `chunk_bytes` None: layers are copied in one piece, or not at all."""

    policy: str
    chunk_bytes: int | None
    resident_fraction: float
    step_s: float
    memory_bytes: float = 0.0


def chunk_sweep(
    points: Sequence[Point], floor_s: float | None, resident_s: float | None, measured: Sequence[Point] = ()
) -> go.Figure:
    """Step time, ms, against chunk size, a line per policy; measured points are open markers on top.

    Horizontal lines: the lower bound (`floor_s`), all weights resident (`resident_s`), and policies without chunks.
    """
    chosen = styles(p.policy for p in (*points, *measured))
    figure = blank(height=460)
    for policy, (colour, symbol) in chosen.items():
        mine = sorted((p.chunk_bytes, p) for p in points if p.policy == policy and p.chunk_bytes)
        if mine:
            figure.add_scatter(
                x=[size for size, _ in mine],
                y=[p.step_s * 1e3 for _, p in mine],
                mode="lines+markers",
                name=plain(policy),
                line={"color": colour, "width": 2},
                marker={"symbol": symbol, "size": 6},
                hovertext=[_point_text(p, "predicted") for _, p in mine],
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
    _levels(figure, ends, sorted(levels, key=lambda level: level[1]), [p.step_s for p in (*points, *measured)])
    for policy, (colour, symbol) in chosen.items():
        seen = [p for p in measured if p.policy == policy]
        figure.add_scatter(
            x=[p.chunk_bytes or ends[1] for p in seen],
            y=[p.step_s * 1e3 for p in seen],
            mode="markers",
            name=f"{plain(policy)}, measured",
            marker={"symbol": f"{symbol}-open", "size": 12, "color": colour, "line": {"width": 2}},
            hovertext=[_point_text(p, "measured") for p in seen],
            hoverinfo="text",
            showlegend=False,
            cliponaxis=False,
        )
    if measured:
        key(figure, "measured", "circle-open")
    figure.update_xaxes(title_text="chunk size", **axis)
    figure.update_yaxes(title_text="step time, ms")
    return figure


def curves(x_label: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure:
    """Step time, ms, against any number, a line per policy: `series` holds (x, seconds)."""
    figure = blank(height=460)
    for policy, (colour, symbol) in styles(series).items():
        figure.add_scatter(
            x=[x for x, _ in series[policy]],
            y=[s * 1e3 for _, s in series[policy]],
            mode="lines+markers",
            name=plain(policy),
            line={"color": colour, "width": 2},
            marker={"symbol": symbol, "size": 6},
            hovertext=[f"<b>{plain(policy)}</b><br>{plain(x_label)} {x:g}<br>{ms(s)}" for x, s in series[policy]],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text=plain(x_label))
    figure.update_yaxes(title_text="step time, ms", rangemode="tozero")
    return figure


def bars_by_case(series: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Step time, ms, as groups of bars: `series` holds policy -> case -> seconds."""
    figure = blank(height=460, barmode="group")
    for policy, (colour, _) in styles(series).items():
        found = series[policy]
        figure.add_bar(
            x=[plain(case) for case in found],
            y=[s * 1e3 for s in found.values()],
            name=plain(policy),
            marker={"color": colour},
            text=[f"{s * 1e3:.0f}" for s in found.values()],
            hovertext=[f"<b>{plain(policy)}</b><br>{plain(case)}<br>{ms(s)}" for case, s in found.items()],
            hoverinfo="text",
        )
    figure.update_yaxes(title_text="step time, ms")
    return figure


def memory_against_step(points: Sequence[Point]) -> go.Figure:
    """Step time, ms, against peak memory, GiB, a point per configuration; the Pareto front is joined and labelled."""
    figure = blank(height=460)
    front = pareto_front(points)
    for policy, (colour, symbol) in styles(p.policy for p in points).items():
        mine = [p for p in points if p.policy == policy]
        best = [p in front for p in mine]
        key(figure, plain(policy), symbol, colour, policy)
        figure.add_scatter(
            x=[p.memory_bytes / 2**30 for p in mine],
            y=[p.step_s * 1e3 for p in mine],
            mode="markers",
            name=plain(policy),
            marker={
                "color": colour,
                "symbol": symbol,
                "size": [10 if b else 7 for b in best],
                "opacity": [1.0 if b else 0.45 for b in best],
                "line_width": 0,
            },
            hovertext=[_point_text(p, "predicted") for p in mine],
            hoverinfo="text",
            legendgroup=policy,
            showlegend=False,
        )
    joined = {"x": [p.memory_bytes / 2**30 for p in front], "y": [p.step_s * 1e3 for p in front], "hoverinfo": "skip"}
    line = {"shape": "hv", "color": NEUTRAL, "width": 1.5}
    figure.add_scatter(**joined, mode="lines", name="Pareto front", line=line)
    figure.add_scatter(
        **joined,
        mode="markers+text",
        marker={"opacity": 0, "size": 16},  # keeps the labels off the points
        text=_front_labels(front, points),
        textposition="bottom center",
        textfont_size=11,
        name="labels",
        showlegend=False,
        cliponaxis=False,
    )
    figure.update_xaxes(title_text="peak memory, GiB")
    figure.update_yaxes(title_text="step time, ms")
    return figure


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both memory and step time, by memory."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.memory_bytes, p.step_s)):
        if not front or point.step_s < front[-1].step_s:
            front.append(point)
    return front


def heat_map(points: Sequence[Point]) -> go.Figure:
    """Step time, ms, by chunk size and resident fraction; the fastest cell is framed.

    Raises:
        ValueError: two points share a cell.
    """
    cells = {(p.resident_fraction, p.chunk_bytes): p for p in points}
    if len(cells) < len(points):
        raise ValueError("two points share a cell of the heat map: give it the points of one policy")
    fractions = sorted({p.resident_fraction for p in points})
    sizes = sorted({p.chunk_bytes for p in points}, key=lambda s: math.inf if s is None else s)
    grid = [[cells.get((f, s)) for s in sizes] for f in fractions]
    digits = 0 if max((p.step_s for p in points), default=0.0) >= 0.1 else 2
    figure = blank(height=90 + 46 * len(fractions))
    figure.add_heatmap(
        x=[chunk(s) for s in sizes],
        y=[f"{f:g}" for f in fractions],
        z=[[c and c.step_s * 1e3 for c in row] for row in grid],
        text=[[f"{c.step_s * 1e3:,.{digits}f}" if c else "" for c in row] for row in grid],
        texttemplate="%{text}",
        hovertext=[[_point_text(c, "predicted") if c else "" for c in row] for row in grid],
        hoverinfo="text",
        colorscale=_SEQUENTIAL,
        xgap=2,
        ygap=2,
        showscale=False,
    )
    if points:
        best = min(points, key=lambda p: p.step_s)
        column, row = sizes.index(best.chunk_bytes), fractions.index(best.resident_fraction)
        figure.add_shape(
            type="rect", x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5, line={"color": BAD, "width": 2.5}
        )
    figure.update_xaxes(title_text="chunk size", type="category", showgrid=False, showline=False, ticks="")
    figure.update_yaxes(title_text="resident fraction", type="category", showgrid=False)
    return figure


def waterfall(parts: Sequence[tuple[str, float]], start: tuple[str, float], end: tuple[str, float]) -> go.Figure:
    """How (label, s) `parts` lead from `start` to `end`, ms. What they leave unexplained is a part of its own."""
    rest = end[1] - start[1] - sum(s for _, s in parts)
    if abs(rest) > 1e-4 * abs(end[1]):
        parts = [*parts, ("not explained", rest)]
    labels = [start[0], *(label for label, _ in parts), end[0]]
    shown = [ms(start[1]), *(signed(s * 1e3, "ms") for _, s in parts), ms(end[1])]
    figure = blank(height=90 + 36 * len(labels), margin_r=76)
    figure.add_waterfall(
        orientation="h",
        y=[plain(label) for label in labels],
        x=[start[1] * 1e3, *(s * 1e3 for _, s in parts), end[1] * 1e3],
        measure=["absolute", *("relative" for _ in parts), "total"],
        text=shown,
        textposition="outside",
        textfont_size=12,
        cliponaxis=False,
        hovertext=[f"{plain(label)}<br>{value}" for label, value in zip(labels, shown, strict=True)],
        hoverinfo="text",
        increasing_marker_color=BAD,
        decreasing_marker_color=GOOD,
        totals_marker_color=NEUTRAL,
        connector_line={"color": FAINT, "width": 1},
        showlegend=False,
    )
    levels, level = [start[1], end[1]], start[1]
    for _, seconds in parts:
        level += seconds
        levels.append(level)
    figure.update_xaxes(title_text="step time, ms", range=[min(0.0, *levels) * 1.1e3, max(levels) * 1.02e3])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


# Light is fast. One hue, so that order shows also without colour vision.
_SEQUENTIAL = [[0.0, "#e3f0ee"], [0.25, "#a9d2cf"], [0.5, "#79b9ba"], [0.75, "#2f7686"], [1.0, "#16435a"]]


def _levels(
    figure: go.Figure, ends: list[float], levels: Sequence[tuple[str, float, str, str]], others: Sequence[float]
) -> None:
    """Horizontal lines over `ends` for (label, s, colour, dash), ascending, labelled at the right without overlap."""
    drawn = [*others, *(seconds for _, seconds, _, _ in levels)]
    places = _apart(
        [seconds for _, seconds, _, _ in levels], 0.115 * (max(drawn, default=0.0) - min(drawn, default=0.0))
    )
    for (label, seconds, colour, dash), place in zip(levels, places, strict=True):
        figure.add_scatter(
            x=ends,
            y=[seconds * 1e3] * 2,
            mode="lines",
            name=label,
            showlegend=False,
            line={"color": colour, "width": 1.5, "dash": dash},
            hovertext=f"{label} {ms(seconds)}",
            hoverinfo="text",
        )
        figure.add_annotation(
            text=f"{label}<br>{ms(seconds, 1)}",
            x=1,
            xref="paper",
            xanchor="left",
            align="left",
            y=place * 1e3,
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


def _front_labels(front: Sequence[Point], points: Sequence[Point]) -> list[str]:
    """A short label for those points of the front that are far enough from the one labelled before."""
    width = (max((p.memory_bytes for p in points), default=0) - min((p.memory_bytes for p in points), default=0)) or 1.0
    height = (max((p.step_s for p in points), default=0) - min((p.step_s for p in points), default=0)) or 1.0
    labels: list[str] = []
    last: Point | None = None
    for p in front:
        near = last and abs(p.step_s - last.step_s) < 0.07 * height and p.memory_bytes - last.memory_bytes < 0.3 * width
        labels.append("" if near else f"r {p.resident_fraction:g}")
        last = last if near else p
    return labels


def _point_text(point: Point, what: str) -> str:
    memory = f"<br>peak memory {show_bytes(point.memory_bytes)}" if point.memory_bytes else ""
    return (
        f"<b>{plain(point.policy)}</b>, {chunk(point.chunk_bytes)}<br>resident fraction {point.resident_fraction:g}"
        f"<br>step {ms(point.step_s)} {what}{memory}"
    )
