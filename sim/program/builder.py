"""Building a rank's program command by command, each checked against all before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import msgspec

from sim.program.commands import (
    COLLECTIVES,
    AnyCommand,
    Buffer,
    BufferKind,
    Collective,
    CollectiveKind,
    Copy,
    CopyKind,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    Kernel,
    LayerWeights,
    ProgramError,
    RankProgram,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.program.ops import AnyOperation

_WHOLE = (0, 2**63)
"""The byte range of an access that may touch all of a buffer."""


class _Access(msgspec.Struct, gc=False):
    """The latest accesses of a buffer: writes by byte range, as (stream, position, what), and reads of it all."""

    writes: dict[tuple[int, int], tuple[str, int, str]] = msgspec.field(default_factory=dict)
    writers: dict[str, int] = msgspec.field(default_factory=dict)
    """Stream -> position of its last write."""
    reads: dict[str, tuple[int, str]] = msgspec.field(default_factory=dict)


def _period(poll: float) -> float:
    if not 0.0 <= poll < math.inf:
        raise ProgramError(f"a polling period of {poll} s is not finite and not negative")
    return poll


class RankBuilder:
    """Builds a `RankProgram` command by command, checking each against all before it.

    Raises `ProgramError` where a command waits for an event that was not recorded, touches an unknown buffer, or
    accesses a buffer that an unordered command on another stream may still be using.
    """

    def __init__(self) -> None:
        self._threads: list[list[AnyCommand]] = [[]]
        self._thread = 0
        self._buffers: dict[str, Buffer] = {}
        self._access: dict[str, _Access] = {}
        self._position: dict[str, int] = {}
        self._owner: dict[str, int] = {}
        self._clock: dict[str, dict[str, int]] = {}
        self._host_clock: list[dict[str, int]] = [{}]
        self._held: set[tuple[str, int]] = set()
        self._event_clock: list[dict[str, int]] = []
        self._step_events: list[int] = []
        self._written_flags: set[tuple[str, int]] = set()
        self._awaited_flags: dict[tuple[str, int], str] = {}

    def buffer(self, name: str, bytes: int, kind: BufferKind, static: bool = False) -> str:
        """Declare device memory of `bytes`; returns its name."""
        if name in self._buffers:
            raise ProgramError(f"buffer {name!r} is declared twice")
        if bytes < 0:
            raise ProgramError(f"buffer {name!r} has negative size {bytes}")
        self._buffers[name] = Buffer(name, bytes, kind, static)
        self._access[name] = _Access()
        return name

    def thread(self) -> int:
        """Start a further host thread; later commands are issued by it. Returns its number."""
        self._threads.append([])
        self._host_clock.append({})
        return self.switch(len(self._threads) - 1)

    def switch(self, thread: int) -> int:
        """Let host thread `thread` issue the commands that follow. Returns its number."""
        self._thread = thread
        return thread

    def kernel(
        self,
        stream: str,
        name: str,
        *,
        seconds: float | None = None,
        flops: float = 0.0,
        hbm_bytes: float = 0.0,
        launches: int = 1,
        reads: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
        step: int = -1,
        layer: int = -1,
        attention: bool = False,
        ops: tuple[AnyOperation, ...] = (),
    ) -> None:
        """Enqueue compute."""
        for what, value in (("seconds", seconds or 0.0), ("flops", flops), ("hbm_bytes", hbm_bytes)):
            if not 0.0 <= value < math.inf:
                raise ProgramError(f"kernel {name!r} has {what} {value}, which must be finite and not negative")
        if seconds is None and flops == 0 and hbm_bytes == 0:
            raise ProgramError(f"kernel {name!r} needs seconds, or flops or hbm_bytes")
        if launches < 1:
            raise ProgramError(f"kernel {name!r} stands for {launches} launches, at least 1 is needed")
        self._touch(stream, name, reads, writes)
        self._issue(
            Kernel(stream, name, seconds, flops, hbm_bytes, launches, reads, writes, step, layer, attention, ops)
        )

    def copy(
        self,
        stream: str,
        name: str,
        bytes: int,
        buffer: str,
        *,
        kind: CopyKind = "h2d",
        offset: int = 0,
        step: int = -1,
        layer: int = -1,
    ) -> None:
        """Enqueue a DMA copy into (h2d) or out of (d2h) `buffer`."""
        if bytes <= 0:
            raise ProgramError(f"copy {name!r} moves {bytes} bytes, at least 1 is needed")
        reads: tuple[str, ...] = ()
        writes: tuple[str, ...] = ()
        if kind == "h2d":
            writes = (buffer,)
        elif kind == "d2h":
            reads = (buffer,)
        else:
            assert_never(kind)
        self._touch(stream, name, reads, writes, (offset, offset + bytes))
        self._fits(f"copy {name!r}", offset, bytes, buffer)
        self._issue(Copy(stream, name, bytes, buffer, kind, offset, step, layer))

    def collective(
        self,
        stream: str,
        name: str,
        kind: CollectiveKind,
        bytes: int,
        *,
        reads: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
        offset: int | None = None,
        step: int = -1,
        layer: int = -1,
    ) -> None:
        """Enqueue this rank's part of a collective over all ranks, on the buffer it writes from byte `offset` on."""
        if kind not in COLLECTIVES:
            raise ProgramError(f"collective {name!r} is a {kind!r}, expected one of {', '.join(COLLECTIVES)}")
        if bytes <= 0:
            raise ProgramError(f"collective {name!r} has {bytes} bytes, at least 1 is needed")
        self._touch(stream, name, reads, writes, _WHOLE if offset is None else (offset, offset + bytes))
        if offset is not None:
            for buffer in writes:
                self._fits(f"collective {name!r}", offset, bytes, buffer)
        at = msgspec.UNSET if offset is None else offset
        self._issue(Collective(stream, name, kind, bytes, reads, writes, step, layer, at))

    def _fits(self, what: str, offset: int, size: int, buffer: str) -> None:
        there = self._buffers[buffer].bytes
        if offset < 0 or offset + size > there:
            raise ProgramError(f"{what} reaches byte {offset + size} of buffer {buffer!r}, which has {there}")

    def record(self, stream: str) -> int:
        """Record a new event on `stream`; returns its number.

        On a stream that another thread feeds, the event orders nothing that can be relied on: how much of the stream
        was issued before it is up to the race.
        """
        mine = self._owner.get(stream, self._thread) == self._thread
        clock = dict(self._clock_of(stream)) if mine else {}
        if mine:
            clock[stream] = self._position.get(stream, 0)
        self._event_clock.append(clock)
        event = len(self._event_clock) - 1
        self._issue(RecordEvent(stream, event))
        return event

    def record_step(self, stream: str) -> int:
        """Record an event that bounds a step."""
        event = self.record(stream)
        self._step_events.append(event)
        return event

    def wait(self, stream: str, event: int) -> None:
        """Make `stream` wait for `event`, which must have been recorded before."""
        self._merge(self._clock_of(stream), event)
        self._issue(WaitEvent(stream, event))

    def host_wait(self, event: int, poll: float = 0.0) -> None:
        """Make the issuing host thread wait for `event`. Everything it issues later is ordered after it."""
        mine = [clock for stream, clock in self._clock.items() if self._owner.get(stream) == self._thread]
        for clock in (self._host_clock[self._thread], *mine):
            self._merge(clock, event)
        self._issue(HostWaitEvent("", event, _period(poll)))

    def host_add(self, counter: str, delta: int) -> None:
        """Add `delta` to a counter of this process."""
        self._issue(HostAdd("", counter, delta))

    def host_wait_counter(
        self, counter: str, *, least: int | None = None, most: int | None = None, poll: float = 0.0
    ) -> None:
        """Make the issuing host thread wait until `least` <= `counter` <= `most`."""
        if least is None and most is None:
            raise ProgramError(f"a wait for counter {counter!r} needs a bound")
        self._issue(HostWait("", counter, least, most, _period(poll)))

    def host_acquire(self, lock: str) -> None:
        """Make the issuing host thread take `lock`."""
        if (lock, self._thread) in self._held:
            raise ProgramError(f"host thread {self._thread} takes lock {lock!r} twice")
        self._held.add((lock, self._thread))
        self._issue(HostAcquire("", lock))

    def host_release(self, lock: str) -> None:
        """Make the issuing host thread give `lock` back."""
        if (lock, self._thread) not in self._held:
            raise ProgramError(f"host thread {self._thread} gives back lock {lock!r}, which it does not hold")
        self._held.remove((lock, self._thread))
        self._issue(HostRelease("", lock))

    def write_flag(self, stream: str, flag: str, value: int) -> None:
        """Set device word `flag` when the stream gets there."""
        self._written_flags.add((flag, value))
        self._issue(WriteFlag(stream, flag, value))

    def wait_flag(self, stream: str, flag: str, value: int) -> None:
        """Hold `stream` until device word `flag` equals `value`."""
        self._awaited_flags.setdefault((flag, value), stream)
        self._issue(WaitFlag(stream, flag, value))

    def build(self, weights: tuple[LayerWeights, ...] = ()) -> RankProgram:
        """The finished program of this rank, whose layers' weights lie where `weights` says."""
        if self._held:
            raise ProgramError(f"lock {min(self._held)[0]!r} is never given back")
        for (flag, value), stream in self._awaited_flags.items():
            if value != 0 and (flag, value) not in self._written_flags:
                raise ProgramError(f"stream {stream!r} waits for flag {flag!r} to be {value}, which nobody writes")
        return RankProgram(
            tuple(tuple(t) for t in self._threads), tuple(self._buffers.values()), tuple(self._step_events), weights
        )

    def _issue(self, command: AnyCommand) -> None:
        self._threads[self._thread].append(command)
        if command.stream:
            shared = isinstance(command, RecordEvent)
            if not shared and self._owner.setdefault(command.stream, self._thread) != self._thread:
                raise ProgramError(
                    f"stream {command.stream!r} is fed by host threads {self._owner[command.stream]} and "
                    f"{self._thread}: the order of its commands would be undefined"
                )
            self._position[command.stream] = self._position.get(command.stream, 0) + 1

    def _clock_of(self, stream: str) -> dict[str, int]:
        """How many commands of each stream surely end before the next one of `stream` starts."""
        return self._clock.setdefault(stream, dict(self._host_clock[self._thread]))

    def _merge(self, clock: dict[str, int], event: int) -> None:
        if not 0 <= event < len(self._event_clock):
            raise ProgramError(f"event {event} is waited for but nobody has recorded it")
        for other, position in self._event_clock[event].items():
            if position > clock.get(other, 0):
                clock[other] = position

    def _touch(
        self, stream: str, what: str, reads: Sequence[str], writes: Sequence[str], span: tuple[int, int] = _WHOLE
    ) -> None:
        """Check and note accesses; writes touch only bytes `span` of their buffers."""
        clock = self._clock_of(stream)
        position = self._position.get(stream, 0)

        def ordered(other: str, at: int) -> bool:
            return other == stream or clock.get(other, 0) > at

        def check(name: str, span: tuple[int, int]) -> None:
            if name not in self._buffers:
                raise ProgramError(f"{what!r} on stream {stream!r} uses buffer {name!r}, which is not declared")
            access = self._access[name]
            if all(ordered(other, at) for other, at in access.writers.items()):
                return
            for (start, end), (other, at, writer) in access.writes.items():
                if start < span[1] and span[0] < end and not ordered(other, at):
                    raise ProgramError(
                        f"{what!r} on stream {stream!r} uses buffer {name!r} while {writer!r} on stream {other!r} "
                        "may still be writing it: no event orders them"
                    )

        for name in reads:
            check(name, _WHOLE)
        for name in writes:
            check(name, span)
        for name in reads:
            self._access[name].reads[stream] = (position, what)
        for name in writes:
            access = self._access[name]
            for other, (at, reader) in access.reads.items():
                if not ordered(other, at):
                    raise ProgramError(
                        f"{what!r} on stream {stream!r} overwrites buffer {name!r} while {reader!r} on stream "
                        f"{other!r} may still be reading it: no event orders them"
                    )
            if span == _WHOLE:
                access.reads.clear()
                access.writes.clear()
                access.writers.clear()
            access.writes[span] = (stream, position, what)
            access.writers[stream] = position
