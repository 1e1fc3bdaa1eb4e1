"""What to say of a run that came to a standstill: who waits for what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.machine.rendezvous import Communications
from sim.machine.state import Flags, Rank, Stream, Ticket
from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    PointToPoint,
    Program,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import Span


class DeadlockError(RuntimeError):
    """A program in which nothing can continue. The message says who waits for what."""


def check_finished(
    program: Program,
    ranks: Sequence[Rank],
    host_flags: Flags,
    communications: Communications,
    spans: Sequence[Span],
    now: float,
) -> None:
    """Raise DeadlockError if a host thread or a stream is still waiting."""
    if not any(rank.hosts_waiting or any(stream.current for stream in rank.streams.values()) for rank in ranks):
        return
    state = _Standstill(program, ranks, host_flags, communications, {(s.rank, id(s.command)) for s in spans})
    lines = []
    for rank in ranks:
        for number, what in rank.hosts_waiting.items():
            lines.append(f"rank {rank.number} host thread {number} waits for {what}")
        lines += [
            f"rank {rank.number} stream {stream.name!r} waits for {state.awaited(rank, *stream.current)}"
            for stream in rank.streams.values()
            if stream.current is not None
        ]
    raise DeadlockError(f"deadlock at {now:.9g} s:\n  " + "\n  ".join(lines))


class _Standstill:
    def __init__(
        self,
        program: Program,
        ranks: Sequence[Rank],
        host_flags: Flags,
        communications: Communications,
        ran: set[tuple[int, int]],
    ) -> None:
        self.program = program
        self.ranks = ranks
        self.host_flags = host_flags
        self.communications = communications
        self.ran = ran
        """(rank, id of the command) of what has ended."""

    def awaited(self, rank: Rank, command: AnyCommand, ticket: Ticket) -> str:
        """What a stream that has got to `command` waits for."""
        match command:
            case WaitEvent():
                commands = self.program.ranks[rank.number].commands()
                by = next(c.stream for c in commands if isinstance(c, RecordEvent) and c.event == command.event)
                return f"event {command.event}, which stream {by!r} has not recorded"
            case WaitFlag():
                flags = self.host_flags if command.on_host else rank.flags
                place, bound = "host " * command.on_host, "at least " * (command.test == "at_least")
                return (
                    f"{place}flag {command.flag!r} to be {bound}{command.value}; it is {flags[command.flag]} and "
                    f"{self._writer(rank, command)}"
                )
            case Collective():
                assert isinstance(ticket, tuple)
                missing = self.communications.rendezvous[ticket].missing  # type: ignore[index]
                return f"ranks {missing} to arrive at {command.kind} {command.name!r} (layer {command.layer})"
            case PointToPoint():
                assert isinstance(ticket, tuple)
                incomplete = [self.communications.rendezvous[key] for key in ticket]  # type: ignore[index]
                missing = sorted({rank for one in incomplete for rank in one.missing})
                return f"ranks {missing} to post their side of {command.name!r} (layer {command.layer})"
            case Copy():
                return f"a copy engine, for {command.kind} copy {command.name!r}"
            case _:
                raise AssertionError(f"{command} ends by itself")

    def _writer(self, rank: Rank, wait: WaitFlag) -> str:
        """Where the next write that `wait` needs is stuck."""
        for other in self.ranks if wait.on_host else [rank]:
            whose = f"rank {other.number} " * (other is not rank)
            for number, stream, queued in self._writes(other, wait):
                if queued:
                    return f"{whose}stream {stream.name!r} has not reached its write"
                return f"{whose}host thread {number} has not issued its write on stream {stream.name!r}"
        return "nobody is left to write it"

    def _writes(self, rank: Rank, wait: WaitFlag) -> Iterator[tuple[int, Stream, bool]]:
        """Writes of `rank` that end `wait` and have not run: host thread, stream, whether they are on the stream."""
        for number, thread in enumerate(self.program.ranks[rank.number].threads):
            for command in thread:
                if not isinstance(command, WriteFlag) or (command.flag, command.on_host) != (wait.flag, wait.on_host):
                    continue
                if wait.holds(command.value) and (rank.number, id(command)) not in self.ran:
                    stream = rank.streams[command.stream]
                    yield number, stream, any(command is queued for _, queued, _ in stream.commands)
