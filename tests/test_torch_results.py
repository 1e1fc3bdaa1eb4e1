"""Programs that are drawn leave on the torch machine what a plain interpreter of numpy arrays leaves."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from sim.program import (
    AnyCommand,
    Collective,
    Copy,
    HostWait,
    HostWaitEvent,
    Kernel,
    PointToPoint,
    Program,
    RecordEvent,
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
valid_programs: Any = pytest.importorskip("valid_programs")

from calibration.torch_machine import TorchMachine  # noqa: E402
from calibration.torch_machine.memory import fill, seed  # noqa: E402

RANKS = 3


@pytest.fixture(scope="module")
def machine() -> Iterator[TorchMachine]:
    with TorchMachine(RANKS, "cpu", timeout_s=120) as made:
        yield made


def random(rank: int, name: str, size: int) -> np.ndarray:
    memory = torch.empty(size, dtype=torch.uint8)
    fill(memory, 1000 + rank if name == "activations" else seed(rank, name))
    return memory.numpy().copy()


class Interpreter:
    """Runs the streams of all ranks one command at a time; host threads are never in its way.

    `memory` has (rank, device buffer), ("host", rank, host buffer) and ("shared", host buffer).
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.memory: dict[tuple[object, ...], np.ndarray] = {}
        self.flags: dict[tuple[object, ...], int] = {}
        self.events: set[tuple[int, int]] = set()
        self.calls: Counter[tuple[object, ...]] = Counter()
        self.sent: dict[tuple[object, ...], np.ndarray] = {}
        self.met: dict[tuple[object, ...], set[int]] = {}
        self.at: dict[tuple[int, str], list[tuple[object, ...]]] = {}
        self.streams: dict[tuple[int, str], deque[AnyCommand]] = {}
        for r, rank in enumerate(program.ranks):
            read = {c.other for c in rank.commands() if isinstance(c, Copy) and c.kind == "h2d"}
            for buffer in rank.buffers:
                self.memory[r, buffer.name] = random(r, buffer.name, buffer.bytes)
            for host in rank.host_memory.values():
                start = random(r, host.name, host.bytes) if host.name in read else np.zeros(host.bytes, np.uint8)
                self.memory["host", r, host.name] = start
                self.memory["shared", host.name] = np.zeros(host.bytes, np.uint8)
            feeders = rank.feeders()
            for number, thread in enumerate(rank.threads):
                for c in thread:
                    if c.stream and feeders.get(c.stream, number) == number:
                        self.streams.setdefault((r, c.stream), deque()).append(c)
                    elif isinstance(c, RecordEvent):
                        self.events.add((r, c.event))

    def run(self) -> None:
        moved = True
        while moved:
            moved = False
            for (rank, name), commands in self.streams.items():
                while commands and self.ends(rank, name, commands[0]):
                    commands.popleft()
                    moved = True
        assert not any(self.streams.values())

    def ends(self, rank: int, stream: str, command: AnyCommand) -> bool:
        match command:
            case RecordEvent():
                self.events.add((rank, command.event))
            case WaitEvent():
                return (rank, command.event) in self.events
            case WriteFlag():
                self.flags["host" if command.on_host else rank, command.flag] = command.value
            case WaitFlag():
                return command.holds(self.flags.get(("host" if command.on_host else rank, command.flag), 0))
            case Copy():
                self.copy(rank, command)
            case Collective():
                key = ("collective", command.communicates_on)
                return self.meets(rank, stream, [(*key, self.number(rank, stream, key))], command)
            case PointToPoint():
                return self.transfers(rank, stream, command)
        return True

    def number(self, rank: int, stream: str, key: tuple[object, ...]) -> int:
        """Which call of `rank` this is, counted once."""
        if (rank, stream) not in self.at:
            self.calls[rank, key] += 1
        return self.calls[rank, key]

    def meets(self, rank: int, stream: str, keys: list[tuple[object, ...]], command: Collective) -> bool:
        keys = self.at.setdefault((rank, stream), keys)
        self.met.setdefault(keys[0], set()).add(rank)
        if self.met[keys[0]] < set(command.members(RANKS)):
            return False
        del self.at[rank, stream]
        return True

    def transfers(self, rank: int, stream: str, command: PointToPoint) -> bool:
        """Sends give their bytes when they are posted; all end when both sides of each are."""
        if (rank, stream) not in self.at:
            keys: list[tuple[object, ...]] = []
            for t in command.transfers:
                ends = (rank, t.peer) if isinstance(t, Send) else (t.peer, rank)
                count = (rank, isinstance(t, Send), *ends, command.communicates_on)
                self.calls[count] += 1
                keys.append((*ends, command.communicates_on, self.calls[count]))
                self.met.setdefault(keys[-1], set()).add(rank)
                if isinstance(t, Send):
                    self.sent[keys[-1]] = self.memory[rank, t.buffer][t.offset :][: t.bytes].copy()
            self.at[rank, stream] = keys
        keys = self.at[rank, stream]
        if any(len(self.met[key]) < 2 for key in keys):
            return False
        for key, t in zip(keys, command.transfers, strict=True):
            if not isinstance(t, Send):
                self.memory[rank, t.buffer][t.offset :][: t.bytes] = self.sent[key]
        del self.at[rank, stream]
        return True

    def copy(self, rank: int, c: Copy) -> None:
        mine = self.memory[rank, c.buffer][c.offset :][: c.bytes]
        if isinstance(c.other, str):
            theirs = self.far(rank, c)[c.other_start :][: c.bytes]
        else:
            commands = self.program.ranks[rank].commands()
            size = max(o.bytes for o in commands if isinstance(o, Copy) and not isinstance(o.other, str))
            theirs = random(rank, "", size)[: c.bytes]
        if c.kind in ("h2d", "d2d"):
            mine[:] = theirs
        else:
            theirs[:] = mine

    def far(self, rank: int, c: Copy) -> np.ndarray:
        if c.kind == "d2d":
            return self.memory[rank, c.other]
        if c.kind == "p2p":
            return self.memory[c.peer, c.other]
        assert isinstance(c.other, str)
        shared = self.program.ranks[rank].host_memory[c.other].shared
        return self.memory["shared", c.other] if shared else self.memory["host", rank, c.other]

    def digest(self, rank: int, name: str) -> str:
        host = self.program.ranks[rank].host_memory.get(name)
        if host is None:
            memory = self.memory[rank, name]
        else:
            memory = self.memory["shared", name] if host.shared else self.memory["host", rank, name]
        return hashlib.sha256(memory.tobytes()).hexdigest()


def quick(program: Program) -> Program:
    """The program with all times a thousandth of what they were."""
    ranks = []
    for rank in program.ranks:
        threads = tuple(tuple(_quick(c) for c in thread) for thread in rank.threads)
        ranks.append(msgspec.structs.replace(rank, threads=threads))
    return msgspec.structs.replace(program, ranks=tuple(ranks))


def _quick(command: AnyCommand) -> AnyCommand:
    if isinstance(command, Kernel) and command.seconds is not None:
        return msgspec.structs.replace(command, seconds=command.seconds / 1e3)
    if isinstance(command, HostWait | HostWaitEvent):
        return msgspec.structs.replace(command, poll=command.poll / 1e3)
    return command


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(drawn=valid_programs.programs(ranks=RANKS))
def test_programs_leave_what_they_must(machine: TorchMachine, drawn: Program) -> None:
    program = quick(drawn)
    expected = Interpreter(program)
    expected.run()
    for rank, result in enumerate(machine.execute(program).ranks):
        for name, found in result.digests.items():
            assert found == expected.digest(rank, name), (rank, name)
