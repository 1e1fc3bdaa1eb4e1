"""`chunkflow-sim import topo`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import force_option, with_exit_codes
from sim.cli.import_profile import (
    HOST_OPTIONS,
    files_argument,
    output_option,
    tell,
    wanted_of,
    with_options,
    write_profile,
)


@click.command("topo")
@files_argument
@output_option
@with_options(*HOST_OPTIONS)
@click.option(
    "--hardware", metavar="BASE", help="The profile that gives what no dump tells, such as costs of commands."
)
@force_option
@with_exit_codes
def command(
    files: tuple[Path, ...],
    output: Path,
    gpu: str | None,
    link: str | None,
    peers: str | None,
    hardware: str | None,
    force: bool,
) -> None:
    """Make a hardware profile of dumps of a host's topology.

    FILES are the output of `nvidia-smi topo -m`, `rocm-smi --showtopo`, `lspci -tv`, `lspci -vv`, `lstopo --of xml`, or
    XML of NCCL_TOPO_DUMP_FILE; several of one host are put together. Rates follow from the links' generation and width
    until `import nvbandwidth`, `import nccl-tests` and `import p2p` fill in what was measured.
    """
    from sim.importers.host_profile import host_profile
    from sim.importers.topo_files import read_topologies

    wanted = wanted_of(gpu, link, peers, hardware)
    tree = read_topologies(files)
    evidence = ", ".join(file.name for file in files)
    made = host_profile(tree, wanted, output.stem, evidence)
    write_profile(output, made.plain, "topo", files, force)
    tell(made.remarks)
