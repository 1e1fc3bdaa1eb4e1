"""Flags in host memory, and sequences among them: flags by which ranks order each other's accesses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

import msgspec

from sim.program.commands import WORD, ProgramError, WaitFlag, WriteFlag, at_least
from sim.program.shared_memory import Clock

if TYPE_CHECKING:
    from sim.program.program import RankProgram


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
    values = {flag: {w.value for writes in by.values() for w in writes} for flag, by in written.items()}
    known: set[tuple[str, int, bool]] = set()
    for rank, wait in waits:
        key = wait.flag, wait.value, wait.test == "at_least"
        if key not in known and not any(map(wait.holds, values.get(wait.flag, ()))):
            raise ProgramError(
                f"rank {rank} stream {wait.stream!r} waits for host flag {wait.flag!r} to be "
                f"{'at least ' * (wait.test == 'at_least')}{wait.value}, which nobody writes"
            )
        known.add(key)
    return owners


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


class Written:
    """The values of a sequence, each with the clock of the stream that has written it."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._ahead = [0]
        """How far each value is ahead of the first one, 0: values without the wrap-around."""
        self._clocks: list[Clock] = [{}]
        self._waits: list[tuple[WaitFlag, tuple[int, str], int]] = []

    def write(self, value: int, clock: Clock) -> None:
        """Note the next value."""
        self._ahead.append(self._ahead[-1] + (value - self._ahead[-1]) % WORD)
        self._clocks.append(clock)

    def reached(self, wait: WaitFlag, at: tuple[int, str], number: int) -> Clock | None:
        """The clock at the first value that ends `wait`, command `number` of stream `at`; None if there is none yet."""
        first = bisect_left(self._ahead, _first(wait.value))
        if first == len(self._ahead):
            return None
        self._waits.append((wait, at, number))
        return self._clocks[first]

    def check_wraps(self) -> None:
        """No wait may be overtaken by half of all values: it would not see that its value has been reached."""
        for wait, at, number in self._waits:
            behind = bisect_left(self._ahead, _first(wait.value) + WORD // 2)
            if behind < len(self._ahead) and self._clocks[behind].get(at, 0) < number:
                raise ProgramError(
                    f"rank {at[0]} stream {at[1]!r} waits for host flag {wait.flag!r} to be at least {wait.value}, but "
                    f"it may have become {self._ahead[behind] % WORD} by then: no event orders them"
                )


def _first(value: int) -> int:
    """Where, without the wrap-around, the half of all values begins that are at least `value`."""
    return value - WORD if value > WORD // 2 else value
