"""`chunkflow-sim explain`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import (
    OutputPath,
    check_outputs_shared,
    evaluating,
    force_option,
    main,
    no_cache_option,
    say,
    with_exit_codes,
    workers_option,
)
from sim.cli.scenario_input import Given, scenario_options


@main.command()
@scenario_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--html", type=OutputPath(), help="Write a page with the timeline, and why, to this file.")
@workers_option
@no_cache_option
@force_option
@with_exit_codes
def explain(given: Given, as_json: bool, html: Path | None, workers: int | None, no_cache: bool, force: bool) -> None:
    """Say what binds the scenario FILE (- for standard input), and what would help."""
    from sim.analysis.explain import explain as explained
    from sim.analysis.explain import explain_job, to_plain
    from sim.sweeps.job import Job

    loaded = given.load()
    check_outputs_shared(force, ("--html", html, "PAGE"))
    job = Job.of(*loaded)
    with evaluating(workers, no_cache) as evaluator:
        if html is None:
            explanation = explain_job(job, evaluator)
        else:
            from sim.report.run_page import write_explanation

            result = job.simulate()
            explanation = explained(result, evaluator)
            write_explanation(html, given.name, result, explanation)
            say(f"page: {html}")
    if as_json:
        import json

        click.echo(json.dumps({**to_plain(explanation), **given.fits.shown(loaded[1])}, indent=2))
        return
    from sim.report.tables import print_explanation

    print_explanation(given.name, explanation)
    given.fits.say(loaded[1])
