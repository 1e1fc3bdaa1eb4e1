"""Static charts as SVG text: panels side by side, one legend above them, readable on white and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal, NamedTuple

TEXT = "#6e7681"  # 4.5 to 1 on white and 4 to 1 on GitHub's dark page: a picture cannot know which one it is on
FAINT = "rgba(110,118,129,0.28)"
WIDTH, HEIGHT = 900, 330
LEFT, RIGHT, BOTTOM, ROW = 58, 14, 46, 18
CHARACTER = 6.3
"""Width of a character of the legend, px."""

Marker = Literal["circle", "square", "triangle", "diamond", "none"]
MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond")


class Series(NamedTuple):
    """Points (x, y) under one name; `line` joins them in the order given."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    marker: Marker = "circle"
    line: bool = True
    dashed: bool = False


class Axis(NamedTuple):
    """An axis from `low` to `high`; `ticks` are (place, what is written there)."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def part(self, value: float) -> float:
        """Where `value` is, 0 at `low` and 1 at `high`."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)


class Panel(NamedTuple):
    """A chart under a title; `guides` are straight lines ((x, y), (x, y)) to compare with."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    guides: Sequence[tuple[tuple[float, float], tuple[float, float]]] = ()


def linear(label: str, low: float, high: float, step: float) -> Axis:
    """An axis with a tick at every multiple of `step`."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(label, low, high, [(i * step, f"{i * step:g}".replace("-", "\u2212")) for i in range(first, last + 1)])


def logarithmic(label: str, ticks: Sequence[tuple[float, str]], margin: float = 1.35) -> Axis:
    """A logarithmic axis a little longer than its `ticks`."""
    return Axis(label, ticks[0][0] / margin, ticks[-1][0] * margin, ticks, log=True)


def figure(panels: Sequence[Panel]) -> str:
    """The SVG document."""
    shown = {s.name: s for panel in panels for s in panel.series if s.name}
    legend, rows = _legend(shown.values())
    top = rows * ROW + 34
    body = [*legend]
    share = WIDTH / len(panels)
    for i, panel in enumerate(panels):
        body += _panel(panel, i * share + LEFT, (i + 1) * share - RIGHT, top, top + HEIGHT - 34 - BOTTOM)
    height = top + HEIGHT - 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" font-size="12" fill="{TEXT}">\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _legend(series: Iterable[Series]) -> tuple[list[str], int]:
    made: list[str] = []
    x, row = float(LEFT), 0
    for s in series:
        taken = 30 + CHARACTER * len(s.name) + 14
        if x + taken > WIDTH and x > LEFT:
            x, row = float(LEFT), row + 1
        y = 14 + row * ROW
        if s.line:
            made.append(_line(x, y, x + 22, y, s.colour, 2, s.dashed))
        made += _mark(s.marker, x + 11, y, s.colour)
        made.append(_text(x + 28, y + 4, s.name))
        x += taken
    return made, row + 1


def _panel(panel: Panel, left: float, right: float, top: float, bottom: float) -> list[str]:
    def at(x: float, y: float) -> tuple[float, float]:
        return left + panel.x.part(x) * (right - left), bottom - panel.y.part(y) * (bottom - top)

    made = [_text(left, top - 10, panel.title, bold=True)]
    for place, words in panel.y.ticks:
        _, y = at(panel.x.low, place)
        made += [_line(left, y, right, y, FAINT), _text(left - 6, y + 4, words, "end")]
    for place, words in panel.x.ticks:
        x, _ = at(place, panel.y.low)
        made += [_line(x, bottom, x, bottom + 4, TEXT), _text(x, bottom + 17, words, "middle")]
    made += [_line(left, bottom, right, bottom, TEXT), _text((left + right) / 2, bottom + 36, panel.x.label, "middle")]
    x, y = left - 42, (top + bottom) / 2
    made.append(
        f'<text transform="translate({x:.1f},{y:.1f}) rotate(-90)" text-anchor="middle">{escape(panel.y.label)}</text>'
    )
    made += [_line(*at(*a), *at(*b), TEXT, 1, dashed=True) for a, b in panel.guides]
    for s in panel.series:
        places = [at(*point) for point in s.points]
        if s.line and len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            dash = ' stroke-dasharray="5 4"' if s.dashed else ""
            made.append(f'<polyline points="{path}" fill="none" stroke="{s.colour}" stroke-width="2"{dash}/>')
        for x, y in places:
            made += _mark(s.marker, x, y, s.colour)
    return made


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width:g}"{dash}/>'


def _text(x: float, y: float, words: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(words, quote=False)}</text>'


def _mark(marker: Marker, x: float, y: float, colour: str) -> list[str]:
    if marker == "circle":
        return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"/>']
    if marker == "square":
        return [f'<rect x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6" fill="{colour}"/>']
    corners = {
        "triangle": ((0, -4.4), (4.2, 3.4), (-4.2, 3.4)),
        "diamond": ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)),
        "none": (),
    }[marker]
    if not corners:
        return []
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return [f'<polygon points="{path}" fill="{colour}"/>']
