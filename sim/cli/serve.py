"""`chunkflow-sim serve`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from sim.cli.common import (
    OutputPath,
    SecondsRange,
    check_outputs_shared,
    force_option,
    main,
    no_cache_option,
    say,
    with_exit_codes,
    workers_option,
)
from sim.cli.scenario_input import STANDARD_INPUT


def _further(advance: Callable[[int], None], before: int, done: int) -> None:
    advance(before + done)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--set", "settings_given", multiple=True, help="Change the scenario: key.path=value. Repeat for more keys."
)
@click.option(
    "--vary",
    multiple=True,
    help="An axis of a grid: key.path=values, such as arrivals.load=0.3..1.1:+0.2. Repeat for more axes.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), help="Runs of each point, each with a new seed.")
@click.option(
    "--minute",
    type=SecondsRange(0, 1e12),
    help="Start, s, of the minute that the page shows; the busiest one unless given.",
)
@click.option("--together", is_flag=True, help="Print step times of pairs of classes side by side, and serve nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=OutputPath(), help="Write a page to this file.")
@workers_option
@no_cache_option
@force_option
@with_exit_codes
def serve(
    file: Path,
    settings_given: tuple[str, ...],
    vary: tuple[str, ...],
    seeds: int | None,
    minute: float | None,
    together: bool,
    as_json: bool,
    html: Path | None,
    workers: int | None,
    no_cache: bool,
    force: bool,
) -> None:
    """Serve the requests of the serving scenario FILE (- for standard input).

    It says who is in time, how long requests take, and why some are late. FILE may also be a grid: a serving scenario
    with axes of its keys.
    """
    import json

    from sim.inputs.input_files import read_standard_input
    from sim.report.serving_tables import print_grid, print_pairs, print_served
    from sim.report.terminal import progress
    from sim.serving import replicate
    from sim.serving.grid import Grid, GridRow, grids_of, is_grid, points, run_grid, with_value
    from sim.serving.pairs import pairs
    from sim.serving.scenario import ServingScenario, plain_of, read_plain
    from sim.serving.serve import prepare
    from sim.sweeps.axes import parse_axes, parse_settings
    from sim.sweeps.evaluation import Evaluator
    from sim.sweeps.figures_cache import user_cache
    from sim.sweeps.worker_pool import Workers

    if str(file) == STANDARD_INPUT:
        source = title = "standard input"
        data = plain_of(read_standard_input(), source, Path())
    else:
        source, title = str(file), file.name
        data = read_plain(file)
    settings = parse_settings(settings_given, "--vary takes several")
    check_outputs_shared(force, ("--html", html, "PAGE"))
    evaluator = Evaluator(cache=user_cache(not no_cache))
    if is_grid(data):
        named = list(grids_of(data, file.parent, source, settings))
        if vary:
            named = [("", named[0][1]._replace(axes=parse_axes(vary, "--vary")))]
        if seeds is not None:
            named = [(name, grid._replace(seeds=seeds)) for name, grid in named]
    else:
        for path, value in settings.items():
            data = with_value(data, path, value, source)
        named = [("", Grid(data, parse_axes(vary, "--vary"), seeds or 1, source))] if vary else []
    if named:
        tables: list[tuple[str, list[GridRow]]] = []
        rows: list[GridRow] = []
        total = sum(len(list(points(grid))) for _, grid in named)
        with Workers(workers) as pool, progress(total, "points") as advance:
            for name, grid in named:
                found = run_grid(grid, evaluator, partial(_further, advance, len(rows)), pool)
                tables.append((f"{title}: {name}" if name else title, found))
                rows += found
        try:
            if as_json:
                click.echo(json.dumps({"schema_version": 1, "rows": [row.to_plain() for row in rows]}, indent=2))
            else:
                for name, found in tables:
                    print_grid(name, found)
        finally:  # also where whoever read the tables has gone
            if html is not None:
                from sim.report.serving_page import write_grid_page

                write_grid_page(html, title, rows)
                say(f"page: {html}")
        return
    prepared = prepare(ServingScenario.from_plain(data, source), evaluator, source)
    if together:
        found_pairs = list(pairs(prepared))
        if as_json:
            plain = [[side._asdict() for side in pair] for pair in found_pairs]
            click.echo(json.dumps({"schema_version": 1, "pairs": plain}, indent=2))
        else:
            print_pairs(title, found_pairs)
        return
    window = None
    if html is not None:
        window = (0.0, float("inf")) if minute is None else (minute, minute + 60.0)
    served = replicate(prepared, seeds or 1, window)
    try:
        if as_json:
            click.echo(json.dumps(served.to_plain(), indent=2))
        else:
            print_served(title, served)
    finally:  # also where whoever read the answer has gone
        if html is not None:
            from sim.report.serving_page import write_page

            write_page(html, title, served, minute)
            say(f"page: {html}")
