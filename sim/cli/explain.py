"""`chunkflow-sim explain`."""

from __future__ import annotations

from pathlib import Path

import click

from sim.cli.common import load_scenario, main, note_borrowed_tables, with_exit_codes


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_exit_codes
def explain(file: Path, as_json: bool) -> None:
    """Say what binds the scenario FILE, and what would help."""
    from sim.analysis.explain import explain as explain_result
    from sim.analysis.explain import to_plain
    from sim.run import simulate

    loaded = load_scenario(file)
    note_borrowed_tables([loaded])
    explanation = explain_result(simulate(*loaded))
    if as_json:
        import json

        click.echo(json.dumps(to_plain(explanation), indent=2))
        return
    from sim.report.tables import print_explanation

    print_explanation(file.name, explanation)
