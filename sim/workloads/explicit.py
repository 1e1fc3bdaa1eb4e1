"""Explicit workloads: the layers of one pass, as blocks of compute, collectives and copies in program order.

One layer is what is prefetched as a unit. `Workload` is the form that policies read; `Explicit` is the form in
scenario files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from sim.inputs.config import Config, InputError
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bytes
from sim.workloads.algorithms import Algorithms
from sim.workloads.block_entries import Item, wrong_block
from sim.workloads.block_items import CollectiveOp, Compute, collective_buffer, too_few
from sim.workloads.exchanges import phases_of
from sim.workloads.layouts import Layout, with_ranks, wrong_group
from sim.workloads.phases import Phase, phase_layers, wrong_phases
from sim.workloads.workload import Layer, Workload

__all__ = ["CollectiveOp", "Compute", "Explicit", "Item", "Layer", "Workload", "collective_buffer", "too_few"]


class Blocks(Config, frozen=True):
    """`repeat` equal layers."""

    repeat: int
    layer_bytes: Bytes
    block: tuple[Item, ...]
    tensors: int | None = None
    """Tensors that the weights of a layer are."""

    def __post_init__(self) -> None:
        refuse((*too_few(self, ("repeat", "tensors")), *wrong_block(self.block)))


class Explicit(Config, frozen=True):
    """A workload written out: one kind of layer (`layers`, `layer_bytes`, `block`) or several (`blocks`).

    `synchronous`: the host waits for the GPU after each step, as profilers make it do. `parallelism` names groups of
    ranks for the blocks' collectives. `before` and `after` run once, around the steps. `collectives` says by what
    collectives run (`sim.workloads.algorithms`).
    """

    steps: int = 4
    passes_per_step: int = 1
    synchronous: bool = False
    activation_bytes: Bytes = Bytes(0)
    layers: int | None = None
    layer_bytes: Bytes | None = None
    block: tuple[Item, ...] | None = None
    blocks: tuple[Blocks, ...] | None = None
    parallelism: Layout | None = None
    before: tuple[Phase, ...] = ()
    after: tuple[Phase, ...] = ()
    collectives: dict[str, Any] = msgspec.field(default_factory=dict)
    outside_bytes: Bytes = Bytes(0)
    """Weights of no layer: they stay on the GPU, but for runtimes that copy them in every pass."""

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        single = (self.layers, self.layer_bytes, self.block)
        if self.blocks is None:
            missing = [n for n, v in zip(("layers", "layer_bytes", "block"), single, strict=True) if v is None]
            if missing:
                yield Fault("", f"{', '.join(missing)} missing: expected layers, layer_bytes and block, or blocks")
        elif any(v is not None for v in single):
            yield Fault("", "expected either layers, layer_bytes and block, or blocks, not both")
        elif not self.blocks:
            yield Fault("blocks", "is empty")
        yield from too_few(self, ("steps", "passes_per_step", "layers"))
        if self.block is not None:
            yield from wrong_block(self.block)

    def layer_count(self) -> int:
        """Layers of one pass, and those that run once."""
        once = sum(phase.repeat for phase in (*self.before, *self.after))
        return (self.layers or sum(group.repeat for group in self.blocks or ())) + once

    def resolve(self, world_size: int = 1) -> Workload:
        """The workload with every layer spelt out; all figures are per rank.

        Raises:
            InputError: `parallelism` or groups of collectives do not fit `world_size`.
        """
        if faults := list(self._wrong_groups(world_size)):
            raise InputError.of("scenario", [(f"workload.{path}", problem) for path, problem in faults])
        layout = self.parallelism
        layers: list[Layer] = []
        for _, group in self._groups():
            found = (with_ranks(item.op, layout, world_size) for item in group.block)
            block = tuple(phase for op in found for phase in phases_of(op, world_size))
            layers += [Layer(int(group.layer_bytes), block, tensors=group.tensors or 0)] * group.repeat
        whole = Workload(
            tuple(layers),
            self.steps,
            self.passes_per_step,
            self.activation_bytes,
            synchronous=self.synchronous,
            before=phase_layers(self.before, layout, world_size),
            after=phase_layers(self.after, layout, world_size),
            outside_bytes=int(self.outside_bytes),
        )
        return Algorithms(self.collectives).applied(whole, world_size)

    def _groups(self) -> Iterator[tuple[str, Blocks]]:
        """The key path and the content of what holds a block."""
        if self.blocks is None:
            assert self.layers is not None and self.layer_bytes is not None and self.block is not None
            yield "", Blocks(repeat=self.layers, layer_bytes=self.layer_bytes, block=self.block)
        else:
            yield from ((f"blocks[{number}].", group) for number, group in enumerate(self.blocks))

    def _wrong_groups(self, world_size: int) -> Iterator[Fault]:
        if self.parallelism is not None:
            yield from self.parallelism.wrong_size(world_size)
        for where, group in self._groups():
            for number, item in enumerate(group.block):
                for path, problem in wrong_group(item.op, self.parallelism, world_size):
                    yield Fault(f"{where}block[{number}].{path}", problem)
        for key, phases in (("before", self.before), ("after", self.after)):
            yield from wrong_phases(phases, key, self.parallelism, world_size)
