"""Programs: what host threads enqueue on CUDA streams, as plain data.

A `Program` holds, for every rank, the commands its host threads issue, in issue order. Streams are FIFO; events and
flags order them. Nothing here knows how long anything takes: a machine (simulated or real) decides that.

`RankBuilder` is the way to make one. It tracks which commands are ordered before which (a vector clock per stream,
merged by events) and refuses, at construction, a wait that nobody can end and an access to a buffer that may still be
in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

import msgspec

COLLECTIVES = ("all_to_all", "all_reduce", "all_gather")
CollectiveKind = Literal["all_to_all", "all_reduce", "all_gather"]
CopyKind = Literal["h2d", "d2h"]
BufferKind = Literal["weights", "slot", "activations", "collective"]


class ProgramError(ValueError):
    """A program that no machine could run correctly."""


class Command(msgspec.Struct, frozen=True, tag_field="op", tag=True, omit_defaults=True, gc=False):
    """Anything a host thread issues. `stream` names the stream it is enqueued on ("" for host-side commands)."""

    stream: str


class Kernel(Command, frozen=True, gc=False):
    """Compute on the GPU: `seconds` if known, else `flops` and `hbm_bytes` for the machine's roofline.

    `launches` is the number of device kernels that this command stands for, `attention` whether its flops run at the
    device's efficiency of attention.
    """

    name: str
    seconds: float | None = None
    flops: float = 0.0
    hbm_bytes: float = 0.0
    launches: int = 1
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    step: int = -1
    layer: int = -1
    attention: bool = False


class Copy(Command, frozen=True, gc=False):
    """A DMA copy of `bytes` between pinned host memory and device `buffer` (at byte `offset` of it)."""

    name: str
    bytes: int
    buffer: str
    kind: CopyKind = "h2d"
    offset: int = 0
    step: int = -1
    layer: int = -1


class Collective(Command, frozen=True, gc=False):
    """One rank's part of a collective. `bytes` is the per-rank buffer (all_gather: the output)."""

    name: str
    kind: CollectiveKind
    bytes: int
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    step: int = -1
    layer: int = -1


class RecordEvent(Command, frozen=True, gc=False):
    """Complete event `event` when all earlier commands of the stream have ended."""

    event: int


class WaitEvent(Command, frozen=True, gc=False):
    """Hold the stream until `event` has completed."""

    event: int


class WriteFlag(Command, frozen=True, gc=False):
    """cuStreamWriteValue32: set device word `flag`."""

    flag: str
    value: int


class WaitFlag(Command, frozen=True, gc=False):
    """cuStreamWaitValue32 (EQ): hold the stream until device word `flag` equals `value`. Flags start at 0."""

    flag: str
    value: int


class HostWaitEvent(Command, frozen=True, gc=False):
    """cudaEventSynchronize: hold the issuing host thread until `event` has completed."""

    event: int


AnyCommand = Kernel | Copy | Collective | RecordEvent | WaitEvent | WriteFlag | WaitFlag | HostWaitEvent
WORK = (Kernel, Copy, Collective)


class Buffer(msgspec.Struct, frozen=True, gc=False):
    """Device memory. `static` buffers live for the whole program, others from first write to last access."""

    name: str
    bytes: int
    kind: BufferKind
    static: bool = False


class RankProgram(msgspec.Struct, frozen=True):
    """What one rank's process does: commands per host thread in issue order, buffers, and step boundaries.

    `step_events` are steps + 1 events on the compute stream; step i runs from event i to event i + 1.
    """

    threads: tuple[tuple[AnyCommand, ...], ...]
    buffers: tuple[Buffer, ...]
    step_events: tuple[int, ...]

    @property
    def streams(self) -> tuple[str, ...]:
        """Stream names in order of first use."""
        return tuple(dict.fromkeys(c.stream for thread in self.threads for c in thread if c.stream))

    def commands(self) -> Iterable[AnyCommand]:
        """All commands, thread by thread."""
        for thread in self.threads:
            yield from thread


