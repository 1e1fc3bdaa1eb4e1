"""Memory that several ranks use, and how each command accesses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from sim.program.commands import AnyCommand, Collective, Copy, Kernel, PointToPoint, ProgramError, Send
from sim.program.rank_program import RankProgram

HOST = -1
"""Owner id of host memory that all ranks share."""

Memory = tuple[int, str]
"""(rank whose device buffer it is, or HOST; name of the buffer)."""

Clock = dict[tuple[int, str], int]
"""(rank, stream) -> how many of its commands have surely ended."""

_ALL = 2**63


class Access(NamedTuple):
    """Bytes of shared memory that a command uses, and when: its stream, and its number there from 1 on."""

    start: int
    end: int
    writes: bool
    at: tuple[int, str]
    number: int
    name: str


def shared_memory(ranks: Sequence[RankProgram]) -> set[Memory]:
    """Memory that more than one rank uses.

    Raises:
        ProgramError: ranks do not agree on it, or a copy writes what its peer has not.
    """
    found: set[Memory] = set()
    sizes: dict[str, tuple[int, int]] = {}
    for rank, program in enumerate(ranks):
        for buffer in program.host_memory.values():
            theirs = [(r, other.host_memory.get(buffer.name)) for r, other in enumerate(ranks)]
            private = [r for r, other in theirs if other is not None and not other.shared]
            if buffer.shared and private:
                raise ProgramError(f"host buffer {buffer.name!r} is shared on rank {rank} but not on rank {private[0]}")
            if buffer.shared:
                first, size = sizes.setdefault(buffer.name, (rank, buffer.bytes))
                if buffer.bytes != size:
                    raise ProgramError(
                        f"shared host buffer {buffer.name!r} has {size} bytes on rank {first} and {buffer.bytes} on "
                        f"rank {rank}"
                    )
                found.add((HOST, buffer.name))
        for command in program.commands():
            if isinstance(command, Copy) and command.kind == "p2p":
                found.add(_target(rank, command, ranks))
    return found


def _target(rank: int, command: Copy, ranks: Sequence[RankProgram]) -> Memory:
    """The (rank, buffer) that a p2p copy of `rank` writes."""
    peer, name = command.peer, command.other
    if peer is msgspec.UNSET or name is msgspec.UNSET or not 0 <= peer < len(ranks) or peer == rank:
        raise ProgramError(f"copy {command.name!r} of rank {rank} goes to rank {peer}, which is not a peer")
    sizes = {b.name: b.bytes for b in ranks[peer].buffers}
    if name not in sizes:
        raise ProgramError(f"copy {command.name!r} of rank {rank} writes buffer {name!r}, which rank {peer} has not")
    if command.other_start < 0:
        raise ProgramError(
            f"copy {command.name!r} of rank {rank} starts at byte {command.other_start} of buffer {name!r} of rank "
            f"{peer}"
        )
    if command.other_start + command.bytes > sizes[name]:
        raise ProgramError(
            f"copy {command.name!r} of rank {rank} reaches byte {command.other_start + command.bytes} of buffer "
            f"{name!r} of rank {peer}, which has {sizes[name]}"
        )
    return peer, name


def accesses(command: AnyCommand, at: tuple[int, str], number: int) -> Iterator[tuple[Memory, Access]]:
    """What `command`, number `number` of stream `at` = (rank, name), uses of any memory."""
    rank = at[0]
    if isinstance(command, Copy):
        name, mine, theirs = command.name, command.offset, command.other_start
        local = Access(mine, mine + command.bytes, command.kind in ("h2d", "d2d"), at, number, name)
        yield (rank, command.buffer), local
        if command.other is not msgspec.UNSET:
            owner = rank if command.kind == "d2d" else HOST
            if command.kind == "p2p" and command.peer is not msgspec.UNSET:
                owner = command.peer
            writes = command.kind in ("d2h", "p2p")
            yield (owner, command.other), Access(theirs, theirs + command.bytes, writes, at, number, name)
    elif isinstance(command, Kernel | Collective):
        for buffer, writes in [*((b, False) for b in command.reads), *((b, True) for b in command.writes)]:
            yield (rank, buffer), Access(0, _ALL, writes, at, number, command.name)
    elif isinstance(command, PointToPoint):
        for t in command.transfers:
            writes = not isinstance(t, Send)
            yield (rank, t.buffer), Access(t.offset, t.offset + t.bytes, writes, at, number, command.name)


_MAX_BLOCKS = 16
"""Largest number of blocks that an access is listed under; a larger access is compared with all others."""


class Uses:
    """Accesses to one memory that later ones must be ordered after.

    They are found by blocks about as long as the shortest of them.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._block = _ALL
        self._blocks: dict[int, list[Access]] = {}
        self._long: list[Access] = []

    def add(self, access: Access, clock: Clock) -> None:
        """Let `access` follow all that is there; `clock` is that of its stream.

        Raises:
            ProgramError: an earlier access to the same bytes may still be running.
        """
        if 2 * (access.end - access.start) <= self._block:
            before = self._all()
            self._block, self._blocks, self._long = access.end - access.start, {}, []
            for other in before:
                self._insert(other)
        for other in self._near(access):
            overlaps = other.start < access.end and access.start < other.end
            ordered = other.at == access.at or clock.get(other.at, 0) >= other.number
            if overlaps and not ordered and (access.writes or other.writes):
                raise ProgramError(self._race(access, other))
            within = access.start <= other.start and other.end <= access.end
            if within and ordered and (access.writes or not other.writes):
                self._remove(other)
        self._insert(access)

    def _range(self, access: Access) -> range:
        """The blocks in which it lies; none if those are not few."""
        first, last = access.start // self._block, (access.end - 1) // self._block
        return range(first, last + 1) if last - first < _MAX_BLOCKS else range(0)

    def _near(self, access: Access) -> list[Access]:
        """All that `access` may overlap."""
        blocks = self._range(access)
        if not blocks:
            return self._all()
        return list(dict.fromkeys([*self._long, *(a for block in blocks for a in self._blocks.get(block, ()))]))

    def _all(self) -> list[Access]:
        return list(dict.fromkeys([*self._long, *(a for found in self._blocks.values() for a in found)]))

    def _insert(self, access: Access) -> None:
        for block in self._range(access):
            self._blocks.setdefault(block, []).append(access)
        if not self._range(access):
            self._long.append(access)

    def _remove(self, access: Access) -> None:
        for block in self._range(access):
            self._blocks[block].remove(access)
        if not self._range(access):
            self._long.remove(access)

    def _race(self, access: Access, other: Access) -> str:
        owner, name = self._memory
        whose = "host memory that ranks share" if owner == HOST else f"memory of rank {owner}"
        return (
            f"{access.name!r} of rank {access.at[0]} on stream {access.at[1]!r} "
            f"{'writes' if access.writes else 'reads'} buffer {name!r}, {whose}, while {other.name!r} of rank "
            f"{other.at[0]} on stream {other.at[1]!r} may still be {'writing' if other.writes else 'reading'} "
            "it: nothing orders them (a flag in host memory does where it is declared as a sequence)"
        )
