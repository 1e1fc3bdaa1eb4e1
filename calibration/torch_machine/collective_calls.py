"""What a rank calls for a collective.

torch sorts the ranks of a process group. Where a program's group has another order, blocks are sent to their places one
by one, or given as a list.

In which order a sum adds, and how often it rounds, is the library's. Of two ranks there is one addition, so that
results are the same bits everywhere; of more, they are the same on all ranks of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, assert_never

import torch
import torch.distributed as dist

from calibration.torch_machine.device import Call
from calibration.torch_machine.peer_exchange import exchange, shift_to_next_rank
from sim.program import Collective, CollectiveKind

ELEMENT = 2
"""Bytes of an element of a collective (bf16)."""


def working_bytes(kind: CollectiveKind, bytes: int) -> int:
    """How much of its buffer a collective of `bytes` uses: input and output, one after the other or in place."""
    return 2 * bytes if kind in ("all_to_all", "send_recv") else bytes


class Part(NamedTuple):
    """One rank's part of a collective: its place among `members`, the buffer from where it starts, its communicator.

    `own` is what the rank gives to an all_gather if it does not lie at the rank's place.
    """

    command: Collective
    rank: int
    members: Sequence[int]
    buffer: torch.Tensor
    group: dist.ProcessGroup | None
    own: torch.Tensor | None = None

    @property
    def place(self) -> int:
        """The rank's place."""
        return self.members.index(self.rank)

    @property
    def block_bytes(self) -> int:
        """Bytes of one of as many blocks as there are members."""
        return block_bytes(self.command, len(self.members))

    def blocks(self, start: int = 0) -> list[torch.Tensor]:
        """The blocks from byte `start` of the buffer on, in the order of places."""
        whole = self.buffer[start : start + self.block_bytes * len(self.members)]
        return [_numbers(b) for b in whole.split(self.block_bytes)]


def block_bytes(command: Collective, members: int) -> int:
    """Bytes of one of `members` blocks of a collective."""
    return command.bytes // (ELEMENT * members) * ELEMENT


def collective_call(part: Part) -> Call:
    """A call that enqueues a rank's part of a collective on the current stream."""
    if part.command.group == (part.rank,):
        return _local(part)
    command, group, members = part.command, part.group, part.members
    size = command.bytes // ELEMENT * ELEMENT
    if not (size if command.kind in ("all_reduce", "send_recv") else part.block_bytes):
        return lambda: None
    sorted_places = list(members) == sorted(members)
    whole = _numbers(part.buffer[: part.block_bytes * len(members)])
    match command.kind:
        case "all_to_all":
            if not sorted_places:
                return _exchanged(part, part.blocks(), part.blocks(size))
            received = _numbers(part.buffer[size:][: part.block_bytes * len(members)])
            return lambda: dist.all_to_all_single(received, whole, group=group)
        case "send_recv":
            sent, received = (_numbers(part.buffer[at:][:size]) for at in (0, size))
            return lambda: shift_to_next_rank(sent, received, part.rank, members, group)
        case "all_reduce":
            values = _numbers(part.buffer[:size])
            return lambda: dist.all_reduce(values, group=group)
        case "reduce_scatter":
            blocks = part.blocks()
            mine = blocks[part.place]
            if not sorted_places:
                ordered = [blocks[members.index(r)] for r in sorted(members)]
                return lambda: dist.reduce_scatter(mine, ordered, group=group)
            return lambda: dist.reduce_scatter_tensor(mine, whole, group=group)
        case "all_gather":
            blocks = part.blocks()
            mine = blocks[part.place] if part.own is None else _numbers(part.own)
            if not sorted_places:
                return _exchanged(part, [mine] * len(members), blocks)
            return lambda: dist.all_gather_into_tensor(whole, mine, group=group)
        case _:
            assert_never(command.kind)


def _local(part: Part) -> Call:
    """A collective of a rank with itself."""
    size = part.command.bytes // ELEMENT * ELEMENT
    if part.command.kind in ("all_to_all", "send_recv"):
        sent, received = part.buffer[:size], part.buffer[size:][:size]
        return lambda: received.copy_(sent)
    if part.own is not None:
        own, block = part.own, part.buffer[: part.block_bytes]
        return lambda: block.copy_(own)
    return lambda: None


def _exchanged(part: Part, sent: Sequence[torch.Tensor], received: Sequence[torch.Tensor]) -> Call:
    """Each member sends its block `sent[place]` to the member at that place, and the rest likewise."""
    place, others = part.place, [(i, r) for i, r in enumerate(part.members) if r != part.rank]
    sends, receives = [(sent[i], r) for i, r in others], [(received[i], r) for i, r in others]

    def call() -> None:
        if received[place].data_ptr() != sent[place].data_ptr():
            received[place].copy_(sent[place])
        exchange(sends, receives, part.group)

    return call


def _numbers(memory: torch.Tensor) -> torch.Tensor:
    """bf16 numbers where memory is aligned for them. Bytes elsewhere: only what is added up needs to be numbers."""
    return memory.view(torch.bfloat16) if memory.storage_offset() % ELEMENT == 0 else memory
