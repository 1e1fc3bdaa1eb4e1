"""Experiments: a scenario, the keys to sweep, and what the plot is to show, as one file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from sim.config import Config, InputError, convert, read_yaml
from sim.sweep import CASE, Point, parse_axis, points


class Setting(Config, frozen=True):
    """A named case: keys that change together."""

    name: str
    set: dict[str, Any]


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
            axes[CASE] = [{"name": c.name, "set": c.set} for c in self.cases]
        for path, values in self.axes.items():
            axes[path] = list(values) if isinstance(values, list) else parse_axis(f"{path}={values}")[1]
        return points(self.scenario, axes, source)


def shipped() -> tuple[str, ...]:
    """Names of the experiments that come with the package."""
    folder = files("scenarios") / "experiments"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_experiment(name: str) -> Experiment:
    """Load a shipped experiment by name, or a YAML file by path. Raises `InputError`."""
    if name in shipped():
        file = Path(str(files("scenarios") / "experiments" / f"{name}.yaml"))
    elif Path(name).exists():
        file = Path(name)
    else:
        raise InputError(name, "", f"is no experiment; shipped are {', '.join(shipped())} (or give a YAML file)")
    return convert(read_yaml(file), Experiment, str(file))
