"""`chunkflow-sim explain`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import (
    evaluating,
    load_scenario,
    main,
    no_cache_option,
    note_borrowed_tables,
    with_exit_codes,
    workers_option,
)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@workers_option
@no_cache_option
@with_exit_codes
def explain(file: Path, as_json: bool, workers: int | None, no_cache: bool) -> None:
    """Say what binds the scenario FILE, and what would help."""
    from sim.analysis.explain import explain_job, to_plain
    from sim.sweeps.job import Job

    loaded = load_scenario(file)
    note_borrowed_tables([loaded])
    with evaluating(workers, no_cache) as evaluator:
        explanation = explain_job(Job.of(*loaded), evaluator)
    if as_json:
        import json

        click.echo(json.dumps(to_plain(explanation), indent=2))
        return
    from sim.report.tables import print_explanation

    print_explanation(file.name, explanation)
