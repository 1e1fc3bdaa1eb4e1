"""`chunkflow-sim experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import PointRun, main, point_options, resumable, run_points, with_exit_codes

if TYPE_CHECKING:
    from sim.sweeps.results_file import Row


@main.command()
@click.argument("name", required=False)
@point_options
@with_exit_codes
def experiment(name: str | None, how: PointRun) -> None:
    """List the shipped experiments, or run NAME (or a YAML file): the published figures as sweeps."""
    from sim.report.tables import print_experiments
    from sim.sweeps.experiments import load_experiment, shipped

    if name is None:
        print_experiments({n: load_experiment(n).title for n in shipped()})
        return
    with resumable(how.out, "points"):
        chosen = load_experiment(name)
        points = chosen.points(name)

        def page(html: Path, rows: Sequence[Row]) -> None:
            from sim.report.sweep_page import write_experiment

            write_experiment(html, chosen, points, rows)

        run_points(name, points, how, page)
