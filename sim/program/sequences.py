"""Flags in host memory, and sequences among them: flags by which ranks order each other's accesses."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import msgspec

from sim.program.commands import WORD, ProgramError, WaitFlag, WriteFlag, at_least
from sim.program.rank_program import RankProgram
from sim.program.shared_memory import Clock


def check_next(flag: str, value: int, last: int) -> None:
    """Raise ProgramError unless sequence `flag` may become `value` after `last`."""
    if value == last or not at_least(value, last):
        raise ProgramError(f"sequence {flag!r} becomes {value} after {last}, which is not ahead of it")


def check_flags(ranks: SequenceOf[RankProgram]) -> dict[str, int]:
    """The rank of each sequence.

    Raises:
        ProgramError: a sequence is not what it has to be, or a wait is for a value that nobody writes.
    """
    written: dict[str, dict[int, list[WriteFlag]]] = {}
    waits: list[tuple[int, WaitFlag]] = []
    for rank, program in enumerate(ranks):
        for command in program.commands():
            if isinstance(command, WriteFlag) and command.on_host:
                written.setdefault(command.flag, {}).setdefault(rank, []).append(command)
            elif isinstance(command, WaitFlag) and command.on_host and not command.holds(0):
                waits.append((rank, command))
    owners = _owners(ranks)
    for flag, owner in owners.items():
        _check_sequence(flag, owner, written.get(flag, {}))
    values = {flag: sorted({w.value for writes in by.values() for w in writes}) for flag, by in written.items()}
    known: set[tuple[str, int, bool]] = set()
    for rank, wait in waits:
        key = wait.flag, wait.value, wait.test == "at_least"
        if key not in known and not _reached(wait, values.get(wait.flag, ())):
            raise ProgramError(
                f"rank {rank} stream {wait.stream!r} waits for host flag {wait.flag!r} to be "
                f"{'at least ' * (wait.test == 'at_least')}{wait.value}, which nobody writes"
            )
        known.add(key)
    return owners


def _reached(wait: WaitFlag, values: SequenceOf[int]) -> bool:
    """Whether one of `values`, ascending, ends `wait`."""
    if not values:
        return False
    # the first value at or ahead of it, which may be the smallest of all: none is nearer
    return wait.holds(values[bisect_left(values, wait.value) % len(values)])


def _owners(ranks: SequenceOf[RankProgram]) -> dict[str, int]:
    owners: dict[str, int] = {}
    for rank, program in enumerate(ranks):
        for flag in () if program.sequences is msgspec.UNSET else program.sequences:
            if owners.setdefault(flag, rank) != rank:
                raise ProgramError(f"flag {flag!r} is a sequence of rank {owners[flag]} and of rank {rank}")
    return owners


def _check_sequence(flag: str, owner: int, written: dict[int, list[WriteFlag]]) -> None:
    """One stream of one rank writes it, each value ahead of the one before."""
    last = 0
    for rank, writes in written.items():
        if rank != owner:
            raise ProgramError(f"flag {flag!r} is a sequence of rank {owner}, but rank {rank} writes it")
        for write in writes:
            if write.stream != writes[0].stream:
                raise ProgramError(f"sequence {flag!r} is written by streams {writes[0].stream!r} and {write.stream!r}")
            check_next(flag, write.value, last)
            last = write.value


class _Wait(NamedTuple):
    """A wait that has ended: command `number` of stream `at`, for values from `begin` on, without the wrap-around."""

    command: WaitFlag
    at: tuple[int, str]
    number: int
    begin: int


class Written:
    """The values of a sequence, each with the clock of the stream that has written it."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._ahead = [0]
        """How far each value is ahead of the first one, 0: values without the wrap-around."""
        self._clocks: list[Clock] = [{}]
        self._numbers = [0]
        """Which command of its stream wrote each value."""
        self._at: tuple[int, str] | None = None
        self._waits: list[_Wait] = []

    def write(self, value: int, at: tuple[int, str], clock: Clock) -> None:
        """Note the next value; stream `at` writes it and has `clock` then."""
        self._ahead.append(self._ahead[-1] + (value - self._ahead[-1]) % WORD)
        self._clocks.append(clock)
        self._numbers.append(clock[at])
        self._at = at

    def reached(self, wait: WaitFlag, at: tuple[int, str], number: int, clock: Clock) -> Clock | None:
        """The clock at the first value that may end `wait`, command `number` of stream `at`; None if none is there yet.

        That is not before the last value that `clock`, the stream's, knows to be written.
        """
        known = 0 if self._at is None else bisect_right(self._numbers, clock.get(self._at, 0)) - 1
        behind = (self._ahead[known] - wait.value) % WORD
        begin = self._ahead[known] - behind + (WORD if behind >= WORD // 2 else 0)
        first = max(bisect_left(self._ahead, begin), known)
        if first == len(self._ahead):
            return None
        self._waits.append(_Wait(wait, at, number, begin))
        return self._clocks[first]

    def check_wraps(self) -> None:
        """No wait may be overtaken by half of all values: it would not see that its value has been reached."""
        for wait, at, number, begin in self._waits:
            end = bisect_left(self._ahead, begin + WORD // 2)
            if end < len(self._ahead) and self._clocks[end].get(at, 0) < number:
                raise ProgramError(
                    f"rank {at[0]} stream {at[1]!r} waits for host flag {wait.flag!r} to be at least {wait.value}, but "
                    f"it may have become {self._ahead[end] % WORD} by then: no event orders them"
                )
