"""Communicators: process groups that ranks meet on, made before a program's first command."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist

from sim.program import Communication, Communicator, Program


def communicators(program: Program) -> list[Communicator]:
    """All communicators of `program`, in the order in which every rank makes them."""
    return list(
        dict.fromkeys(
            c.communicates_on for rank in program.ranks for c in rank.commands() if isinstance(c, Communication)
        )
    )


class Communicators:
    """The communicators of one rank's process, kept from program to program.

    `world` is the name of the one of all ranks that needs no process group of its own: that of the compute stream.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.world = ""
        self._groups: dict[Communicator, dist.ProcessGroup] = {}

    def prepare(self, needed: Sequence[Communicator], world: str) -> None:
        """Make those of `needed` that are not there. All ranks must call it alike, also for groups without them."""
        self.world = world
        for on in needed:
            ranks, name = on
            if on in self._groups or (ranks is None and name == world) or (ranks is not None and len(ranks) == 1):
                continue
            self._groups[on] = dist.new_group(None if ranks is None else list(ranks))

    def of(self, on: Communicator) -> dist.ProcessGroup | None:
        """The process group of a communicator; None: that of all ranks."""
        ranks, name = on
        return None if ranks is None and name == self.world else self._groups[on]
