"""`chunkflow-sim explain`."""

from __future__ import annotations

import click

from sim.cli.common import (
    evaluating,
    main,
    no_cache_option,
    with_exit_codes,
    workers_option,
)
from sim.cli.scenario_input import Given, scenario_options


@main.command()
@scenario_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@workers_option
@no_cache_option
@with_exit_codes
def explain(given: Given, as_json: bool, workers: int | None, no_cache: bool) -> None:
    """Say what binds the scenario FILE (- for standard input), and what would help."""
    from sim.analysis.explain import explain_job, to_plain
    from sim.sweeps.job import Job

    loaded = given.load()
    with evaluating(workers, no_cache) as evaluator:
        explanation = explain_job(Job.of(*loaded), evaluator)
    if as_json:
        import json

        click.echo(json.dumps({**to_plain(explanation), **given.fits.shown(loaded[1])}, indent=2))
        return
    from sim.report.tables import print_explanation

    print_explanation(given.name, explanation)
    given.fits.say(loaded[1])
