"""Collectives that copy engines make: in what pieces ranks send what to whom, and what they receive.

A rank copies a piece to a slot of host memory that all ranks share; each rank that is to have it copies it from there.
All ranks of a group go through the same turns. In an exchange turn a rank sends a piece to the rank `distance` places
further on, and receives one from the rank as far before it. In a share turn it sends a piece that all others receive.

Bytes of N ranks, for a collective of `bytes` and blocks of bytes / N:

| kind | down to the host | up from the host |
|---|---|---|
| all_to_all | (N - 1) blocks | (N - 1) blocks |
| all_gather | 1 block, which N - 1 ranks read | (N - 1) blocks |
| reduce_scatter | (N - 1) blocks | (N - 1) blocks |
| all_reduce (reduce_scatter, then all_gather) | N blocks | 2 (N - 1) blocks |
| send_recv | bytes | bytes |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sim.program import CollectiveKind

ELEMENT = 2
"""Bytes of an element of a collective (bf16)."""
LAG = 2
"""Pieces of an all_reduce that are exchanged before a rank shares the sum of the one before them: it is ready then."""


def copy_streams(stream: str) -> tuple[str, str]:
    """The streams of the copies down and up of collectives on `stream`."""
    return f"{stream} send", f"{stream} receive"


class Turn(NamedTuple):
    """Piece number `piece` of a block goes to the rank `distance` places further on; to all others if that is 0."""

    distance: int
    piece: int

    @property
    def shared(self) -> bool:
        """Whether all others receive it."""
        return self.distance == 0


class EngineCollective(NamedTuple):
    """A collective by copy engines, of one or several groups of ranks, in pieces of at most `piece_bytes`.

    `bytes` is the buffer on a rank, as of a `CollectiveOp`; `buffer` is its name.
    """

    kind: CollectiveKind
    bytes: int
    name: str
    piece_bytes: int
    buffer: str
    groups: tuple[tuple[int, ...], ...]
    stream: str | None = None

    @property
    def buffer_bytes(self) -> int:
        """Size of its buffer: an output of its own follows the input, or it works in place."""
        return self.bytes * (2 if self.kind in ("all_to_all", "send_recv") else 1)

    def of(self, rank: int) -> EnginePart | None:
        """What `rank` does; None if it takes no part."""
        members = next((group for group in self.groups if rank in group), ())
        return EnginePart(self, rank, members) if members else None

    @property
    def commands(self) -> int:
        """At most so many commands of a rank."""
        return max(EnginePart(self, group[0], group).commands for group in self.groups)


class EnginePart(NamedTuple):
    """The part of `rank` in a collective by copy engines among `members`, in the order of their places."""

    whole: EngineCollective
    rank: int
    members: tuple[int, ...]

    @property
    def place(self) -> int:
        """The rank's place."""
        return self.members.index(self.rank)

    @property
    def reduces(self) -> bool:
        """Whether ranks add up what they receive."""
        return self.whole.kind in ("all_reduce", "reduce_scatter")

    @property
    def input_bytes(self) -> int:
        """Bytes of whole elements in the buffer."""
        return self.whole.bytes // ELEMENT * ELEMENT

    @property
    def block_bytes(self) -> int:
        """Bytes of a block: what one rank has for another, or of the sum. Of an all_reduce the last may be shorter."""
        elements, count = self.input_bytes // ELEMENT, len(self.members)
        if self.whole.kind == "send_recv":
            return self.input_bytes
        return (-(-elements // count) if self.whole.kind == "all_reduce" else elements // count) * ELEMENT

    @property
    def piece_bytes(self) -> int:
        """Bytes of a piece but the last of a block."""
        return max(min(self.whole.piece_bytes, self.block_bytes) // ELEMENT * ELEMENT, ELEMENT)

    def span(self, block: int, piece: int) -> tuple[int, int]:
        """(first byte, bytes) of a piece of the block at place `block`; of an all_reduce it may be empty."""
        start = self.block_bytes * block + self.piece_bytes * piece
        end = min(self.block_bytes * (block + 1), start + self.piece_bytes)
        if self.whole.kind == "all_reduce":
            end = min(end, self.input_bytes)
        return start, max(end - start, 0)

    def sent(self, turn: Turn) -> tuple[int, int]:
        """(first byte in the buffer, bytes) of what the rank sends in a turn."""
        if self.whole.kind == "send_recv":
            return self.span(0, turn.piece)
        return self.span((self.place + turn.distance) % len(self.members), turn.piece)

    def target(self, turn: Turn) -> int:
        """The rank that it sends to in an exchange turn."""
        return self.members[(self.place + turn.distance) % len(self.members)]

    def sources(self, turn: Turn) -> Iterator[tuple[int, int, int]]:
        """(rank, first byte in the buffer, bytes) of what it receives in a turn, or adds to what is there, in order."""
        count, after = len(self.members), 0
        if self.whole.kind in ("all_to_all", "send_recv"):
            after = self.input_bytes
        for distance in range(1, count) if turn.shared else (turn.distance,):
            place = (self.place - distance) % count
            if self.whole.kind == "send_recv":
                block = 0
            elif self.reduces and not turn.shared:
                block = self.place
            else:
                block = place
            start, size = self.span(block, turn.piece)
            yield self.members[place], after + start, size

    def turns(self) -> Iterator[Turn]:
        """What all ranks of the group do, in this order. Nothing if there is no byte to send, or nobody to send to."""
        count, kind = len(self.members), self.whole.kind
        pieces = -(-self.block_bytes // self.piece_bytes)
        if count == 1:
            return
        match kind:
            case "send_recv":
                yield from (Turn(1, piece) for piece in range(pieces))
            case "all_to_all":
                yield from (Turn(distance, piece) for distance in range(1, count) for piece in range(pieces))
            case "all_gather":
                yield from (Turn(0, piece) for piece in range(pieces))
            case _:
                shares = kind == "all_reduce"
                for piece in range(pieces + LAG * shares):
                    if piece < pieces:
                        yield from (Turn(distance, piece) for distance in range(1, count))
                    if shares and piece >= LAG:
                        yield Turn(0, piece - LAG)

    @property
    def commands(self) -> int:
        """At most so many commands."""
        kind, others = self.whole.kind, len(self.members) - 1
        pieces = -(-self.block_bytes // self.piece_bytes)
        exchanges = shares = 0
        if kind != "all_gather":
            exchanges = pieces * (1 if kind == "send_recv" else others)
        if kind in ("all_gather", "all_reduce"):
            shares = pieces
        if others == 0:
            exchanges = shares = 0
        waits = others if shares else 1
        return 8 + exchanges * (waits + 5 + 6 * self.reduces) + shares * (waits + 5 + 3 * others)
