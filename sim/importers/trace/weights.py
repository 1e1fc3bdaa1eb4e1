"""Weights of the layers of a trace that copies none: of a model, or so many bytes in all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sim.importers.trace.blocks import Piece
from sim.importers.trace.notes import Notes
from sim.importers.trace.reference import Reference
from sim.inputs import units
from sim.inputs.config import InputError
from sim.inputs.units import Bytes, show_bytes
from sim.workloads.block_setup import Setup
from sim.workloads.layer_builder import BF16
from sim.workloads.model_blocks import block
from sim.workloads.named import Model, load_model
from sim.workloads.tensors import tensors_of


class Weights(NamedTuple):
    """For each piece of the pass: bytes of a layer and its tensors (0: not known); `outside`: bytes of no layer."""

    layers: list[tuple[int, int]]
    outside: int


def weights_of(text: str, found: Reference, parts: Sequence[Piece], notes: Notes) -> Weights:
    """What `text`, a model or a size, says of the pieces of a pass. Raises `InputError` of `--weights`."""
    if not any(part.run.repeat > 1 for part in parts):
        raise InputError("--weights", text, "the pass has no layers: nothing in it repeats")
    try:
        total = int(units.parse(Bytes, text))
    except ValueError:
        return _of_model(load_model(text, "--weights", text), found, parts, notes)
    if total <= 0:
        raise InputError("--weights", text, "expected more than 0 bytes")
    notes.assume("no weights outside of the layers (workload.outside_bytes), which some runtimes copy in every pass")
    return Weights([(size, 0) for size in by_time(total, parts, notes)], 0)


def by_time(total: int, parts: Sequence[Piece], notes: Notes) -> list[int]:
    """Bytes of a layer of each piece: `total` by the share of the layers' time in matrix products, or in all."""
    times = [_time(part) * (part.run.repeat > 1) for part in parts]
    every = sum(t * part.run.repeat for t, part in zip(times, parts, strict=True))
    if sum(part.run.repeat > 1 for part in parts) > 1:
        notes.assume(f"{show_bytes(total)} of weights are divided among layers by the time of their kernels")
    return [int(total * t / every) // 2 * 2 if every else 0 for t in times]


def _time(part: Piece) -> float:
    return float(sum(entry["compute"]["seconds"] for entry in part.block if "compute" in entry))


def _of_model(model: Model, found: Reference, parts: Sequence[Piece], notes: Notes) -> Weights:
    setup = Setup(model, "ulysses", world_size=1, batch=1, tokens=1, text=1, cross_attention=0)
    shapes = [(block(setup, shape).layer, shape.repeat) for shape in model.blocks]
    outside = model.parameters.outside * BF16
    repeated = [part for part in parts if part.run.repeat > 1]
    if found.world_size > 1:
        notes.assume("each rank holds all weights of a layer, as under Ulysses")
    if len(repeated) == len(shapes):
        given = iter(shapes)
        layers = []
        for part in parts:
            if part.run.repeat == 1:
                layers.append((0, 0))
                continue
            layer, count = next(given)
            layers.append((layer.bytes, tensors_of(layer)))
            if count != part.run.repeat:
                notes.assume(f"{part.run.repeat} layers of a kind of which {model.name} has {count}")
        return Weights(layers, outside)
    total = sum(layer.bytes * count for layer, count in shapes)
    count = sum(part.run.repeat for part in repeated)
    total = total * count // model.layers
    notes.assume(
        f"{model.name} has {len(shapes)} kinds of block, the pass {len(repeated)} runs of layers: "
        f"each of {count} layers has the mean weights of the model's {model.layers}"
    )
    return Weights([(size, 0) for size in by_time(total, parts, notes)], outside)
