"""How a request is divided among ranks: sizes of dimensions, and the groups of ranks of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import msgspec

from sim.inputs.config import Config
from sim.inputs.faults import Fault, refuse
from sim.workloads.block_items import CollectiveOp, Groups, Op, too_few
from sim.workloads.exchanges import wrong_levels

Dimension = Literal["tensor", "ulysses", "ring", "displaced", "pipeline", "cfg", "data"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
"""From the one whose ranks are next to each other to the one whose ranks are furthest apart, as xDiT orders them."""


class Layout(Config, frozen=True):
    """Ranks of each dimension; their product is the number of ranks.

    `tensor` cuts matrices; `ulysses` and `ring` cut the tokens, and so does `displaced`, whose ranks attend to the keys
    and values that others had a step ago (DistriFusion); `pipeline` cuts the layers; `cfg` the passes of a step; `data`
    runs requests side by side.

    With `patches` the stages of a pipeline work on so many parts of the tokens, one after the other, each attending to
    what the other parts were a step ago (PipeFusion). The first `warmup_steps` of a request use nothing stale.
    `stage_layers` are the layers of each stage, in order; equal ones but for one layer unless given.
    """

    tensor: int = 1
    ulysses: int = 1
    ring: int = 1
    displaced: int = 1
    pipeline: int = 1
    cfg: int = 1
    data: int = 1
    patches: int = 1
    warmup_steps: int = 1
    stage_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        yield from too_few(self, (*DIMENSIONS, "patches"))
        if self.warmup_steps < 0:
            yield Fault("warmup_steps", f"is {self.warmup_steps}, expected 0 or more")
        if self.patches > 1 and self.pipeline == 1:
            yield Fault("patches", f"is {self.patches}, but only the stages of a pipeline take patches: give pipeline")
        if self.stage_layers and (len(self.stage_layers) != self.pipeline or min(self.stage_layers) < 1):
            expected = f"expected {self.pipeline} numbers from 1 on, one a stage"
            yield Fault("stage_layers", f"is {list(self.stage_layers)}, {expected}")
        if self.displaced > 1 and (self.pipeline > 1 or self.ring > 1):
            yield Fault("displaced", "does not go with pipeline or ring: expected tensor, ulysses, cfg or data")

    def __str__(self) -> str:
        words = " x ".join(f"{name} {size}" for name, size in self.sizes.items() if size > 1) or "1 rank"
        if self.stage_layers:
            words += f" of {', '.join(map(str, self.stage_layers))} layers"
        return f"{words} in {self.patches} patches" if self.patches > 1 else words

    def stage(self, stage: int, count: int) -> range:
        """The numbers of the layers of a stage, of `count` in all: the first stages have one more where need be."""
        if self.stage_layers:
            first = sum(self.stage_layers[:stage])
            return range(first, first + self.stage_layers[stage])
        each, more = divmod(count, self.pipeline)
        first = stage * each + min(stage, more)
        return range(first, first + each + (stage < more))

    @property
    def stale(self) -> bool:
        """Whether ranks attend to what others were a step ago."""
        return self.patches > 1 or self.displaced > 1

    @property
    def sizes(self) -> dict[Dimension, int]:
        """Ranks of each dimension, in order."""
        return {name: getattr(self, name) for name in DIMENSIONS}

    def wrong_size(self, world_size: int) -> Iterator[Fault]:
        """A fault unless the product is `world_size`."""
        product = math.prod(self.sizes.values())
        if product != world_size:
            yield Fault("parallelism", f"is {self}: {product} ranks, but world_size is {world_size}")

    def place(self, rank: int, dimension: Dimension) -> int:
        """Where `rank` is along a dimension, from 0 on."""
        return rank // self._apart(dimension) % self.sizes[dimension]

    def groups(self, dimension: Dimension) -> Groups:
        """The ranks that differ along a dimension only, for all others of theirs."""
        world, apart, size = math.prod(self.sizes.values()), self._apart(dimension), self.sizes[dimension]
        first = (rank for rank in range(world) if self.place(rank, dimension) == 0)
        return tuple(tuple(rank + i * apart for i in range(size)) for rank in first)

    def _apart(self, dimension: Dimension) -> int:
        """How far ranks next to each other along a dimension are apart."""
        return math.prod(self.sizes[name] for name in DIMENSIONS[: DIMENSIONS.index(dimension)])


def wrong_group(op: Op, layout: Layout | None, world_size: int) -> Iterator[Fault]:
    """The fault of the group of a block's entry, if it has one."""
    if not isinstance(op, CollectiveOp):
        return
    if isinstance(op.group, str) and op.group in DIMENSIONS and layout is not None:
        yield from wrong_levels(op, {layout.sizes[op.group]})
    elif not isinstance(op.group, str):
        yield from wrong_levels(op, {len(group) for group in op.groups} or {world_size})
    if op.group is None:
        return
    if isinstance(op.group, str):
        if op.group not in DIMENSIONS:
            yield Fault("collective.group", f"is {op.group!r}, expected ranks, or one of {', '.join(DIMENSIONS)}")
        elif layout is None:
            problem = f"is {op.group!r}, which needs workload.parallelism, such as {{{op.group}: {world_size}}}"
            yield Fault("collective.group", problem)
    elif (last := max(rank for group in op.groups for rank in group)) >= world_size:
        yield Fault("collective.group", f"has rank {last}, but the ranks are 0 to {world_size - 1}")


def with_ranks(op: Op, layout: Layout | None, world_size: int) -> Op:
    """An entry with the ranks of its groups; without a group where that is all ranks in order."""
    if not isinstance(op, CollectiveOp) or op.group is None:
        return op
    if isinstance(op.group, str):
        assert layout is not None
        groups = layout.groups(next(name for name in DIMENSIONS if name == op.group))
    else:
        groups = op.groups
    return msgspec.structs.replace(op, group=None if groups == (tuple(range(world_size)),) else groups)
