"""The look of reports: colours, light and dark templates, and how quantities are written."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any, NamedTuple

from sim.inputs.units import show_bytes

# Mid-tones: each has a contrast of at least 2.9 against the white and the dark page alike, and the first five stay
# apart under simulated deuteranopia, protanopia and tritanopia.
GREY, RED, PINK, BLUE, GREEN = "#69707a", "#c03c08", "#c774bd", "#2b64e3", "#0bab65"
YELLOW, VIOLET, TEAL, BROWN = "#b88d01", "#7a6cd0", "#2f8f9d", "#9a5b3c"

_POLICIES = {
    "resident": (GREY, "diamond"),
    "whole_layer": (RED, "square"),
    "chunked": (PINK, "triangle-up"),
    "yielding": (BLUE, "circle"),
    "yielding+drain": (GREEN, "cross"),
}
_SPARE = ((YELLOW, "star"), (VIOLET, "hexagon"), (TEAL, "pentagon"), (BROWN, "bowtie"))

NEUTRAL = "#808790"
BAND = "rgba(128,135,144,0.15)"
FAINT = "rgba(128,135,144,0.45)"
GOOD, BAD = GREEN, RED

FONT = 'Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def styles(policies: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker symbol) of each policy, known policies first; unknown ones take spare colours in order."""
    given = list(dict.fromkeys(policies))
    chosen = {p: style for p, style in _POLICIES.items() if p in given}
    for i, policy in enumerate(p for p in given if p not in _POLICIES):
        chosen[policy] = _SPARE[i % len(_SPARE)]
    return chosen


def faded(colour: str, opacity: float) -> str:
    """A "#rrggbb" colour at `opacity`."""
    red, green, blue = _channels(colour)
    return f"rgba({red},{green},{blue},{opacity:g})"


def lighter(colour: str) -> str:
    """A "#rrggbb" colour's lighter shade: opaque, so that nothing behind it shines through."""
    return "#" + "".join(f"{round(c + 0.28 * (255 - c)):02x}" for c in _channels(colour))


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def plain(text: str) -> str:
    """Text that plotly shows as it is: it would read tags and entities as markup."""
    return html.escape(text, quote=False)


def ms(seconds: float, digits: int = 2) -> str:
    """A duration in ms."""
    return f"{_minus(f'{seconds * 1e3:,.{digits}f}')} ms"


class TimeUnit(NamedTuple):
    """What times of one axis or column are given in: `per_second` of it are a second."""

    name: str
    per_second: float
    digits: int

    def show(self, seconds: float, sign: str = "") -> str:
        """A duration in this unit; `sign` is "+" where its sign matters."""
        return f"{_minus(f'{seconds * self.per_second:{sign},.{self.digits}f}')} {self.name}"


def time_unit(longest_s: float) -> TimeUnit:
    """Seconds where the longest of the times to be shown takes one, else ms."""
    return TimeUnit("s", 1.0, 3) if longest_s >= 1.0 else TimeUnit("ms", 1e3, 2)


def duration(seconds: float, sign: str = "") -> str:
    """A duration in ms, or in s where it takes one or more; `sign` is "+" where its sign matters."""
    return time_unit(abs(seconds)).show(seconds, sign)


def signed(value: float, unit: str, digits: int = 2) -> str:
    """A number with its sign and unit."""
    return f"{_minus(f'{value:+,.{digits}f}')} {unit}"


def chunk(size: int | None) -> str:
    """A chunk size; None is a layer in one piece."""
    return "whole layer" if size is None else show_bytes(size)


def _minus(number: str) -> str:
    """A formatted number with a true minus sign; a zero has no sign."""
    return number.replace("-", "\N{MINUS SIGN}") if number.strip("+-0.,") else number.lstrip("+-")


def _template(text: str, dim: str, grid: str, axis: str, page: str) -> dict[str, Any]:
    along = {
        "gridcolor": grid,
        "linecolor": axis,
        "tickcolor": axis,
        "zerolinecolor": axis,
        "zerolinewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "showline": True,
        "automargin": True,
        "ticklabelstandoff": 3,
        "tickfont": {"color": dim, "size": 12},
        "title": {"font": {"color": dim, "size": 13}, "standoff": 10},
    }
    layout = {
        "font": {"family": FONT, "size": 13, "color": text},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": along,
        "yaxis": along | {"showline": False, "ticks": ""},
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "hoverlabel": {
            "bgcolor": page,
            "bordercolor": axis,
            "align": "left",
            "font": {"family": FONT, "color": text, "size": 12},
        },
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": axis, "activecolor": text},
        "separators": ".,",
    }
    return {"layout": layout}


TEMPLATES = {
    "light": _template(text="#1f2430", dim="#59616d", grid="#e9ebee", axis="#aeb4bd", page="#ffffff"),
    "dark": _template(text="#e4e7ec", dim="#a2abb8", grid="#2a313b", axis="#566070", page="#1f252d"),
}
