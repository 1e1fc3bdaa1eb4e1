"""Which gated schedule is fastest by the first-order model: size of chunks, collectives that they yield to, drain.

All is decided from rates before anything runs. Candidates are compared by `predicted_step`: first a grid of few sizes
of chunks and sets of collectives, then, around the best of it, one change at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from sim.inputs.units import Bytes
from sim.policies.base import Decided, Offload
from sim.policies.block_times import names_of
from sim.policies.chunked import OFFERED_CHUNKS
from sim.policies.host_rates import HostRates
from sim.policies.predicted import predicted_step
from sim.policies.yielding import TO_ALL, TO_NONE, Yielding
from sim.workloads.algorithms import Algorithms
from sim.workloads.block_items import CollectiveOp, Exchange, meeting_name
from sim.workloads.workload import Workload

PARTS = (1, 2, 3, 4, 6, 8, 12, 16)
"""A layer's copied bytes in so many equal chunks are candidates, besides the sizes that plans choose from."""
PIECES = (4 * 2**20, 2 * 2**20, 8 * 2**20)
"""Sizes of pieces of copy engines that are considered, B."""
ALIGNED = 4096
"""Chunks larger than this are a multiple of it, B: a page of host memory."""
MAX_PARTS = 700
"""Chunks of a layer, at most."""
COARSE = 4
"""Of the sizes of chunks, every so many are in the first grid."""
STARTS = 3
"""Best candidates of the grid that are improved."""
ALL_SETS = 3
"""With at most so many names every set of them is in the first grid."""
BETTER = 1e-5
"""A schedule must be shorter by this share to be taken instead of one that was considered before it."""


class Choice(NamedTuple):
    """What is decided of a schedule."""

    chunk_bytes: int
    yield_to: frozenset[str]
    drain: bool = False
    engines: frozenset[str] = frozenset()
    """Collectives by copy engines."""
    piece_bytes: int = 0


