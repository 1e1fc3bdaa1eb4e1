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
from sim.report.theme import BAND, BLUE, FAINT, NEUTRAL, PINK, RED, YELLOW, lighter, ms, plain, signed
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
    drawn = bars(timeline.drawn(rank), start_s, end_s)
    streams = timeline.program.ranks[rank].streams
    computing = {b.stream for b in drawn if b.kind == "kernel"}
    # the highest number is drawn on top: streams that compute come first
    order = sorted(streams, key=lambda s: s not in computing)
    lanes = {stream: len(order) - 1 - i for i, stream in enumerate(order)}
    figure = blank(height=230 + 64 * len(lanes), barmode="overlay")
    _draw(figure, lanes, drawn)
    _hatch(figure, lanes, drawn, end_s - start_s)
    _names(figure, lanes, drawn, end_s - start_s)
    _layers(figure, drawn, lanes, end_s - start_s)
    _memory(figure, timeline, rank, start_s, end_s)
    _steps(figure, timeline.steps[rank], start_s, end_s)
    figure.update_layout(
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis={"title_text": f"time of rank {rank}, ms", "range": [start_s * 1e3, end_s * 1e3], "anchor": "y2"},
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
    computing = {b.stream for b in drawn if b.kind == "kernel"}
    order = sorted(
        dict.fromkeys(b.stream for b in drawn), key=lambda s: (list(parts).index(s.split()[0]), s not in computing)
    )
    lanes = {stream: len(order) - 1 - i for i, stream in enumerate(order)}
    figure = blank(barmode="overlay")
    figure.update_layout(height=110 + 58 * len(lanes))
    _draw(figure, lanes, drawn)
    _hatch(figure, lanes, drawn, length_s)
    _names(figure, lanes, drawn, length_s)
    for upper, lower in pairwise(order):
        if upper.split()[0] != lower.split()[0]:
            figure.add_hline(y=lanes[lower] + 0.5, line={"color": FAINT, "width": 1, "dash": "dot"})
    figure.update_layout(
        uniformtext={"minsize": 10, "mode": "hide"},
        xaxis={"title_text": "time, ms", "range": [0, length_s * 1e3]},
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


def _draw(figure: go.Figure, lanes: dict[str, int], drawn: Sequence[Bar]) -> None:
    """The bars of each kind in its colour, and its entry of the legend."""
    for kind, (colour, width) in _KINDS.items():
        if mine := [b for b in drawn if b.kind == kind]:
            _bars(
                figure,
                lanes,
                [(b, b.start, b.end) for b in mine],
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


def _hatch(figure: go.Figure, lanes: dict[str, int], drawn: Sequence[Bar], window: float) -> None:
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
                name=name,
                legendgroup=name,
                hoverinfo="skip",
                marker={"color": "rgba(0,0,0,0)", "line_width": 0, "pattern": hatch},
            )
            _key(figure, name, {"color": NEUTRAL, "pattern": hatch})


def _names(figure: go.Figure, lanes: dict[str, int], drawn: Sequence[Bar], window: float) -> None:
    """What work is called, where there is room."""
    # Names are bars of their own, beside the hatching and on top of everything.
    named = [(b, b.start + b.waiting, b.end - b.excess) for b in drawn if b.kind in WORK and _named(b, window)]
    _bars(
        figure,
        lanes,
        named,
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
    figure: go.Figure, lanes: dict[str, int], parts: list[tuple[Bar, float, float]], width: float = 0.72, **style: Any
) -> None:
    """One trace with a bar for each (bar, start, end)."""
    figure.add_bar(
        orientation="h",
        base=[start * 1e3 for _, start, _ in parts],
        x=[(end - start) * 1e3 for _, start, end in parts],
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


def _steps(figure: go.Figure, bounds: Sequence[float], start_s: float, end_s: float) -> None:
    """A line at each boundary of steps, and the number of the step that begins there."""
    for step, begin in enumerate(bounds):
        if start_s <= begin <= end_s:
            figure.add_shape(
                type="line",
                x0=begin * 1e3,
                x1=begin * 1e3,
                y0=0,
                y1=1,
                yref="paper",
                line={"color": FAINT, "width": 1, "dash": "dot"},
            )
            if step + 1 < len(bounds) and begin < end_s:
                figure.add_annotation(
                    text=f"step {step}",
                    x=begin * 1e3,
                    xanchor="left",
                    y=0.345,
                    yref="paper",
                    yanchor="top",
                    showarrow=False,
                    font_size=11,
                )


def _layers(figure: go.Figure, drawn: list[Bar], lanes: dict[str, int], window: float) -> None:
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
        x=[(a + b) * 500 for _, a, b in wide],
        y=[max(lanes[b.stream] for b in kernels) + 0.5] * len(wide),
        mode="text",
        text=[f"layer {n}" if len(wide) < 5 else str(n) for n, _, _ in wide],
        textfont_size=11,
        hoverinfo="skip",
        showlegend=False,
    )


def _memory(figure: go.Figure, timeline: Timeline, rank: int, start_s: float, end_s: float) -> None:
    """Live memory as a step function, from its level at the start of the window to the end of it."""
    levels = timeline.memory(rank)
    first = max(bisect_right(levels, start_s, key=lambda p: p[0]) - 1, 0)
    inside = [(max(t, start_s), level) for t, level in levels[first:] if t <= end_s]
    inside.append((end_s, inside[-1][1]))
    figure.add_scatter(
        x=[t * 1e3 for t, _ in inside],
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
