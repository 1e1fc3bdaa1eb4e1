"""Figures of serving: who had which GPUs when, latencies, attainment over a grid, why requests were late."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sim.inputs.units import show_seconds
from sim.report.figure_base import blank, log_ticks
from sim.report.theme import BAD, BLUE, GREEN, GREY, PINK, TEAL, VIOLET, YELLOW, faded, lighter, plain
from sim.serving.figures import REASONS
from sim.serving.host import Segment
from sim.serving.replicates import Mean

COLOURS = (BLUE, GREEN, PINK, YELLOW, VIOLET, TEAL)
REASON_COLOURS = dict(zip(REASONS, (GREY, BAD, YELLOW, PINK, VIOLET), strict=True))


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour a name."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def occupation(segments: Sequence[Segment], classes: Sequence[str], gpus: int, start: float, end: float) -> go.Figure:
    """What each GPU does from `start` to `end`, s; faint: what is paid before a job's steps."""
    figure = blank(height=130 + 40 * gpus, barmode="overlay")
    for name, colour in colours(classes).items():
        for setting_up in (False, True):
            x, base, y, texts, fills = [], [], [], [], []
            for segment in segments:
                first, last = (segment.start, segment.steps_from) if setting_up else (segment.steps_from, segment.end)
                first, last = max(first, start), min(last, end)
                if segment.cls != name or last <= first:
                    continue
                numbers = ", ".join(map(str, segment.requests))
                what = "loads, resumes or moves" if setting_up else f"{segment.stage}, {segment.steps:g} steps"
                text = (
                    f"<b>{plain(name)}</b> {numbers}<br>{what}<br>{show_seconds(segment.end - segment.start)} on GPUs "
                )
                for gpu in segment.gpus:
                    x.append(last - first)
                    base.append(first)
                    y.append(f"GPU {gpu}")
                    texts.append(text + ", ".join(map(str, segment.gpus)))
                    shade = lighter(colour) if segment.requests[0] % 2 else colour
                    fills.append(faded(colour, 0.3) if setting_up else shade)
            if x:
                figure.add_bar(
                    x=x,
                    y=y,
                    base=base,
                    orientation="h",
                    name=plain(name),
                    showlegend=not setting_up,
                    legendgroup=name,
                    marker={"color": fills, "line": {"width": 0}},
                    hovertext=texts,
                    hoverinfo="text",
                    width=0.8,
                )
    order = [f"GPU {gpu}" for gpu in reversed(range(gpus))]
    figure.update_layout(
        xaxis={"title_text": "time, s", "range": [start, end]},
        yaxis={"categoryorder": "array", "categoryarray": order, "range": [-0.5, gpus - 0.5], "showgrid": False},
    )
    return figure


def latency_curves(latencies: Mapping[str, Sequence[float]], deadlines: Mapping[str, float]) -> go.Figure:
    """Share of requests that are done within a time, by class; dotted: what the deadline allows."""
    figure = blank(height=420)
    for name, colour in colours(list(latencies)).items():
        ordered = sorted(latencies[name])
        if not ordered:
            continue
        # at most some hundred points a curve
        step = max(len(ordered) // 400, 1)
        places = [*range(0, len(ordered), step), len(ordered) - 1]
        x, y = [ordered[i] for i in places], [100.0 * (i + 1) / len(ordered) for i in places]
        figure.add_scatter(x=x, y=y, name=plain(name), mode="lines", line={"color": colour, "width": 2, "shape": "hv"})
        if name in deadlines:
            figure.add_vline(x=deadlines[name], line={"color": colour, "width": 1, "dash": "dot"})
    axis: dict[str, Any] = {"title_text": "latency, s", "type": "log"}
    if shown := [t for times in (*latencies.values(), deadlines.values()) for t in times if t > 0]:
        ends = [min(shown) / 1.05, max(shown) * 1.05]
        if ends[1] < 4 * ends[0]:  # a narrow axis would have no labels
            ends = [ends[0] / 2, ends[1] * 2]
        axis |= {"range": [math.log10(end) for end in ends], **log_ticks(ends)}
    figure.update_layout(xaxis=axis, yaxis={"title_text": "requests, %", "range": [0, 102]})
    return figure


def late_reasons(missed: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Shares of each class's requests that were late, by reason, in %."""
    figure = blank(height=110 + 46 * len(missed), barmode="stack")
    names = list(missed)[::-1]
    for reason, colour in REASON_COLOURS.items():
        x = [100.0 * missed[name][reason] for name in names]
        if any(x):
            y = [plain(name) for name in names]
            figure.add_bar(x=x, y=y, orientation="h", name=reason, marker={"color": colour, "line": {"width": 0}})
    figure.update_layout(
        xaxis={"title_text": "requests that were late, %", "rangemode": "tozero"}, yaxis={"showgrid": False}
    )
    return figure


def attainment_curves(axis: str, curves: Mapping[str, Sequence[tuple[Any, Mean]]]) -> go.Figure:
    """Requests in time, %, over an axis, a curve a name, with 95 % intervals."""
    figure = blank(height=440)
    for name, colour in colours(list(curves)).items():
        points = curves[name]
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[100.0 * of.mean for _, of in points],
            error_y={"array": [100.0 * of.half_width for _, of in points], "color": colour, "thickness": 1, "width": 3},
            name=plain(name),
            mode="lines+markers",
            line={"color": colour, "width": 2},
        )
    figure.update_layout(
        xaxis={"title_text": plain(axis)}, yaxis={"title_text": "requests in time, %", "range": [0, 102]}
    )
    return figure
