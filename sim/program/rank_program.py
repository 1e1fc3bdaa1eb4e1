"""What one rank's process does."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec

from sim.program.commands import AnyCommand, Buffer, Collective, Copy, HostBuffer, LayerWeights, RecordEvent


class ComposedCollective(msgspec.Struct, frozen=True, gc=False):
    """A collective that is made of other commands, such as copies: what it would be as one command, and its events.

    It begins with event `begins`, which its own stream records, and has ended when all of `ends` have been recorded.
    Machines run the commands and know nothing of it; timelines say how long it took.
    """

    call: Collective
    begins: int
    ends: tuple[int, ...]


class RankProgram(msgspec.Struct, frozen=True, dict=True):
    """What one rank's process does: commands per host thread in issue order, buffers, and step boundaries.

    `step_events` are steps + 1 events on the compute stream; step i runs from event i to event i + 1. `weights` has
    an entry a layer. `host_buffers` is the host memory that copies name. `sequences` are flags in host memory that
    only this rank writes, each value ahead of the one before: who waits for such a value, on any rank, waits for what
    comes before its write. `request_events` bound what a request does once, around its steps: from the first one to the
    first step's, and from the last step's to the second one. `composed` names collectives that other commands make.
    """

    threads: tuple[tuple[AnyCommand, ...], ...]
    buffers: tuple[Buffer, ...]
    step_events: tuple[int, ...]
    weights: tuple[LayerWeights, ...] = ()
    host_buffers: tuple[HostBuffer, ...] | msgspec.UnsetType = msgspec.UNSET
    sequences: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    request_events: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET
    composed: tuple[ComposedCollective, ...] | msgspec.UnsetType = msgspec.UNSET

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
        buffer = self.host_memory.get(copy.other)
        return buffer is not None and buffer.memory == "pageable"

    @property
    def composed_collectives(self) -> tuple[ComposedCollective, ...]:
        """Collectives that are made of other commands, in issue order."""
        return () if self.composed is msgspec.UNSET else self.composed

    @property
    def composed_events(self) -> set[int]:
        """Events that say when composed collectives begin and end."""
        return {event for whole in self.composed_collectives for event in (whole.begins, *whole.ends)}

    @property
    def composed_streams(self) -> frozenset[str]:
        """Streams that run nothing but parts of composed collectives."""
        last = {event for whole in self.composed_collectives for event in whole.ends}
        own = {whole.call.stream for whole in self.composed_collectives}
        recording = (c for c in self.commands() if isinstance(c, RecordEvent) and c.event in last) if last else ()
        return frozenset(c.stream for c in recording) - own

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """Stream names in order of first use."""
        return tuple(dict.fromkeys(c.stream for thread in self.threads for c in thread if c.stream))

    def step_stream(self) -> str:
        """The stream whose events bound the steps: the compute stream."""
        return self._step_stream

    @cached_property
    def _step_stream(self) -> str:
        last = self.step_events[-1]
        return next(c.stream for c in self.commands() if isinstance(c, RecordEvent) and c.event == last)

    def feeders(self) -> dict[str, int]:
        """Which host thread feeds each stream (further ones may record events on it)."""
        return dict(self._feeders)

    @cached_property
    def _feeders(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for number, thread in enumerate(self.threads):
            for stream in {c.stream for c in thread if type(c) is not RecordEvent}:
                if stream:
                    found.setdefault(stream, number)
        return found

    def gather_streams(self) -> set[str]:
        """Streams of the collectives that fill slots: they bring weights, others exchange activations."""
        return set(self._gather_streams)

    @cached_property
    def _gather_streams(self) -> frozenset[str]:
        slots = {b.name for b in self.buffers if b.kind == "slot"}
        calls = (c for c in self.commands() if isinstance(c, Collective))
        return frozenset(c.stream for c in calls if slots.intersection(c.writes))

    @cached_property
    def weight_streams(self) -> frozenset[str]:
        """Streams of the copies that bring weights."""
        return frozenset(c.stream for c in self.commands() if isinstance(c, Copy) and c.brings_weights)

    def commands(self) -> Iterable[AnyCommand]:
        """All commands, thread by thread."""
        for thread in self.threads:
            yield from thread
