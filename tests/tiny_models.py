"""Models so small that a processor runs them, with the structure of shipped ones."""

from __future__ import annotations

import msgspec

from sim.workloads.block_setup import Parallelism, Setup
from sim.workloads.exchanges import PLAIN, ExchangeForm
from sim.workloads.model_blocks import block
from sim.workloads.named import load_model
from sim.workloads.workload import Workload


def tiny(
    model: str,
    parallelism: Parallelism = "ulysses",
    world_size: int = 2,
    steps: int = 2,
    batch: int = 1,
    exchange: ExchangeForm = PLAIN,
) -> tuple[Workload, Setup]:
    """One layer of each kind of `model`, twice, at a width of 64 and a head of 16, 24 image tokens and 8 of text."""
    shapes = load_model(model)
    small = {"hidden": 64, "heads": 4, "ffn": 128, "modulation": min(shapes.transformer.modulation, 32)}
    shapes = msgspec.structs.replace(
        shapes,
        transformer=msgspec.structs.replace(shapes.transformer, **small),
        blocks=tuple(msgspec.structs.replace(b, small_parameters=256) for b in shapes.blocks),
    )
    setup = Setup(shapes, parallelism, world_size, batch, 24, 8, shapes.ulysses.cross_attention, exchange=exchange)
    blocks = [block(setup, shape) for shape in shapes.blocks]
    activations, scratch = (2 * batch * max(sizes) for sizes in zip(*[b[1:] for b in blocks], strict=True))
    return Workload(tuple(b.layer for b in blocks) * 2, steps, 1, activations, scratch), setup
