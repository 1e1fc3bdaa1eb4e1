"""`chunkflow-sim measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from sim.cli.common import (
    Failure,
    OutputPath,
    SecondsRange,
    check_outputs_shared,
    force_option,
    main,
    needs,
    resumable,
    say,
    with_exit_codes,
)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, help="An axis as `sweep` takes it, for every scenario file.")
@click.option("--out", required=True, type=OutputPath(folder=True), help="Folder of the data set; continued if there.")
@click.option("--runs", type=click.IntRange(1), default=2, show_default=True, help="Uninstrumented runs of each case.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="What to run on; GPUs if there are any.")
@click.option("--timeout", type=SecondsRange(1, 1e6), default=120.0, show_default=True, help="Seconds a run may take.")
@force_option
@with_exit_codes
def measure(
    files: tuple[Path, ...],
    settings: tuple[str, ...],
    out: Path,
    runs: int,
    device: Literal["cuda", "cpu"] | None,
    timeout: float,
    force: bool,
) -> None:
    """Run scenarios (or experiments) FILES on this host's GPUs and write step times and timelines to a data set."""
    needs("torch")
    from calibration.measure import measure as run_all
    from calibration.measure import plan, scenarios
    from sim.datasets.cases import CASES, HOST
    from sim.report.tables import print_measured
    from sim.report.terminal import progress

    chosen = [data for file in files for data in scenarios(file, settings)]
    check_outputs_shared(force, ("--out", out / CASES, "RECORDS"), ("--out", out / HOST, "ORIGIN"))
    with resumable(out, "cases"), progress(len(plan(chosen)), "cases") as advance:
        cases = run_all(chosen, out, runs, device, advance, timeout)
    print_measured(cases)
    say(f"data set: {out.resolve()}")
    if failed := sum(bool(case.error) for case in cases):
        raise Failure(f"{failed} of {len(cases)} cases failed")
