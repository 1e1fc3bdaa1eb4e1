"""Good files of every kind as plain data, the odd values that break readers, and how one is put at a key."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from strategies import Plain

from scenarios import __file__ as scenarios

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
GROUPED: Plain = {
    "hardware": "h200x4-hostpath",
    "world_size": 4,
    "placement": [0, 1, 3, 2],
    "workload": {
        "layers": 2,
        "steps": 2,
        "layer_bytes": "1 MB",
        "parallelism": {"tensor": 2, "ulysses": 2},
        "block": [
            {"collective": {"kind": "all_to_all", "bytes": "1 MB", "group": "ulysses"}},
            {"copy": {"kind": "d2h", "bytes": "1 MB", "memory": "pageable", "buffer": "kept"}},
            {"collective": {"kind": "all_reduce", "bytes": 10**5, "group": [[0, 1], [2, 3]], "stream": "comm"}},
            {"copy": {"kind": "h2d", "bytes": "1 MB", "memory": "pinned", "stream": "swap"}},
            {"compute": {"name": "a", "seconds": "1 ms"}},
            {"collective": {"kind": "all_gather", "bytes": 10**5, "group": [0, 2]}},
            {"wait": "comm"},
        ],
        "before": [
            {
                "repeat": 2,
                "layer_bytes": "1 MB",
                "memory_bytes": "1 MB",
                "block": [{"compute": {"name": "b", "seconds": 1e-3}}],
            }
        ],
        "after": [{"block": [{"copy": {"kind": "d2h", "bytes": "1 MB"}}]}],
    },
    "policy": {
        "kind": "chunked",
        "chunk_bytes": 500000,
        "resident_layers": 1,
        "prefetch_counts": "offloaded",
        "wrap_around": False,
    },
}
QUANTISED: Plain = {
    **NAMED,
    "placement": [1, 0],
    "workload": NAMED["workload"] | {"weights": {"dtype": "int4"}},
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
