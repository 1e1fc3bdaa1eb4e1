"""Which buffers of a rank may still be in use when a command starts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sim.program.commands import ProgramError

Span = tuple[int, int]
"""First byte of a buffer that an access uses, and the first one behind it."""

WHOLE: Span = (0, 2**63)
"""The byte range of an access that may touch all of a buffer."""


class _Access(msgspec.Struct, gc=False):
    """The latest accesses of a buffer: writes and reads by byte range, as (stream, position, what)."""

    writes: dict[Span, tuple[str, int, str]] = msgspec.field(default_factory=dict)
    writers: dict[str, int] = msgspec.field(default_factory=dict)
    """Stream -> position of its last write."""
    reads: dict[str, dict[Span, tuple[int, str]]] = msgspec.field(default_factory=dict)
    """Stream -> its reads by byte range."""
    readers: dict[str, int] = msgspec.field(default_factory=dict)
    """Stream -> position of its last read."""


class BufferUse:
    """The latest accesses of every buffer of a rank."""

    def __init__(self) -> None:
        self._of: dict[str, _Access] = {}

    def declare(self, name: str) -> None:
        """Know a buffer. Raises ProgramError if it is known."""
        if name in self._of:
            raise ProgramError(f"buffer {name!r} is declared twice")
        self._of[name] = _Access()

    def touch(
        self,
        stream: str,
        position: int,
        clock: Mapping[str, int],
        what: str,
        reads: Mapping[str, Span],
        writes: Mapping[str, Span],
    ) -> None:
        """Check and note what command `position` of `stream` does to byte ranges of buffers; `clock` is the stream's.

        Raises:
            ProgramError: a buffer is not declared, or a command that nothing orders before this one may be using it.
        """

        def ordered(other: str, at: int) -> bool:
            return other == stream or clock.get(other, 0) > at

        for name, span in (*reads.items(), *writes.items()):
            if name not in self._of:
                raise ProgramError(f"{what!r} on stream {stream!r} uses buffer {name!r}, which is not declared")
            access = self._of[name]
            for other, at in access.writers.items():
                if not ordered(other, at):
                    break
            else:  # as mostly: no need to look at byte ranges
                continue
            for (start, end), (other, at, writer) in access.writes.items():
                if start < span[1] and span[0] < end and not ordered(other, at):
                    raise ProgramError(
                        f"{what!r} on stream {stream!r} uses buffer {name!r} while {writer!r} on stream {other!r} "
                        "may still be writing it: no event orders them"
                    )
        for name, span in reads.items():
            self._of[name].readers[stream] = position
            found = self._of[name].reads.setdefault(stream, {})
            if span == WHOLE:
                found.clear()
            found[span] = position, what
        for name, span in writes.items():
            access = self._of[name]
            for other, spans in access.reads.items():
                if ordered(other, access.readers[other]):
                    continue
                for (start, end), (at, reader) in spans.items():
                    if start < span[1] and span[0] < end and not ordered(other, at):
                        raise ProgramError(
                            f"{what!r} on stream {stream!r} overwrites buffer {name!r} while {reader!r} on stream "
                            f"{other!r} may still be reading it: no event orders them"
                        )
            if span == WHOLE:
                access.reads.clear()
                access.readers.clear()
                access.writes.clear()
                access.writers.clear()
            access.writes[span] = (stream, position, what)
            access.writers[stream] = position
