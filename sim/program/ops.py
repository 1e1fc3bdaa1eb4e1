"""What a kernel computes: operations on matrices inside a rank's buffers, as plain data.

A simulated machine needs only a kernel's FLOP and bytes; a machine that really computes needs these. All numbers are
bf16; offsets, rows, columns and strides count elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

WEIGHTS = "weights"
"""The buffer name that stands for the weights of the kernel's own layer, wherever they lie."""


class Matrix(msgspec.Struct, frozen=True, gc=False):
    """A matrix in `buffer`: element (i, j) lies at `offset` + i * `stride` + j.

    On rank r everything lies r * `per_rank` further on. `samples`, where it is given, is (how many samples of a batch
    have such a matrix, how many elements the next sample's lies further on): an operation does the same for each.
    """

    buffer: str
    offset: int
    rows: int
    columns: int
    stride: int
    per_rank: int = 0
    samples: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET

    @property
    def batch(self) -> int:
        """Samples."""
        return 1 if self.samples is msgspec.UNSET else self.samples[0]

    @property
    def step(self) -> int:
        """Elements from a sample's first to the next one's; 0 where there is one sample."""
        return 0 if self.samples is msgspec.UNSET else self.samples[1]

    @property
    def elements(self) -> int:
        """Elements of all samples."""
        return self.batch * self.rows * self.columns

    @property
    def joined(self) -> bool:
        """Whether the rows of all samples are those of one matrix: a sample follows the other at a row's distance."""
        return self.batch == 1 or self.rows == 1 or self.step == self.rows * self.stride

    def part(self, row: int = 0, rows: int | None = None, column: int = 0, columns: int | None = None) -> Matrix:
        """`rows` rows from `row` on, `columns` columns from `column` on (None: all that follow)."""
        return Matrix(
            self.buffer,
            self.offset + row * self.stride + column,
            self.rows - row if rows is None else rows,
            self.columns - column if columns is None else columns,
            self.stride,
            self.per_rank,
            self.samples,
        )


class Operation(msgspec.Struct, frozen=True, tag_field="op", tag=True, gc=False):
    """One device kernel."""

    def operands(self) -> list[Matrix]:
        """All matrices that it reads or writes."""
        values = (getattr(self, name) for name in self.__struct_fields__)
        return [v for v in values if isinstance(v, Matrix)]


class Linear(Operation, frozen=True, gc=False):
    """y = x weight^T + bias, with weight [outputs, inputs] and bias [1, outputs], if there is one.

    One matrix product where the samples of x and of y are `joined`, else one a sample.
    """

    x: Matrix
    weight: Matrix
    bias: Matrix | None
    y: Matrix

    @property
    def products(self) -> int:
        """Matrix products that it takes: one a sample if its samples lie apart."""
        return 1 if self.x.joined and self.y.joined else self.x.batch


class Attention(Operation, frozen=True, gc=False):
    """y = softmax(q k^T / sqrt(head)) v for each head of `head` columns; rows are tokens."""

    q: Matrix
    k: Matrix
    v: Matrix
    y: Matrix
    head: int


class Normalise(Operation, frozen=True, gc=False):
    """x += gate * residual if there is a residual; then y = norm(x) * (1 + scale) + shift if there is a y.

    The norm is over a row: LayerNorm, or RMSNorm with `rms`. Vectors have one row, which all samples share or each has
    of its own, and repeat if they are narrower.
    """

    x: Matrix
    y: Matrix | None = None
    residual: Matrix | None = None
    gate: Matrix | None = None
    scale: Matrix | None = None
    shift: Matrix | None = None
    rms: bool = False


class Rotate(Operation, frozen=True, gc=False):
    """Rotary embedding in place: adjacent columns of each head of `head` columns turn by the row's position.

    The position of a sample's first row is 0, on rank r r * `per_rank`.
    """

    x: Matrix
    head: int
    per_rank: int = 0


class Gelu(Operation, frozen=True, gc=False):
    """x = gelu(x) in place, by the tanh formula."""

    x: Matrix


class Gate(Operation, frozen=True, gc=False):
    """x = silu(x) * by, element by element: the activation of a gated FFN (SwiGLU)."""

    x: Matrix
    by: Matrix


class Add(Operation, frozen=True, gc=False):
    """y = y + x, element by element, rounded once: a step of a sum over ranks."""

    x: Matrix
    y: Matrix


class Permute(Operation, frozen=True, gc=False):
    """y = x, read as an array of `shape`, its axes in `order`; samples are an axis of both."""

    x: Matrix
    y: Matrix
    shape: tuple[int, ...]
    order: tuple[int, ...]


AnyOperation = Linear | Attention | Normalise | Rotate | Gelu | Gate | Add | Permute

BF16 = 2
"""Bytes of an element."""


def bytes_used(ops: Sequence[AnyOperation], buffer: str) -> tuple[int, int] | None:
    """First byte of `buffer` that operations use, and the first one behind it.

    None where they do not name it, or where that depends on the rank.
    """
    places = [m for op in ops for m in op.operands() if m.buffer == buffer]
    if not places or any(m.per_rank for m in places):
        return None
    ends = (m.offset + (m.batch - 1) * m.step + (m.rows - 1) * m.stride + m.columns for m in places)
    return BF16 * min(m.offset for m in places), BF16 * max(ends)
