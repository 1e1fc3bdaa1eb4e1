"""The commands of a program and the program itself: plain data, no machine in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from typing import Literal, NamedTuple

import msgspec

from sim.program.ops import AnyOperation

COLLECTIVES = ("all_to_all", "all_reduce", "all_gather", "reduce_scatter", "send_recv")
CollectiveKind = Literal["all_to_all", "all_reduce", "all_gather", "reduce_scatter", "send_recv"]
CopyKind = Literal["h2d", "d2h"]
BufferKind = Literal["weights", "slot", "activations", "collective", "scratch"]


class ProgramError(ValueError):
    """A program that no machine could run correctly."""


class Command(msgspec.Struct, frozen=True, tag_field="op", tag=True, gc=False):
    """Anything a host thread issues. `stream` names the stream it is enqueued on ("" for host-side commands)."""

    stream: str


class Kernel(Command, frozen=True, gc=False):
    """Compute on the GPU: `seconds` if known, else `flops` and `hbm_bytes` for the machine's roofline.

    `launches` is the number of device kernels that this command stands for, `attention` whether its flops run at the
    device's efficiency of attention. `ops` say what it computes; without them it only takes its time.
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
    ops: tuple[AnyOperation, ...] = ()


class Copy(Command, frozen=True, gc=False):
    """A DMA copy of `bytes` between pinned host memory and device `buffer` (at byte `offset` of it).

    An h2d copy of `layer` into a slot brings the bytes that follow the layer's resident part by `offset`.
    """

    name: str
    bytes: int
    buffer: str
    kind: CopyKind = "h2d"
    offset: int = 0
    step: int = -1
    layer: int = -1


class Collective(Command, frozen=True, gc=False):
    """One rank's part of a collective. `bytes` is the per-rank buffer (all_gather: the output; reduce_scatter: the
    input; send_recv: what each rank sends to the next one and gets from the one before).

    An all_to_all and a send_recv read the first `bytes` of the buffer they write and leave their output in the next
    `bytes`. The others work in place: the input of an all_gather and the output of a reduce_scatter lie at the rank's
    place. All this lies from byte `offset` of the buffer on.
    """

    name: str
    kind: CollectiveKind
    bytes: int
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    step: int = -1
    layer: int = -1
    offset: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def start(self) -> int:
        """Byte of the buffer at which it starts."""
        return 0 if self.offset is msgspec.UNSET else self.offset


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
    """cudaEventSynchronize: hold the issuing host thread until `event` has completed.

    With `poll`, the thread looks (cudaEventQuery) only every `poll` seconds.
    """

    event: int
    poll: float = 0.0


class HostAdd(Command, frozen=True, gc=False):
    """Add `delta` to `counter`, an integer in the memory of the rank's process that starts at 0."""

    counter: str
    delta: int


class HostWait(Command, frozen=True, gc=False):
    """Hold the issuing host thread until `least` <= `counter` <= `most` (None: no bound), looking every `poll` seconds.

    With `poll` 0 the thread continues at once, as on a condition variable.
    """

    counter: str
    least: int | None = None
    most: int | None = None
    poll: float = 0.0


class HostAcquire(Command, frozen=True, gc=False):
    """Hold the issuing host thread until it has `lock`; threads get it in the order of their asking."""

    lock: str


class HostRelease(Command, frozen=True, gc=False):
    """Give `lock` back."""

    lock: str


StreamCommand = Kernel | Copy | Collective | RecordEvent | WaitEvent | WriteFlag | WaitFlag
HostCommand = HostWaitEvent | HostAdd | HostWait | HostAcquire | HostRelease
AnyCommand = StreamCommand | HostCommand


class Buffer(msgspec.Struct, frozen=True, gc=False):
    """Device memory. `static` buffers live for the whole program, others from first write to last access.

    "scratch" is what kernels take for themselves while they run.
    """

    name: str
    bytes: int
    kind: BufferKind
    static: bool = False


class LayerWeights(msgspec.Struct, frozen=True, gc=False):
    """Where a layer's `bytes` of weights lie: the first `resident` ones from byte `offset` of buffer "resident" on."""

    bytes: int
    resident: int
    offset: int


class RankProgram(msgspec.Struct, frozen=True):
    """What one rank's process does: commands per host thread in issue order, buffers, and step boundaries.

    `step_events` are steps + 1 events on the compute stream; step i runs from event i to event i + 1. `weights` has
    an entry a layer.
    """

    threads: tuple[tuple[AnyCommand, ...], ...]
    buffers: tuple[Buffer, ...]
    step_events: tuple[int, ...]
    weights: tuple[LayerWeights, ...] = ()

    def __repr__(self) -> str:
        return f"<RankProgram: {len(self.threads)} host threads, {sum(map(len, self.threads))} commands>"

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

    def __repr__(self) -> str:
        commands = sum(sum(1 for _ in rank.commands()) for rank in self.ranks)
        return f"<Program: {self.world_size} ranks, {commands} commands>"

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


class Instrumented(NamedTuple):
    """A program with events around commands: for each rank (command, event before, event after), in issue order."""

    program: Program
    brackets: tuple[tuple[tuple[AnyCommand, int, int], ...], ...]


def instrument(program: Program, kinds: tuple[type[Command], ...] = (Kernel, Copy, Collective)) -> Instrumented:
    """The program with an event recorded before and after each command of `kinds`, as a measured timeline has.

    Each copy has two events of its own; on other streams the event after a command also serves as the one before the
    next. Those events cost time on their streams; step times are therefore taken without them.
    """
    done: dict[int, tuple[RankProgram, tuple[tuple[AnyCommand, int, int], ...]]] = {}
    for rank in program.ranks:
        if id(rank) not in done:
            done[id(rank)] = _instrument_rank(rank, kinds)
    return Instrumented(
        Program(tuple(done[id(rank)][0] for rank in program.ranks)),
        tuple(done[id(rank)][1] for rank in program.ranks),
    )


def _instrument_rank(
    rank: RankProgram, kinds: tuple[type[Command], ...]
) -> tuple[RankProgram, tuple[tuple[AnyCommand, int, int], ...]]:
    event = max((c.event for c in rank.commands() if isinstance(c, RecordEvent)), default=-1)
    brackets: list[tuple[AnyCommand, int, int]] = []
    threads = []
    for thread in rank.threads:
        commands: list[AnyCommand] = []
        fresh: dict[str, int] = {}
        """Stream -> the event that was recorded right after its last command."""
        for command in thread:
            if not isinstance(command, kinds):
                commands.append(command)
                fresh.pop(command.stream, None)
                continue
            before = None if isinstance(command, Copy) else fresh.get(command.stream)
            if before is None:
                event += 1
                before = event
                commands.append(RecordEvent(command.stream, before))
            event += 1
            commands += (command, RecordEvent(command.stream, event))
            brackets.append((command, before, event))
            fresh[command.stream] = event
        threads.append(tuple(commands))
    return msgspec.structs.replace(rank, threads=tuple(threads)), tuple(brackets)


def _collectives(rank: RankProgram) -> list[tuple[str, int]]:
    return [(c.kind, c.bytes) for c in rank.commands() if isinstance(c, Collective)]
