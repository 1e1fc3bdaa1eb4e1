"""Measured programs: what `python -m calibration.programs` writes, one JSON object a line."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated

from msgspec import Meta

from sim.inputs.config import Config
from sim.inputs.json_lines import load_lines

SCHEMA = 1
PROGRAMS = "programs.jsonl"
"""The file of a data set that holds measured programs."""


class ProgramRow(Config, frozen=True):
    """A measured program: the steps of rank 0, s, of each run."""

    schema: int
    case: str
    hash: str
    """Of the program that ran."""
    runs: tuple[tuple[Annotated[float, Meta(gt=0, le=1e6)], ...], ...]
    error: str = ""
    """Why there are no runs."""

    @property
    def step_s(self) -> float:
        """The median step, without the first of each run."""
        return median(step for run in self.runs for step in run[1:])

    @property
    def spread(self) -> float:
        """Half of the distance between the quartiles of all steps, relative to the median."""
        steps = sorted(step for run in self.runs for step in run[1:])
        return (steps[3 * len(steps) // 4] - steps[len(steps) // 4]) / 2 / self.step_s


def load_programs(folder: Path) -> list[ProgramRow]:
    """The measured programs of a data set. Raises InputError for a file that is none."""
    return [row for _, row in load_lines(folder / PROGRAMS, ProgramRow, SCHEMA)]