def chunk_sizes(copied: Iterable[int]) -> tuple[int, ...]:
    """Sizes of chunks worth considering for layers with so many copied bytes, ascending; at least one."""
    largest = max(copied, default=0)
    parts = {-(-largest // n) for n in PARTS}
    offered = {size for size in OFFERED_CHUNKS if largest / MAX_PARTS <= size < largest}
    whole = {-(-size // ALIGNED) * ALIGNED if size > ALIGNED else max(size, 1) for size in parts}
    return tuple(sorted(whole | offered))


def by_nccl(workload: Workload) -> tuple[str, ...]:
    """Names of the collectives that run by NCCL, for which copy engines may be chosen."""
    blocks = dict.fromkeys(layer.block for own in workload.ranks or (workload,) for layer in own.layers)
    ops = (op for block in blocks for op in block)
    return tuple(dict.fromkeys(meeting_name(op) for op in ops if isinstance(op, CollectiveOp | Exchange)))


def lowered(workload: Workload, names: Iterable[str], piece_bytes: int, world_size: int) -> Workload:
    """`workload` with the collectives of these names by copy engines."""
    by_copies = {"algorithm": "copy_engine", "piece_bytes": piece_bytes}
    return Algorithms(dict.fromkeys(names, by_copies)).applied(workload, world_size)


def decide(workload: Workload, like: Offload, rates: HostRates, world_size: int, copy_engines: bool = False) -> Decided:
    """The fastest gated schedule by what the first rank does, with residency and depth as those of `like`.

    With `copy_engines` collectives may run by these.
    """
    return _Decision(workload, like, rates, world_size, copy_engines).best()


class _Decision:
    """One search."""

    def __init__(
        self, workload: Workload, like: Offload, rates: HostRates, world_size: int, copy_engines: bool
    ) -> None:
        self.workload, self.like, self.rates, self.world_size = workload, like, rates, world_size
        self.names = tuple(names_of(workload.of(0)))
        self.by_nccl = by_nccl(workload) if copy_engines and world_size > 1 else ()
        self.whole = lru_cache(None)(self._whole)
        self.own = lru_cache(None)(lambda engines, piece: self.whole(engines, piece).of(0))
        self.sizes = chunk_sizes(like.copied_of_layer(i, layer.bytes) for i, layer in enumerate(workload.layers))
        self.seconds = lru_cache(None)(self._seconds)

    def best(self) -> Decided:
        """Search, from a grid to its best candidates' neighbours."""
        grid = list(self._grid())
        found = self._first(grid)
        by_copies = [choice for choice in grid if choice.engines]
        best = sorted(grid, key=self.seconds)[:STARTS] + sorted(by_copies, key=self.seconds)[:1]
        for start in dict.fromkeys(best):
            found = self._first([found, self._improved(start)])
        return Decided(self.policy(found), self.whole(found.engines, found.piece_bytes))

    def _whole(self, engines: frozenset[str], piece_bytes: int) -> Workload:
        return lowered(self.workload, sorted(engines), piece_bytes, self.world_size) if engines else self.workload

    def _seconds(self, choice: Choice) -> float:
        own = self.own(choice.engines, choice.piece_bytes)
        return predicted_step(own, self.policy(choice), self.rates, self.world_size)

    def _first(self, choices: Iterable[Choice]) -> Choice:
        """The shortest of `choices`; of those that are about as short, the first."""
        best: Choice | None = None
        for choice in choices:
            if best is None or self.seconds(choice) < self.seconds(best) * (1 - BETTER):
                best = choice
        assert best is not None
        return best

    def _grid(self) -> Iterator[Choice]:
        """Whole layers that yield to nothing first: what is no better than that is not worth its gates."""
        sizes = self.sizes[::-1][::COARSE]
        for names in self._sets():
            for size in sizes:
                yield Choice(size, names)
        if self.by_nccl:
            every = frozenset(self.names)
            for piece in PIECES:
                for size in sizes:
                    yield Choice(size, every, False, frozenset(self.by_nccl), piece)

    def _sets(self) -> Iterator[frozenset[str]]:
        names, count = self.names, len(self.names)
        found: list[Iterable[str]] = [(), names]
        if count <= ALL_SETS:
            found += [some for size in range(1, count) for some in combinations(names, size)]
        else:  # the first ones, the last ones, all but one
            found += [names[:i] for i in range(1, count)] + [names[i:] for i in range(1, count)]
            found += [[n for n in names if n != name] for name in names]
        yield from dict.fromkeys(frozenset(some) for some in found)

    def _improved(self, choice: Choice) -> Choice:
        while (better := self._first([choice, *self._moves(choice)])) != choice:
            choice = better
        return choice

    def _moves(self, choice: Choice) -> Iterator[Choice]:
        at = self.sizes.index(choice.chunk_bytes)
        for place in (at - 1, at + 1, at - 2, at + 2):
            if 0 <= place < len(self.sizes):
                yield choice._replace(chunk_bytes=self.sizes[place])
        for name in self.names:
            names = choice.yield_to ^ {name}
            yield choice._replace(yield_to=names, drain=choice.drain and bool(names))
        if choice.yield_to:
            yield choice._replace(drain=not choice.drain)
        for name in self.by_nccl:
            engines = choice.engines ^ {name}
            yield choice._replace(engines=engines, piece_bytes=(choice.piece_bytes or PIECES[0]) if engines else 0)
        for piece in PIECES if choice.engines else ():
            yield choice._replace(piece_bytes=piece)

    def policy(self, choice: Choice) -> Yielding:
        """The schedule that a choice stands for; names in the order of the block."""
        names: tuple[str, ...] | str = tuple(name for name in self.names if name in choice.yield_to)
        if choice.yield_to == set(self.names):
            names = TO_ALL
        shared = {name: getattr(self.like, name) for name in Offload.__struct_fields__}
        return Yielding(
            chunk_bytes=Bytes(choice.chunk_bytes),
            yield_to=names if choice.yield_to else TO_NONE,  # type: ignore[arg-type]
            drain=choice.drain,
            **shared,
        )
