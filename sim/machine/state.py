"""The state of a simulated run: streams, ranks, and collectives at which ranks arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from simpy.events import Event

from sim.fluid import Environment
from sim.program import AnyCommand, CollectiveKind, Kernel, RankProgram

Steps = Generator[Event, Any, None]
"""A SimPy process, or a part of one."""

RendezvousKey = tuple[int, int]
"""Which collective: (host thread that issues it, number in that thread); the same on every rank."""


def launches(command: AnyCommand) -> int:
    """How many places a command takes in its stream's queue."""
    return command.launches if isinstance(command, Kernel) else 1


class Stream:
    """Commands pending on one stream of one rank: when issued, what, and for a collective which one.

    `shared` streams take commands from several host threads; `room` wakes threads that wait for a place.
    """

    __slots__ = ("commands", "current", "idle", "launches", "name", "room", "shared")

    def __init__(self, name: str, shared: bool) -> None:
        self.name = name
        self.shared = shared
        self.commands: deque[tuple[float, AnyCommand, RendezvousKey | None]] = deque()
        self.launches = 0
        self.idle: Event | None = None
        self.room: list[Event] = []
        self.current: tuple[AnyCommand, RendezvousKey | None] | None = None


class Rank:
    """State of one rank: its streams, events that have completed, flags, and those who wait for them."""

    def __init__(self, number: int, program: RankProgram) -> None:
        self.number = number
        feeders = [{c.stream for c in thread} for thread in program.threads]
        self.streams = {name: Stream(name, sum(name in fed for fed in feeders) > 1) for name in program.streams}
        self.events: dict[int, float] = {}
        self.event_waiters: dict[int, list[Event]] = {}
        self.flags: dict[str, int] = {}
        self.flag_waiters: dict[str, list[Event]] = {}
        self.counters: dict[str, int] = {}
        self.counter_waiters: dict[str, list[Event]] = {}
        self.locks: dict[str, deque[Event]] = {}
        self.last_user: dict[str, int] = {}
        self.hosts_waiting: dict[int, str] = {}
        self.moving: list[Rendezvous] = []
        self.kernels_running = 0
        self.attention_end: Event | None = None
        """When the last attention to start ends, where collectives of other streams may find it running."""


class Rendezvous:
    """One collective: which ranks have arrived, when all had, and what ends it for each."""

    __slots__ = ("arrived", "done", "kind", "ready")

    def __init__(self, env: Environment, kind: CollectiveKind, world_size: int) -> None:
        self.kind = kind
        self.arrived: list[int] = []
        self.done = [Event(env) for _ in range(world_size)]
        self.ready = 0.0
