"""`chunkflow-sim explain`."""

from __future__ import annotations

import click

from sim.cli.common import main, with_exit_codes
from sim.cli.scenario_input import Given, scenario_options


@main.command()
@scenario_options()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_exit_codes
def explain(given: Given, as_json: bool) -> None:
    """Say what binds the scenario FILE (- for standard input), and what would help."""
    from sim.analysis.explain import explain as explain_result
    from sim.analysis.explain import to_plain
    from sim.run import simulate

    explanation = explain_result(simulate(*given.load()))
    if as_json:
        import json

        click.echo(json.dumps(to_plain(explanation), indent=2))
        return
    from sim.report.tables import print_explanation

    print_explanation(given.name, explanation)
