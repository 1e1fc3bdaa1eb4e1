"""`chunkflow-sim sensitivity`."""

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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--change", default="5%", show_default=True, help="By how much each number is changed, up and down.")
@click.option("--metric", default="step_time_s", show_default=True, help="The figure that is looked at.")
@workers_option
@no_cache_option
@with_exit_codes
def sensitivity(given: Given, as_json: bool, change: str, metric: str, workers: int | None, no_cache: bool) -> None:
    """Rank the hardware profile's numbers by how much they move a figure of FILE (- for standard input)."""
    from sim.analysis.sensitivity import most_runs, to_plain
    from sim.analysis.sensitivity import sensitivity as find
    from sim.inputs.config import InputError
    from sim.sweeps.results_file import METRICS

    varied = [name for name in METRICS if name not in ("device_memory_bytes", "fits_memory")]
    if metric not in varied:
        raise InputError("--metric", metric, f"expected one of {', '.join(varied)}")
    share = _share(change)
    scenario, profile = given.load()
    with evaluating(workers, no_cache, most_runs(profile, True)) as evaluator:
        found = find(scenario, profile, metric, share, evaluator)
    if as_json:
        import json

        click.echo(json.dumps({**to_plain(found), **given.fits.shown(profile)}, indent=2))
        return
    from sim.report.uncertainty import print_sensitivity

    print_sensitivity(given.name, found)
    given.fits.say(profile)


def _share(text: str) -> float:
    """A relative change, such as 5% or 0.05. Raises InputError."""
    from sim.inputs.config import InputError

    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 1e-6 <= share < 1:
        raise InputError("--change", text, "expected a share such as 5% or 0.05, from 0.0001% to less than 100%")
    return share
