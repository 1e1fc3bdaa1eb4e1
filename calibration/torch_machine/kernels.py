"""Triton kernels: the fused norms, rotary embedding and activation of a block, and one that only takes time.

Each reads every operand and writes every result once. All matrices are bf16 with rows of any stride; arithmetic is
fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import globaltimer

BLOCK = 4096
"""Elements that a program of an elementwise kernel takes."""


@triton.jit
def _normalise(  # type: ignore[no-untyped-def]
    x, y, residual, gate, scale, shift,
    x_step, x_stride, y_step, y_stride, residual_step, residual_stride, gate_step, scale_step, shift_step,
    columns, gate_width, scale_width, shift_width, epsilon,
    HAS_RESIDUAL: tl.constexpr, HAS_GATE: tl.constexpr, HAS_Y: tl.constexpr, HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr, RMS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1).to(tl.int64)
    x += sample * x_step + row * x_stride
    column = tl.arange(0, WIDTH)
    inside = column < columns
    value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        residual += sample * residual_step + row * residual_stride
        added = tl.load(residual + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            gate += sample * gate_step
            added *= tl.load(gate + column % gate_width, mask=inside, other=0.0).to(tl.float32)
        value += added
        tl.store(x + column, value.to(tl.bfloat16), mask=inside)
    if HAS_Y:
        mean = 0.0
        if not RMS:
            mean = tl.sum(value, 0) / columns
        centred = tl.where(inside, value - mean, 0.0)
        value = centred * tl.rsqrt(tl.sum(centred * centred, 0) / columns + epsilon)
        if HAS_SCALE:
            scale += sample * scale_step
            value *= 1.0 + tl.load(scale + column % scale_width, mask=inside, other=0.0).to(tl.float32)
        if HAS_SHIFT:
            shift += sample * shift_step
            value += tl.load(shift + column % shift_width, mask=inside, other=0.0).to(tl.float32)
        y += sample * y_step + row * y_stride
        tl.store(y + column, value.to(tl.bfloat16), mask=inside)


def samples(matrix: torch.Tensor) -> torch.Tensor:
    """[samples, rows, columns] of a matrix with or without samples."""
    return matrix if matrix.dim() == 3 else matrix.unsqueeze(0)


def _step(matrix: torch.Tensor) -> int:
    """Elements from a sample to the next; 0 where all share one."""
    return matrix.stride(0) if matrix.shape[0] > 1 else 0


def normalise(
    x: torch.Tensor,
    y: torch.Tensor | None,
    residual: torch.Tensor | None,
    gate: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    rms: bool,
    epsilon: float,
) -> None:
    """x += gate * residual; y = norm(x) * (1 + scale) + shift, for x, y and residual [(samples,) rows, columns].

    The vectors are [1, width] for all samples, or [samples, 1, width].
    """

    def width(vector: torch.Tensor | None) -> int:
        return 1 if vector is None else vector.shape[-1]

    def or_x(operand: torch.Tensor | None) -> torch.Tensor:
        return samples(x if operand is None else operand)

    batch, rows, columns = samples(x).shape
    to, added, gates, scales, shifts = map(or_x, (y, residual, gate, scale, shift))
    _normalise[(rows, batch)](
        x, to, added, gates, scales, shifts,
        _step(samples(x)), x.stride(-2), _step(to), to.stride(-2), _step(added), added.stride(-2),
        _step(gates), _step(scales), _step(shifts),
        columns, width(gate), width(scale), width(shift), epsilon,
        HAS_RESIDUAL=residual is not None, HAS_GATE=gate is not None, HAS_Y=y is not None,
        HAS_SCALE=scale is not None, HAS_SHIFT=shift is not None, RMS=rms,
        WIDTH=triton.next_power_of_2(columns), num_warps=8,
    )  # fmt: skip


@triton.jit
def _rotate(x, step, stride, pairs, head, start, log_base, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    x += tl.program_id(1).to(tl.int64) * step
    pair = tl.arange(0, WIDTH)
    inside = pair < pairs
    word = tl.load(x + row * stride + pair, mask=inside, other=0)  # two adjacent columns, the first in the low half
    first = (word << 16).to(tl.float32, bitcast=True)
    second = (word & -65536).to(tl.float32, bitcast=True)
    angle = (start + row).to(tl.float32) * tl.exp(-log_base * (2 * pair % head).to(tl.float32) / head)
    cosine, sine = tl.cos(angle), tl.sin(angle)
    low = (first * cosine - second * sine).to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    high = (first * sine + second * cosine).to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) << 16
    tl.store(x + row * stride + pair, low | high, mask=inside)


def rotate(x: torch.Tensor, head: int, start: int, log_base: float) -> None:
    """Rotary embedding of x [(samples,) rows, columns] in place, heads of `head` columns, positions from `start` on."""
    words = samples(x).view(torch.int32)
    batch, rows, pairs = words.shape
    width = triton.next_power_of_2(pairs)
    _rotate[(rows, batch)](words, _step(words), words.stride(1), pairs, head, start, log_base, WIDTH=width, num_warps=8)


@triton.jit
def _gelu(x, step, stride, columns, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    x += tl.program_id(2).to(tl.int64) * step
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < columns
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    inner = 0.7978845608028654 * (value + 0.044715 * value * value * value)
    value = value * tl.sigmoid(2 * inner)  # 0.5 (1 + tanh(inner)) = sigmoid(2 inner)
    tl.store(x + row * stride + column, value.to(tl.bfloat16), mask=inside)


def gelu(x: torch.Tensor) -> None:
    """x = gelu(x) in place (tanh formula), for x [(samples,) rows, columns]."""
    batch, rows, columns = samples(x).shape
    _gelu[(rows, triton.cdiv(columns, BLOCK), batch)](
        x, _step(samples(x)), x.stride(-2), columns, WIDTH=BLOCK, num_warps=8
    )


@triton.jit
def _gate(x, by, x_step, x_stride, by_step, by_stride, columns, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(2).to(tl.int64)
    x += sample * x_step + row * x_stride
    by += sample * by_step + row * by_stride
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < columns
    value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.sigmoid(value) * tl.load(by + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + column, value.to(tl.bfloat16), mask=inside)


def gate(x: torch.Tensor, by: torch.Tensor) -> None:
    """x = silu(x) * by, for x and by [(samples,) rows, columns]."""
    batch, rows, columns = samples(x).shape
    _gate[(rows, triton.cdiv(columns, BLOCK), batch)](
        x, by, _step(samples(x)), x.stride(-2), _step(samples(by)), by.stride(-2), columns, WIDTH=BLOCK, num_warps=8
    )


@triton.jit
def _spin(out, nanoseconds):  # type: ignore[no-untyped-def]
    start = globaltimer()
    now = start
    while now - start < nanoseconds:
        now = globaltimer()
    tl.store(out, now)


_OUT: dict[torch.device, torch.Tensor] = {}


def spin(device: torch.device, seconds: float) -> None:
    """Keep one SM of `device` busy for `seconds` by the GPU's own clock."""
    if device not in _OUT:
        _OUT[device] = torch.zeros(1, dtype=torch.int64, device=device)
    _spin[(1,)](_OUT[device], round(seconds * 1e9), num_warps=1)
