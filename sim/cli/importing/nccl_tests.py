"""`chunkflow-sim import nccl-tests`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sim.cli.common import force_option, with_exit_codes
from sim.cli.import_profile import HOST_OPTIONS, INTO_OPTIONS, Target, files_argument, with_options


@click.command("nccl-tests")
@files_argument
@with_options(*INTO_OPTIONS, *HOST_OPTIONS)
@click.option("--kind", help="Which test it was, such as all_reduce, where no line says it.")
@click.option("--ranks", type=click.IntRange(2, 1024), help="How many ranks there were, where no line says it.")
@click.option("--in-place", is_flag=True, help="Take times in place; those out of place unless given.")
@force_option
@with_exit_codes
def command(
    files: tuple[Path, ...], kind: str | None, ranks: int | None, in_place: bool, force: bool, **given: Any
) -> None:
    """Fill in times of collectives that nccl-tests measured (FILES: its output, text or JSON, of one
    test or several).

    Tables of isolated times for each kind and number of ranks: all_reduce, all_gather, reduce_scatter, alltoall and
    sendrecv.
    """
    from sim.importers.measured_collectives import fill_nccl_tests
    from sim.importers.nccl_runs import check_kind
    from sim.importers.nccl_tests import read_file

    target = Target.of(given, force)
    check_kind(kind)
    runs = [run for file in files for run in read_file(file, kind, ranks, in_place)]
    count = max(run.ranks for run in runs)
    plain, remarks = target.start(count, [run.gpu for run in runs if run.gpu], files)
    target.finish(plain, "nccl-tests", files, [*remarks, *fill_nccl_tests(plain, runs)])
