"""`chunkflow-sim import trace`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import OutputPath, check_outputs_shared, force_option, say, with_exit_codes


@click.command("trace")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=OutputPath(), help="Write the scenario to this file.")
@click.option(
    "--hardware", help="The host's profile (a name, or a YAML file); the nearest shipped one, scaled, unless given."
)
@click.option("--weights", help="Weights of the layers: a model (a name, or a YAML file), or bytes of all together.")
@force_option
@with_exit_codes
def command(files: tuple[Path, ...], output: Path, hardware: str | None, weights: str | None, force: bool) -> None:
    """Make a scenario of the profiler's traces FILES (Kineto; one or more ranks, also compressed and in folders)."""
    from sim.importers.trace.scenario import import_trace
    from sim.importers.writing import profile_text, write_files
    from sim.inputs.units import show_seconds

    made = import_trace(files, output, hardware, weights)
    outputs = [("--output", output, "IMPORTED")]
    beside: dict[Path, str | bytes] = {}
    if made.profile is not None:
        file = output.with_name(f"{output.stem}.hardware.yaml")
        outputs.append(("profile beside --output", file, "PROFILE"))
        beside[file] = profile_text(made.profile)
    if made.program is not None:
        file = output.with_name(f"{output.stem}.program.json")
        outputs.append(("recorded program beside --output", file, "PROGRAM"))
        beside[file] = made.program
    check_outputs_shared(force, *outputs)
    write_files(output, made.scenario, beside, made.notes.lines())
    for line in made.notes.lines():
        say(line)
    say(f"{output}: chunkflow-sim run it; the trace's step is {show_seconds(made.step_s)}")
