"""Figures of timelines: a lane per stream; device memory below, or another timeline, on the same time axis."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from sim.inputs.units import show_bytes
from sim.report.figure_base import blank
from sim.report.span_bars import RESOLUTION, WORK, Bar, Kind, bars
from sim.report.theme import (
    BAND,
    BLUE,
    FAINT,
    NEUTRAL,
    PINK,
    RED,
    YELLOW,
    TimeUnit,
    lighter,
    ms,
    plain,
    signed,
    time_unit,
)
from sim.timeline import Span, Timeline

# In drawing order. Work fills its lane, what only orders work is a thin line in it.
_KINDS: dict[Kind, tuple[str, float]] = {
    "wait": (NEUTRAL, 0.1),
    "flag": (YELLOW, 0.3),
    "kernel": (BLUE, 0.72),
    "copy": (RED, 0.72),
    "collective": (PINK, 0.72),
}
_NAMED = 100  # a bar wider than this part of the window carries its name if there is room
_NUMBERED = 25  # a layer wider than this part of the window is numbered


def timeline(timeline: Timeline, rank: int, start_s: float, end_s: float) -> go.Figure:
    """The streams of `rank` between two times (s) of the run, and its device memory.

    Bars alternate in shade from layer to layer. Hatched parts are beyond the isolated time of the command.
    """
    drawn, unit = bars(timeline.drawn(rank), start_s, end_s), time_unit(end_s)
    streams = timeline.program.ranks[rank].streams
    computing = {b.stream for b in drawn if b.kind == "kernel"}
    # the highest number is drawn on top: streams that compute come first
    order = sorted(streams, key=lambda s: s not in computing)
    lanes = {stream: len(order) - 1 - i for i, stream in enumerate(order)}
    figure = blank(height=230 + 64 * len(lanes), barmode="overlay")
    _draw(figure, lanes, drawn, unit)
    _hatch(figure, lanes, drawn, end_s - start_s, unit)
    _names(figure, lanes, drawn, end_s - start_s, unit)
    _layers(figure, drawn, lanes, end_s - start_s, unit)
    _memory(figure, timeline, rank, (start_s, end_s), unit)
    _steps(figure, timeline.steps[rank], start_s, end_s, unit)
    figure.update_layout(
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis={
            "title_text": f"time of rank {rank}, {unit.name}",
            "range": [start_s * unit.per_second, end_s * unit.per_second],
            "anchor": "y2",
        },
        yaxis={
            "domain": [0.36, 1],
            "tickvals": list(lanes.values()),
            "ticktext": [plain(s) for s in lanes],
            "range": [-0.5, len(lanes) - 0.25],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        yaxis2={
            "domain": [0, 0.27],
            "title_text": "memory, GiB",
            "fixedrange": True,
            "nticks": 4,
            "rangemode": "tozero",
        },
    )
    return figure


def stacked_timelines(parts: Mapping[str, Sequence[Span]], length_s: float) -> go.Figure:
    """The streams of several named timelines from time 0 on, under each other on one time axis.

    A name is one word. Hatched parts are a wait for peers.
    """
    drawn = [
        b._replace(stream=f"{part} {b.stream}") for part, spans in parts.items() for b in bars(spans, 0.0, length_s)
    ]
    computing, unit = {b.stream for b in drawn if b.kind == "kernel"}, time_unit(length_s)
    order = sorted(
        dict.fromkeys(b.stream for b in drawn), key=lambda s: (list(parts).index(s.split()[0]), s not in computing)
    )
    lanes = {stream: len(order) - 1 - i for i, stream in enumerate(order)}
    figure = blank(barmode="overlay")
    figure.update_layout(height=110 + 58 * len(lanes))
    _draw(figure, lanes, drawn, unit)
    _hatch(figure, lanes, drawn, length_s, unit)
    _names(figure, lanes, drawn, length_s, unit)
    for upper, lower in pairwise(order):
        if upper.split()[0] != lower.split()[0]:
            figure.add_hline(y=lanes[lower] + 0.5, line={"color": FAINT, "width": 1, "dash": "dot"})
    figure.update_layout(
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis={"title_text": f"time, {unit.name}", "range": [0, length_s * unit.per_second]},
        yaxis={
            "tickvals": list(lanes.values()),
            "ticktext": [plain(name).replace(" ", "<br>", 1) for name in lanes],
            "range": [-0.5, len(lanes) - 0.5],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
    )
    return figure


def _draw(figure: go.Figure, lanes: dict[str, int], drawn: Sequence[Bar], unit: TimeUnit) -> None:
    """The bars of each kind in its colour, and its entry of the legend."""
    for kind, (colour, width) in _KINDS.items():
        if mine := [b for b in drawn if b.kind == kind]:
            _bars(
                figure,
                lanes,
                [(b, b.start, b.end) for b in mine],
                unit,
                name=kind,
                width=width,
                legendgroup=kind,
                customdata=[[b.busy * 1e3, len(b.spans)] for b in mine],
                marker={
                    "color": [lighter(colour) if b.layer >= 0 and b.layer % 2 else colour for b in mine],
                    "line_width": 0,
                },
                hovertext=[_text(b) for b in mine],
                hoverinfo="text",
            )
            _key(figure, kind, {"color": colour})


def _hatch(figure: go.Figure, lanes: dict[str, int], drawn: Sequence[Bar], window: float, unit: TimeUnit) -> None:
    """The parts of work beyond its isolated time, and until all ranks had arrived."""
    work = [b for b in drawn if b.kind in WORK]
    narrow = window / RESOLUTION
    excess = [(b, b.end - b.excess, b.end) for b in work if b.excess > narrow]
    waits = [(b, b.start, b.start + b.waiting) for b in work if b.waiting > narrow]
    for name, shape, parts in (("beyond its isolated time", "/", excess), ("wait for peers", "x", waits)):
        if parts:
            hatch = {
                "shape": shape,
                "fgcolor": "#ffffff",
                "fgopacity": 0.85,
                "size": 5,
                "solidity": 0.3,
                "fillmode": "overlay",
            }
            _bars(
                figure,
                lanes,
                parts,
                unit,
                name=name,
                legendgroup=name,
                hoverinfo="skip",
                marker={"color": "rgba(0,0,0,0)", "line_width": 0, "pattern": hatch},
            )
            _key(figure, name, {"color": NEUTRAL, "pattern": hatch})


def _names(figure: go.Figure, lanes: dict[str, int], drawn: Sequence[Bar], window: float, unit: TimeUnit) -> None:
    """What work is called, where there is room."""
    # Names are bars of their own, beside the hatching and on top of everything.
    named = [(b, b.start + b.waiting, b.end - b.excess) for b in drawn if b.kind in WORK and _named(b, window)]
    _bars(
        figure,
        lanes,
        named,
        unit,
        name="names",
        hoverinfo="skip",
        marker={"color": "rgba(0,0,0,0)", "line_width": 0},
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"color": "#ffffff", "size": 11},
        text=[plain(str(getattr(b.spans[0].command, "name", ""))) for b, _, _ in named],
    )


def _bars(
    figure: go.Figure,
    lanes: dict[str, int],
    parts: list[tuple[Bar, float, float]],
    unit: TimeUnit,
    width: float = 0.72,
    **style: Any,
) -> None:
    """One trace with a bar for each (bar, start, end)."""
    figure.add_bar(
        orientation="h",
        base=[start * unit.per_second for _, start, _ in parts],
        x=[(end - start) * unit.per_second for _, start, end in parts],
        y=[lanes[b.stream] for b, _, _ in parts],
        width=width,
        showlegend=False,
        **style,
    )


def _key(figure: go.Figure, name: str, marker: dict[str, Any]) -> None:
    """An entry of the legend: that of a trace with many colours would show the first, whichever it is."""
    figure.add_bar(x=[None], y=[None], name=name, marker=marker | {"line_width": 0}, legendgroup=name, hoverinfo="skip")


def _named(bar: Bar, window: float) -> bool:
    return len(bar.spans) == 1 and bar.end - bar.start > window / _NAMED


def _steps(figure: go.Figure, bounds: Sequence[float], start_s: float, end_s: float, unit: TimeUnit) -> None:
    """A line at each boundary of steps, and the number of the step that begins there."""
    for step, begin in enumerate(bounds):
        if start_s <= begin <= end_s:
            figure.add_shape(
                type="line",
                x0=begin * unit.per_second,
                x1=begin * unit.per_second,
                y0=0,
                y1=1,
                yref="paper",
                line={"color": FAINT, "width": 1, "dash": "dot"},
            )
            if step + 1 < len(bounds) and begin < end_s:
                figure.add_annotation(
                    text=f"step {step}",
                    x=begin * unit.per_second,
                    xanchor="left",
                    y=0.345,
                    yref="paper",
                    yanchor="top",
                    showarrow=False,
                    font_size=11,
                )


def _layers(figure: go.Figure, drawn: list[Bar], lanes: dict[str, int], window: float, unit: TimeUnit) -> None:
    """The number of each layer above the stream that computes it, where there is room."""
    runs: list[tuple[int, float, float]] = []
    kernels = [b for b in drawn if b.kind == "kernel"]
    for b in kernels:
        if runs and runs[-1][0] == b.layer:
            runs[-1] = (b.layer, runs[-1][1], b.end)
        else:
            runs.append((b.layer, b.start, b.end))
    wide = [r for r in runs if r[2] - r[1] > window / _NUMBERED]
    if not wide:
        return
    figure.add_scatter(
        x=[(a + b) / 2 * unit.per_second for _, a, b in wide],
        y=[max(lanes[b.stream] for b in kernels) + 0.5] * len(wide),
        mode="text",
        text=[f"layer {n}" if len(wide) < 5 else str(n) for n, _, _ in wide],
        textfont_size=11,
        hoverinfo="skip",
        showlegend=False,
    )


def _memory(figure: go.Figure, timeline: Timeline, rank: int, window: tuple[float, float], unit: TimeUnit) -> None:
    """Live memory as a step function, from its level at the start of the window to the end of it."""
    start_s, end_s = window
    levels = timeline.memory(rank)
    first = max(bisect_right(levels, start_s, key=lambda p: p[0]) - 1, 0)
    inside = [(max(t, start_s), level) for t, level in levels[first:] if t <= end_s]
    inside.append((end_s, inside[-1][1]))
    figure.add_scatter(
        x=[t * unit.per_second for t, _ in inside],
        y=[level / 2**30 for _, level in inside],
        yaxis="y2",
        mode="lines",
        line={"shape": "hv", "color": NEUTRAL, "width": 1.5},
        fill="tozeroy",
        fillcolor=BAND,
        hovertext=[f"{show_bytes(level)} from {ms(t, 3)}" for t, level in inside],
        hoverinfo="text",
        name="memory",
        showlegend=False,
    )


def _text(bar: Bar) -> str:
    """All that is known of a bar's command or commands."""
    commands = [s.command for s in bar.spans]
    count = len(commands)
    total = sum(s.end - s.start for s in bar.spans)
    isolated = sum(s.isolated_time for s in bar.spans)
    names = list(dict.fromkeys(str(getattr(c, "name", "")) or type(c).__name__ for c in commands))
    title = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    lines = [f"<b>{plain(title)}</b> ({bar.kind}{f', {count} merged' if count > 1 else ''})"]
    if bar.layer >= 0:
        lines.append(f"layer {bar.layer}, step {getattr(commands[0], 'step', -1)}")
    for word in ("flag", "event") if count == 1 else ():
        if (value := getattr(commands[0], word, None)) is not None:
            lines += [f"{word} {plain(str(value))}"]
    lines.append(f"from {ms(bar.spans[0].start, 3)} to {ms(bar.spans[-1].end, 3)}")
    lines.append(f"takes {ms(total, 3)}" + (f", isolated {ms(isolated, 3)}" if isolated > 0 else ""))
    if isolated > 0 and bar.kind in WORK and total > 1.0005 * isolated:
        lines[-1] += f" ({signed(100 * (total / isolated - 1), '%', 1)})"
    if (waited := sum(s.ready - s.start for s in bar.spans)) > 0:
        lines.append(f"of it {ms(waited, 3)} until all ranks arrived")
    if (size := sum(getattr(c, "bytes", 0) for c in commands)) > 0:
        rate = f", {size / total / 1e9:.1f} GB/s" if bar.kind == "copy" and total > 0 else ""
        lines.append(f"{show_bytes(size)}{rate}")
    return "<br>".join(lines)
