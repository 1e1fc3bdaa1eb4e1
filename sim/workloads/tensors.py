"""How many tensors a layer's weights are: real runtimes copy each by itself."""

from __future__ import annotations

from collections.abc import Sequence

from sim.workloads.block_items import Compute, Op
from sim.workloads.workload import Layer

TENSORS = 16
"""Tensors of a layer whose number is not known."""


def tensors_of(layer: Layer) -> int:
    """Tensors of a layer; of a named model, the places of its weights that kernels use."""
    return layer.tensors or _places(layer.block) or TENSORS


_PLACES: dict[int, tuple[Sequence[Op], int]] = {}
"""Blocks that were counted last, by their `id`: layers share them, and a schedule asks for each copy."""
_MAX_PLACES = 64


def _places(block: Sequence[Op]) -> int:
    """Places of a layer's weights that the kernels of its block use."""
    known, count = _PLACES.get(id(block), (None, 0))
    if known is block:
        return count
    places = {
        (matrix.offset, matrix.rows)
        for op in block
        if isinstance(op, Compute)
        for operation in op.ops
        for matrix in operation.operands()
        if matrix.buffer == "weights"
    }
    if len(_PLACES) >= _MAX_PLACES:
        _PLACES.clear()
    _PLACES[id(block)] = block, len(places)
    return len(places)
