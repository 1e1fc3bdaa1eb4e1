"""Experiments: a scenario, the keys to sweep, and what the plot is to show, as one file."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sim.config import Config, InputError, convert
from sim.ledger import Point
from sim.shelf import Shelf
from sim.sweep import Setting, parse_axis, points
from sim.yaml_files import read_yaml


class Experiment(Config, frozen=True):
    """What an experiment's file holds.

    `x` is the axis to plot against; `axes` are lists, or text as `sweep --set` takes it.
    """

    title: str
    about: str
    x: str
    plot: Literal["chunk", "curves", "bars"]
    scenario: dict[str, Any]
    axes: dict[str, Any] = msgspec.field(default_factory=dict)
    cases: tuple[Setting, ...] = ()

    def points(self, source: str) -> list[Point]:
        """All points, checked. Raises `InputError`."""
        axes: dict[str, list[object]] = {}
        if self.cases:
            axes["case"] = list(self.cases)
        for path, values in self.axes.items():
            try:
                axes[path] = values if isinstance(values, list) else parse_axis(f"{path}={values}")[1]
            except InputError as error:
                raise error.within(source, f"axes.{path}") from None
        if self.x not in axes:
            raise InputError(source, "x", f"is {self.x!r}, which is none of the axes: {', '.join(axes)}")
        return points(self.scenario, axes, source)


_SHELF = Shelf("experiments", "experiment", "chunkflow-sim experiment")
shipped = _SHELF.names


def load_experiment(name: str) -> Experiment:
    """Load a shipped experiment by name, or a YAML file by path. Raises `InputError`."""
    file = _SHELF.file(name)
    return convert(read_yaml(file), Experiment, str(file))
