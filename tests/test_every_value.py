"""Every odd value at every key of every kind of file: it is read, or told with the file and a key, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from odd_values import EXPERIMENT, GROUPED, NAMED, ODD, QUANTISED, SCENARIO, keys, put, shipped_yaml

from sim.datasets.probe_rows import load_rows
from sim.hardware import Profile, load_profile, to_plain
from sim.inputs.config import InputError, convert
from sim.scenario import Scenario
from sim.sweeps.experiments import Experiment
from sim.workloads.named import Model
from validation import __file__ as validation
from validation.bounds import Bound
from validation.published import Suite, load_suite, shipped


def published(plain: Any) -> object:
    Path("odd.yaml").write_text(yaml.dump(plain))
    return load_suite("odd.yaml")


LOADERS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "scenario": (lambda: SCENARIO, lambda plain: Scenario.from_plain(plain, "odd.yaml").profile("odd.yaml")),
    "named": (lambda: NAMED, lambda plain: Scenario.from_plain(plain, "odd.yaml").profile("odd.yaml")),
    "grouped": (lambda: GROUPED, lambda plain: Scenario.from_plain(plain, "odd.yaml").profile("odd.yaml")),
    "quantised": (lambda: QUANTISED, lambda plain: Scenario.from_plain(plain, "odd.yaml").profile("odd.yaml")),
    "experiment": (lambda: EXPERIMENT, lambda plain: convert(plain, Experiment, "odd.yaml").points("odd.yaml")),
    "profile": (
        lambda: yaml.safe_load(yaml.safe_dump(to_plain(load_profile("h200x2-hostpath")))),
        lambda plain: convert(plain, Profile, "odd.yaml"),
    ),
    "model": (lambda: shipped_yaml("models/flux.1-dev.yaml"), lambda plain: convert(plain, Model, "odd.yaml")),
    "bounds": (
        lambda: yaml.safe_load(Path(validation).with_name("data").joinpath("bounds.yaml").read_text())[:2],
        lambda plain: convert(plain, tuple[Bound, ...], "odd.yaml"),
    ),
    "published": (
        lambda: {
            **(whole := yaml.safe_load(Path(validation).with_name("published").joinpath(f"{shipped()[0]}.yaml").read_text())),
            "cases": whole["cases"][:1],
        },
        lambda plain: convert(plain, Suite, "odd.yaml"),
    ),
    "split": (
        lambda: {"a": "all", "b": [1, 2]},
        lambda plain: convert(plain, dict[str, Literal["all"] | list[int]], "odd.yaml"),
    ),
}  # fmt: skip
MAX_TRIED = 800
"""Of a file of many keys, values are spread evenly over them."""


@pytest.mark.parametrize("kind", LOADERS)
def test_every_odd_value_at_every_key_is_accepted_or_reported(kind: str) -> None:
    make, load = LOADERS[kind]
    good = make()
    load(good)
    tried = [(path, value) for path in keys(good) for value in ODD]
    stride = -(-len(tried) // MAX_TRIED)
    for path, value in tried[:: stride + (stride > 1 and stride % len(ODD) == 0)]:
        try:
            load(put(good, path, value))
        except InputError as error:
            assert str(error).startswith("odd.yaml"), (path, value)
            assert all(line.isprintable() and "`" not in line.replace("`peers: host`", "").replace("`chunkflow-sim", "").replace("` lists", "") for line in str(error).splitlines()), (path, value)  # fmt: skip


def test_every_odd_value_at_every_key_of_a_raw_row_is_accepted_or_reported(tmp_path: Path) -> None:
    """Of one row of each kind; what a row holds that JSON cannot (not a number, keys that are not text) is left out."""
    file = Path(validation).with_name("data") / "h200x2-hostpath-20261121c" / "raw.jsonl"
    rows = {row["kind"]: row for row in map(json.loads, file.read_text().splitlines())}
    odd = tmp_path / "raw.jsonl"
    values = [v for v in ODD if not isinstance(v, float) and v != 16**5000 and v != {None: 1}]
    tried = [(row, path, value) for row in rows.values() for path in keys(row) for value in values]
    for row, path, value in tried[:: -(-len(tried) // MAX_TRIED) | 1]:
        odd.write_text(json.dumps(put(row, path, value)) + "\n")
        try:
            load_rows(odd)
        except InputError as error:
            assert str(error).startswith(f"{odd}: line 1"), (row["kind"], path, value)
