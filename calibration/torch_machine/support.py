"""What the torch machine can run, said before a process is started for it."""

from __future__ import annotations

from sim.program import Collective, Copy, Kernel, Program, RankProgram, WaitFlag, WriteFlag

FLAGS = 64
"""Words of device memory that a rank has for flags."""


def unsupported(program: Program) -> str | None:
    """Why the torch machine cannot run `program`; None if it can."""
    ranks = {id(rank): rank for rank in program.ranks}
    return next((why for rank in ranks.values() if (why := _unsupported(rank))), None)


def _unsupported(rank: RankProgram) -> str | None:
    slots = {b.name for b in rank.buffers if b.kind == "slot"}
    flags: set[str] = set()
    for command in rank.commands():
        if isinstance(command, Kernel) and not command.ops and command.seconds is None:
            return (
                f"kernel {command.name!r} gives FLOP and bytes but not what it computes: a machine that really "
                "computes needs its seconds, or a named model"
            )
        if isinstance(command, Copy) and (
            command.kind != "h2d" or command.buffer not in slots or not 0 <= command.layer < len(rank.weights)
        ):
            return (
                f"copy {command.name!r} ({command.kind} of buffer {command.buffer!r}) does not bring a layer's weights "
                "into a slot: no other copies are run"
            )
        if isinstance(command, Collective) and len(command.writes) != 1:
            return f"collective {command.name!r} writes {len(command.writes)} buffers, expected 1"
        if isinstance(command, WriteFlag | WaitFlag):
            flags.add(command.flag)
    if len(flags) > FLAGS:
        return f"the program has {len(flags)} flags, a rank's device has words for {FLAGS}"
    return None
