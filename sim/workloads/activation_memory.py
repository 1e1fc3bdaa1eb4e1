"""Activations of a block: matrices that share one buffer, each with a place from its first use to its last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from sim.program.ops import AnyOperation, Matrix

ACTIVATIONS = "activations"
"""The buffer that all of them lie in."""

ALIGNMENT = 128
"""Places are multiples of this many elements, 256 B, as the kernels' wide loads want."""


class _Register(NamedTuple):
    name: str
    elements: int


class Registers:
    """The matrices that one block declares. `kept` ones lie first and live through all blocks.

    Sizes and places are those of one sample; with a batch of `samples` each place is that many times as large, and
    holds one sample after the other.
    """

    def __init__(self, kept: Sequence[tuple[str, int, int]], samples: int = 1) -> None:
        self._samples = samples
        self._sizes: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        self.kept: dict[str, Matrix] = {}
        end = 0
        for name, rows, columns in kept:
            self.kept[name] = self._matrix(ACTIVATIONS, samples * end, rows, columns)
            end += _aligned(rows * columns)
        self._base = end

    def new(self, name: str, rows: int, columns: int) -> Matrix:
        """A matrix without a place yet; `place` gives it one."""
        name = f"{name}#{len(self._sizes)}"
        self._sizes[name] = rows * columns
        return self._matrix(name, 0, rows, columns)

    def _matrix(self, buffer: str, offset: int, rows: int, columns: int) -> Matrix:
        return batched(Matrix(buffer, offset, rows, columns, columns), self._samples, rows * columns)

    def plan(self, operations: Iterable[AnyOperation]) -> int:
        """Give every matrix a place, given the block's operations in order; returns the buffer's elements a sample."""
        lives: dict[str, tuple[int, int]] = {}
        for at, operation in enumerate(operations):
            for matrix in operation.operands():
                if matrix.buffer in self._sizes:
                    first, _ = lives.get(matrix.buffer, (at, at))
                    lives[matrix.buffer] = first, at
        end = self._base
        placed: list[tuple[int, int, int, int]] = []
        for name, (first, last) in sorted(lives.items(), key=lambda item: item[1][0]):
            size = _aligned(self._sizes[name])
            offset = self._base
            for start, stop, _, until in sorted(placed):
                if until >= first and start < offset + size and stop > offset:
                    offset = stop
            self._offsets[name] = offset
            placed.append((offset, offset + size, first, last))
            end = max(end, offset + size)
        return end

    def place(self, operation: AnyOperation) -> AnyOperation:
        """`operation` with its matrices at their places."""
        moved = {
            name: msgspec.structs.replace(
                value, buffer=ACTIVATIONS, offset=value.offset + self._samples * self._offsets[value.buffer]
            )
            for name in operation.__struct_fields__
            if isinstance(value := getattr(operation, name), Matrix) and value.buffer in self._offsets
        }
        return msgspec.structs.replace(operation, **moved)


def batched(matrix: Matrix, samples: int, step: int) -> Matrix:
    """`matrix` for each of `samples` samples, `step` elements apart."""
    return matrix if samples == 1 else msgspec.structs.replace(matrix, samples=(samples, step))


def _aligned(elements: int) -> int:
    return -(-elements // ALIGNMENT) * ALIGNMENT
