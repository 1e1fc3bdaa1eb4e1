"""Figures of reports: plain data in, plotly figures out.

Times are given in s and drawn in ms, or in s where a step takes one; sizes in B and drawn in binary units. Hover texts
carry the full detail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap

import plotly.graph_objects as go

from sim.report.accuracy import Case, Pair, error_against_step, error_histogram, error_ranges, pairs
from sim.report.chunk_figure import chunk_sweep
from sim.report.figure_base import Point, axis_unit, blank, key, point_text
from sim.report.gantt import stacked_timelines, timeline
from sim.report.theme import BAD, FAINT, GOOD, NEUTRAL, chunk, duration, plain, styles

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


def curves(x_label: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure:
    """Step time against any number, a line per policy: `series` holds (x, seconds)."""
    unit = axis_unit(s for line in series.values() for _, s in line)
    figure = blank(height=460)
    for policy, (colour, symbol) in styles(series).items():
        figure.add_scatter(
            x=[x for x, _ in series[policy]],
            y=[s * unit.per_second for _, s in series[policy]],
            mode="lines+markers",
            name=plain(policy),
            line={"color": colour, "width": 2},
            marker={"symbol": symbol, "size": 6},
            hovertext=[
                f"<b>{plain(policy)}</b><br>{plain(x_label)} {x:g}<br>{unit.show(s)}" for x, s in series[policy]
            ],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text=plain(x_label))
    figure.update_yaxes(title_text=f"step time, {unit.name}", rangemode="tozero")
    return figure


def bars_by_case(series: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Step time as groups of bars: `series` holds policy -> case -> seconds."""
    unit = axis_unit(s for bars in series.values() for s in bars.values())
    figure = blank(height=460, barmode="group")
    for policy, (colour, _) in styles(series).items():
        found = series[policy]
        figure.add_bar(
            x=[plain(case) for case in found],
            y=[s * unit.per_second for s in found.values()],
            name=plain(policy),
            marker={"color": colour},
            text=[f"{s * unit.per_second:.{unit.digits - 2}f}" for s in found.values()],
            hovertext=[f"<b>{plain(policy)}</b><br>{plain(case)}<br>{unit.show(s)}" for case, s in found.items()],
            hoverinfo="text",
        )
    figure.update_yaxes(title_text=f"step time, {unit.name}")
    return figure


def memory_against_step(
    points: Sequence[Point], limit_bytes: float | None = None, among: Sequence[Point] | None = None
) -> go.Figure:
    """Step time against peak memory, GiB, a point per configuration; the Pareto front is joined and labelled.

    The front is that of `among`, of all points unless given. A dashed line is the memory limit, unless it is so far
    beyond all points that these would be squeezed.
    """
    unit = axis_unit(p.step_s for p in points)
    figure = blank(height=460)
    front = pareto_front(points if among is None else among)
    for policy, (colour, symbol) in styles(p.policy for p in points).items():
        mine = [p for p in points if p.policy == policy]
        best = [p in front for p in mine]
        key(figure, plain(policy), symbol, colour, policy)
        figure.add_scatter(
            x=[p.memory_bytes / 2**30 for p in mine],
            y=[p.step_s * unit.per_second for p in mine],
            mode="markers",
            name=plain(policy),
            marker={
                "color": colour,
                "symbol": symbol,
                "size": [10 if b else 7 for b in best],
                "opacity": [1.0 if b else 0.45 for b in best],
                "line_width": 0,
            },
            hovertext=[point_text(p, "predicted") for p in mine],
            hoverinfo="text",
            legendgroup=policy,
            showlegend=False,
        )
    joined = {
        "x": [p.memory_bytes / 2**30 for p in front],
        "y": [p.step_s * unit.per_second for p in front],
        "hoverinfo": "skip",
    }
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
    if limit_bytes is not None and is_near(limit_bytes, points):
        limit = limit_bytes / 2**30
        figure.add_vline(x=limit, line={"dash": "dash", "width": 1.5, "color": NEUTRAL})
        figure.add_annotation(x=limit, y=1, yref="paper", text="limit", showarrow=False, xanchor="right", xshift=-4)
    figure.update_xaxes(title_text="peak memory, GiB")
    figure.update_yaxes(title_text=f"step time, {unit.name}")
    return figure


def is_near(limit_bytes: float, points: Sequence[Point]) -> bool:
    """Whether a memory limit is drawn: it is less than four times the largest peak."""
    return limit_bytes < 4 * max((p.memory_bytes for p in points), default=0.0)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both memory and step time, by memory."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.memory_bytes, p.step_s)):
        if not front or point.step_s < front[-1].step_s:
            front.append(point)
    return front


