"""Programs of every kind of command, measured and predicted: `python -m validation.programs NAME [--hardware P]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from sim.datasets.program_cases import cases
from sim.datasets.program_rows import ProgramRow, load_programs
from sim.hardware import Profile, load_profile
from sim.inputs.config import InputError
from sim.machine import SimulatedMachine
from validation.error_statistics import errors
from validation.step_statistics import folder


class ComparedProgram(NamedTuple):
    """A measured program and its prediction, s a step."""

    row: ProgramRow
    predicted_s: float
    lead_s: float
    """Of the kernel that precedes each step's commands."""

    @property
    def error(self) -> float:
        """Predicted over measured, less 1, without the kernel that precedes them."""
        return (self.predicted_s - self.lead_s) / (self.row.step_s - self.lead_s) - 1


def compare_programs(data: Path, profile: Profile) -> Iterator[ComparedProgram]:
    """The measured programs of a data set that ran, each predicted on `profile`.

    Raises:
        InputError: the data set cannot be read, or has a program that is none of today's.
    """
    known = {case.name: case for case in cases(2)}
    for row in load_programs(data):
        if not row.runs:
            continue
        if row.case not in known or (program := known[row.case].build()).hash != row.hash:
            raise InputError(str(data), row.case, "is another program than today's: measure it again")
        steps = SimulatedMachine(profile).run(program).step_times(0)
        yield ComparedProgram(row, median(steps[1:]), known[row.case].lead_s)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m validation.programs", description=__doc__)
    parser.add_argument("name", help="a data set")
    parser.add_argument("--hardware", help="a profile; the data set's own unless given")
    given = parser.parse_args()
    try:
        found = list(compare_programs(folder(given.name), load_profile(given.hardware or given.name)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for c in found:
        print(
            f"{c.row.case:36} {1e3 * c.row.step_s:10.4f} ms ± {100 * c.row.spread:4.1f} %  "
            f"predicted {1e3 * c.predicted_s:10.4f}  {100 * c.error:+6.1f} %"
        )
    all_errors = errors({c.row.case: c.error for c in found})
    print(
        f"{len(found)} programs: median {100 * all_errors.median:.1f} %, 95th percentile {100 * all_errors.p95:.1f} %"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
