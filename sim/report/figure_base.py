"""What all figures start from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from sim.inputs.units import show_bytes
from sim.report.theme import NEUTRAL, TEMPLATES, TimeUnit, chunk, duration, plain, time_unit


class Point(NamedTuple):
    """One configuration and its step time, s. `chunk_bytes` None: layers are copied in one piece, or not at all.

    `words` is the schedule in full, for hover texts, and `label` what names it on a plot: its fraction unless given.
    """

    policy: str
    chunk_bytes: int | None
    resident_fraction: float
    step_s: float
    memory_bytes: float = 0.0
    words: str = ""
    label: str = ""


def blank(**layout: Any) -> go.Figure:
    """A figure without data in the house style."""
    return go.Figure(layout={"template": TEMPLATES["light"], **layout})


def key(figure: go.Figure, name: str, symbol: str, colour: str = NEUTRAL, group: str | None = None) -> None:
    """An entry of the legend that stands for a symbol or a group of traces, whatever their first point looks like."""
    marker = {"symbol": symbol, "color": colour, "size": 9, "line": {"width": 1.5, "color": colour}}
    figure.add_scatter(
        x=[None], y=[None], mode="markers", name=name, legendgroup=group, hoverinfo="skip", marker=marker
    )


def axis_unit(seconds: Iterable[float]) -> TimeUnit:
    """The unit of an axis with these times, s."""
    return time_unit(max(seconds, default=0.0))


def log_ticks(ends: Sequence[float]) -> dict[str, Any]:
    """Labels at 1, 2 and 5 times the powers of ten within a logarithmic axis; its ends, not their logarithms."""
    powers = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    values = [v for p in powers for n in (1, 2, 5) if ends[0] <= (v := n * 10.0**p) <= ends[1]]
    return {"tickvals": values, "ticktext": [f"{v:g}" for v in values]}


def point_text(point: Point, what: str) -> str:
    """The hover text of a point; `what` says where its step time comes from."""
    memory = f"<br>peak memory {show_bytes(point.memory_bytes)}" if point.memory_bytes else ""
    named = f"<b>{plain(point.policy)}</b>, {chunk(point.chunk_bytes)}<br>resident fraction {point.resident_fraction:g}"
    title = f"<b>{plain(point.words)}</b>" if point.words else named
    return f"{title}<br>step {duration(point.step_s)} {what}{memory}"
