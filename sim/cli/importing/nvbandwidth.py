"""`chunkflow-sim import nvbandwidth`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sim.cli.common import force_option, with_exit_codes
from sim.cli.import_profile import HOST_OPTIONS, INTO_OPTIONS, Target, files_argument, with_options


@click.command("nvbandwidth")
@files_argument
@with_options(*INTO_OPTIONS, *HOST_OPTIONS)
@force_option
@with_exit_codes
def command(files: tuple[Path, ...], force: bool, **given: Any) -> None:
    """Fill in rates of copies that nvbandwidth measured (FILES: its output, text or --json).

    Each GPU's link, both directions at once, shared uplinks and memories (all GPUs at once), copies between GPUs.
    """
    from sim.importers.measured_copies import fill_nvbandwidth
    from sim.importers.nvbandwidth import read_file

    Target.of(given, force).fill("nvbandwidth", files, read_file, fill_nvbandwidth)
