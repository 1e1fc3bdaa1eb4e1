"""`chunkflow-sim import trace`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import Failure, OutputPath, force_option, with_exit_codes


@click.command("trace")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=OutputPath(), help="Write the scenario to this file.")
@force_option
@with_exit_codes
def command(files: tuple[Path, ...], output: Path, force: bool) -> None:
    """Make a scenario of the profiler's traces FILES (Kineto, one or more ranks)."""
    raise Failure("not written yet")
