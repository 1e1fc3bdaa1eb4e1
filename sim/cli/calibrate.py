"""`chunkflow-sim calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sim.cli.common import OutputPath, check_outputs_shared, force_option, main, needs, resumable, say, with_exit_codes

if TYPE_CHECKING:
    from calibration.probes import ProbeCase
    from sim.datasets.probe_rows import Row as ProbeRow


@main.command()
@click.option("--name", default="this-host", show_default=True, help="Name of the profile.")
@click.option("--out", type=OutputPath(folder=True), help="Folder for the results; as NAME unless given.")
@click.option("--quick", is_flag=True, help="Fewer sizes and repeats.")
@click.option("--gpus", type=click.IntRange(1, 1024), help="How many GPUs to use; all there are unless given.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="What to probe: a CPU only to try the procedure.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and how long it takes.")
@click.option("--fit-only", is_flag=True, help="Fit the raw rows that OUT holds again; measure nothing.")
@force_option
@with_exit_codes
def calibrate(
    name: str,
    out: Path | None,
    quick: bool,
    gpus: int | None,
    device: Literal["cuda", "cpu"] | None,
    dry_run: bool,
    fit_only: bool,
    force: bool,
) -> None:
    """Measure this host's links, collectives and costs, and write its profile, the raw rows and their residuals."""
    needs("scipy", *(() if fit_only else ("torch",)))
    from calibration import calibrate as steps
    from calibration.probes import listing
    from sim.datasets.probe_rows import RAW
    from sim.report.terminal import progress

    folder = out or Path(name)
    if dry_run:
        click.echo("\n".join(listing(steps.dry_run(quick, gpus, device))))
        return
    steps.check_name(name)
    raw, profile, page = ("--out", folder / RAW, "RECORDS"), folder / f"{name}.yaml", folder / steps.RESIDUALS
    made = (("--out", profile, "PROFILE"), ("--out", page, "PAGE"))
    check_outputs_shared(force, *made) if fit_only else check_outputs_shared(force, raw, *made)
    if fit_only:
        written = steps.refit(folder, name)
    else:
        cases = steps.dry_run(quick, gpus, device)
        with resumable(folder, "probes"), progress(len(cases), "probes") as advance:
            done: set[str] = set()

            def show(case: ProbeCase, row: ProbeRow | None) -> None:
                if row is not None:
                    done.add(case.name)
                    advance(len(done))

            written = steps.calibrate(folder, name, quick, show, gpus, device)
    for case, reason in written.calibrated.rejected.items():
        say(f"left out: {case}: {reason}")
    for said in written.contradictions:
        say(f"the profile contradicts itself: {said}")
    say(f"profile: {written.profile.resolve()}")
    say(f"residuals: {written.residuals.resolve()}")
    if written.stand_in:
        say(
            f"{name} is a stand-in: CPU threads were measured in place of GPUs, its times mean nothing. "
            "Predict nothing with it."
        )
