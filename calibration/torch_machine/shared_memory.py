"""Memory that the processes of all ranks share: where everything lies in it, and how it gets to them.

It is one file without a name (memfd) that the parent makes for each run and hands to the ranks over their sockets. The
kernel frees it with the last process that has it, however that one ends, so that nothing can be left in /dev/shm; a
container's limit on /dev/shm does not count either. A new file is all zeros.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import torch

from sim.program import Copy, Program, WaitFlag, WriteFlag

Place = tuple[int, int]
"""(first byte, bytes)."""

WORD_BYTES = 4


class Layout(msgspec.Struct):
    """What lies where in the shared memory of a program.

    `flags` are host flags, `host` shared host buffers, `targets` for each rank its device buffers that copies of peers
    write. On GPUs those have no place here: their memory is the GPU's.
    """

    bytes: int
    flags: dict[str, Place]
    host: dict[str, Place]
    targets: list[dict[str, Place]]


def layout(program: Program, kind: str) -> Layout:
    """Where the shared memory of `program` lies on devices of `kind`, each buffer on pages of its own."""
    end = 0

    def place(size: int, granule: int = mmap.PAGESIZE) -> Place:
        nonlocal end
        start = -(-end // granule) * granule
        end = start + size
        return start, size

    names: dict[str, None] = {}
    host: dict[str, int] = {}
    targets: list[dict[str, None]] = [{} for _ in program.ranks]
    for rank in program.ranks:
        host |= {b.name: b.bytes for b in rank.host_memory.values() if b.shared}
        for command in rank.commands():
            if isinstance(command, WriteFlag | WaitFlag) and command.on_host:
                names[command.flag] = None
            elif isinstance(command, Copy) and isinstance(command.peer, int) and isinstance(command.other, str):
                targets[command.peer][command.other] = None
    flags = {name: place(WORD_BYTES, WORD_BYTES) for name in names}
    places = {name: place(size) for name, size in host.items()}
    there: list[dict[str, Place]] = []
    for rank, wanted in zip(program.ranks, targets, strict=True):
        sizes = {b.name: b.bytes for b in rank.buffers}
        there.append({name: place(sizes[name]) if kind == "cpu" else (0, sizes[name]) for name in wanted})
    return Layout(end, flags, places, there)


@contextmanager
def shared_file(size: int) -> Iterator[int | None]:
    """A file of `size` bytes to be shared by processes; none if there is nothing to share."""
    if not size:
        yield None
        return
    file = os.memfd_create("chunkflow-sim")
    try:
        os.ftruncate(file, size)
        yield file
    finally:
        os.close(file)


def mapped(file: int, size: int) -> torch.Tensor:
    """The bytes of a shared file, for as long as the tensor is there. Closes `file`."""
    try:
        return torch.frombuffer(mmap.mmap(file, size, mmap.MAP_SHARED), dtype=torch.uint8)
    finally:
        os.close(file)


def at(memory: torch.Tensor, place: Place) -> torch.Tensor:
    """The bytes of `memory` at `place`."""
    return memory[place[0] : place[0] + place[1]]
