"""`chunkflow-sim experiment`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import RECOMPUTE, OutputPath, force_option, main, resumable, run_points, with_exit_codes

if TYPE_CHECKING:
    from sim.sweeps.results_file import Row


@main.command()
@click.argument("name", required=False)
@click.option("--out", type=OutputPath(), help="Write rows to this CSV file; continues where it ends.")
@click.option("--html", type=OutputPath(), help="Write the page with the plot to this file.")
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as there are cores unless given.")
@click.option("--recompute", is_flag=True, help=RECOMPUTE)
@force_option
@with_exit_codes
def experiment(
    name: str | None, out: Path | None, html: Path | None, workers: int | None, recompute: bool, force: bool
) -> None:
    """List the shipped experiments, or run NAME (or a YAML file): the published figures as sweeps."""
    from sim.report.tables import print_experiments
    from sim.sweeps.experiments import load_experiment, shipped

    if name is None:
        print_experiments({n: load_experiment(n).title for n in shipped()})
        return
    with resumable(out, "points"):
        chosen = load_experiment(name)
        points = chosen.points(name)

        def page(html: Path, rows: Sequence[Row]) -> None:
            from sim.report.sweep_page import write_experiment

            write_experiment(html, chosen, points, rows)

        run_points(name, points, out, html, workers, recompute, force, page)
