"""By what algorithm a workload's collectives run: NCCL's own kernels, or copy engines through host memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from sim.inputs import units
from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bytes
from sim.program import COLLECTIVES
from sim.workloads.block_items import CollectiveOp, CommunicationAlgorithm, Op, wrong_piece
from sim.workloads.engine_collectives import EngineCollective
from sim.workloads.workload import Layer, Workload

PIECE = Bytes(4 * 2**20)
"""Bytes of a piece unless given: the fastest of those measured, from 40 MB on (docs/beyond.md)."""
DEFAULT = "default"
"""The key of what holds for all collectives that no other key names."""


class Algorithm(Config, frozen=True):
    """How a collective runs, by NCCL unless given; `piece_bytes` is what copy engines copy at a time."""

    algorithm: CommunicationAlgorithm | None = None
    piece_bytes: Bytes | None = None

    def __post_init__(self) -> None:
        refuse(wrong_piece(self.algorithm, self.piece_bytes))


class Algorithms:
    """The `collectives` of a workload: one algorithm for all, or some by kind or name.

    Args:
        given: `{algorithm, piece_bytes}`; or such by names of collectives, by kinds, and as `default`.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.by_key: dict[str, Algorithm] = {}
        self.faults: list[Fault] = []
        plain = {DEFAULT: given} if set(given) & set(Algorithm.__struct_fields__) else given
        for key, value in plain.items():
            try:
                self.by_key[key] = convert(msgspec.to_builtins(value, enc_hook=units.plain), Algorithm, "")
            except InputError as error:
                prefix = "" if plain is not given else key
                self.faults += [Fault(".".join(p for p in (prefix, f.path) if p), f.problem) for f in error.faults]

    def unknown(self, ops: Iterable[Op]) -> Iterator[Fault]:
        """Keys that no collective of `ops` has as its name or kind."""
        known = {DEFAULT: None, **dict.fromkeys(COLLECTIVES)}
        known |= {op.name: None for op in ops if isinstance(op, CollectiveOp) and op.name}
        for key in self.by_key:
            if key not in known:
                yield Fault(key, f"is no collective of this workload, expected one of {', '.join(known)}")

    def of(self, op: CollectiveOp) -> Algorithm:
        """What a collective says of itself; what is given for its name, its kind, or all; NCCL."""
        if op.algorithm is not None:
            return Algorithm(algorithm=op.algorithm, piece_bytes=op.piece_bytes)
        found = (self.by_key[key] for key in (op.name, op.kind, DEFAULT) if key in self.by_key)
        return next(found, Algorithm())

    def lowered(self, op: Op, world_size: int) -> Op:
        """A block's entry, or what it becomes where copy engines run it."""
        if not isinstance(op, CollectiveOp) or op.detached is True:  # nothing waits for it within its layer: NCCL's
            return op
        chosen = self.of(op)
        groups = tuple(group for group in op.groups if len(group) > 1)  # a rank alone takes no part
        if chosen.algorithm != "copy_engine" or (op.groups and not groups):
            return op if op.algorithm is None else msgspec.structs.replace(op, algorithm=None, piece_bytes=None)
        piece = PIECE if chosen.piece_bytes is None else chosen.piece_bytes
        among = groups or (tuple(range(world_size)),)
        return EngineCollective(op.kind, int(op.bytes), op.name, int(piece), op.buffer, among, op.stream)

    def applied(self, workload: Workload, world_size: int) -> Workload:
        """`workload` with its collectives as they run.

        Raises:
            InputError: a key of these algorithms names no collective of the workload.
        """
        ops = list(workload.entries())
        if faults := [*self.faults, *self.unknown(ops)]:
            raise InputError.of("scenario", [(f"workload.collectives.{path}", problem) for path, problem in faults])
        if not self.by_key and not any(isinstance(op, CollectiveOp) and op.algorithm for op in ops):
            return workload
        blocks: dict[int, tuple[Op, ...]] = {}

        def block(ops: tuple[Op, ...]) -> tuple[Op, ...]:
            if id(ops) not in blocks:
                blocks[id(ops)] = tuple(self.lowered(op, world_size) for op in ops)
            return blocks[id(ops)]

        layers: dict[int, Layer] = {}

        def layer(of: Layer) -> Layer:
            if id(of) not in layers:
                layers[id(of)] = of._replace(block=block(of.block), others=tuple(map(block, of.others)))
            return layers[id(of)]

        def whole(own: Workload) -> Workload:
            return own._replace(
                layers=tuple(map(layer, own.layers)),
                before=tuple(map(layer, own.before)),
                after=tuple(map(layer, own.after)),
                closing=block(own.closing),
                ranks=tuple(map(whole, own.ranks)),
            )

        return whole(workload)
