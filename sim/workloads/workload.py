"""The form of a workload that policies read: layers, and what is done once a step or once a request."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec

from sim.workloads.block_items import MEETINGS, CollectiveOp, Exchange, Op, Shift, meeting_name
from sim.workloads.engine_collectives import EngineCollective
from sim.workloads.recorded_operations import RecordedPass


class Layer(NamedTuple):
    """One layer: its weights in bytes, and its block in program order.

    `memory` is device memory that it takes while it runs, B, on top of the workload's activations. `others` are what
    it does instead of `block` in passes of another form (`Forms`).
    """

    bytes: int
    block: tuple[Op, ...]
    memory: int = 0
    others: tuple[tuple[Op, ...], ...] = ()
    tensors: int = 0
    """Tensors that its weights are, which some runtimes copy one by one; 0 where that is not known."""

    @property
    def blocks(self) -> tuple[tuple[Op, ...], ...]:
        """By form: `block`, then `others`."""
        return (self.block, *self.others)


class Forms(NamedTuple):
    """The form of each pass, by steps: those of the `first` steps, those of all that follow, and those of the last one.

    A form is the number of a block in `Layer.blocks`.
    """

    first: tuple[tuple[int, ...], ...]
    then: tuple[int, ...]
    last: tuple[int, ...]


class Workload(NamedTuple):
    """What one rank does: `passes_per_step` times through `layers` in each of `steps` steps.

    `scratch_bytes` are taken by kernels for themselves, on top of the activations. `synchronous`: the host issues a
    step when the GPU has ended the one before. `before` and `after` are layers that run once, around all steps;
    `closing` is what ends each step. Passes that are not alike have `forms`; `passes_per_step` is then their number in
    a step after the first ones. `cache_bytes` hold keys and values from step to step, `skip_bytes` what layers take
    from others. Ranks that do not do the same have `ranks`, a workload each, whose steps count as those of this one;
    other fields are then those of rank 0.
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
    forms: Forms | None = None
    cache_bytes: int = 0
    skip_bytes: int = 0

    def forms_of(self, step: int) -> tuple[int, ...]:
        """The form of each pass of a step."""
        if self.forms is None:
            return (0,) * self.passes_per_step
        if step < len(self.forms.first):
            return self.forms.first[step]
        return self.forms.last if step == self.steps - 1 else self.forms.then

    @property
    def steady(self) -> tuple[int, ...]:
        """The form of each pass of a step that is neither one of the first ones nor the last one."""
        return (0,) * self.passes_per_step if self.forms is None else self.forms.then

    def step_of(self, number: int) -> tuple[int, int]:
        """The step of a pass, counted from the first one of all steps on, and which one of that step it is."""
        first = () if self.forms is None else self.forms.first
        for step, forms in enumerate(first):
            if number < len(forms):
                return step, number
            number -= len(forms)
        step, number = divmod(number, self.passes_per_step)
        return len(first) + step, number

    @property
    def passes(self) -> int:
        """Passes of all steps."""
        first = () if self.forms is None else self.forms.first[: self.steps]
        return sum(map(len, first)) + (self.steps - len(first)) * self.passes_per_step

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Those of a pass, then those before and after all steps: layers are numbered so."""
        return (*self.layers, *self.before, *self.after) if self.before or self.after else self.layers

    @property
    def collective_names(self) -> tuple[str, ...]:
        """What the collectives, sends and receives of all ranks are called, each once, in program order."""
        return tuple(dict.fromkeys(meeting_name(op) for op in self.entries() if isinstance(op, MEETINGS)))

    def entries(self) -> Iterator[Op]:
        """Entries of the blocks of all ranks and forms, and of what ends steps; those of equal blocks once a rank."""
        for own in self.ranks or (self,):
            blocks = {id(block): block for layer in own.all_layers for block in layer.blocks}.values()
            yield from (op for block in (*blocks, own.closing) for op in block)

    @property
    def alike(self) -> bool:
        """Whether all ranks do the same: `of` then gives what it is asked of."""
        if self.ranks or (self.recorded is not None and self.recorded.grouped):
            return False
        return not any(isinstance(op, Shift | Exchange | EngineCollective) or _grouped(op) for op in self.entries())

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
                    others = tuple(map(mine, layer.others))
                    known[id(layer)] = layer._replace(block=mine(layer.block), others=others)
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
    if isinstance(op, Shift | Exchange | EngineCollective):
        return op.of(rank)
    if not isinstance(op, CollectiveOp) or op.group is None:
        return op
    group = next((group for group in op.groups if rank in group), ())
    return msgspec.structs.replace(op, group=group) if len(group) > 1 else None
