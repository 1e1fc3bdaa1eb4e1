"""Step times of groups that run together on one host: their programs become one program of all their ranks.

Groups have nothing in common but the host. So all that could be meant to be shared is renamed: groups of collectives
become the ranks that they are, flags and buffers in host memory get the group's number. Whatever the groups then take
from each other (links, memory, sockets) follows from the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from sim.hardware import Profile
from sim.machine import SimulatedMachine
from sim.program import Collective, Copy, PointToPoint, Program, RankProgram
from sim.program.commands import AnyCommand, WaitFlag, WriteFlag

MEASURED = 3
"""Steps of the slowest group that are simulated; the first warms up."""
MAX_STEPS = 96
"""Steps of any group that are simulated."""
MAX_COMMANDS = 3_000_000


def merged(programs: Sequence[Program]) -> Program:
    """One program of the ranks of all, on their GPUs: rank r of the second one follows the last of the first one.

    Raises:
        ProgramError: two of them use the same GPU.
    """
    ranks: list[RankProgram] = []
    placement: list[int] = []
    for number, program in enumerate(programs):
        first = len(ranks)
        made: dict[int, RankProgram] = {}
        for rank in program.ranks:
            if id(rank) not in made:
                made[id(rank)] = _moved(rank, first, program.world_size, number)
            ranks.append(made[id(rank)])
        placement += program.gpus
    return Program(tuple(ranks), tuple(placement))


def _moved(rank: RankProgram, first: int, size: int, number: int) -> RankProgram:
    def own(name: str) -> str:
        return f"{number}/{name}"

    hosted = {buffer.name for buffer in rank.host_memory.values()}

    def move(command: AnyCommand) -> AnyCommand:
        if isinstance(command, Collective):
            group = range(size) if command.group is msgspec.UNSET else command.group
            return msgspec.structs.replace(command, group=tuple(first + member for member in group))
        if isinstance(command, PointToPoint):
            transfers = tuple(msgspec.structs.replace(t, peer=first + t.peer) for t in command.transfers)
            return msgspec.structs.replace(command, transfers=transfers)
        if isinstance(command, Copy):
            if command.peer is not msgspec.UNSET:
                command = msgspec.structs.replace(command, peer=first + command.peer)
            if command.kind in ("h2d", "d2h") and command.other is not msgspec.UNSET and command.other in hosted:
                command = msgspec.structs.replace(command, other=own(command.other))
            return command
        if isinstance(command, WriteFlag | WaitFlag) and command.on_host:
            return msgspec.structs.replace(command, flag=own(command.flag))
        return command

    known: dict[int, AnyCommand] = {}

    def once(command: AnyCommand) -> AnyCommand:
        if id(command) not in known:
            known[id(command)] = move(command)
        return known[id(command)]

    changes: dict[str, object] = {"threads": tuple(tuple(map(once, thread)) for thread in rank.threads)}
    if rank.host_buffers is not msgspec.UNSET:
        buffers = (msgspec.structs.replace(buffer, name=own(buffer.name)) for buffer in rank.host_buffers)
        changes["host_buffers"] = tuple(buffers)
    if rank.sequences is not msgspec.UNSET:
        changes["sequences"] = tuple(map(own, rank.sequences))
    return msgspec.structs.replace(rank, **changes)


class Group(NamedTuple):
    """A group that takes steps for ever: its program of so many steps, and what a step takes uncontended, s."""

    program: Callable[[int], Program]
    isolated_step: float


def steps_together(profile: Profile, groups: Sequence[Group]) -> list[float]:
    """Mean step time of each group, s, while all of them take steps.

    The window begins when every group has ended a step, and ends with the first group that has no more to do. All are
    given so many steps that the slowest ends another two in it, if it slows by no more than the factor that the others
    have steps for; else the others get twice as many.

    Raises:
        ProgramError: two groups use the same GPU.
    """
    slowest = max(group.isolated_step for group in groups)
    stretch = 1.5
    machine = SimulatedMachine(profile)
    while True:
        counts = [_count(stretch * MEASURED * slowest / group.isolated_step) for group in groups]
        programs = [group.program(count) for group, count in zip(groups, counts, strict=True)]
        timeline = machine.run(merged(programs))
        times, first = [], 0
        for program in programs:
            times.append(timeline.steps[first])
            first += program.world_size
        begins, ends = max(of[1] for of in times), min(of[-1] for of in times)
        found = [_mean_step(of, begins, ends) for of in times]
        commands = sum(len(thread) for program in programs for rank in program.ranks for thread in rank.threads)
        enough = all(step is not None for step in found)
        if enough or max(counts) >= MAX_STEPS or 2 * commands > MAX_COMMANDS:
            return [of[-1] - of[-2] if step is None else step for of, step in zip(times, found, strict=True)]
        stretch *= 2.0


def _count(steps: float) -> int:
    return min(max(math.ceil(steps) + 1, MEASURED), MAX_STEPS)


def _mean_step(bounds: Sequence[float], begins: float, ends: float) -> float | None:
    """Mean of the steps that lie within a window; None where none does."""
    inside = [at for at in bounds if begins <= at <= ends]
    return (inside[-1] - inside[0]) / (len(inside) - 1) if len(inside) > 1 else None
