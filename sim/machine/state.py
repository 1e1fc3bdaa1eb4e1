"""The state of a simulated run: streams, ranks, and collectives at which ranks arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from simpy.events import Event

from sim.environment import Environment, Process, Wait
from sim.program import AnyCommand, CollectiveKind, Communicator, Copy, RankProgram

Steps = Generator[Wait, Any, None]
"""A process, or a part of one."""

Work = Generator[Wait, Any, tuple[float, float]]
"""A part of a process that runs a command: returns (time at which it became ready, isolated time), s."""

CollectiveKey = tuple[Communicator, int]
"""Which collective: the n-th on its communicator; the same on every rank."""

TransferKey = tuple[int, int, Communicator, int]
"""Which transfer: the n-th from a rank to another one on a communicator."""

Ticket = CollectiveKey | tuple[TransferKey, ...] | Event | None
"""What is issued with a command: keys of its collective or transfers, or the event that frees its host thread."""


class Stream:
    """Commands pending on one stream of one rank: when issued, what, and with what ticket.

    `shared` streams take commands from several host threads; `room` are threads that wait for a place, `idle` says
    that the stream waits for a command.
    """

    __slots__ = (
        "commands",
        "current",
        "ended",
        "ends",
        "idle",
        "launches",
        "name",
        "process",
        "released",
        "released_by",
        "room",
        "shared",
    )

    process: Process

    def __init__(self, name: str, shared: bool) -> None:
        self.name = name
        self.shared = shared
        self.commands: deque[tuple[float, AnyCommand, Ticket]] = deque()
        self.launches = 0
        """Places that pending commands take in its queue: a kernel may stand for several launches."""
        self.idle = False
        self.room: list[Process] = []
        self.current: tuple[AnyCommand, Ticket] | None = None
        self.ended = 0
        """Commands that have ended."""
        self.released, self.released_by = 0.0, -2
        """When an event that held it came, and the number of the command that waited for it."""
        self.ends: list[float] | None = None
        """When each has, s, where that is asked for."""


class Rank:
    """State of one rank: its streams, events that have completed, flags, and those who wait for them."""

    def __init__(self, number: int, gpu: int, program: RankProgram) -> None:
        self.number = number
        self.gpu = gpu
        self.threads: list[Any] = []
        """Its host threads."""
        feeders = [{c.stream for c in thread} for thread in program.threads]
        self.streams = {name: Stream(name, sum(name in fed for fed in feeders) > 1) for name in program.streams}
        self.events: dict[int, float] = {}
        self.event_waiters: dict[int, list[Event]] = {}
        self.flags = Flags()
        self.pageable = {name for name, buffer in program.host_memory.items() if buffer.memory == "pageable"}
        """Its host buffers whose copies the driver stages."""
        self.calls: dict[Communicator, int] = {}
        """Collectives issued so far."""
        self.transfers: dict[tuple[bool, int, Communicator], int] = {}
        """(whether it sends, peer, communicator) -> transfers issued so far."""
        self.counters: dict[str, int] = {}
        self.counter_waiters: dict[str, list[Event]] = {}
        self.locks: dict[str, deque[Event]] = {}
        self.last_user: dict[str, int] = {}
        self.hosts_waiting: dict[int, str | Stream] = {}
        """Host thread -> what it waits for: a place on a stream, or what a message says."""
        self.moving: list[Rendezvous] = []
        self.kernels_running = 0
        self.attention_start = 0.0
        self.attention_end: Event | None = None
        """When the last attention to start ends, where collectives of other streams may find it running."""

    def is_staged(self, copy: Copy) -> bool:
        """As `RankProgram.is_staged`."""
        return bool(self.pageable) and copy.other in self.pageable and copy.kind in ("h2d", "d2h")


class Flags:
    """Words of a memory, and those who wait for one to change."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.waiters: dict[str, list[Event]] = {}

    def __getitem__(self, flag: str) -> int:
        return self.words.get(flag, 0)


class Rendezvous:
    """A collective or transfer: which of its ranks have arrived, when all had, and what ends it for each."""

    __slots__ = ("arrived", "done", "kind", "members", "ready")

    def __init__(self, env: Environment, kind: CollectiveKind, members: tuple[int, ...]) -> None:
        self.kind = kind
        self.members = members
        self.arrived: list[int] = []
        self.done = {rank: Event(env) for rank in members}
        self.ready = 0.0

    @property
    def missing(self) -> list[int]:
        """Ranks that have not arrived."""
        return [rank for rank in self.members if rank not in self.arrived]
