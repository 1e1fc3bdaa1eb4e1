"""Sizes of plans: of the full one, the quick one, and the one for a CPU."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["cuda", "cpu"]

KIB, MIB = 2**10, 2**20


class Scale(NamedTuple):
    """Sizes of a plan; bytes, and for the rest what the name says."""

    copies: tuple[int, ...]
    collectives: tuple[int, ...]
    contended_collectives: tuple[int, ...]
    """Collectives that contend with copies."""
    chunks: tuple[int, ...]
    commands: tuple[int, ...]
    """Copies in trains of commands."""
    train: int
    """Copies or collectives in a train at most."""
    window_s: float
    """How long a train should take."""
    gemms: tuple[tuple[int, int, int], ...]
    attention: tuple[int, ...]
    """Tokens."""
    blocks: tuple[int, ...]
    """Tokens."""
    repeats: int
    long_repeats: int
    engines: tuple[int, ...]
    """Copies on several streams at once, ascending; the largest lasts much longer than it takes to post another."""
    chunk: int
    """Copies in trains on several streams."""
    pageable: tuple[int, ...]
    """Copies from and to pageable memory."""
    pageable_behind_kernel: tuple[int, ...]
    """Pageable copies behind a kernel that must not end before they are staged."""
    rate: float = 40e9
    """Expected rate of copies, B/s."""


FULL = Scale(
    copies=(64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, 512 * MIB),
    collectives=tuple(k * MIB for k in (1, 4, 16, 40, 80, 160, 320)),
    contended_collectives=(40 * MIB, 160 * MIB),
    chunks=tuple(k * MIB for k in (1, 4, 16, 64, 256)),
    commands=(256 * KIB, MIB, 4 * MIB),
    train=200,
    window_s=5e-3,
    gemms=((4096, 4096, 4096), (8192, 8192, 8192), *((m, 13824, 5120) for m in (1024, 2048, 4096, 8192, 16384))),
    attention=(2048, 4096, 8192, 16384, 32768),
    blocks=(2048, 8192),
    repeats=12,
    long_repeats=5,
    engines=(64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB),
    chunk=4 * MIB,
    pageable=(4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, *(k * MIB for k in (1, 4, 16, 64, 256))),
    pageable_behind_kernel=(64 * KIB, *(k * MIB // 4 for k in (1, 4, 5, 6, 7, 8, 10, 12, 16, 32, 64))),
)
FULL = FULL._replace(collectives=(64 * KIB, 256 * KIB, *FULL.collectives))
QUICK = FULL._replace(
    copies=(64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB),
    collectives=(64 * KIB, MIB, 4 * MIB, 16 * MIB, 40 * MIB, 160 * MIB),
    contended_collectives=(40 * MIB,),
    chunks=(4 * MIB, 16 * MIB, 64 * MIB),
    commands=(MIB,),
    train=100,
    gemms=((8192, 8192, 8192), (4096, 13824, 5120)),
    attention=(8192,),
    blocks=(2048, 8192),
    repeats=7,
    long_repeats=3,
    engines=(64 * KIB, 4 * MIB, 256 * MIB),
    pageable=(4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB),
    pageable_behind_kernel=(64 * KIB, MIB, 3 * MIB // 2, 2 * MIB, 4 * MIB, 16 * MIB),
)
CPU = Scale(
    copies=(16 * KIB, 256 * KIB, MIB, 8 * MIB),
    collectives=(64 * KIB, 512 * KIB, 4 * MIB),
    contended_collectives=(512 * KIB,),
    chunks=(64 * KIB,),
    commands=(256 * KIB,),
    train=6,
    window_s=1e-3,
    gemms=((64, 64, 64),),
    attention=(64,),
    blocks=(32,),
    repeats=3,
    long_repeats=3,
    engines=(16 * KIB, MIB, 8 * MIB),
    chunk=256 * KIB,
    pageable=(4 * KIB, 256 * KIB, MIB),
    pageable_behind_kernel=(4 * KIB, MIB),
    rate=2e9,
)
