"""Programs of collectives by copy engines, and what such commands leave in memory, worked out command by command."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sim.inputs.units import Bytes
from sim.program import (
    AnyCommand,
    CollectiveKind,
    Copy,
    Kernel,
    Program,
    RankBuilder,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
    ops,
)
from sim.workloads.algorithms import Algorithms
from sim.workloads.block_items import CollectiveOp
from sim.workloads.copy_engine import CopyEngine
from sim.workloads.engine_collectives import EngineCollective

MAIN = "compute"


class Call(NamedTuple):
    """A collective: its kind, bytes, pieces and groups, in the buffer of its kind and size."""

    kind: CollectiveKind
    bytes: int
    piece_bytes: int
    groups: tuple[tuple[int, ...], ...]
    name: str = ""

    def lowered(self) -> EngineCollective:
        """What the workload makes of it."""
        op = CollectiveOp(
            kind=self.kind,
            bytes=Bytes(self.bytes),
            name=self.name,
            group=None if self.groups == ((0,),) else self.groups,
            algorithm="copy_engine",
            piece_bytes=Bytes(self.piece_bytes),
        )
        found = Algorithms({}).lowered(op, max(rank for group in self.groups for rank in group) + 1)
        assert isinstance(found, EngineCollective)
        return found


def engine_program(ranks: int, calls: Sequence[Call], builder: type[RankBuilder] = RankBuilder) -> Program:
    """The collectives one after the other on the compute stream, between two step events."""
    found = []
    for number in range(ranks):
        rank = builder()
        rank.record_step(MAIN)
        lowered = [call.lowered() for call in calls]
        sizes = {whole.buffer: whole.buffer_bytes for whole in lowered}
        for name, size in sizes.items():
            rank.buffer(name, size, "collective", static=True)
        parts = [part for whole in lowered if (part := whole.of(number)) is not None]
        engine = CopyEngine(rank)
        engine.declare([(part, MAIN) for part in parts])
        for part in parts:
            engine.issue(part, MAIN, 0, 0)
        rank.record_step(MAIN)
        found.append(rank.build())
    return Program(tuple(found))


class Memory:
    """Runs a program's copies, additions, events and flags, in an order that its waits allow, on `device` buffers."""

    def __init__(self, program: Program, device: list[dict[str, np.ndarray]]) -> None:
        self.device = device
        self.host = {b.name: np.zeros(b.bytes, np.uint8) for r in program.ranks for b in r.host_memory.values()}
        self.moved = {"d2h": [0] * len(program.ranks), "h2d": [0] * len(program.ranks)}
        for buffers, rank in zip(device, program.ranks, strict=True):
            buffers |= {b.name: np.zeros(b.bytes, np.uint8) for b in rank.buffers if b.name not in buffers}
        self.flags: dict[str, int] = {}
        self.events: set[tuple[int, int]] = set()
        self.streams: dict[tuple[int, str], deque[AnyCommand]] = {}
        for number, rank in enumerate(program.ranks):
            for command in rank.commands():
                self.streams.setdefault((number, command.stream), deque()).append(command)

    def run(self, order: Sequence[int] = (0,)) -> None:
        """Run to the end; `order` says which of the streams that can go on does so next, over and over."""
        turn = 0
        while left := [(key, queue) for key, queue in self.streams.items() if queue]:
            ready = [(key, queue) for key, queue in left if self._can(key[0], queue[0])]
            assert ready, f"nothing can go on: {[queue[0] for _, queue in left]}"
            (rank, _), queue = ready[order[turn % len(order)] % len(ready)]
            turn += 1
            self._do(rank, queue.popleft())

    def _can(self, rank: int, command: AnyCommand) -> bool:
        if isinstance(command, WaitEvent):
            return (rank, command.event) in self.events
        return not isinstance(command, WaitFlag) or command.holds(self.flags.get(command.flag, 0))

    def _do(self, rank: int, command: AnyCommand) -> None:
        device = self.device[rank]
        match command:
            case RecordEvent():
                self.events.add((rank, command.event))
            case WriteFlag():
                self.flags[command.flag] = command.value
            case Copy():
                mine = device[command.buffer][command.offset :][: command.bytes]
                assert isinstance(command.other, str)
                source = device if command.kind == "d2d" else self.host
                other = source[command.other][command.other_start :][: command.bytes]
                if command.kind == "d2h":
                    other[:] = mine
                else:
                    mine[:] = other
                if command.kind in self.moved:
                    self.moved[command.kind][rank] += command.bytes
            case Kernel(ops=(ops.Add() as add,)):
                x, y = (device[m.buffer][2 * m.offset :][: 2 * m.columns].view(np.float16) for m in (add.x, add.y))
                y += x


def initial(call: Call, ranks: int, seed: int) -> list[np.ndarray]:
    """Random float16 numbers for every rank's buffer; adding them in another order gives other bits."""
    made = np.random.default_rng(seed)
    room = call.lowered().buffer_bytes
    return [made.normal(size=room // 2 + 1).astype(np.float16).view(np.uint8)[:room].copy() for _ in range(ranks)]


Sum = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The bytes of the sums of numbers of 2 bytes."""


def half(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums of float16 numbers."""
    return (a.view(np.float16) + b.view(np.float16)).view(np.uint8)


def expected(call: Call, before: Sequence[np.ndarray], add: Sum = half) -> list[np.ndarray]:
    """What the collective leaves in every rank's buffer.

    A block of a sum is added up where it belongs: the rank's own numbers, then those of the rank before it, and so on.
    """
    after = [content.copy() for content in before]
    for group in call.groups:
        count, size = len(group), call.bytes // 2 * 2
        part = size // 2 // count * 2
        sums: dict[int, np.ndarray] = {}
        each = -(-(size // 2) // count) * 2 if call.kind == "all_reduce" else part
        for place in range(count):
            span = slice(min(each * place, size), min(each * (place + 1), size))
            sums[place] = before[group[place]][span].copy()
            for distance in range(1, count):
                sums[place] = add(sums[place], before[group[(place - distance) % count]][span])
        for place, rank in enumerate(group):
            mine = after[rank]
            for other, peer in enumerate(group):
                match call.kind:
                    case "all_to_all":
                        mine[size + part * other :][:part] = before[peer][part * place :][:part]
                    case "all_gather":
                        mine[part * other :][:part] = before[peer][part * other :][:part]
                    case "all_reduce":
                        mine[each * other :][: len(sums[other])] = sums[other]
            if call.kind == "send_recv":
                mine[size : 2 * size] = before[group[place - 1]][:size]
            elif call.kind == "reduce_scatter":
                mine[part * place :][:part] = sums[place]
    return after
