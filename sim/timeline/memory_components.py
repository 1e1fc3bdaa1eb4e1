"""A peak of device memory by component, and what is pinned in host memory."""

from __future__ import annotations

from typing import NamedTuple

from sim.program import Program
from sim.timeline import Timeline


class Weights(NamedTuple):
    """What is known of a workload's weights under its policy."""

    pinned: int
    """B in host memory that all ranks together copy, at least."""
    once_layers: int
    """How many of the layers run once a request; they come after those of steps."""


COMPONENTS = {
    "resident_weights": "weights that stay on the GPU",
    "phase_weights": "of encoders, VAE and what else runs once",
    "slots": "slots for weights that are copied",
    "activations": "activations",
    "scratch": "scratch memory of kernels",
    "collective_buffers": "buffers of collectives",
}
"""Parts of a peak, and what a reader is shown of them."""


def components(timeline: Timeline, rank: int, weights: Weights | None) -> dict[str, int]:
    """The peak of `rank` by component, B."""
    of = timeline.peak_memory(rank)
    layers = timeline.program.ranks[rank].weights
    once = 0 if weights is None else sum(layer.resident for layer in layers[len(layers) - weights.once_layers :])
    parts = (of["weights"] - once, once, of["slot"], of["activations"], of["scratch"], of["collective"])
    return dict(zip(COMPONENTS, parts, strict=True))


def pinned_buffers(program: Program) -> int:
    """Host memory that ranks name and pin, B; shared buffers count once."""
    shared, own = {}, 0
    for rank in program.ranks:
        for buffer in rank.host_memory.values():
            if buffer.shared:
                shared[buffer.name] = buffer.bytes
            elif buffer.memory == "pinned":
                own += buffer.bytes
    return own + sum(shared.values())
