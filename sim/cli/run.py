"""`chunkflow-sim run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
)
from sim.cli.scenario_input import Given, scenario_options

if TYPE_CHECKING:
    from sim.analysis.sensitivity import Interval
    from sim.sweeps.job import Job


@main.command()
@scenario_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--trace", type=OutputPath(), help="Write a Chrome/Perfetto trace to this file.")
@click.option("--html", type=OutputPath(), help="Write a page with the timeline, and why, to this file.")
@click.option(
    "--interval",
    "with_interval",
    is_flag=True,
    help="Add where the step time lies, by the model's error and the profile's.",
)
@click.option(
    "--shortcuts/--no-shortcuts",
    default=True,
    help="Leave out layers that are proved to repeat and ranks that are alike (the default), or simulate all of them.",
)
@no_cache_option
@force_option
@with_exit_codes
def run(
    given: Given,
    as_json: bool,
    trace: Path | None,
    html: Path | None,
    with_interval: bool,
    shortcuts: bool,
    no_cache: bool,
    force: bool,
) -> None:
    """Simulate the scenario FILE (- for standard input) and print its figures."""
    from sim.analysis.computed_kernels import computes_kernels
    from sim.analysis.explain import resident
    from sim.sweeps.evaluation import Evaluator, Figures
    from sim.sweeps.figures_cache import user_cache
    from sim.sweeps.job import Job
    from sim.timeline.critical_path import waterfall

    loaded = given.load()
    check_outputs_shared(force, ("--trace", trace, "TRACE"), ("--html", html, "PAGE"))
    scenario, profile = loaded
    evaluator, job = Evaluator(cache=user_cache(not no_cache)), Job.of(*loaded, causes=True)
    result = None if trace is None and html is None else job._replace(shortcuts=False).simulate()
    if result is None:
        figures = evaluator.one(job._replace(shortcuts=None if shortcuts else False)).figures()
    else:
        figures = Figures.of(result, with_causes=True)
    by_cause = figures.causes_s
    fall = waterfall(by_cause, evaluator.one(resident(job)).figures().causes_s)
    if result is not None and trace is not None:
        from sim.timeline.perfetto import write_trace

        write_trace(result.timeline, trace)
    if result is not None and html is not None:
        from sim.report.run_page import write_run

        write_run(html, given.name, result, fall)
        say(f"page: {html}")
    interval = _interval(job, no_cache) if with_interval else None
    if as_json:
        import json

        layers = {"simulated_layers": figures.simulated_layers, "repeated_layers": figures.repeated_layers}
        shown = {**figures.metrics, **layers, "causes_s": by_cause, "waterfall": fall._asdict()}
        if figures.decided:
            shown["decided"] = figures.decided
        shown |= given.fits.shown(profile)
        shown["kernel_times_computed"] = computes_kernels(scenario, profile)
        if with_interval:
            shown["step_time_interval_s"] = [interval.low, interval.high] if interval else None
            if interval is None:
                from sim.report.uncertainty import unknown_error

                reason = unknown_error(profile, scenario.world_size)
                shown["step_time_interval_reason"] = reason
        click.echo(json.dumps(shown, indent=2))
        return
    from sim.report.tables import print_figures, print_waterfall

    print_figures(given.name, scenario, profile, figures)
    print_waterfall(fall)
    given.fits.say(profile)
    if with_interval:
        from sim.report.uncertainty import print_interval

        print_interval(interval, profile, scenario.world_size, computes_kernels(scenario, profile))


def _interval(job: Job, no_cache: bool) -> Interval | None:
    """Where the step time lies; None where the model's error on such a host is not known."""
    from sim.analysis.model_error import model_error
    from sim.analysis.sensitivity import MetricOf, interval, most_runs

    known = model_error(job.profile, job.scenario.world_size)
    if known is None:
        return None
    with evaluating(None, no_cache, most_runs(job.profile, False)) as evaluator:
        run = MetricOf(job.scenario, "step_time_s", evaluator)
        return interval(run, job.profile, model=known.deviation)
