"""`chunkflow-sim validate`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import Failure, OutputPath, check_outputs_shared, force_option, main, say, with_exit_codes


@main.command()
@click.option(
    "--data", "sets", multiple=True, help="A data set: a shipped name, a folder of `measure`, or all (default)."
)
@click.option("--published", is_flag=True, help="Published cases instead of measured ones, with bounds of their own.")
@click.option("--hardware", help="Profile to predict with; each data set's own unless given.")
@click.option("--html", type=OutputPath(), help="Write a report page to this file.")
@click.option("--trace", type=OutputPath(), help="Write a Perfetto trace of the worst case to this file.")
@click.option("--intervals", is_flag=True, help="Intervals about predictions, and how many hold the measurement.")
@click.option("--markdown", is_flag=True, help="Print the bounds, errors and cases as Markdown.")
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as there are cores unless given.")
@force_option
@with_exit_codes
def validate(
    sets: tuple[str, ...],
    published: bool,
    hardware: str | None,
    html: Path | None,
    trace: Path | None,
    intervals: bool,
    markdown: bool,
    workers: int | None,
    force: bool,
) -> None:
    """Predict measured cases, print measured against predicted, and judge the stated bounds: exit code 1 if one breaks.

    A folder is predicted with the profile of its name, or with --hardware.
    """
    if published:
        if sets or hardware or html or trace or intervals:
            raise click.UsageError("--published takes no other option than --markdown and --workers")
        _validate_published(markdown, workers)
        return
    from sim.hardware import load_profile
    from sim.inputs.safe_text import printable
    from sim.report.terminal import progress
    from sim.sweeps.worker_pool import Workers
    from validation import comparison_tables, report, run
    from validation.datasets import load_set, named_sets
    from validation.terminal import print_validation

    profile = None if hardware is None else load_profile(hardware)  # first: reading all sets takes seconds
    chosen = run.plan([load_set(name) for name in named_sets(sets)], profile, intervals)
    check_outputs_shared(force, ("--html", html, "PAGE"), ("--trace", trace, "TRACE"))
    with Workers(workers) as pool:
        with progress(chosen.size, "cases") as advance:
            found = run.validate(chosen, pool, advance)
        if intervals:
            wanted = run.intervals(found)
            with progress(wanted.size, "intervals") as advance:
                found = run.with_intervals(found, wanted, pool, advance)
    try:
        if markdown:
            click.echo(printable(comparison_tables.markdown(found.compared, found.judged, found.covered)))
        else:
            print_validation(found, with_cases=html is None)
    finally:  # also where whoever read the tables has gone
        worst = report.worst_cases(found) if html is not None or trace is not None else []
        if html is not None:
            report.write_page(html, found, [report.look(job, case) for job, case in worst])
            say(f"report: {html.resolve()}")
        if trace is not None and worst:
            from sim.timeline.perfetto import write_trace
            from validation.predict import predict

            job, case = worst[0]
            write_trace(predict(job.case, job.baselines, job.profile).timeline, trace)
            say(f"trace of {case.name}: {trace.resolve()} (open it in ui.perfetto.dev)")
    if found.broken:
        figures = (f"{j.bound.name}: {j.figure} {j.value:.2f} % > {j.allowed:g} %" for j in found.broken)
        raise Failure("a stated bound is broken: " + "; ".join(figures))


def _validate_published(markdown: bool, workers: int | None) -> None:
    from sim.report.terminal import progress
    from sim.sweeps.worker_pool import Workers
    from validation import published, published_tables
    from validation.terminal import print_published

    cases = [case for name in published.shipped() for case in published.load_suite(name).cases]
    outcomes = []
    with Workers(workers) as pool, progress(len(cases), "cases") as advance:
        for outcome in published.predict_all(cases, pool):
            outcomes.append(outcome)
            advance(len(outcomes))
    if markdown:
        click.echo(published_tables.markdown(outcomes))
    else:
        print_published(outcomes)
    if broken := sum(len(outcome.faults) for outcome in outcomes):
        raise Failure(f"{broken} stated bounds are broken")
