"""A program with events around its commands, as a measured timeline has."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from sim.program.commands import AnyCommand, Collective, Command, Copy, Kernel, PointToPoint, RecordEvent
from sim.program.program import Program
from sim.program.rank_program import RankProgram


class Instrumented(NamedTuple):
    """A program with events around commands: for each rank (command, event before, event after), in issue order."""

    program: Program
    brackets: tuple[tuple[tuple[AnyCommand, int, int], ...], ...]


def instrument(
    program: Program, kinds: tuple[type[Command], ...] = (Kernel, Copy, Collective, PointToPoint)
) -> Instrumented:
    """The program with an event recorded before and after each command of `kinds`, as a measured timeline has.

    Parts of composed collectives on streams of their own have none: those begin and end with events as it is.

    Each copy has two events of its own; on other streams the event after a command also serves as the one before the
    next. Those events cost time on their streams; step times are therefore taken without them.
    """
    done: dict[int, tuple[RankProgram, tuple[tuple[AnyCommand, int, int], ...]]] = {}
    for rank in program.ranks:
        if id(rank) not in done:
            done[id(rank)] = _instrument_rank(rank, kinds)
    return Instrumented(
        Program(tuple(done[id(rank)][0] for rank in program.ranks), program.placement),
        tuple(done[id(rank)][1] for rank in program.ranks),
    )


def _instrument_rank(
    rank: RankProgram, kinds: tuple[type[Command], ...]
) -> tuple[RankProgram, tuple[tuple[AnyCommand, int, int], ...]]:
    event = max((c.event for c in rank.commands() if isinstance(c, RecordEvent)), default=-1)
    brackets: list[tuple[AnyCommand, int, int]] = []
    threads = []
    parts = rank.composed_streams
    for thread in rank.threads:
        commands: list[AnyCommand] = []
        fresh: dict[str, int] = {}
        """Stream -> the event that was recorded right after its last command."""
        for command in thread:
            if not isinstance(command, kinds) or command.stream in parts:
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
