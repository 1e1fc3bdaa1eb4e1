"""What the torch machine can run, said before a process is started for it."""

from __future__ import annotations

from collections.abc import Iterator

from calibration.torch_machine.buffer_plan import RESIDENT, BufferPlan, brings_weights
from calibration.torch_machine.collective_calls import ELEMENT, working_bytes
from sim.program import Collective, Copy, Kernel, PointToPoint, Program, RankProgram, WaitFlag, WriteFlag

FLAGS = 64
"""Words of device memory that a rank has for flags."""


def unsupported(program: Program) -> str | None:
    """Why the torch machine cannot run `program`; None if it can."""
    ranks = {id(rank): rank for rank in program.ranks}
    plans = {key: BufferPlan(rank) for key, rank in ranks.items()}
    reasons = (why for key, rank in ranks.items() for why in _unsupported(rank, plans[key]))
    return next(reasons, None) or next(
        (
            f"copy {c.name!r} writes buffer {c.other!r} of rank {c.peer}, which holds layers' weights: other processes "
            "cannot open that memory"
            for rank in ranks.values()
            for c in rank.commands()
            if isinstance(c, Copy)
            and isinstance(c.peer, int)
            and isinstance(c.other, str)
            and _of_layers(c.other, plans[id(program.ranks[c.peer])])
        ),
        None,
    )


def _unsupported(rank: RankProgram, plan: BufferPlan) -> Iterator[str]:
    flags: set[str] = set()
    for command in rank.commands():
        if isinstance(command, Kernel) and not command.ops and command.seconds is None:
            yield (
                f"kernel {command.name!r} gives FLOP and bytes but not what it computes: a machine that really "
                "computes needs its seconds, or a named model with weights of 2 bytes"
            )
        elif isinstance(command, Collective):
            yield from _collective(command, plan)
        elif isinstance(command, Copy):
            yield from _copy(command, plan)
        elif isinstance(command, PointToPoint):
            for t in command.transfers:
                yield from _within(repr(command.name), t.buffer, (t.offset, t.bytes), command.layer, plan)
        elif isinstance(command, WriteFlag | WaitFlag) and not command.on_host:
            flags.add(command.flag)
    if len(flags) > FLAGS:
        yield f"the program has {len(flags)} flags, a rank's device has words for {FLAGS}"


def _copy(command: Copy, plan: BufferPlan) -> Iterator[str]:
    what = f"copy {command.name!r}"
    if brings_weights(command):
        weights = plan.program.weights
        if command.layer >= len(weights):
            yield f"{what} brings weights of layer {command.layer}, but there are {len(weights)} layers"
        elif command.buffer not in plan.layered and command.bytes > weights[command.layer].bytes:
            there = weights[command.layer].bytes
            yield f"{what} brings {command.bytes} bytes of layer {command.layer}, which has {there}"
    yield from _within(what, command.buffer, (command.offset, command.bytes), command.layer, plan)
    if command.kind == "d2d" and isinstance(command.other, str):
        yield from _within(what, command.other, (command.other_start, command.bytes), command.layer, plan)


def _collective(command: Collective, plan: BufferPlan) -> Iterator[str]:
    what = f"collective {command.name!r}"
    if len(command.writes) > 1:
        yield f"{what} writes {len(command.writes)} buffers, expected 1"
    if len(command.writes) != 1:
        return
    buffer, size = command.writes[0], working_bytes(command.kind, command.bytes)
    if command.kind in ("all_reduce", "reduce_scatter") and command.start % ELEMENT:
        yield f"{what} adds numbers from byte {command.start} on: they start at multiples of {ELEMENT}"
    if not _of_layers(buffer, plan) and command.start + size > plan.buffers[buffer].bytes:
        yield (
            f"{what}, {command.kind} of {command.bytes} bytes, works in {size} bytes from byte {command.start} of "
            f"buffer {buffer!r}, which has {plan.buffers[buffer].bytes}"
        )
    yield from _within(what, buffer, (command.start, command.bytes), command.layer, plan)


def _of_layers(buffer: str, plan: BufferPlan) -> bool:
    return buffer in plan.layered or (buffer == RESIDENT and bool(plan.program.weights))


def _within(what: str, buffer: str, part: tuple[int, int], layer: int, plan: BufferPlan) -> Iterator[str]:
    """Whether `part` (first byte, bytes) of what holds layers' weights is said to be of a layer, and lies there."""
    if not _of_layers(buffer, plan):
        return
    weights = plan.program.weights
    if not 0 <= layer < len(weights):
        yield f"{what} uses buffer {buffer!r}, which holds layers' weights, without saying of which layer"
    elif buffer == RESIDENT:
        start, end = weights[layer].offset, weights[layer].offset + weights[layer].resident
        if part[0] < start or sum(part) > end:
            yield (
                f"{what} uses bytes {part[0]} to {sum(part)} of buffer {buffer!r}; those of layer {layer} are {start} "
                f"to {end}"
            )
