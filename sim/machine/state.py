"""The state of a simulated run: streams, ranks, and collectives at which ranks arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from simpy.events import Event

from sim.fluid import Environment
from sim.program import AnyCommand, CollectiveKind, Communicator, Kernel, RankProgram

Steps = Generator[Event, Any, None]
"""A SimPy process, or a part of one."""

Work = Generator[Event, Any, tuple[float, float]]
"""A part of a process that runs a command: returns (time at which it became ready, isolated time), s."""

CollectiveKey = tuple[Communicator, int]
"""Which collective: the n-th on its communicator; the same on every rank."""

TransferKey = tuple[int, int, Communicator, int]
"""Which transfer: the n-th from a rank to another one on a communicator."""

Ticket = CollectiveKey | tuple[TransferKey, ...] | Event | None
"""What is issued with a command: keys of its collective or transfers, or the event that frees its host thread."""


def launches(command: AnyCommand) -> int:
    """How many places a command takes in its stream's queue."""
    return command.launches if isinstance(command, Kernel) else 1


class Stream:
    """Commands pending on one stream of one rank: when issued, what, and with what ticket.

    `shared` streams take commands from several host threads; `room` wakes threads that wait for a place.
    """

    __slots__ = ("commands", "current", "ended", "idle", "launches", "name", "process", "room", "shared")

    def __init__(self, name: str, shared: bool) -> None:
        self.name = name
        self.shared = shared
        self.commands: deque[tuple[float, AnyCommand, Ticket]] = deque()
        self.launches = 0
        self.idle: Event | None = None
        self.room: list[Event] = []
        self.current: tuple[AnyCommand, Ticket] | None = None
        self.ended = 0
        """Commands that have ended."""
        self.process: Generator[Event, Any, Any] | None = None


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
        self.is_staged = program.is_staged
        self.calls: dict[Communicator, int] = {}
        """Collectives issued so far."""
        self.transfers: dict[tuple[bool, int, Communicator], int] = {}
        """(whether it sends, peer, communicator) -> transfers issued so far."""
        self.counters: dict[str, int] = {}
        self.counter_waiters: dict[str, list[Event]] = {}
        self.locks: dict[str, deque[Event]] = {}
        self.last_user: dict[str, int] = {}
        self.hosts_waiting: dict[int, str] = {}
        self.moving: list[Rendezvous] = []
        self.kernels_running = 0
        self.attention_end: Event | None = None
        """When the last attention to start ends, where collectives of other streams may find it running."""


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
