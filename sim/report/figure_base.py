"""What all figures start from."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from sim.report.theme import NEUTRAL, TEMPLATES


def blank(**layout: Any) -> go.Figure:
    """A figure without data in the house style."""
    return go.Figure(layout={"template": TEMPLATES["light"], **layout})


def key(figure: go.Figure, name: str, symbol: str, colour: str = NEUTRAL, group: str | None = None) -> None:
    """An entry of the legend that stands for a symbol or a group of traces, whatever their first point looks like."""
    marker = {"symbol": symbol, "color": colour, "size": 9, "line": {"width": 1.5, "color": colour}}
    figure.add_scatter(
        x=[None], y=[None], mode="markers", name=name, legendgroup=group, hoverinfo="skip", marker=marker
    )
