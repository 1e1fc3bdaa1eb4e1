"""Building a rank's program command by command, each checked against all before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import msgspec

from sim.program.buffer_use import WHOLE, Span
from sim.program.commands import (
    COLLECTIVES,
    WORD,
    Collective,
    CollectiveKind,
    Communicator,
    Copy,
    CopyKind,
    FlagMemory,
    FlagTest,
    Kernel,
    LayerWeights,
    PointToPoint,
    ProgramError,
    Recv,
    Send,
    WaitFlag,
    WriteFlag,
)
from sim.program.memory_use import MemoryUse
from sim.program.ops import AnyOperation, bytes_used
from sim.program.rank_program import ComposedCollective, RankProgram
from sim.program.sequences import check_next


class RankBuilder(MemoryUse):
    """Builds a `RankProgram` command by command, checking each against all before it.

    Raises `ProgramError` where a command waits for an event that was not recorded, touches an unknown buffer, or
    accesses a buffer that an unordered command on another stream may still be using.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written_flags: set[tuple[str, int]] = set()
        self._written_on_host: set[str] = set()
        self._awaited_flags: dict[tuple[str, int, FlagTest], str] = {}
        self._sequences: dict[str, tuple[int, str]] = {}
        """Flag -> the value written last, and the stream that wrote it."""
        self._last_on: dict[Communicator, tuple[str, int, int]] = {}
        """Communicator -> stream, position and host thread of the last command that communicates on it."""
        self._composed: list[ComposedCollective] = []

    def sequence(self, flag: str) -> str:
        """Declare that only this rank writes host flag `flag`, each value ahead of the one before; returns its name.

        A wait for flag >= v, on any rank, is ordered after everything before the write of v.
        """
        if flag in self._sequences:
            raise ProgramError(f"sequence {flag!r} is declared twice")
        if flag in self._written_on_host:
            raise ProgramError(f"flag {flag!r} is written before it is declared as a sequence")
        self._sequences[flag] = 0, ""
        return flag

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
        self._on_device(name, (*reads, *writes))
        spans = [{b: self._used(b, ops) for b in names} for names in (reads, writes)]
        self._touch(stream, name, *spans)
        self._issue(
            Kernel(stream, name, seconds, flops, hbm_bytes, launches, reads, writes, step, layer, attention, ops)
        )

    def _used(self, buffer: str, ops: tuple[AnyOperation, ...]) -> Span:
        """Bytes of a buffer that a kernel may use; of layers' weights all, whatever its operations say."""
        known = self._buffers.get(buffer)
        if not ops or known is None or known.kind in ("weights", "slot"):
            return WHOLE
        return bytes_used(ops, buffer) or WHOLE

    def copy(
        self,
        stream: str,
        name: str,
        bytes: int,
        buffer: str,
        *,
        kind: CopyKind = "h2d",
        offset: int = 0,
        other: str | None = None,
        other_offset: int = 0,
        peer: int | None = None,
        step: int = -1,
        layer: int = -1,
    ) -> None:
        """Enqueue a DMA copy into (h2d, d2d) or out of (d2h, p2p) `buffer`; `other` is its other side (`Copy`)."""
        if bytes <= 0:
            raise ProgramError(f"copy {name!r} moves {bytes} bytes, at least 1 is needed")
        mine, theirs = (offset, offset + bytes), (other_offset, other_offset + bytes)
        far = self._other_side(name, kind, other, peer)
        pageable = any(b in self._host_buffers and self._host_buffers[b].memory == "pageable" for b in far)
        if kind == "h2d" and pageable:
            self._stage(name, far, theirs)
            far = ()
        if kind == "d2d" and other == buffer and mine[0] < theirs[1] and theirs[0] < mine[1]:
            raise ProgramError(f"copy {name!r} reads and writes the same bytes of buffer {buffer!r}")
        self._on_device(name, (buffer, *far) if kind == "d2d" else (buffer,))
        device, other_side = {buffer: mine}, dict.fromkeys(far, theirs)
        match kind:
            case "h2d" | "d2d":
                source, target = other_side, device
            case "d2h" | "p2p":
                source, target = device, other_side
            case _:
                assert_never(kind)
        if source:
            self._touch(stream, name, source, {})
        if target:
            self._touch(stream, name, {}, target)
        self._fits(f"copy {name!r}", offset, bytes, buffer)
        if kind != "p2p" and other is not None:
            self._fits(f"copy {name!r}", other_offset, bytes, other)
        self._issue(
            Copy(
                stream,
                name,
                bytes,
                buffer,
                kind,
                offset,
                step,
                layer,
                msgspec.UNSET if other is None else other,
                msgspec.UNSET if other is None else other_offset,
                msgspec.UNSET if peer is None else peer,
            )
        )
        if kind == "d2h" and pageable:
            # the call returns when the copy is complete: what this thread issues later is ordered after it
            self._returns_after({**self._clock[stream], stream: self._position[stream]})

    def _other_side(self, name: str, kind: CopyKind, other: str | None, peer: int | None) -> tuple[str, ...]:
        """The buffer that only this rank has on the other side of a copy, if it has one that may still be in use."""
        if (kind == "p2p") != (peer is not None) or (kind in ("d2d", "p2p") and other is None):
            needs = {"p2p": "a peer and its buffer", "d2d": "a source and no peer"}.get(kind, "no peer")
            raise ProgramError(f"copy {name!r} is {kind}: it needs {needs}")
        if kind == "p2p" or other is None:
            return ()
        if kind == "d2d":
            return (other,)
        if other not in self._host_buffers:
            raise ProgramError(f"copy {name!r} is {kind}, but {other!r} is not a declared host buffer")
        return () if self._host_buffers[other].shared else (other,)

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
        group: Sequence[int] | None = None,
        communicator: str | None = None,
    ) -> None:
        """Enqueue this rank's part of a collective, on the buffer it writes from byte `offset` on.

        All ranks take part, or those of `group`, on the communicator of that name or of the stream's.
        """
        if kind not in COLLECTIVES:
            raise ProgramError(f"collective {name!r} is a {kind!r}, expected one of {', '.join(COLLECTIVES)}")
        if bytes <= 0:
            raise ProgramError(f"collective {name!r} has {bytes} bytes, at least 1 is needed")
        if group is not None and (not group or len(set(group)) != len(group) or min(group) < 0):
            raise ProgramError(f"collective {name!r} is of group {list(group)}, expected ranks, each once")
        # all_to_all and send_recv leave their output behind their input
        size = 2 * bytes if kind in ("all_to_all", "send_recv") else bytes
        span = WHOLE if offset is None else (offset, offset + size)
        self._on_device(name, (*reads, *writes))
        self._touch(stream, name, dict.fromkeys(reads, WHOLE), dict.fromkeys(writes, span))
        if offset is not None:
            for buffer in writes:
                self._fits(f"collective {name!r}", offset, size, buffer)
        call = Collective(
            stream,
            name,
            kind,
            bytes,
            reads,
            writes,
            step,
            layer,
            msgspec.UNSET if offset is None else offset,
            msgspec.UNSET if group is None else tuple(group),
            msgspec.UNSET if communicator is None else communicator,
        )
        self._rendezvous(stream, name, call.communicates_on)
        self._issue(call)

    def point_to_point(
        self,
        stream: str,
        name: str,
        *transfers: Send | Recv,
        step: int = -1,
        layer: int = -1,
        communicator: str | None = None,
    ) -> None:
        """Enqueue sends and receives as one group of NCCL's: they run together."""
        if not transfers:
            raise ProgramError(f"{name!r} has no send and no receive")
        spans: dict[bool, list[tuple[str, tuple[int, int]]]] = {True: [], False: []}
        for t in transfers:
            if t.bytes <= 0:
                raise ProgramError(f"{name!r} moves {t.bytes} bytes, at least 1 is needed")
            spans[isinstance(t, Send)].append((t.buffer, (t.offset, t.offset + t.bytes)))
        for number, (buffer, (start, end)) in enumerate(spans[False]):
            for other, span in [*spans[True], *spans[False][:number]]:
                if other == buffer and start < span[1] and span[0] < end:
                    raise ProgramError(f"{name!r} receives into bytes of buffer {buffer!r} that it uses otherwise")
        self._on_device(name, [t.buffer for t in transfers])
        for buffer, span in spans[True]:
            self._touch(stream, name, {buffer: span}, {})
        for buffer, span in spans[False]:
            self._touch(stream, name, {}, {buffer: span})
        for t in transfers:
            self._fits(repr(name), t.offset, t.bytes, t.buffer)
        on = msgspec.UNSET if communicator is None else communicator
        call = PointToPoint(stream, name, transfers, step, layer, on)
        self._rendezvous(stream, name, call.communicates_on)
        self._issue(call)

    def _rendezvous(self, stream: str, name: str, on: Communicator) -> None:
        """Check that what meets on a communicator does so in a certain order."""
        if (last := self._last_on.get(on)) is not None:
            other, position, thread = last
            if thread != self._thread or not (other == stream or self._clock_of(stream).get(other, 0) > position):
                raise ProgramError(
                    f"{name!r} on stream {stream!r} follows another one of communicator {on[1]!r} on stream {other!r}: "
                    "no event orders them"
                )
        self._last_on[on] = stream, self._position.get(stream, 0), self._thread

    def write_flag(self, stream: str, flag: str, value: int, memory: FlagMemory = "device") -> None:
        """Set word `flag`, of the device or of host memory that all ranks share, when the stream gets there."""
        self._check_word(flag, value)
        if memory == "host":
            self._written_on_host.add(flag)
            if flag in self._sequences:
                last, other = self._sequences[flag]
                check_next(flag, value, last)
                if other not in ("", stream):
                    raise ProgramError(f"sequence {flag!r} is written by streams {other!r} and {stream!r}")
                self._sequences[flag] = value, stream
            self._issue(WriteFlag(stream, flag, value, "host"))
        else:
            self._written_flags.add((flag, value))
            self._issue(WriteFlag(stream, flag, value))

    def wait_flag(
        self, stream: str, flag: str, value: int, memory: FlagMemory = "device", test: FlagTest = "equal"
    ) -> None:
        """Hold `stream` until word `flag` equals `value`, or is at least that."""
        self._check_word(flag, value)
        if memory == "device":
            self._awaited_flags.setdefault((flag, value, test), stream)
        self._issue(
            WaitFlag(
                stream,
                flag,
                value,
                msgspec.UNSET if memory == "device" else memory,
                msgspec.UNSET if test == "equal" else test,
            )
        )

    def composed(self, call: Collective, begins: int, ends: Sequence[int]) -> None:
        """Say that what lies between event `begins` and events `ends` makes the collective that `call` would be."""
        for event in (begins, *ends):
            self._recorded(event)
        self._composed.append(ComposedCollective(call, begins, tuple(ends)))

    def _check_word(self, flag: str, value: int) -> None:
        if not 0 <= value < WORD:
            raise ProgramError(f"flag {flag!r} is given {value}, which is not an unsigned 32-bit number")

    def build(self, weights: tuple[LayerWeights, ...] = ()) -> RankProgram:
        """The finished program of this rank, whose layers' weights lie where `weights` says."""
        if self._locks_taken:
            raise ProgramError(f"lock {min(self._locks_taken)[0]!r} is never given back")
        for (flag, value, test), stream in self._awaited_flags.items():
            wait = WaitFlag(stream, flag, value, test=test)
            if not wait.holds(0) and not any(f == flag and wait.holds(v) for f, v in self._written_flags):
                raise ProgramError(f"stream {stream!r} waits for flag {flag!r} to be {value}, which nobody writes")
        return RankProgram(
            tuple(tuple(t) for t in self._threads),
            tuple(self._buffers.values()),
            tuple(self._step_events),
            weights,
            tuple(self._host_buffers.values()) or msgspec.UNSET,
            tuple(self._sequences) or msgspec.UNSET,
            self._request() or msgspec.UNSET,
            tuple(self._composed) or msgspec.UNSET,
        )

    def _request(self) -> tuple[int, int] | None:
        if not self._request_events:
            return None
        if len(self._request_events) != 2:
            raise ProgramError(f"a request is bounded by 2 events, not {len(self._request_events)}")
        return self._request_events[0], self._request_events[1]
