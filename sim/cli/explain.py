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
    """Say what binds the scenario FILE (- for standard input), and what would help.

    Of a profiler's trace (Kineto), say where its last complete pass went.
    """
    from sim.analysis.explain import explain as explained
    from sim.analysis.explain import explain_job, to_plain
    from sim.importers.trace.files import is_trace
    from sim.sweeps.job import Job

    if is_trace(given.file):
        _explain_trace(given, as_json)
        return
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


def _explain_trace(given: Given, as_json: bool) -> None:
    from sim.importers.trace.findings import explained, sentences
    from sim.importers.trace.notes import Notes
    from sim.importers.trace.scenario import read
    from sim.inputs.config import InputError

    if given.hardware is not None or given.settings or any(given.fits):
        raise InputError(given.source, "", "is a trace: options of scenarios do not apply to what was measured")
    notes = Notes()
    found = explained(read([given.file], notes), notes)
    if as_json:
        import json

        plain = {
            "step_time_s": found.step_s,
            "sentences": sentences(found),
            "findings": [finding._asdict() for finding in found.findings],
            "causes_s": found.breakdown.causes,
            "pageable_copies_s": found.breakdown.pageable,
            "idle_s": found.breakdown.idle,
            "waterfall": found.waterfall._asdict(),
            "notes": notes.lines(),
        }
        click.echo(json.dumps(plain, indent=2))
        return
    from sim.report.tables import print_trace

    print_trace(given.name, sentences(found), notes.lines(), found.waterfall)
