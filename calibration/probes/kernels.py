"""A Triton kernel that copies from pinned host memory with few programs, one to an SM."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 8192
"""Words that a program has in flight."""


@triton.jit  # type: ignore[untyped-decorator]
def _sm_copy(target, source, words, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    step = tl.num_programs(0).to(tl.int64) * WIDTH
    start = tl.program_id(0).to(tl.int64) * WIDTH
    while start < words:
        place = start + tl.arange(0, WIDTH)
        inside = place < words
        tl.store(target + place, tl.load(source + place, mask=inside), mask=inside)
        start += step


def sm_copy(target: torch.Tensor, source: torch.Tensor, ctas: int) -> None:
    """Copy `source`, in pinned host memory, to `target` on the device; both uint8 of equal size, a multiple of 4."""
    words = target.nbytes // 4
    _sm_copy[(ctas,)](target.view(torch.int32), source.view(torch.int32), words, WIDTH=BLOCK, num_warps=32)
