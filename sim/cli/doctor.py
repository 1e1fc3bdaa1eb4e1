"""`chunkflow-sim doctor`."""

from __future__ import annotations

import sys

import click

from sim.cli.common import main, with_exit_codes


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@with_exit_codes
def doctor(as_json: bool) -> None:
    """Say what is wrong with this host before anything is measured on it; exit code 1 if something is."""
    from calibration.doctor import examine, print_findings, to_plain, worst
    from calibration.host import inspect

    findings = examine(inspect())
    if as_json:
        import json

        click.echo(json.dumps(to_plain(findings), indent=2))
    else:
        print_findings(findings)
    if worst(findings) == "error":
        sys.exit(1)
