"""Operations of kernels as calls on tensors: Triton and cuBLAS on a GPU, plain torch on a CPU.

On a CPU matrix products and attention run in fp64 and are rounded to bf16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from calibration.torch_machine.device import Call
from sim.program.ops import Add, AnyOperation, Attention, Gate, Gelu, Linear, Matrix, Normalise, Permute, Rotate

EPSILON = 1e-6
"""Of norms."""

LOG_BASE = math.log(10_000.0)
"""Of the rotary embedding's wavelengths."""


class Views(NamedTuple):
    """Where matrices lie, and for which rank: [rows, columns] each, or [samples, rows, columns]."""

    of: Callable[[Matrix], torch.Tensor]
    rank: int


def build(op: AnyOperation, views: Views, on_gpu: bool) -> Call:
    """A call that runs `op` on the current stream."""
    if isinstance(op, Linear):
        return _linear(op, views, on_gpu)
    if isinstance(op, Attention):
        return _attention(op, views, on_gpu)
    if isinstance(op, Permute):
        return _permute(op, views)
    if isinstance(op, Normalise):
        return _normalise(op, views, on_gpu)
    if isinstance(op, Add):
        x, y = views.of(op.x), views.of(op.y)
        return lambda: torch.add(y, x, out=y)
    if isinstance(op, Gelu):
        return _gelu(views.of(op.x), on_gpu)
    if isinstance(op, Gate):
        return _gate(views.of(op.x), views.of(op.by), on_gpu)
    return _rotate(op, views, on_gpu)


def _linear(op: Linear, views: Views, on_gpu: bool) -> Call:
    bias, weight = None if op.bias is None else views.of(op.bias)[0], views.of(op.weight).t()
    pairs = list(zip(*(_products(views.of(m), op) for m in (op.x, op.y)), strict=True))

    def call() -> None:
        for x, y in pairs:
            if bias is None:
                torch.mm(x, weight, out=y) if on_gpu else y.copy_(x.double() @ weight.double())
            elif on_gpu:
                torch.addmm(bias, x, weight, out=y)
            else:
                y.copy_(torch.addmm(bias.double(), x.double(), weight.double()))

    return call


def _products(matrix: torch.Tensor, op: Linear) -> Sequence[torch.Tensor]:
    """The [rows, columns] of each of a projection's matrix products."""
    return [matrix.view(-1, matrix.shape[-1])] if op.products == 1 and matrix.dim() == 3 else list(_samples(matrix))


def _attention(op: Attention, views: Views, on_gpu: bool) -> Call:
    def heads(matrix: Matrix) -> torch.Tensor:
        return _samples(views.of(matrix)).unflatten(2, (-1, op.head)).transpose(1, 2)

    q, k, v, y = heads(op.q), heads(op.k), heads(op.v), heads(op.y)
    if on_gpu:
        return lambda: y.copy_(F.scaled_dot_product_attention(q, k, v))

    def call() -> None:
        y.copy_(F.scaled_dot_product_attention(q.double(), k.double(), v.double()))

    return call


def _permute(op: Permute, views: Views) -> Call:
    x = _as_array(views.of(op.x), op.shape).permute(op.order)
    y = _as_array(views.of(op.y), x.shape)
    return lambda: y.copy_(x)


def _as_array(matrix: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A view of a strided matrix as an array of `shape`, whose first axes make up the samples, the next the rows."""
    axes, groups = list(shape), []
    for size in matrix.shape[:-1]:
        group: list[int] = []
        while axes and (not group or math.prod(group) < size):
            group.append(axes.pop(0))
        groups.append(group)
    if not axes or [math.prod(g) for g in groups] != list(matrix.shape[:-1]):
        return matrix.view(tuple(shape))  # an axis runs over rows and columns: only what has no gaps can be seen so
    for dim, group in reversed(list(enumerate([*groups, axes]))):
        matrix = matrix.unflatten(dim, tuple(group))
    return matrix


def _samples(matrix: torch.Tensor) -> torch.Tensor:
    """[samples, rows, columns] of a matrix."""
    return matrix if matrix.dim() == 3 else matrix.unsqueeze(0)


def _normalise(op: Normalise, views: Views, on_gpu: bool) -> Call:
    def optional(matrix: Matrix | None) -> torch.Tensor | None:
        return None if matrix is None else views.of(matrix)

    x, y, residual = views.of(op.x), optional(op.y), optional(op.residual)
    gate, scale, shift = optional(op.gate), optional(op.scale), optional(op.shift)
    if on_gpu:
        from calibration.torch_machine.kernels import normalise

        # prepared once: a launch is short of host time
        to, added, gates, scales, shifts = (m if m is None else _samples(m) for m in (y, residual, gate, scale, shift))
        return partial(normalise, _samples(x), to, added, gates, scales, shifts, op.rms, EPSILON)

    def vector(value: torch.Tensor) -> torch.Tensor:
        return value.float().tile(x.shape[-1] // value.shape[-1])

    def call() -> None:
        value = x.float()
        if residual is not None:
            value = value + residual.float() * (1.0 if gate is None else vector(gate))
            x.copy_(value)
        if y is not None:
            if not op.rms:
                value = value - value.mean(-1, keepdim=True)
            value = value * torch.rsqrt(value.square().mean(-1, keepdim=True) + EPSILON)
            if scale is not None:
                value = value * (1 + vector(scale))
            if shift is not None:
                value = value + vector(shift)
            y.copy_(value)

    return call


def _gelu(x: torch.Tensor, on_gpu: bool) -> Call:
    if on_gpu:
        from calibration.torch_machine.kernels import gelu

        return partial(gelu, _samples(x))
    return lambda: x.copy_(F.gelu(x.float(), approximate="tanh"))


def _gate(x: torch.Tensor, by: torch.Tensor, on_gpu: bool) -> Call:
    if on_gpu:
        from calibration.torch_machine.kernels import gate

        return partial(gate, _samples(x), _samples(by))
    return lambda: x.copy_(F.silu(x.float()) * by.float())


def _rotate(op: Rotate, views: Views, on_gpu: bool) -> Call:
    x, first = views.of(op.x), views.rank * op.per_rank
    if on_gpu:
        from calibration.torch_machine.kernels import rotate

        return partial(rotate, _samples(x), op.head, first, LOG_BASE)

    rows, columns = x.shape[-2:]
    pair = torch.arange(columns // 2)
    angle = torch.arange(first, first + rows)[:, None] * torch.exp(-LOG_BASE * (2 * pair % op.head) / op.head)
    cosine, sine = angle.cos(), angle.sin()
    pairs = x.unflatten(-1, (-1, 2))

    def call() -> None:
        first, second = pairs[..., 0].float(), pairs[..., 1].float()
        pairs[..., 0] = first * cosine - second * sine
        pairs[..., 1] = first * sine + second * cosine

    return call
