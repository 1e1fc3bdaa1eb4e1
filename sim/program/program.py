"""A program: what each rank's host threads issue, checked for what no machine could run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property

import msgspec

from sim.program.commands import (
    AnyCommand,
    Buffer,
    Collective,
    Copy,
    HostBuffer,
    LayerWeights,
    ProgramError,
    RecordEvent,
)
from sim.program.meetings import check_meetings
from sim.program.ordering import check_order


class RankProgram(msgspec.Struct, frozen=True):
    """What one rank's process does: commands per host thread in issue order, buffers, and step boundaries.

    `step_events` are steps + 1 events on the compute stream; step i runs from event i to event i + 1. `weights` has
    an entry a layer. `host_buffers` is the host memory that copies name. `sequences` are flags in host memory that this
    rank alone writes, each value ahead of the one before: who waits for such a value, on any rank, waits for what
    comes before its write.
    """

    threads: tuple[tuple[AnyCommand, ...], ...]
    buffers: tuple[Buffer, ...]
    step_events: tuple[int, ...]
    weights: tuple[LayerWeights, ...] = ()
    host_buffers: tuple[HostBuffer, ...] | msgspec.UnsetType = msgspec.UNSET
    sequences: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    def __repr__(self) -> str:
        return f"<RankProgram: {len(self.threads)} host threads, {sum(map(len, self.threads))} commands>"

    @property
    def host_memory(self) -> dict[str, HostBuffer]:
        """Host buffers by name."""
        return {} if self.host_buffers is msgspec.UNSET else {b.name: b for b in self.host_buffers}

    def is_staged(self, copy: Copy) -> bool:
        """Whether the driver stages `copy`: its host side is pageable.

        One from the GPU holds its host thread until it is complete; one to the GPU until all bytes are staged, for
        which the driver may have to wait until the stream gets to it.
        """
        if copy.other is msgspec.UNSET or copy.kind not in ("h2d", "d2h"):
            return False
        return self.host_memory[copy.other].memory == "pageable"

    @property
    def streams(self) -> tuple[str, ...]:
        """Stream names in order of first use."""
        return tuple(dict.fromkeys(c.stream for thread in self.threads for c in thread if c.stream))

    def step_stream(self) -> str:
        """The stream whose events bound the steps: the compute stream."""
        last = self.step_events[-1]
        return next(c.stream for c in self.commands() if isinstance(c, RecordEvent) and c.event == last)

    def feeders(self) -> dict[str, int]:
        """Which host thread feeds each stream (further ones may record events on it)."""
        found: dict[str, int] = {}
        for number, thread in enumerate(self.threads):
            for command in thread:
                if command.stream and not isinstance(command, RecordEvent):
                    found.setdefault(command.stream, number)
        return found

    def gather_streams(self) -> set[str]:
        """Streams of the collectives that fill slots: they bring weights, others exchange activations."""
        slots = {b.name for b in self.buffers if b.kind == "slot"}
        return {c.stream for c in self.commands() if isinstance(c, Collective) and slots.intersection(c.writes)}

    def commands(self) -> Iterable[AnyCommand]:
        """All commands, thread by thread."""
        for thread in self.threads:
            yield from thread


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
        check_meetings(self.ranks)
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
