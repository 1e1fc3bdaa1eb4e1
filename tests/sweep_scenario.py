"""A small scenario for sweeps."""

from __future__ import annotations

from strategies import Plain

MIB = 2**20

BASE: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "layers": 3,
        "steps": 2,
        "layer_bytes": 4 * MIB,
        "block": [
            {"compute": {"name": "a", "seconds": "200 us"}},
            {"collective": {"kind": "all_to_all", "bytes": MIB}},
            {"compute": {"name": "b", "seconds": "100 us"}},
        ],
    },
    "policy": {"kind": "yielding", "chunk_bytes": "1 MiB"},
}
