"""`chunkflow-sim run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import OutputPath, check_outputs_shared, force_option, main, with_exit_codes
from sim.cli.scenario_input import Given, scenario_options

if TYPE_CHECKING:
    from sim.analysis.sensitivity import Interval
    from sim.run import Result


@main.command()
@scenario_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--trace", type=OutputPath(), help="Write a Chrome/Perfetto trace to this file.")
@click.option(
    "--interval",
    "with_interval",
    is_flag=True,
    help="Add where the step time lies, by the model's error and the profile's.",
)
@click.option("--shortcuts", is_flag=True, help="Leave out layers that are found to repeat; not with --trace.")
@force_option
@with_exit_codes
def run(given: Given, as_json: bool, trace: Path | None, with_interval: bool, shortcuts: bool, force: bool) -> None:
    """Simulate the scenario FILE (- for standard input) and print its figures."""
    from sim.run import simulate

    loaded = given.load()
    check_outputs_shared(force, ("--trace", trace, "TRACE"))
    result = simulate(*loaded, shortcuts=shortcuts and trace is None)
    if trace is not None:
        from sim.timeline.perfetto import write_trace

        write_trace(result.timeline, trace)
    from sim.analysis.explain import resident_causes
    from sim.timeline.critical_path import causes, waterfall

    by_cause = causes(result.timeline, result.profile)
    fall = waterfall(by_cause, resident_causes(result.scenario, result.profile))
    interval = _interval(result) if with_interval else None
    if as_json:
        import json

        layers = {"simulated_layers": result.simulated_layers, "repeated_layers": result.repeated_layers}
        shown = {**result.metrics, **layers, "causes_s": by_cause, "waterfall": fall._asdict()}
        if with_interval:
            shown["step_time_interval_s"] = [interval.low, interval.high] if interval else None
            if interval is None:
                from sim.report.uncertainty import unknown_error

                reason = unknown_error(result.profile, result.scenario.world_size)
                shown["step_time_interval_reason"] = reason
        click.echo(json.dumps(shown, indent=2))
        return
    from sim.report.tables import print_run, print_waterfall

    print_run(given.name, result)
    print_waterfall(fall)
    if with_interval:
        from sim.report.uncertainty import print_interval

        print_interval(interval, result.profile, result.scenario.world_size)


def _interval(result: Result) -> Interval | None:
    """Where the step time lies; None where the model's error on such a host is not known."""
    from functools import partial

    from sim.analysis.model_error import model_error
    from sim.analysis.sensitivity import figure, interval, most_runs
    from sim.report.terminal import progress
    from sim.sweeps.worker_pool import Workers

    known = model_error(result.profile, result.scenario.world_size)
    if known is None:
        return None
    with Workers() as pool, progress(most_runs(result.profile, False), "simulations") as advance:
        run = partial(figure, result.scenario, "step_time_s")
        return interval(run, result.profile, model=known.deviation, executor=pool, progress=advance)
