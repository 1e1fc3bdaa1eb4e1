"""Every odd value at every key of every kind of file: it is read, or told with the file and a key, and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from strategies import Plain

from scenarios import __file__ as scenarios
from sim.config import InputError, convert
from sim.datasets.probe_rows import load_rows
from sim.experiment import Experiment
from sim.hardware import Profile, load_profile, to_plain
from sim.models import Model
from sim.scenario import Scenario
from validation import __file__ as validation
from validation.bounds import Bound
from validation.published import Suite, load_suite, shipped

ODD: list[Any] = [
    *(None, True, 0, -1, 1.5, 3, 1025, 1e-300, 1e30, 10**40, 16**5000, float("nan"), float("inf")),
    *("", "x", "1 MiB", "5e-324", ".nan", "1:30", "[/x]", "\x1b]0;x\x07", "\ud800", "gpu0", "h2d", "send_recv"),
    *([], [1], [[]], [0, 0], [[0], [1]], {}, {"a": 1}, {None: 1}, {"value": 1}, {"value": 0, "source": "x"}),
    *({"value": 1e30, "source": "x"}, {"value": 1e-30, "source": "x"}),
]  # fmt: skip

SCENARIO: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "passes_per_step": 1,
        "synchronous": False,
        "activation_bytes": 0,
        "steps": 2,
        "blocks": [
            {
                "repeat": 2,
                "layer_bytes": "1 MB",
                "block": [
                    {"compute": {"name": "a", "seconds": "1 ms", "launches": 2}},
                    {"collective": {"kind": "all_to_all", "bytes": 10**5}},
                    {"compute": {"name": "b", "flops": 1e9, "bytes": 1e6, "attention": True}},
                ],
            }
        ],
    },
    "policy": {
        "kind": "yielding",
        "chunk_bytes": 500000,
        "resident_fraction": 0.1,
        "resident_layers": [0],
        "prefetch_layers": 1,
        "window": "kernel",
        "drain": False,
        "poll": "1 ms",
        "slots": 2,
        "lock": "landed",
    },
}
NAMED: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "policy": {"kind": "sharded", "chunk_bytes": "1 MiB"},
    "workload": {
        "model": "flux.1-dev",
        "height": 256,
        "width": 256,
        "frames": 1,
        "batch": 1,
        "parallelism": "ulysses",
        "steps": 1,
        "passes_per_step": 1,
        "layers": 1,
        "text_tokens": 8,
        "synchronous": False,
    },
}
EXPERIMENT: Plain = {
    "title": "t",
    "about": "a",
    "x": "world_size",
    "plot": "curves",
    "scenario": NAMED,
    "axes": {"world_size": [1, 2]},
    "cases": [{"name": "c", "set": {"workload.layers": 1}}],
}


def keys(data: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*above, key)
        yield from keys(value, (*above, key))


def put(data: Any, path: tuple[str | int, ...], value: object) -> Any:
    data = copy.deepcopy(data)
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return data


def shipped_yaml(name: str) -> Any:
    return yaml.safe_load(Path(scenarios).with_name(name.split("/")[0]).joinpath(name.split("/")[1]).read_text())


def published(plain: Any) -> object:
    Path("odd.yaml").write_text(yaml.dump(plain))
    return load_suite("odd.yaml")


LOADERS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "scenario": (lambda: SCENARIO, lambda plain: Scenario.from_plain(plain, "odd.yaml").profile("odd.yaml")),
    "named": (lambda: NAMED, lambda plain: Scenario.from_plain(plain, "odd.yaml").profile("odd.yaml")),
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
MOST = 800
"""Of a file of many keys, values are spread evenly over them."""


@pytest.mark.parametrize("kind", LOADERS)
def test_every_odd_value_at_every_key_is_read_or_told(kind: str) -> None:
    make, load = LOADERS[kind]
    good = make()
    load(good)
    tried = [(path, value) for path in keys(good) for value in ODD]
    stride = -(-len(tried) // MOST)
    for path, value in tried[:: stride + (stride > 1 and stride % len(ODD) == 0)]:
        try:
            load(put(good, path, value))
        except InputError as error:
            assert str(error).startswith("odd.yaml"), (path, value)
            assert all(line.isprintable() and "`" not in line.replace("`peers: host`", "").replace("`chunkflow-sim", "").replace("` lists", "") for line in str(error).splitlines()), (path, value)  # fmt: skip


def test_every_odd_value_at_every_key_of_a_raw_row_is_read_or_told(tmp_path: Path) -> None:
    """Of one row of each kind; what a row holds that JSON cannot (not a number, keys that are no text) is left out."""
    file = Path(validation).with_name("data") / "h200x2-hostpath-20261121c" / "raw.jsonl"
    rows = {row["kind"]: row for row in map(json.loads, file.read_text().splitlines())}
    odd = tmp_path / "raw.jsonl"
    values = [v for v in ODD if not isinstance(v, float) and v != 16**5000 and v != {None: 1}]
    tried = [(row, path, value) for row in rows.values() for path in keys(row) for value in values]
    for row, path, value in tried[:: -(-len(tried) // MOST) | 1]:
        odd.write_text(json.dumps(put(row, path, value)) + "\n")
        try:
            load_rows(odd)
        except InputError as error:
            assert str(error).startswith(f"{odd}: line 1"), (row["kind"], path, value)
