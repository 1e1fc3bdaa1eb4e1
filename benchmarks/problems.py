"""The problem of the benchmark: layers of chunks and all-to-alls, on a host with nothing but links.

The host's links share by max-min fairness: all weights are 1, no command takes time of its own, nothing slows kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sim.hardware import Profile, load_profile, to_plain
from sim.inputs.config import convert
from sim.scenario import Scenario

MIB = 2**20
LINK = 55.35e9
"""B/s of each GPU's link, each way, and the demand cap of copies."""
EXCHANGE = 23.7e9
"""B/s that a rank sends in an all-to-all with nothing else in flight."""
FREE = 2.0**60
"""B/s of what is never full."""
BLOCK = (2e-3, None, 60e-6, None, 60e-6, None, 4e-3, None, 4e-3)
"""One layer: seconds of a kernel; None: an all-to-all. Between those of q, k and v are transposes."""
EXCHANGE_BYTES = 79_872_000
"""A rank's buffer of an all-to-all."""
LAYER_BYTES = 44 * 16 * MIB


class Problem(NamedTuple):
    """Layers on GPUs, of which the first one's link may be slower."""

    policy: str
    ranks: int = 2
    layers: int = 40
    chunk_bytes: int = 16 * MIB
    slow: float = 1.0
    """Of the first GPU's link, as a share of the others'."""

    @property
    def exchange_bytes(self) -> int:
        """A rank's buffer of an all-to-all: as many bytes for each rank."""
        return EXCHANGE_BYTES // self.ranks * self.ranks

    def scenario(self) -> Scenario:
        """As a scenario file would give it."""
        block: list[dict[str, Any]] = []
        for number, seconds in enumerate(BLOCK):
            if seconds is None:
                block.append({"collective": {"kind": "all_to_all", "bytes": self.exchange_bytes}})
            else:
                block.append({"compute": {"name": f"kernel {number}", "seconds": seconds}})
        plain = {
            "hardware": "h200x2-hostpath",  # in whose place `profile` comes
            "world_size": self.ranks,
            "workload": {"layers": self.layers, "steps": 1, "layer_bytes": LAYER_BYTES, "block": block},
            "policy": {"kind": self.policy, "chunk_bytes": self.chunk_bytes},
        }
        return Scenario.from_plain(plain, "benchmark")

    def profile(self) -> Profile:
        """The host."""
        plain = to_plain(load_profile("h200x2-hostpath"))
        plain["name"], plain["gpus"] = "links", self.ranks
        plain["topology"] = {"nodes": {"memory": {"kind": "memory"}}, "links": self._links(), "peers": "host"}
        plain["streams"] = dict.fromkeys(plain["streams"], _sourced(0.0))
        plain["host"] = dict.fromkeys(plain["host"], _sourced(0.0)) | {"queue_depth": _sourced(1024)}
        for kind in ("h2d", "d2h"):
            rates = {"cap": LINK, "weight": 1.0, "engines": 1.0}
            plain[kind] = {key: _sourced(rates.get(key, 0.0)) for key in plain[kind]}
        plain["device"]["beside_collective"] = _sourced(1.0)
        alone = {"bytes": [1, 2], "seconds": [1 / EXCHANGE, 2 / EXCHANGE], "source": "assumed"}
        numbers = dict.fromkeys(("latency", "latency_per_rank", "copy_start"), 0.0) | {"weight": 1.0, "overhead": 1.0}
        of_kind = {"alone": alone} | {key: _sourced(value) for key, value in numbers.items()}
        plain["collectives"] = dict.fromkeys(plain["collectives"], of_kind)
        return convert(plain, Profile, "benchmark")

    def _links(self) -> list[dict[str, Any]]:
        def link(gpus: str, share: float) -> dict[str, Any]:
            rates = {"there": _sourced(LINK * share), "back": _sourced(LINK * share), "both_ways": _sourced(FREE)}
            return {"ends": ["memory", gpus]} | rates

        if self.slow == 1.0:
            return [link("gpu{gpu}", 1.0)]
        return [link(f"gpu{gpu}", 1.0 if gpu else self.slow) for gpu in range(self.ranks)]

    def arguments(self) -> list[str]:
        """What the drivers of SimGrid are told (simgrid_driver.cpp)."""
        chunks = -(-LAYER_BYTES // self.chunk_bytes)
        pair_bytes, pair_cap = self.exchange_bytes // self.ranks, EXCHANGE / (self.ranks - 1)
        counts = self.ranks, self.layers, int(self.policy == "yielding"), chunks
        sizes = self.chunk_bytes, LAYER_BYTES - (chunks - 1) * self.chunk_bytes, pair_bytes
        block = ("x" if seconds is None else repr(seconds) for seconds in BLOCK)
        return [*map(repr, (*counts, *sizes, LINK, LINK, pair_cap, self.slow)), *block]


def _sourced(value: float) -> dict[str, Any]:
    return {"value": value, "source": "assumed"}
