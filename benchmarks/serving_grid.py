"""Run a grid of serving scenarios point by point, and keep each point's figures in a CSV file as soon as it is there.

python benchmarks/serving_grid.py scenarios/serving/genserve-grid.yaml benchmarks/genserve-grid.csv

Points that the file has are not run again: a long grid can be stopped and gone on with.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sim.serving import ServingScenario, prepare, replicate
from sim.serving.figures import REASONS
from sim.serving.grid import Grid, grids_of, points
from sim.serving.scenario import read_plain
from sim.serving.serve import Known
from sim.sweeps.evaluation import Evaluator

KEYS = ("varied", "point", "seeds")
"""What a row is of: the assumption that is varied (none in the grid itself), values of the axes, runs."""


def rows_of(name: str, grid: Grid, done: set[tuple[str, str]], known: Known) -> Iterator[dict[str, object]]:
    """Of each point that is not `done`."""
    evaluator = Evaluator()
    for values, data in points(grid):
        point = "; ".join(f"{path}={value}" for path, value in values.items())
        if (name, point) in done:
            continue
        began = time.process_time()
        prepared = prepare(ServingScenario.from_plain(data, grid.source), evaluator, grid.source, known)
        runs = replicate(prepared, grid.seeds)
        row: dict[str, object] = {"varied": name, "point": point, "seeds": grid.seeds}
        attainment = runs.mean("attainment")
        row |= {"attainment": attainment.mean, "attainment_half_width": attainment.half_width}
        row |= {key: runs.mean(key).mean for key in ("requests", "utilisation", "latency_p90_s")}
        for cls in prepared.classes:
            for key in ("attainment", "latency_p50_s", "latency_p90_s"):
                row[f"{cls}_{key}"] = runs.mean("classes", cls, key).mean
        row |= {f"missed_{reason.replace(' ', '_')}": runs.mean("missed", reason).mean for reason in REASONS}
        row["cpu_s"] = time.process_time() - began
        yield {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}


def main() -> None:
    """Run what of the grid is not in the file yet."""
    file, out = (Path(argument) for argument in sys.argv[1:3])
    done: set[tuple[str, str]] = set()
    if out.exists():
        with out.open(newline="") as lines:
            done = {(row["varied"], row["point"]) for row in csv.DictReader(lines)}
    known = Known({}, {})
    with out.open("a", newline="") as lines:
        writer: csv.DictWriter[str] | None = None
        for name, grid in grids_of(read_plain(file), file.parent, str(file), {}):
            for row in rows_of(name, grid, done, known):
                if writer is None:
                    writer = csv.DictWriter(lines, list(row), lineterminator="\n")
                    if not done:
                        writer.writeheader()
                writer.writerow(row)
                lines.flush()


if __name__ == "__main__":
    main()
