"""`chunkflow-sim sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import PointRun, main, note, point_options, resumable, run_points, with_exit_codes

if TYPE_CHECKING:
    from sim.sweeps.results_file import Row


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    help="An axis: key.path=a,b,c or key.path=first..last:x2 (factor) or :+1 (step). Repeat for more axes.",
)
@point_options
@with_exit_codes
def sweep(file: Path, settings: tuple[str, ...], how: PointRun) -> None:
    """Simulate the scenario FILE at every combination of values and print one row each.

    Example: --set policy.kind=chunked,yielding --set policy.chunk_bytes=1MiB..256MiB:x2
    """
    with resumable(how.out, "points"):
        from sim.scenario import read_plain
        from sim.sweeps.axes import parse_axes
        from sim.sweeps.grid import points

        axes = parse_axes(settings)
        chosen = points(read_plain(file), axes, str(file), note)

        def page(html: Path, rows: Sequence[Row]) -> None:
            from sim.report.sweep_page import write_page

            write_page(html, str(file), chosen, rows)

        run_points(file.name, chosen, how, page)
