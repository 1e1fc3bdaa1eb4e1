"""Experiments: a scenario, the keys to sweep, and what the plot is to show, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from sim.inputs import units
from sim.inputs.config import Config, InputError, convert
from sim.inputs.own_formats import other_than
from sim.inputs.shipped_files import ShippedFiles
from sim.inputs.yaml_files import read_yaml
from sim.scenario import with_files_of
from sim.sweeps.axes import parse_values
from sim.sweeps.points import Points, Setting, points


class Experiment(Config, frozen=True):
    """What an experiment's file holds.

    `x` is the axis to plot against; `axes` are lists, text as `sweep --set` takes it, or one value. A value
    `{name, set}` stands for keys that change together, as a case does. `plot: curves` needs numbers, or quantities with
    a unit, on `x`.
    """

    title: str
    about: str
    x: str
    plot: Literal["chunk", "curves", "bars"]
    scenario: dict[str, Any]
    axes: dict[str, Any] = msgspec.field(default_factory=dict)
    cases: tuple[Setting, ...] = ()

    def points(self, source: str, check_gpu_count: bool = True) -> Points:
        """All points, checked as `sim.sweeps.points.points` does. Raises `InputError`."""
        axes: dict[str, list[object]] = {}
        if self.cases:
            axes[_CASE] = list(self.cases)
        for path, values in self.axes.items():
            if path in axes:
                raise InputError(source, f"axes.{path}", "is the axis of the cases: give this one another name")
            axes[path] = _values(values, source, f"axes.{path}")
        if self.x not in axes:
            known = ", ".join(axes) or "there are neither axes nor cases"
            raise InputError(source, "x", f"is {self.x!r}, which is none of the axes: {known}")
        made = points(self.scenario, axes, source, check_gpu_count=check_gpu_count)
        if self.plot == "curves":
            self._check_numbers(axes[self.x], source)
        return made

    def _check_numbers(self, values: list[object], source: str) -> None:
        """Raise `InputError` for what a curve cannot be drawn over."""
        for i, value in enumerate(values):
            if isinstance(value, Setting):
                raise InputError(source, "plot", f"curves need numbers on x, not the names of cases: {_BARS}")
            if units.number(value) is None:
                where = f"axes.{self.x}[{i}]" if isinstance(self.axes[self.x], list) else f"axes.{self.x}"
                raise InputError(source, where, f"is {value!r}: plot: curves needs numbers on x; {_BARS}")


_CASE = "case"
_BARS = "plot: bars shows any values"


def _values(given: object, source: str, path: str) -> list[object]:
    if isinstance(given, list):
        if not given:
            raise InputError(source, path, "has no values")
        return [_setting(value, source, f"{path}[{i}]") for i, value in enumerate(given)]
    if isinstance(given, str):
        return parse_values(given, source, path)
    if given is None:
        raise InputError(source, path, "expected a list of values, or text such as 1MiB..256MiB:x2")
    return [given]


def _setting(value: object, source: str, path: str) -> object:
    """A value of an axis; one with a name and keys to set as a `Setting`."""
    if not (isinstance(value, dict) and set(value) == set(Setting.__struct_fields__)):
        return value
    try:
        return convert(value, Setting, source)
    except InputError as error:
        raise error.within(source, path) from None


_FILES = ShippedFiles("experiments", "an experiment", "chunkflow-sim experiment")
shipped = _FILES.names


def is_experiment(file: Path) -> bool:
    """Whether a YAML file holds an experiment, right or wrong, and no scenario. Raises `InputError`."""
    data = read_yaml(file)
    return isinstance(data, dict) and "scenario" in data


def load_experiment(name: str) -> Experiment:
    """Load a shipped experiment by name, or a YAML file by path. Raises `InputError`."""
    file = _FILES.file(name)
    data = read_yaml(file)
    if (problem := other_than("experiment", data, str(file))) is not None:
        raise InputError(str(file), "", problem)
    if isinstance(data, dict):
        data["scenario"] = with_files_of(file.parent, data.get("scenario"))
    return convert(data, Experiment, str(file))
