"""Sends and receives that run together, as a group of NCCL's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

Transfer = tuple[torch.Tensor, int]
"""Memory, and the rank that its bytes go to or come from."""


def exchange(sends: Sequence[Transfer], receives: Sequence[Transfer], group: dist.ProcessGroup | None) -> None:
    """Send and receive, on the current stream. Several between two ranks meet in their order."""
    operations = [dist.P2POp(dist.isend, memory, peer, group) for memory, peer in sends]
    operations += [dist.P2POp(dist.irecv, memory, peer, group) for memory, peer in receives]
    if operations:
        for work in dist.batch_isend_irecv(operations):
            work.wait()


def shift_to_next_rank(
    sent: torch.Tensor, received: torch.Tensor, rank: int, members: Sequence[int], group: dist.ProcessGroup | None
) -> None:
    """Send to the next one of `members`, receive from the one before."""
    if len(members) == 1:
        received.copy_(sent)
        return
    place = members.index(rank)
    after, before = members[(place + 1) % len(members)], members[place - 1]
    exchange([(sent, after)], [(received, before)], group)
