"""`chunkflow-sim serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sim.cli.common import (
    OutputPath,
    check_outputs_shared,
    force_option,
    main,
    no_cache_option,
    say,
    with_exit_codes,
)


def _with_settings(data: Any, settings: tuple[str, ...], source: str) -> Any:
    """Plain data with keys set, as --set gives them: one value each."""
    from sim.inputs.config import InputError
    from sim.serving.grid import with_value
    from sim.sweeps.axes import parse_axes

    axes = parse_axes(settings)
    for (path, values), text in zip(axes.items(), settings, strict=True):
        if len(values) != 1:
            raise InputError("--set", text, f"expected one value for {path}, got {len(values)}: see --vary")
        data = with_value(data, path, values[0], source)
    return data


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, help="Change the scenario: key.path=value. Repeat for more keys.")
@click.option(
    "--vary",
    multiple=True,
    help="An axis of a grid: key.path=values, such as arrivals.load=0.3..1.1:+0.2. Repeat for more axes.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs, each with a new seed.")
@click.option(
    "--minute",
    type=click.FloatRange(0),
    help="Start, s, of the minute that the page shows; the busiest one unless given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=OutputPath(), help="Write a page to this file.")
@no_cache_option
@force_option
@with_exit_codes
def serve(
    file: Path,
    settings: tuple[str, ...],
    vary: tuple[str, ...],
    seeds: int,
    minute: float | None,
    as_json: bool,
    html: Path | None,
    no_cache: bool,
    force: bool,
) -> None:
    """Serve the requests of the serving scenario FILE: who is in time, how long they take, and why some are late."""
    import json

    from sim.report.serving_tables import print_grid, print_served
    from sim.serving import replicate
    from sim.serving.grid import Grid, run_grid
    from sim.serving.scenario import ServingScenario, read_plain
    from sim.serving.serve import prepare
    from sim.sweeps.axes import parse_axes
    from sim.sweeps.evaluation import Evaluator
    from sim.sweeps.figures_cache import user_cache

    source = str(file)
    data = _with_settings(read_plain(file), settings, source)
    check_outputs_shared(force, ("--html", html, "PAGE"))
    evaluator = Evaluator(cache=user_cache(not no_cache))
    if vary:
        rows = run_grid(Grid(data, parse_axes(vary), seeds, source), evaluator)
        if as_json:
            click.echo(json.dumps({"schema_version": 1, "rows": [row.to_plain() for row in rows]}, indent=2))
        else:
            print_grid(file.name, rows)
        if html is not None:
            from sim.report.serving_page import write_grid_page

            write_grid_page(html, file.name, rows)
            say(f"page: {html}")
        return
    prepared = prepare(ServingScenario.from_plain(data, source), evaluator, source)
    window = None
    if html is not None:
        window = (0.0, float("inf")) if minute is None else (minute, minute + 60.0)
    found = replicate(prepared, seeds, window)
    if as_json:
        click.echo(json.dumps(found.to_plain(), indent=2))
    else:
        print_served(file.name, found)
    if html is not None:
        from sim.report.serving_page import write_page

        write_page(html, file.name, found, minute)
        say(f"page: {html}")
