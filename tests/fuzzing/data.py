"""Random data sets, raw rows, models, bounds and published cases: what reads them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from odd_values import shipped_yaml
from strategies import Plain

from calibration.fitting import FitError, fit_rows
from fuzzing.changes import damaged, odd, to_yaml
from fuzzing.judge import Found, reading
from fuzzing.scenarios import (
    FILE,
    MAX_COMMANDS,
    size,
)
from sim.datasets.cases import load_cases, load_origin
from sim.datasets.probe_rows import RAW, RowError, load_rows
from sim.hardware import load_profile
from sim.inputs.config import convert
from sim.inputs.yaml_files import read_yaml
from sim.workloads import named
from validation import __file__ as validation
from validation import published
from validation.bounds import Bound
from validation.compare import compare_all, jobs
from validation.datasets import load_set


def of_data(random: Random) -> Found:
    """Files that only this package writes for itself: models, bounds, published cases."""
    kind = random.choice(("model", "bounds", "published"))
    if kind == "model":
        good = shipped_yaml(f"models/{random.choice(named.shipped())}.yaml")
        Path(FILE).write_bytes(to_yaml(odd(random, good)))
        return reading(lambda: convert(read_yaml(Path(FILE)), named.Model, FILE), [FILE])
    if kind == "bounds":
        Path(FILE).write_bytes(to_yaml(odd(random, yaml.safe_load((DATA / "bounds.yaml").read_text()))))
        return reading(lambda: convert(read_yaml(Path(FILE)), tuple[Bound, ...], FILE), [FILE])
    Path(FILE).write_bytes(to_yaml(odd(random, good_suite(random.choice(published.shipped())))))
    return reading(lambda: published.load_suite(FILE), [FILE])


@cache
def good_suite(name: str) -> Plain:
    whole: Plain = yaml.safe_load((DATA.with_name("published") / f"{name}.yaml").read_text())
    return whole | {"cases": whole["cases"][:2]}


DATA = Path(validation).with_name("data")


@cache
def good_lines(name: str, file: str) -> list[Plain]:
    return [json.loads(line) for line in (DATA / name / file).read_text().splitlines()]


def lines(objects: list[Any], random: Random) -> bytes:
    """A file of lines, one of them odd in its data or its bytes."""
    number, content = random.randrange(len(objects)), [as_json(o) for o in objects]
    how = random.random()
    if how < 0.85:
        content[number] = as_json(odd(random, objects[number]))
    else:
        content[number] = damaged(random, content[number])
    return b"\n".join(content) + b"\n"


def as_json(data: Any) -> bytes:
    try:
        return json.dumps(data).encode()
    except (TypeError, ValueError):  # keys that JSON has not, numbers of thousands of digits
        return to_yaml(data)


def of_rows(random: Random) -> Found:
    """Raw rows of probes: read, and some fitted."""
    name = random.choice(("h200x2-hostpath-20261121c", "h100x1-20261121e"))
    good = good_lines(name, RAW)
    fitting = random.random() < 0.03
    chosen = good if fitting else random.sample(good, 3)
    Path(RAW).write_bytes(lines(chosen, random))

    def load() -> None:
        rows = load_rows(Path(RAW))
        if fitting:
            try:
                fit_rows(rows, "x")
            except FitError as error:
                raise RowError(RAW, "", str(error)) from None

    return reading(load, [RAW])


def of_sets(random: Random) -> Found:
    """A folder of measured cases: read, and some compared with predictions."""
    name = random.choice(("h200x1-20261121f", "h200x2-hostpath-20261121c"))
    folder = Path("set")
    folder.mkdir(exist_ok=True)
    cases = good_lines(name, "cases.jsonl")
    resident = next(case for case in cases if case["scenario"]["policy"]["kind"] == "resident")
    folder.joinpath("cases.jsonl").write_bytes(
        lines([resident | {"number": 0}, random.choice(cases[:12]) | {"number": 1}], random)
    )
    origin = json.loads((DATA / name / "host.json").read_text())
    folder.joinpath("host.json").write_bytes(as_json(odd(random, origin) if random.random() < 0.2 else origin))
    comparing = random.random() < 0.05

    def load() -> None:
        load_cases(folder)
        load_origin(folder)
        data = load_set("set")
        if comparing and all(size(case.load_scenario()) < 20 * MAX_COMMANDS for case in data.cases):
            list(compare_all(jobs(data, load_profile(name))))

    return reading(load, ["set/", "set: "])
