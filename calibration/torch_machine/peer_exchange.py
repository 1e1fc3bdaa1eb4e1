"""Transfers from each rank to the next one."""

from __future__ import annotations

import torch
import torch.distributed as dist


def shift_to_next_rank(
    sent: torch.Tensor, received: torch.Tensor, rank: int, ranks: int, group: dist.ProcessGroup | None
) -> None:
    """Send to the next rank, receive from the one before."""
    if ranks == 1:
        received.copy_(sent)
        return
    operations = [
        dist.P2POp(dist.isend, sent, (rank + 1) % ranks, group),
        dist.P2POp(dist.irecv, received, (rank - 1) % ranks, group),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
