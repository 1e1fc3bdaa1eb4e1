"""`chunkflow-sim import host`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import force_option, say, with_exit_codes
from sim.cli.import_profile import HOST_OPTIONS, output_option, tell, wanted_of, with_options, write_profile

_FILE = click.Path(path_type=Path)


@click.command("host")
@click.argument("files", nargs=-1, type=_FILE)
@click.option(
    "--topo", multiple=True, type=_FILE, help="A dump of its topology: nvidia-smi topo -m, lspci, lstopo, NCCL."
)
@click.option("--nvbandwidth", multiple=True, type=_FILE, help="Output of nvbandwidth.")
@click.option("--nccl-tests", multiple=True, type=_FILE, help="Output of nccl-tests; repeat for more tests.")
@click.option("--p2p", multiple=True, type=_FILE, help="Output of p2pBandwidthLatencyTest.")
@output_option
@with_options(*HOST_OPTIONS)
@click.option(
    "--hardware", metavar="BASE", help="The profile that gives what no file tells, such as costs of commands."
)
@click.option("--kind", help="Which of nccl-tests it was, such as all_reduce, where no line says it.")
@click.option("--ranks", type=click.IntRange(2, 1024), help="How many ranks there were, where no line says it.")
@force_option
@with_exit_codes
def command(
    files: tuple[Path, ...],
    topo: tuple[Path, ...],
    nvbandwidth: tuple[Path, ...],
    nccl_tests: tuple[Path, ...],
    p2p: tuple[Path, ...],
    output: Path,
    gpu: str | None,
    link: str | None,
    peers: str | None,
    hardware: str | None,
    kind: str | None,
    ranks: int | None,
    force: bool,
) -> None:
    """Make a hardware profile of all that is there of a host, in one go.

    FILES are told apart by what they hold; the options say what a file is. What is missing is taken as the other
    commands of `import` take it, and marked as assumed.
    """
    from sim.importers.nccl_runs import check_kind
    from sim.importers.whole_host import sorted_files, whole_host

    check_kind(kind)
    wanted = wanted_of(gpu, link, peers, hardware)
    given = {"topo": topo, "nvbandwidth": nvbandwidth, "p2p": p2p, "nccl-tests": nccl_tests}
    found = {one: [*given[one], *more] for one, more in sorted_files(files).items()}
    everything = [file for held in found.values() for file in held]
    if not everything:
        raise click.UsageError("give files of the host: a dump of its topology, outputs of benchmarks")
    made = whole_host(found, wanted, output.stem, kind, ranks)
    write_profile(output, made.plain, "host", everything, force)
    tell(made.remarks)
    missing = [one for one, held in found.items() if not held]
    if missing:
        say(f"not given, so assumed: {', '.join(missing)}")
    say(f"check it with `chunkflow-sim hardware {output} --check`; `run` and `plan` take it as --hardware {output}")