def heat_map(points: Sequence[Point], others: Sequence[Point] = ()) -> go.Figure:
    """Step time by chunk size and resident fraction; the fastest cell is framed.

    The scale of colours is that of `points` and `others` together, so that maps beside each other compare.

    Raises:
        ValueError: two points share a cell.
    """
    cells = {(p.resident_fraction, p.chunk_bytes): p for p in points}
    if len(cells) < len(points):
        raise ValueError("two points share a cell of the heat map: give it the points of one policy")
    fractions = sorted({p.resident_fraction for p in points})
    sizes = sorted({p.chunk_bytes for p in points}, key=lambda s: math.inf if s is None else s)
    grid = [[cells.get((f, s)) for s in sizes] for f in fractions]
    steps = [p.step_s for p in (*points, *others)]
    unit = axis_unit(steps)
    digits = 0 if unit.name == "ms" and max(steps, default=0.0) >= 0.1 else unit.digits
    figure = blank(height=max(90 + 46 * len(fractions), 200))
    figure.add_heatmap(
        x=[chunk(s) for s in sizes],
        y=[f"{f:g}" for f in fractions],
        z=[[c and c.step_s * unit.per_second for c in row] for row in grid],
        zmin=min(steps, default=0.0) * unit.per_second,
        zmax=max(steps, default=0.0) * unit.per_second,
        text=[[f"{c.step_s * unit.per_second:,.{digits}f}" if c else "" for c in row] for row in grid],
        texttemplate="%{text}",
        hovertext=[[point_text(c, "predicted") if c else "" for c in row] for row in grid],
        hoverinfo="text",
        colorscale=_SEQUENTIAL,
        xgap=2,
        ygap=2,
        colorbar={
            "title": {"text": f"step, {unit.name}", "side": "right", "font": {"size": 12}},
            "thickness": 12,
            "nticks": 4,
            "len": 1.0,
        },
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


ROOM = 0.15
"""Of the largest level, what a text beside a bar of a waterfall takes."""
WIDE = 0.35
"""Of the step, the part that goes down whose bar has room for its text."""
CLOSE = 0.2
"""Waterfalls whose levels differ by less than this share of the largest are drawn enlarged."""


def waterfall(parts: Sequence[tuple[str, float]], start: tuple[str, float], end: tuple[str, float]) -> go.Figure:
    """How (label, s) `parts` lead from `start` to `end`. What they leave unexplained is a part of its own.

    The axis starts at 0, unless the parts would then be too narrow to see.
    """
    rest = end[1] - start[1] - sum(s for _, s in parts)
    if abs(rest) > 1e-4 * abs(end[1]):
        parts = [*parts, ("not explained", rest)]
    labels = [start[0], *(label for label, _ in parts), end[0]]
    unit = axis_unit((start[1], end[1]))
    shown = [unit.show(start[1]), *(duration(s, "+") for _, s in parts), unit.show(end[1])]
    figure = blank(height=90 + 36 * len(labels), margin_r=76)
    figure.add_waterfall(
        orientation="h",
        y=["<br>".join(wrap(plain(label), 22)) for label in labels],
        x=[seconds * unit.per_second for seconds in (start[1], *(s for _, s in parts), end[1])],
        measure=["absolute", *("relative" for _ in parts), "total"],
        text=shown,
        textposition=["inside" if s < -WIDE * end[1] else "outside" for s in (0.0, *(s for _, s in parts), 0.0)],
        insidetextanchor="end",
        insidetextfont_color="#ffffff",
        textangle=0,
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
    low, high, title = min(0.0, *levels) * 1.1, max(levels) * 1.02, f"step time, {unit.name}"
    if any(-WIDE * end[1] <= s < 0 for _, s in parts) and min(levels) < ROOM * max(levels):
        low -= ROOM * max(levels)  # the text of a bar that goes down stands at its left
    if max(levels) - min(levels) < CLOSE * max(levels) and min(levels) > 0:
        low, high = min(levels) - (max(levels) - min(levels)), max(levels) + 0.1 * (max(levels) - min(levels))
        title += " (not from 0)"
    figure.update_xaxes(title_text=title, range=[low * unit.per_second, high * unit.per_second], nticks=6)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


# Light is fast. One hue, so that order shows also without colour vision.
_SEQUENTIAL = [[0.0, "#e3f0ee"], [0.25, "#a9d2cf"], [0.5, "#79b9ba"], [0.75, "#2f7686"], [1.0, "#16435a"]]


def _front_labels(front: Sequence[Point], points: Sequence[Point]) -> list[str]:
    """A short label for those points of the front that are far enough from the one labelled before."""
    width = (max((p.memory_bytes for p in points), default=0) - min((p.memory_bytes for p in points), default=0)) or 1.0
    height = (max((p.step_s for p in points), default=0) - min((p.step_s for p in points), default=0)) or 1.0
    labels: list[str] = []
    last: Point | None = None
    for p in front:
        near = last and abs(p.step_s - last.step_s) < 0.07 * height and p.memory_bytes - last.memory_bytes < 0.3 * width
        labels.append("" if near else p.label or f"r {p.resident_fraction:g}")
        last = last if near else p
    return labels
