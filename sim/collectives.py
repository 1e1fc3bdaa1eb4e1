"""Collectives as flows between GPUs, for any number of ranks.

Byte counts are those of bandwidth-optimal algorithms, as in NCCL's own performance notes (nccl-tests,
doc/PERFORMANCE.md), with n ranks and a per-rank buffer of B bytes:

- all_to_all: every ordered pair moves B / n; a rank sends (n - 1) / n B.
- all_reduce, ring: every rank sends 2 (n - 1) / n B to its successor.
- all_gather, ring (B is the output): every rank sends (n - 1) / n B to its successor.

The steps of a ring are pipelined over small pieces, so all its edges advance at one rate: a ring is one flow over
all edges. Pairs of an all-to-all are flows of their own and end when they end.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.fabric import FlowSpec
from sim.hardware import Profile
from sim.program import CollectiveKind


class Part(NamedTuple):
    """One flow of a collective: `size` bytes over each of `edges` (source, destination), awaited by `ranks`."""

    edges: tuple[tuple[int, int], ...]
    size: float
    ranks: tuple[int, ...]


def parts(kind: CollectiveKind, size: int, world_size: int) -> tuple[Part, ...]:
    """The flows that move a collective of `size` bytes per rank; none for a single rank."""
    n = world_size
    if n == 1:
        return ()
    if kind == "all_to_all":
        return tuple(Part(((i, j),), size / n, (i, j)) for i in range(n) for j in range(n) if i != j)
    edges = tuple((i, (i + 1) % n) for i in range(n))
    return (Part(edges, sent_per_rank(kind, size, n), tuple(range(n))),)


def sent_per_rank(kind: CollectiveKind, size: int, world_size: int) -> float:
    """Bytes that each rank sends."""
    rounds = 2 if kind == "all_reduce" else 1
    return rounds * size * (world_size - 1) / world_size


def flows(profile: Profile, kind: CollectiveKind, size: int, world_size: int) -> list[tuple[FlowSpec, Part]]:
    """The flows of a collective on `profile`, rank r on GPU r.

    A rank's demand cap and weight are divided between the peers it sends to at the same time.
    """
    cls = profile.collective_class(kind)
    sent = sent_per_rank(kind, size, world_size)
    moving = parts(kind, size, world_size)
    if not moving:
        return []
    peers = len(moving) / world_size if kind == "all_to_all" else 1
    cap = cls.rate_alone(world_size, sent) / peers
    return [
        (FlowSpec(profile.peer_route(p.edges, cls.overhead.value), cap, cls.weight.value / peers), p) for p in moving
    ]