class Program(msgspec.Struct, frozen=True, dict=True):
    """One `RankProgram` a rank. Ranks that do the same may share one object."""

    ranks: tuple[RankProgram, ...]

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ProgramError("a program needs at least one rank")
        first = _collectives(self.ranks[0])
        checked = {id(self.ranks[0])}
        for rank, other in enumerate(self.ranks):
            if id(other) in checked:
                continue
            checked.add(id(other))
            theirs = _collectives(other)
            for i, (a, b) in enumerate(zip(first, theirs, strict=False)):
                if a != b:
                    raise ProgramError(
                        f"collective {i} differs between ranks: rank 0 calls {a[0]} of {a[1]} bytes, "
                        f"rank {rank} calls {b[0]} of {b[1]} bytes"
                    )
            if len(first) != len(theirs):
                raise ProgramError(f"rank 0 calls {len(first)} collectives, rank {rank} calls {len(theirs)}")

    @property
    def world_size(self) -> int:
        return len(self.ranks)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of the program: equal on every machine and Python version."""
        digest = hashlib.sha256()
        encoded: dict[int, bytes] = {}
        for rank in self.ranks:
            if id(rank) not in encoded:
                encoded[id(rank)] = hashlib.sha256(msgspec.json.encode(rank)).digest()
            digest.update(encoded[id(rank)])
        return digest.hexdigest()


def instrumented(program: Program) -> Program:
    """The program with an event recorded before and after each copy, as a measurement of its timeline has.

    Those events cost time on the copy stream; step times are therefore taken without them.
    """
    done: dict[int, RankProgram] = {}
    for rank in program.ranks:
        if id(rank) in done:
            continue
        event = 1 + max((c.event for c in rank.commands() if isinstance(c, RecordEvent)), default=-1)
        threads = []
        for thread in rank.threads:
            commands: list[AnyCommand] = []
            for command in thread:
                if isinstance(command, Copy):
                    commands += (
                        RecordEvent(command.stream, event),
                        command,
                        RecordEvent(command.stream, event + 1),
                    )
                    event += 2
                else:
                    commands.append(command)
            threads.append(tuple(commands))
        done[id(rank)] = RankProgram(tuple(threads), rank.buffers, rank.step_events)
    return Program(tuple(done[id(rank)] for rank in program.ranks))


def _collectives(rank: RankProgram) -> list[tuple[str, int]]:
    return [(c.kind, c.bytes) for c in rank.commands() if isinstance(c, Collective)]


class _Access(msgspec.Struct, gc=False):
    """The latest accesses of a buffer, as (stream, position, what)."""

    write: tuple[str, int, str] | None = None
    reads: dict[str, tuple[int, str]] = msgspec.field(default_factory=dict)


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
        self._host_clock: dict[str, int] = {}
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
        self._thread = len(self._threads) - 1
        return self._thread

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
    ) -> None:
        """Enqueue compute."""
        if seconds is None and flops <= 0 and hbm_bytes <= 0:
            raise ProgramError(f"kernel {name!r} needs seconds, or flops or hbm_bytes")
        if seconds is not None and seconds < 0:
            raise ProgramError(f"kernel {name!r} takes {seconds} s: a duration cannot be negative")
        if launches < 1:
            raise ProgramError(f"kernel {name!r} stands for {launches} launches, at least 1 is needed")
        self._touch(stream, name, reads, writes)
        self._issue(Kernel(stream, name, seconds, flops, hbm_bytes, launches, reads, writes, step, layer, attention))

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
        self._touch(stream, name, (buffer,) if kind == "d2h" else (), (buffer,) if kind == "h2d" else ())
        if offset < 0 or offset + bytes > self._buffers[buffer].bytes:
            raise ProgramError(
                f"copy {name!r} reaches byte {offset + bytes} of buffer {buffer!r}, "
                f"which has {self._buffers[buffer].bytes}"
            )
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
        step: int = -1,
        layer: int = -1,
    ) -> None:
        """Enqueue this rank's part of a collective over all ranks."""
        if kind not in COLLECTIVES:
            raise ProgramError(f"collective {name!r} is a {kind!r}, expected one of {', '.join(COLLECTIVES)}")
        if bytes <= 0:
            raise ProgramError(f"collective {name!r} has {bytes} bytes, at least 1 is needed")
        self._touch(stream, name, reads, writes)
        self._issue(Collective(stream, name, kind, bytes, reads, writes, step, layer))

    def record(self, stream: str) -> int:
        """Record a new event on `stream`; returns its number."""
        clock = dict(self._clock_of(stream))
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

    def host_wait(self, event: int) -> None:
        """Make the issuing host thread wait for `event`. Everything issued later is ordered after it."""
        for clock in (self._host_clock, *self._clock.values()):
            self._merge(clock, event)
        self._issue(HostWaitEvent("", event))

    def write_flag(self, stream: str, flag: str, value: int) -> None:
        """Set device word `flag` when the stream gets there."""
        self._written_flags.add((flag, value))
        self._issue(WriteFlag(stream, flag, value))

    def wait_flag(self, stream: str, flag: str, value: int) -> None:
        """Hold `stream` until device word `flag` equals `value`."""
        self._awaited_flags.setdefault((flag, value), stream)
        self._issue(WaitFlag(stream, flag, value))

    def build(self) -> RankProgram:
        """The finished program of this rank."""
        for (flag, value), stream in self._awaited_flags.items():
            if value != 0 and (flag, value) not in self._written_flags:
                raise ProgramError(f"stream {stream!r} waits for flag {flag!r} to be {value}, which nobody writes")
        return RankProgram(
            tuple(tuple(t) for t in self._threads), tuple(self._buffers.values()), tuple(self._step_events)
        )

    def _issue(self, command: AnyCommand) -> None:
        self._threads[self._thread].append(command)
        if command.stream:
            if self._owner.setdefault(command.stream, self._thread) != self._thread:
                raise ProgramError(
                    f"stream {command.stream!r} is fed by host threads {self._owner[command.stream]} and "
                    f"{self._thread}: the order of its commands would be undefined"
                )
            self._position[command.stream] = self._position.get(command.stream, 0) + 1

    def _clock_of(self, stream: str) -> dict[str, int]:
        """How many commands of each stream surely end before the next one of `stream` starts."""
        return self._clock.setdefault(stream, dict(self._host_clock))

    def _merge(self, clock: dict[str, int], event: int) -> None:
        if not 0 <= event < len(self._event_clock):
            raise ProgramError(f"event {event} is waited for but nobody has recorded it")
        for other, position in self._event_clock[event].items():
            if position > clock.get(other, 0):
                clock[other] = position

    def _touch(self, stream: str, what: str, reads: Sequence[str], writes: Sequence[str]) -> None:
        clock = self._clock_of(stream)
        position = self._position.get(stream, 0)

        def ordered(other: str, at: int) -> bool:
            return other == stream or clock.get(other, 0) > at

        for name in (*reads, *writes):
            if name not in self._buffers:
                raise ProgramError(f"{what!r} on stream {stream!r} uses buffer {name!r}, which is not declared")
            last = self._access[name].write
            if last and not ordered(last[0], last[1]):
                raise ProgramError(
                    f"{what!r} on stream {stream!r} uses buffer {name!r} while {last[2]!r} on stream {last[0]!r} "
                    "may still be writing it: no event orders them"
                )
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
            if access.reads:
                access.reads.clear()
            access.write = (stream, position, what)
