"""`chunkflow-sim sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import PointRun, main, note, point_options, resumable, run_points, with_exit_codes
from sim.cli.scenario_input import Given, scenario_options

if TYPE_CHECKING:
    from sim.sweeps.results_file import Row


@main.command()
@scenario_options(settings=False)
@click.option(
    "--set",
    "axes",
    multiple=True,
    required=True,
    help="An axis: key.path=a,b,c or key.path=first..last:x2 (factor) or :+1 (step). Repeat for more axes.",
)
@point_options
@with_exit_codes
def sweep(given: Given, axes: tuple[str, ...], how: PointRun) -> None:
    """Simulate the scenario FILE (- for standard input) at every combination of values and print one row each.

    Example: --set policy.kind=chunked,yielding --set policy.chunk_bytes=1MiB..256MiB:x2
    """
    with resumable(how.out, "points"):
        from sim.sweeps.axes import parse_axes
        from sim.sweeps.points import Points

        chosen = given.fits.fitted_points(Points(given.plain(), parse_axes(axes), given.source, note)).checked()

        def page(html: Path, rows: Sequence[Row]) -> None:
            from sim.report.sweep_page import write_page

            write_page(html, given.source, chosen, rows)

        run_points(given.name, chosen, how, page)
