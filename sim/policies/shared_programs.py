"""Programs that are built once for all runs of the same schedule, as when only hardware numbers change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

from sim.program import Program

MAX_COMMANDS = 500_000
"""Of all programs that are kept: some 60 MB."""

_Key = tuple[Hashable, ...]
"""All that a program is made of."""


class _Hashed:
    """A key that is hashed once: a workload of many layers takes a millisecond."""

    __slots__ = ("hash", "key")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.hash = hash(key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.hash == other.hash and self.key == other.key


class Programs:
    """The programs built last, at most `MAX_COMMANDS` commands in all; a larger one is not kept. Threads may share it.

    A program is plain data that no run changes, so that runs may share one.
    """

    def __init__(self, most_commands: int = MAX_COMMANDS) -> None:
        self.most_commands = most_commands
        self.built = 0
        """How many had to be built."""
        self._kept: OrderedDict[_Hashed, tuple[Program, int]] = OrderedDict()
        self._commands = 0
        """Of all that are kept."""
        self._lock = Lock()

    def get(self, key: _Key, make: Callable[[], Program]) -> Program:
        """The program of a workload, policy, ranks and what else makes it: one that is kept, or what `make` gives.

        Raises what that does.
        """
        try:
            hashed = _Hashed(key)
        except TypeError:  # a policy of one's own whose fields cannot be hashed
            return make()
        with self._lock:
            if (known := self._kept.get(hashed)) is not None:
                self._kept.move_to_end(hashed)
                return known[0]
        program = make()
        commands = sum(len(thread) for rank in {id(r): r for r in program.ranks}.values() for thread in rank.threads)
        with self._lock:
            self.built += 1
            if hashed not in self._kept:  # another thread may have built it meanwhile
                self._commands += commands
            self._kept[hashed] = program, commands
            while self._commands > self.most_commands:
                _, (_, count) = self._kept.popitem(last=False)
                self._commands -= count
        return program


_SHARED: ContextVar[Programs | None] = ContextVar("programs", default=None)


@contextmanager
def programs_shared(programs: Programs) -> Iterator[None]:
    """Let `sim.policies.build` take from `programs` what is there, and keep there what it builds."""
    token = _SHARED.set(programs)
    try:
        yield
    finally:
        _SHARED.reset(token)


def shared(key: _Key, make: Callable[[], Program]) -> Program:
    """What `make` gives, or what it gave for this key before, inside of `programs_shared`."""
    known = _SHARED.get()
    return make() if known is None else known.get(key, make)
