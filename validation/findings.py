"""What was seen on the measured hosts: the tables and the plots of docs/measurements.md, from the committed data.

`python -m validation.findings --out docs/plots` writes the plots and prints the tables; with `--document FILE` it
also puts the tables between that file's markers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sim.output import write_atomically
from validation import case_tables, probe_tables
from validation.markdown import placed
from validation.measured import shipped_sets
from validation.observed import Entry, entries
from validation.plots import plots


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
        "events": probe_tables.events(),
        "slow copies": probe_tables.slow_copies(),
    }


def predicted_tables(found: Sequence[Entry]) -> dict[str, str]:
    """Tables that need predictions, or all cases."""
    return {
        "summary": case_tables.summary(found),
        "windows": case_tables.windows(found),
        "clocks": case_tables.clocks(found),
        "waits": case_tables.waits(found),
        "memory": case_tables.memory(found),
        "errors": case_tables.group_errors(found),
        "off": case_tables.off(found),
        "steps": case_tables.steps(found),
        "meeting": case_tables.meeting(found),
        "flag waits": case_tables.flag_waits(found),
        "all errors": case_tables.all_errors(found),
    }


def main() -> None:
    """Write the plots, print the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the plots")
    parser.add_argument("--document", type=Path, help="put the tables between this file's markers")
    given = parser.parse_args()
    with ProcessPoolExecutor() as executor:
        found = entries(shipped_sets(), executor)
        tables = seen_tables() | predicted_tables(found) | {"other hosts": case_tables.cross(executor)}
    for name, content in plots(found).items():
        write_atomically(given.out / f"{name}.svg", content)
    for name, content in tables.items():
        print(f"## {name}\n\n{content}\n")
    if given.document:
        write_atomically(given.document, placed(given.document.read_text(encoding="utf-8"), tables))


if __name__ == "__main__":
    main()
