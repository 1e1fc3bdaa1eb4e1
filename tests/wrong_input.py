"""Good plain data that tests make wrong, values of every kind, and what a command must answer."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import strategies as st
from strategies import Plain

from sim.cli import main

SCENARIO: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "layers": 2,
        "steps": 2,
        "passes_per_step": 1,
        "activation_bytes": 0,
        "layer_bytes": 1000000,
        "block": [
            {"compute": {"name": "a", "seconds": "1 ms", "launches": 1}},
            {"collective": {"kind": "all_to_all", "bytes": 100000}},
            {"compute": {"name": "b", "flops": 1e9, "bytes": 1e6}},
        ],
    },
    "policy": {
        "kind": "yielding",
        "chunk_bytes": 500000,
        "resident_fraction": 0.0,
        "prefetch_layers": 1,
        "window": "kernel",
        "drain": False,
        "poll": "1 ms",
        "slots": 2,
    },
}

GONE = object()


def changed(data: Plain, path: str, value: object) -> Plain:
    """`data` with the value at a path such as `workload.block[0].compute` replaced or removed."""
    return put(data, [int(k) if k.isdigit() else k for k in path.replace("[", ".").replace("]", "").split(".")], value)


def put(data: Plain, keys: Sequence[str | int], value: object) -> Plain:
    data = copy.deepcopy(data)
    at: Any = data
    for key in keys[:-1]:
        at = at[key]
    if value is GONE:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return data


def write(file: str, data: object) -> None:
    plain = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    Path(file).write_text(yaml.dump(data, Dumper=plain))


def tree(folder: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def answered(args: list[str], code: int, *words: str) -> None:
    """The command says one line a fault, which have `words`, exits with `code`, and leaves the folder as it was."""
    before = tree(Path.cwd())
    done = CliRunner().invoke(main, args)
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    usage, _, message = done.stderr.rpartition("Error: ")
    assert len(message) < 20_000 and message.count("\n") <= 21, "one line a fault"
    assert not usage or usage.startswith("Usage: "), "nothing else, but for wrong options"
    assert "Traceback" not in message
    message = f"Error: {message}"
    for word in words:
        assert word in message, message
    assert tree(Path.cwd()) == before


def cases(paths: list[str], values: list[Any], but: Collection[tuple[str, Any]] = ()) -> list[Any]:
    """Every value at every path, `but` those that are good input there."""
    wrong = [(path, value) for path, value in product(paths, values) if (path, value) not in but]
    return [pytest.param(path, value, id=f"{path}={str(value)[:20]}") for path, value in wrong]


plain_text = st.text(st.characters(exclude_characters="`"), max_size=8)  # msgspec's own words have the backtick

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | plain_text
    | st.sampled_from(["1 MiB", "1e-300", "-0", "1e300", 10**300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
    max_leaves=5,
)


def paths(data: object) -> Iterator[tuple[str | int, ...]]:
    """The keys to everything in plain data."""
    inner: Iterable[tuple[str | int, Any]] = ()
    if isinstance(data, dict):
        inner = data.items()
    elif isinstance(data, list):
        inner = enumerate(data)
    for key, value in inner:
        yield (key,)
        yield from ((key, *more) for more in paths(value))
