"""Comparisons on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from sim.report.terminal import say, show, table
from validation import comparison_tables
from validation.published import Outcome
from validation.published_tables import HEADERS, cells, verdicts
from validation.run import Validation


def print_validation(validation: Validation, with_cases: bool) -> None:
    """Measured against predicted: each case if wanted, errors by group, policy and host, the verdict on the bounds."""
    offloaded = [c for c in validation.compared if c.group != "resident"]
    groups = {  # with as many columns as fit on a line
        "Cases": (
            comparison_tables.cases_table(validation.compared, validation.covered),
            9 if validation.covered else 8,
        ),
        "Operations": (comparison_tables.operations_table(validation.compared), 8),
        "Regret of choosing by simulation": (comparison_tables.choices_table(validation.compared), 6),
        "Regret of plans": (comparison_tables.plan_table(validation.compared), 7),
        "Errors of step times": (
            comparison_tables.errors_table("set and group", validation.compared, comparison_tables.group),
            6,
        ),
        "By policy": (comparison_tables.errors_table("policy", offloaded, lambda c: c.policy), 6),
        "With another session's profile": (
            comparison_tables.errors_table("set by profile", validation.cross, comparison_tables.sessions),
            6,
        ),
        "Measurements inside their intervals": (comparison_tables.coverage_table(validation.covered), 9),
        "Bounds": (comparison_tables.bounds_table(validation.judged), 6),
    }
    for title, (content, columns) in groups.items():
        if content.rows and (with_cases or title != "Cases"):
            made = table(*content.headers[:columns], title=title)
            for row in content.rows:
                made.add_row(*(getattr(cell, "text", None) or str(cell) for cell in row[:columns]))
            show(made)
    if validation.covered:
        say(comparison_tables.covers(validation.covered))
    if regret := comparison_tables.plan_regret(validation.compared):
        say(regret)
    say(comparison_tables.verdict(validation.judged))


def print_published(outcomes: Sequence[Outcome]) -> None:
    """Published figures next to their predictions, a table a case, and what was fitted."""
    for outcome in outcomes:
        made = table(*HEADERS[1:], title=outcome.case.name)
        for row in outcome.rows:
            made.add_row(*cells(row)[1:])
        show(made)
    for sentence in verdicts(outcomes):
        say(sentence)
