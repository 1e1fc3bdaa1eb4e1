"""Explicit blocks of a pass: layers of compute and collectives, in the order of their launches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sim.importers.trace.layers import Run, runs
from sim.importers.trace.notes import Notes
from sim.importers.trace.passes import token
from sim.importers.trace.reference import Met, Reference

ASYNC = 0.2
"""Share of a collective beside kernels from which it counts as one of a stream of its own."""
COMM = "comm"
"""Name of that stream in a scenario."""


class Piece(NamedTuple):
    """Equal layers: their operations by number, layer after layer, and the block of one, as plain data."""

    run: Run
    layers: tuple[tuple[int, ...], ...]
    block: list[dict[str, Any]]


def pieces(found: Reference, notes: Notes) -> list[Piece]:
    """The pass as runs of equal layers. Copies between host and GPU are left out."""
    numbers = [i for i, op in enumerate(found.operations) if op.transfer is None]
    of = runs([token(found.operations[i]) for i in numbers], [found.operations[i].seconds for i in numbers])
    return [_piece(found, run, numbers, notes) for run in of]


def _piece(found: Reference, run: Run, numbers: list[int], notes: Notes) -> Piece:
    layers = tuple(
        tuple(numbers[run.start + i * run.length : run.start + (i + 1) * run.length]) for i in range(run.repeat)
    )
    return Piece(run, layers, _block(found, layers, notes))


def _block(found: Reference, layers: tuple[tuple[int, ...], ...], notes: Notes) -> list[dict[str, Any]]:
    """Entries of a block, times as means over its layers."""
    block: list[dict[str, Any]] = []
    compute: list[int] = []
    pending: list[int] = []
    """Collectives on another stream, by number, for which no compute has waited."""

    def flush() -> None:
        if not compute:
            return
        seconds = sum(_busy(found, [layer[place] for place in compute]) for layer in layers) / len(layers)
        if seconds > 0:
            name = _label(
                [(found.operations[layers[0][p]].name, found.operations[layers[0][p]].seconds) for p in compute]
            )
            entry = {"name": name, "seconds": float(f"{seconds:.9g}"), "launches": len(compute)}
            block.append({"compute": entry})
        compute.clear()

    for place, number in enumerate(layers[0]):
        met = found.met.get(number)
        if met is None:
            if pending and found.operations[number].start >= max(found.operations[p].end for p in pending) - 1e-6:
                flush()
                block.append({"wait": COMM})
                pending.clear()
            compute.append(place)
            continue
        flush()
        beside = sum(_beside(found, layer[place]) for layer in layers) / len(layers) > ASYNC
        entry = collective(found, met, notes)
        if beside:
            entry["stream"] = COMM
            pending.append(number)
        block.append({"collective": entry})
    flush()
    return block


def collective(found: Reference, met: Met, notes: Notes) -> dict[str, Any]:
    """The entry of a collective."""
    entry: dict[str, Any] = {"kind": met.kind, "bytes": met.bytes}
    if met.group is not None:
        entry["group"] = partition(met.group, found.world_size, notes)
    return entry


def partition(group: tuple[int, ...], world: int, notes: Notes) -> list[list[int]]:
    """Groups like `group`, which one rank is in, for all ranks; only that one where they cannot be told."""
    size = len(group)
    strides = {b - a for a, b in pairwise(group)}
    if len(strides) == 1 and (stride := strides.pop()) > 0 and world % (size * stride) == 0:
        firsts = [base + i for base in range(0, world, size * stride) for i in range(stride)]
        every = [[first + k * stride for k in range(size)] for first in firsts]
        if list(group) in every:
            if size < world:
                notes.assume(f"other ranks form groups like {list(group)}")
            return every
    return [list(group)]


def _busy(found: Reference, numbers: Sequence[int]) -> float:
    """Time in which any of these operations ran, and the GPU's own gaps before them, s."""
    total, behind = 0.0, float("-inf")
    for number in sorted(numbers, key=lambda i: found.operations[i].start):
        op = found.operations[number]
        total += max(op.end - max(op.start, behind), 0.0) + found.gaps[number]
        behind = max(behind, op.end)
    return total


def _beside(found: Reference, number: int) -> float:
    """Share of a collective's time in which kernels of other streams ran."""
    own = found.operations[number]
    if own.seconds <= 0:
        return 0.0
    shared = 0.0
    for op in found.operations:
        if op.stream != own.stream and op.transfer is None and op.exchange is None:
            shared += max(0.0, min(op.end, own.end) - max(op.start, own.start))
    return shared / own.seconds


_NAMES = (
    (re.compile(r"sdpa|flash|fmha|attention|attn", re.I), "attention"),
    (re.compile(r"nvjet|gemm|cutlass|cublas|xmma|Cijk", re.I), "gemm"),
    (re.compile(r"conv|wgrad|dgrad", re.I), "convolution"),
    (re.compile(r"norm", re.I), "norm"),
    (re.compile(r"elementwise|copy_kernel|Functor|CatArray|Memset|Memcpy", re.I), "elementwise"),
)


def _label(kernels: Sequence[tuple[str, float]]) -> str:
    """A name for several kernels: the kinds that take a fifth of their time or more, largest first."""
    times: dict[str, float] = {}
    for name, seconds in kernels:
        kind = next((label for pattern, label in _NAMES if pattern.search(name)), "other")
        times[kind] = times.get(kind, 0.0) + seconds
    total = sum(times.values())
    return "+".join(k for k in sorted(times, key=lambda k: -times[k]) if times[k] >= 0.2 * total) or "kernels"
