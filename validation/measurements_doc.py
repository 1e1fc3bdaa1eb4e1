"""Findings on the measured hosts: the tables of docs/measurements and the plots, from the committed data.

`python -m validation.measurements_doc --out docs/plots` writes the plots and prints the tables; with `--document
PATH...` it also puts each table between its markers in these files, or in the Markdown files of these
folders. `--check PATH...` only says which tables there are not as they would be made now, have no place or
have several, which of the plots that are shown there are not as they would be drawn now, and which stated bounds of all
shipped sets are broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from sim.inputs.atomic_files import write_atomically
from sim.sweeps.worker_pool import Workers
from validation import case_tables, copy_tables, imported_hosts, other_profile_tables, probe_tables, program_tables
from validation.bounds import judge, load_bounds
from validation.compare import compare_all, jobs
from validation.datasets import load_set, probed_sets, shipped_sets
from validation.markdown import differences, pictures, placed
from validation.plots import plots
from validation.step_statistics import Detailed, entries

SEEN: dict[str, Callable[[], str]] = {
    "hosts": probe_tables.hosts,
    "contention": probe_tables.contention,
    "sm copies": probe_tables.sm_copies,
    "host limits": probe_tables.host_limits,
    "commands": probe_tables.commands,
    "released": probe_tables.released,
    "collectives": probe_tables.collectives,
    "stream interference": probe_tables.stream_interference,
    "events": probe_tables.events,
    "slow copies": probe_tables.slow_copies,
    "copy engines": copy_tables.engines,
    "engine turns": copy_tables.engine_turns,
    "copies in flight": copy_tables.copies_in_flight,
    "device copies": copy_tables.device_copies,
    "pageable": copy_tables.pageable,
    "host flags": copy_tables.host_flags,
    "programs": program_tables.programs,
}
"""Tables of what was measured."""

PREDICTED: dict[str, Callable[[Sequence[Detailed]], str]] = {
    "summary": case_tables.summary,
    "windows": case_tables.windows,
    "clocks": case_tables.clocks,
    "waits": case_tables.waits,
    "memory": case_tables.memory,
    "errors": case_tables.group_errors,
    "large errors": case_tables.large_errors,
    "steps": case_tables.steps,
    "neighbours": case_tables.neighbours,
    "contended_copies": case_tables.contended_copies,
    "flag waits": other_profile_tables.flag_waits,
    "all errors": case_tables.all_errors,
}
"""Tables that need predictions, or all cases."""


def documents(paths: Sequence[Path]) -> dict[Path, str]:
    """The Markdown files among `paths` and in the folders among them, with their text.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no Markdown file.
    """
    found: dict[Path, str] = {}
    for path in paths:
        files = sorted(path.rglob("*.md")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path}: has no Markdown file")
        found |= {file: file.read_text(encoding="utf-8") for file in files}
    return found


def publish(drawings: Mapping[str, str], tables: Mapping[str, str], folder: Path, texts: Mapping[Path, str]) -> None:
    """Write each drawing into `folder`, print the tables, and write `texts`, if any, with each table in its place."""
    for name, content in drawings.items():
        write_atomically(folder / f"{name}.svg", content)
    for name, content in tables.items():
        print(f"## {name}\n\n{content}\n")
    if texts:
        for path, text in placed(texts, tables).items():
            write_atomically(path, text)


def differing_plots(texts: Mapping[Path, str], drawings: Mapping[str, str]) -> list[str]:
    """What sets the plots that `texts` show apart from `drawings`; a line each."""
    shown = {file.stem: file for file in pictures(texts)}
    found = [f"plot {name} is shown nowhere" for name in drawings if name not in shown]
    for name, file in shown.items():
        if name not in drawings:
            found.append(f"{file}: nothing draws plot {name}")
        elif not file.exists() or file.read_text(encoding="utf-8") != drawings[name]:
            found.append(f"{file}: not as drawn from the data today")
    return sorted(found)


def broken_bounds(found: Sequence[Detailed], executor: Executor) -> list[str]:
    """The stated bounds that do not hold, of `found` and the shipped sets that are not among them; a line each."""
    compared = [entry.compared for entry in found]
    others = sorted(set(shipped_sets()) - {case.set for case in compared})
    compared += compare_all([job for name in others for job in jobs(load_set(name), steps_only=True)], executor)
    return [
        f"a stated bound is broken: {j.bound.name}: {j.figure} {j.value:.2f} %, {j.allowed:g} % at most"
        for j in judge(load_bounds(), compared)
        if j.verdict == "broken"
    ]


def main() -> None:
    """Write the plots and print the tables, or compare both with those of documents."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder of the plots")
    what.add_argument(
        "--check",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="exit with 1 unless these files and folders have today's tables and show today's plots, and bounds hold",
    )
    parser.add_argument(
        "--document",
        type=Path,
        nargs="+",
        metavar="PATH",
        default=[],
        help="put the tables between the markers of these files and folders",
    )
    given = parser.parse_args()
    try:
        texts = documents(given.check or given.document)
    except OSError as error:
        sys.exit(str(error))
    with Workers() as executor:
        found = entries(probed_sets(), executor)
        tables = {name: make() for name, make in SEEN.items()}
        tables |= {name: make(found) for name, make in PREDICTED.items()}
        tables["other hosts"] = other_profile_tables.cross(executor)
        tables["imported hosts"] = imported_hosts.imported_hosts(found, executor)
        broken = broken_bounds(found, executor) if given.check else []
    if given.check:
        if wrong := [*broken, *differences(texts, tables), *differing_plots(texts, plots(found))]:
            sys.exit("\n".join(wrong))
        return
    publish(plots(found), tables, given.out, texts)


if __name__ == "__main__":
    main()
