"""Streams as the model of a step walks them: one piece of work after the other, each at a speed of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

from sim.policies.host_rates import PhaseRates


class Spend(NamedTuple):
    """A time that nothing changes, s."""

    seconds: float


class Work(NamedTuple):
    """A kernel."""

    seconds: float
    launches: int


class Move(NamedTuple):
    """Bytes of a collective."""

    phase: PhaseRates
    copy_start: float


class Chunks(NamedTuple):
    """Chunks of `bytes`, back to back."""

    chunks: float
    bytes: int


class Until(NamedTuple):
    """Blocked until something holds."""

    holds: Callable[[], bool]


Piece = Spend | Work | Move | Chunks | Until
Pieces = Generator[Piece, None, None]


class Stream:
    """A stream: what it does now, and how much of it is left (s of work, or chunks)."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.piece: Piece | None = None
        self.left = 0.0
        self.next()

    def next(self) -> None:
        self.piece = next(self.pieces, None)
        match self.piece:
            case Spend(seconds) | Work(seconds, _):
                self.left = seconds
            case Move(phase, _):
                self.left = float(phase.isolated)
            case Chunks(chunks, _):
                self.left = chunks
            case _:
                self.left = math.inf
