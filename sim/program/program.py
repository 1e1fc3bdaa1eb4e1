"""A program: what each rank's host threads issue, checked for what no machine could run."""

from __future__ import annotations

import hashlib
from functools import cached_property

import msgspec

from sim.program.commands import ProgramError
from sim.program.ordering import check_order
from sim.program.rank_program import RankProgram
from sim.program.rendezvous import check_rendezvous


class Program(msgspec.Struct, frozen=True, dict=True):
    """One `RankProgram` a rank. Ranks that do the same may share one object.

    `placement` says which GPU each rank sits on; rank r sits on GPU r without it.

    Raises:
        ProgramError: ranks do not meet as they must, may deadlock, or use shared memory in no certain order.
    """

    ranks: tuple[RankProgram, ...]
    placement: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ProgramError("a program needs at least one rank")
        placed = self.placement
        if placed and (len(set(placed)) != len(placed) or len(placed) != len(self.ranks) or min(placed) < 0):
            raise ProgramError(
                f"placement {list(placed)} does not give each of {len(self.ranks)} ranks a GPU of its own"
            )
        check_rendezvous(self.ranks)
        check_order(self.ranks)

    def __repr__(self) -> str:
        commands = sum(sum(1 for _ in rank.commands()) for rank in self.ranks)
        return f"<Program: {self.world_size} ranks, {commands} commands>"

    @property
    def world_size(self) -> int:
        return len(self.ranks)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPU of each rank."""
        return self.placement or tuple(range(len(self.ranks)))

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of the program: equal on every machine and Python version."""
        digest = hashlib.sha256()
        encoded: dict[int, bytes] = {}
        for rank in self.ranks:
            if id(rank) not in encoded:
                encoded[id(rank)] = hashlib.sha256(msgspec.json.encode(rank)).digest()
            digest.update(encoded[id(rank)])
        if self.placement:
            digest.update(msgspec.json.encode(self.placement))
        return digest.hexdigest()
