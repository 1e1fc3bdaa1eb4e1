"""The smallest scenario that copies: for tests of files and commands, where its figures do not matter."""

from __future__ import annotations

from strategies import Plain

SMALL: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "layers": 1,
        "steps": 2,
        "layer_bytes": "1 MiB",
        "block": [{"compute": {"name": "a", "seconds": 1e-4}}],
    },
    "policy": {"kind": "chunked", "chunk_bytes": "1 MiB"},
}
