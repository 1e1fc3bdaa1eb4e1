"""The form of a workload that policies read: layers, and what is done once a step or once a request."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from sim.workloads.block_items import CollectiveOp, Op, Shift
from sim.workloads.recorded_operations import RecordedPass


class Layer(NamedTuple):
    """One layer: its weights in bytes, and its block in program order.

    `memory` is device memory that it takes while it runs, B, on top of the workload's activations.
    """

    bytes: int
    block: tuple[Op, ...]
    memory: int = 0
    tensors: int = 0
    """Tensors that its weights are, which some runtimes copy one by one; 0 where that is not known."""


class Workload(NamedTuple):
    """What one rank does: `passes_per_step` times through `layers` in each of `steps` steps.

    `scratch_bytes` are taken by kernels for themselves, on top of the activations. `synchronous`: the host issues a
    step when the GPU has ended the one before. `before` and `after` are layers that run once, around all steps;
    `closing` is what ends each step. Ranks that do not do the same have `ranks`, a workload each, whose steps count as
    those of this one; other fields are then those of rank 0.
    """

    layers: tuple[Layer, ...]
    steps: int
    passes_per_step: int = 1
    activation_bytes: int = 0
    scratch_bytes: int = 0
    synchronous: bool = False
    before: tuple[Layer, ...] = ()
    after: tuple[Layer, ...] = ()
    closing: tuple[Op, ...] = ()
    ranks: tuple[Workload, ...] = ()
    outside_bytes: int = 0
    """Weights of no layer, which runtimes may copy, too; they are in no other figure."""
    recorded: RecordedPass | None = None
    """What a host issued in a measured pass, of which `layers` are the blocks."""

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Those of a pass, then those before and after all steps: layers are numbered so."""
        return (*self.layers, *self.before, *self.after) if self.before or self.after else self.layers

    @property
    def alike(self) -> bool:
        """Whether all ranks do the same: `of` then gives what it is asked of."""
        blocks = {id(layer.block): layer.block for layer in self.all_layers}.values()
        ops = (op for block in (*blocks, self.closing) for op in block)
        grouped = self.recorded is not None and self.recorded.grouped
        return not self.ranks and not grouped and not any(isinstance(op, Shift) or _grouped(op) for op in ops)

    def of(self, rank: int) -> Workload:
        """What `rank` does: its own groups and peers, without what it takes no part in."""
        own = self.ranks[rank]._replace(steps=self.steps) if self.ranks else self
        if own.alike:
            return own

        @lru_cache(None)
        def mine(block: tuple[Op, ...]) -> tuple[Op, ...]:
            return tuple(found for op in block if (found := _of(op, rank)) is not None)

        def of_all(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
            known: dict[int, Layer] = {}
            for layer in layers:
                if id(layer) not in known:
                    known[id(layer)] = layer._replace(block=mine(layer.block))
            return tuple(known[id(layer)] for layer in layers)

        return own._replace(
            layers=of_all(own.layers),
            before=of_all(own.before),
            after=of_all(own.after),
            closing=mine(own.closing),
            recorded=None if own.recorded is None else own.recorded.of(rank),
        )


def _grouped(op: Op) -> bool:
    return isinstance(op, CollectiveOp) and op.group is not None


def _of(op: Op, rank: int) -> Op | None:
    """What `rank` does of an entry; None if it takes no part."""
    if isinstance(op, Shift):
        return op.of(rank)
    if not isinstance(op, CollectiveOp) or op.group is None:
        return op
    group = next((group for group in op.groups if rank in group), ())
    return msgspec.structs.replace(op, group=group) if len(group) > 1 else None
