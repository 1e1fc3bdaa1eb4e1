"""All-to-alls in phases over the levels of a topology: neighbours first, then across what joins them (TAPA).

Ranks of a group are numbered from the finest level on: of `levels` (2, 6) the first two share a GPU, and six such GPUs
a node. In phase i a rank exchanges with those that differ from it in its place at level i only: what is for others of
their kind goes with it. So every byte crosses each level once at most, and the links of a level carry nothing else:
with n_i places at a level, a rank sends (n_i - 1) / n_i of its buffer in that phase (CoCoDiff, arXiv 2604.14561, has
two levels). Between phases a kernel puts the blocks in order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from sim.inputs.config import Config
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bytes, Number
from sim.program.ops import Matrix, Permute
from sim.workloads.block_items import CollectiveOp, Compute, Exchange, Groups, Op

ELEMENT = 2
"""Bytes of an element of what is exchanged, bf16."""


class Levels(NamedTuple):
    """Places at each level, from the finest to the coarsest."""

    sizes: tuple[int, ...]

    def groups(self, group: Sequence[int], level: int) -> Groups:
        """The ranks of `group` that differ at `level` only, for all their other places."""
        apart, size = math.prod(self.sizes[:level]), self.sizes[level]
        first = (i for i in range(len(group)) if i // apart % size == 0)
        return tuple(tuple(group[i + k * apart] for k in range(size)) for i in first)


def levels_of(levels: Sequence[int], ranks: int) -> Levels:
    """Levels for `ranks` ranks: what the given ones leave is one more, and those of one place are left out."""
    rest = ranks // math.prod(levels)
    return Levels(tuple(size for size in (*levels, rest) if size > 1))


class VMajor(Config, frozen=True):
    """Which share of the tokens' q, k and v crosses the slow levels in a step, as their values have changed most.

    It falls evenly from `first` to `last` over the steps; all tokens cross in the first `warmup_steps`, and in every
    `refresh_every`-th step after them (0: in none). What does not cross is that of the step before.
    """

    first: Number = Number(1.0)
    last: Number = Number(0.0)
    warmup_steps: int = 1
    refresh_every: int = 0

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        for name in ("first", "last"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                yield Fault(name, f"is {float(share):g}, expected a share from 0 to 1")
        for name in ("warmup_steps", "refresh_every"):
            if (count := getattr(self, name)) < 0:
                yield Fault(name, f"is {count}, expected 0 or more")

    def share(self, step: int, steps: int) -> float:
        """Share of the tokens that cross in `step` of `steps`."""
        since = step - self.warmup_steps
        if since < 0 or (self.refresh_every and since % self.refresh_every == self.refresh_every - 1):
            return 1.0
        return float(self.first + (self.last - self.first) * step / max(steps - 1, 1))


class ExchangeForm(Config, frozen=True):
    """How a model's Ulysses exchanges run: in phases over `levels`, V's first, and of how many tokens (CoCoDiff)."""

    levels: tuple[int, ...] = ()
    v_first: bool = False
    v_major: VMajor | None = None

    def __post_init__(self) -> None:
        refuse(Fault("levels", f"has {size}, at least 1 is needed") for size in self.levels if size < 1)


PLAIN = ExchangeForm()


def wrong_levels(op: CollectiveOp, sizes: Collection[int]) -> Iterator[Fault]:
    """The fault of the `levels` of a collective among groups of these sizes, if it has one."""
    product = math.prod(op.levels)
    if op.levels and (uneven := [size for size in sizes if size % product]):
        yield Fault("collective.levels", f"are {list(op.levels)}: groups of {product} do not fill {uneven[0]} ranks")


def in_phases(op: CollectiveOp, world_size: int, slow_bytes: int | None = None) -> tuple[Op, ...]:
    """`op` phase by phase if it has `levels`; with `slow_bytes`, so many cross the levels beyond the first one."""
    groups = op.groups or (tuple(range(world_size)),)
    levels = levels_of(op.levels, len(groups[0]))
    if not op.levels or (len(levels.sizes) < 2 and slow_bytes is None):
        return (op,)
    return tuple(_phases(op, groups, levels, int(op.bytes) if slow_bytes is None else slow_bytes))


def phases_of(op: Op, world_size: int) -> tuple[Op, ...]:
    """An entry of a block, phase by phase if it is an all_to_all with `levels`."""
    return in_phases(op, world_size) if isinstance(op, CollectiveOp) else (op,)


def _phases(op: CollectiveOp, groups: Groups, levels: Levels, slow_bytes: int) -> Iterator[Op]:
    """Three places of a buffer in turn: what comes, what is sent, what was got; the last phase ends where `op` does."""
    size, last = int(op.bytes), len(levels.sizes) - 1
    for level in range(last + 1):
        sent = size if level == 0 else slow_bytes
        source, target = (0 if level == 0 else 2), (0 if level == last else 1)
        if source != target:
            yield _reordered(op, levels, level, source, target)
        across = tuple(part for group in groups for part in levels.groups(group, level))
        yield Exchange(
            f"{op.name or op.kind} level {level}", sent, op.buffer, target * size, 3 * size, across, op.stream
        )


def _reordered(op: CollectiveOp, levels: Levels, level: int, source: int, target: int) -> Compute:
    """The kernel before phase `level`: blocks from [places got, from the coarsest, and to go] to this level first.

    Before it, blocks are in order of (destinations at levels that are to come, from the coarsest; sources at levels
    that are done, from the coarsest), except that the level just done comes first.
    """
    size, count = int(op.bytes), len(levels.sizes)
    before = [*reversed(range(count))] if level == 0 else _order(count, level - 1)
    after = _order(count, level)
    block = size // ELEMENT // math.prod(levels.sizes)
    shape = (*(levels.sizes[i] for i in before), block)
    order = (*(before.index(i) for i in after), count)
    x, y = (
        Matrix(op.buffer, place * size // ELEMENT, 1, size // ELEMENT, size // ELEMENT) for place in (source, target)
    )
    return Compute(
        name="reorder",
        bytes=Bytes(2 * size),
        ops=(Permute(x, y, shape, order),),
        stream=op.stream,
    )


def _order(count: int, level: int) -> list[int]:
    """Axes as a phase wants them: its own level, then those to come and those done, each from the coarsest."""
    return [level, *reversed(range(level + 1, count)), *reversed(range(level))]
