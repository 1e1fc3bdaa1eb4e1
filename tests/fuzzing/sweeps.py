"""Random sweeps and experiments: run twice, torn in between, every row against a simulation of its own."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from odd_values import EXPERIMENT, ODD, keys
from strategies import Plain

from fuzzing.changes import flow, odd, odd_text, to_yaml
from fuzzing.judge import Found, command, of_run, reading
from fuzzing.scenarios import (
    FILE,
    MAX_COMMANDS,
    ROWS,
    TOO_LARGE,
    good_scenarios,
    size,
)
from sim.inputs.config import InputError
from sim.report.sweep_page import write_experiment, write_page
from sim.run import simulate
from sim.scenario import Scenario, read_plain
from sim.sweeps.axes import parse_axes
from sim.sweeps.experiments import Experiment, load_experiment
from sim.sweeps.grid import points, sweep
from sim.sweeps.results_file import METRICS, Point, Row


def sweep_checked(made: list[Point], page: Callable[[Path, list[Row]], None], random: Random) -> Found:
    """Run points in this process, twice with the file torn in between; every row against a simulation of its own."""
    if len(made) > 12 or sum(size(point.job.scenario) for point in made) > MAX_COMMANDS:
        return TOO_LARGE
    faults: list[str] = []

    def run() -> None:
        file = Path(ROWS)
        rows = sweep(made, output=file)
        whole = file.read_bytes()
        faults.extend(fault for point, row in zip(made, rows, strict=True) for fault in of_row(point, row))
        header = whole.index(b"\n") + 1
        file.write_bytes(whole[: random.randint(header, len(whole))])
        sweep(made, output=file)
        if file.read_bytes() != whole:
            faults.append("a sweep that was torn and resumed has other bytes")
        with file.open(newline="", encoding="utf-8") as opened:
            if sum(1 for _ in csv.reader(opened)) != len(made) + 1:
                faults.append("the file has another number of rows than the sweep has points")
        page(Path("page.html"), rows)

    found = reading(run, [FILE])
    return Found(found.ended, found.faults + faults)


def of_row(point: Point, row: Row) -> Iterator[str]:
    """Faults of a row: figures that a run by itself does not have, errors that a program makes."""
    if row.error:
        try:
            simulate(Scenario.from_plain(point.data, FILE))
        except (InputError, ValueError, RuntimeError) as error:
            if " ".join(str(error).split()) != row.error:
                yield f"a row failed with {row.error!r}, by itself with {str(error)!r}"
        else:
            yield f"a row failed with {row.error!r}, by itself it runs"
        return
    metrics: Any = simulate(Scenario.from_plain(point.data, FILE)).metrics
    yield from of_run(metrics)
    yield from (f"a wrong row: {name} {row.metrics[name]} is {metrics[name]}" for name in METRICS if row.metrics[name] != metrics[name])  # fmt: skip


def of_experiments(random: Random) -> Found:
    """An experiment's file: read, run and drawn."""
    good = EXPERIMENT if random.random() < 0.3 else EXPERIMENT | {"scenario": random.choice(good_scenarios())}
    if random.random() < 0.5:
        good = {key: value for key, value in good.items() if key != "cases"}
        path, values = setting(random, good["scenario"])
        good = good | {"axes": {path: values}, "x": path, "plot": random.choice(("chunk", "curves", "bars"))}
    Path(FILE).write_bytes(to_yaml(odd(random, good)))
    read: list[tuple[Experiment, list[Point]]] = []

    def load() -> None:
        experiment = load_experiment(FILE)
        read.append((experiment, experiment.points(FILE)))

    found = reading(load, [FILE])
    if not read:
        return found if found.faults or random.random() < 0.8 else command(["experiment", FILE, "--out", ROWS], [FILE])
    ((experiment, made),) = read
    return sweep_checked(made, lambda file, rows: write_experiment(file, experiment, made, rows), random)


PATHS = ["", "policy", "policy.", "[0]", "hardware[0]", "workload.block[9]", "policy.prefetch_layer", "a.b.c", "steps", "policy[x]"]  # fmt: skip

NUMBERS = ["1", "2", "0.5", "1e3", "64KiB", "1MiB", "16 MiB", "1 ms", "-1", "0", "1e30", "x", "5e-324", ""]


def setting(random: Random, plain: Plain) -> tuple[str, Any]:
    """An axis: a key path of the scenario, or of none, and text or values for it."""
    known = [".".join(map(str, path)).replace(".0.", "[0].") for path in keys(plain)]
    path = random.choice(known) if random.random() < 0.8 else random.choice((*PATHS, odd_text(random)))
    if random.random() < 0.3:
        path, values = random.choice(GOOD_AXES)
        return path, values
    how = random.random()
    if how < 0.4:
        return path, ",".join(flow(random.choice(ODD)) for _ in range(random.randint(1, 3)))
    if how < 0.6:
        first, last, by = (random.choice(NUMBERS) for _ in range(3))
        return path, f"{first}..{last}:{random.choice('x+')}{by}"
    return path, ",".join(
        random.choice((random.choice(NUMBERS), odd_text(random))) for _ in range(random.randint(1, 3))
    )


GOOD_AXES = [
    ("policy.kind", "chunked,yielding,resident,sharded,whole_layer"),
    ("policy.chunk_bytes", "1MiB..64MiB:x4"),
    ("policy.resident_fraction", "0..1:+0.25"),
    ("policy.prefetch_layers", "0,1,2"),
    ("world_size", "1,2,3"),
    ("workload.steps", "1,2,4"),
    ("hardware", "h200x2-nvlink,h100x2-pcie"),
]


def of_settings(random: Random) -> Found:
    """One or two axes of `sweep --set`."""
    plain = random.choice(good_scenarios())
    Path(FILE).write_bytes(to_yaml(plain))
    texts = ["=".join(setting(random, plain)) for _ in range(random.choice((1, 1, 2)))]
    made: list[Point] = []
    found = reading(lambda: made.extend(points(read_plain(Path(FILE)), parse_axes(texts), FILE)), [FILE, "--set"])
    if not made:
        if found.faults:
            return found
        return command(["sweep", FILE, *(word for text in texts for word in ("--set", text))], [FILE, "--set"])
    return sweep_checked(made, lambda file, rows: write_page(file, FILE, made, rows), random)
