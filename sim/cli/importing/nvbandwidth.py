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

    target = Target.of(given, force)
    found = [(file, read_file(file)) for file in files]
    widest = max(found, key=lambda one: one[1].width)[1]
    plain, remarks = target.start(widest.width, widest.gpus, files)
    for file, bandwidths in sorted(found, key=lambda one: one[1].width):
        if bandwidths.width < widest.width:
            remarks.append(f"contradiction: {file} has {bandwidths.width} GPUs, another file {widest.width}")
        remarks += fill_nvbandwidth(plain, bandwidths, file.name)
    target.finish(plain, "nvbandwidth", files, remarks)
