"""`chunkflow-sim models`."""

from __future__ import annotations

import click

from sim.cli.common import main, with_exit_codes


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@with_exit_codes
def models(name: str | None, as_json: bool) -> None:
    """List the models that a scenario can name, or check and show the shapes of the model NAME, which may be a file."""
    from sim.report.tables import print_model, print_models
    from sim.workloads.named import load_model, shipped

    known = [load_model(n) for n in (shipped() if name is None else [name])]
    if as_json:
        import json

        import msgspec

        click.echo(json.dumps([m.name for m in known] if name is None else msgspec.to_builtins(known[0]), indent=2))
    elif name is None:
        print_models(known)
    else:
        print_model(known[0])
