"""`chunkflow-sim import p2p`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sim.cli.common import force_option, with_exit_codes
from sim.cli.import_profile import HOST_OPTIONS, INTO_OPTIONS, Target, files_argument, with_options


@click.command("p2p")
@files_argument
@with_options(*INTO_OPTIONS, *HOST_OPTIONS)
@force_option
@with_exit_codes
def command(files: tuple[Path, ...], force: bool, **given: Any) -> None:
    """Fill in what p2pBandwidthLatencyTest measured (FILES: its output).

    Which GPUs reach each other directly, rates of copies between them and within one, and their latency.
    """
    from sim.importers.measured_copies import fill_p2p
    from sim.importers.p2p import read_file

    Target.of(given, force).fill("p2p", files, read_file, fill_p2p)
