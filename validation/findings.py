"""What was seen on the measured hosts: the tables and the plots of docs/measurements.md, from the committed data.

`python -m validation.findings --out docs/plots` writes the plots and prints the tables; with `--document FILE`
it also puts the tables between that file's markers. `--check FILE` only says which of that file's tables are not as
they would be made now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sim.output import write_atomically
from sim.workers import Workers
from validation import case_tables, probe_tables
from validation.markdown import placed, standing
from validation.observed import Detailed, entries
from validation.plots import plots
from validation.sets import probed_sets


def seen_tables() -> dict[str, str]:
    """Tables of what was measured alone."""
    return {
        "hosts": probe_tables.hosts(),
        "contention": probe_tables.contention(),
        "sm copies": probe_tables.sm_copies(),
        "host limits": probe_tables.host_limits(),
        "commands": probe_tables.commands(),
        "released": probe_tables.released(),
        "collectives": probe_tables.collectives(),
        "together": probe_tables.together(),
        "events": probe_tables.events(),
        "slow copies": probe_tables.slow_copies(),
    }


PREDICTED: dict[str, Callable[[Sequence[Detailed]], str]] = {
    "summary": case_tables.summary,
    "windows": case_tables.windows,
    "clocks": case_tables.clocks,
    "waits": case_tables.waits,
    "memory": case_tables.memory,
    "errors": case_tables.group_errors,
    "off": case_tables.off,
    "steps": case_tables.steps,
    "neighbours": case_tables.neighbours,
    "meeting": case_tables.meeting,
    "flag waits": case_tables.flag_waits,
    "all errors": case_tables.all_errors,
}
"""Tables that need predictions, or all cases."""


def differing(document: str, tables: Mapping[str, str]) -> list[str]:
    """Names of tables that are not in `document` as in `tables`, or only in one of them."""
    there = dict(standing(document))
    return sorted(name for name in there.keys() | tables.keys() if there.get(name) != tables.get(name))


def main() -> None:
    """Write the plots and print the tables, or compare the tables with a document's."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder of the plots")
    what.add_argument("--check", type=Path, metavar="FILE", help="exit with 1 unless this file has today's tables")
    parser.add_argument("--document", type=Path, help="put the tables between this file's markers")
    given = parser.parse_args()
    with Workers() as executor:
        found = entries(probed_sets(), executor)
        tables = seen_tables() | {name: make(found) for name, make in PREDICTED.items()}
        tables["other hosts"] = case_tables.cross(executor)
    if given.check:
        if wrong := differing(given.check.read_text(encoding="utf-8"), tables):
            sys.exit(f"{given.check}: not as made from the data today: {', '.join(wrong)}")
        return
    for name, content in plots(found).items():
        write_atomically(given.out / f"{name}.svg", content)
    for name, content in tables.items():
        print(f"## {name}\n\n{content}\n")
    if given.document:
        write_atomically(given.document, placed(given.document.read_text(encoding="utf-8"), tables))


if __name__ == "__main__":
    main()
