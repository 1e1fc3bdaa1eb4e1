"""Layerwise offload: copy layers into slots ahead of their use, whole or in chunks, with or without yielding.

With prefetch depth k there are k + 1 slots. The copy for layer i + k is issued before layer i's kernels and waits for
the event after layer i - 1's last kernel, which frees the slot; layer i's first kernel waits for the last byte of
layer i. Layers are counted through passes and steps without a break, also past the last step: a server goes on.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from sim.config import Config
from sim.program import RankBuilder, RankProgram
from sim.units import Bytes
from sim.workload import Compute, Workload

COMPUTE, COPY = "compute", "copy"
GATE, BUSY = "gate", "busy"


class _Offload(Config, frozen=True):
    """Parameters of every policy that copies. `resident_fraction` of a layer's bytes stays on the GPU."""

    resident_fraction: float = 0.0
    prefetch_layers: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.resident_fraction <= 1.0:
            raise ValueError(f"resident_fraction is {self.resident_fraction}, expected 0 to 1")
        if self.prefetch_layers < 0:
            raise ValueError(f"prefetch_layers is {self.prefetch_layers}, expected 0 or more")


class Resident(Config, frozen=True, tag_field="kind", tag="resident"):
    """All weights on the GPU."""


class WholeLayer(_Offload, frozen=True, tag_field="kind", tag="whole_layer"):
    """One copy a layer. With `issue: after_compute` it also waits for all compute queued when it is issued."""

    issue: Literal["async", "after_compute"] = "async"


class Chunked(_Offload, frozen=True, kw_only=True, tag_field="kind", tag="chunked"):
    """Copies of `chunk_bytes`, back to back."""

    chunk_bytes: Bytes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_bytes < 1:
            raise ValueError("chunk_bytes is 0, at least 1 is needed")


class Yielding(Chunked, frozen=True, tag_field="kind", tag="yielding"):
    """Chunks that do not start while a collective is on the compute stream.

    `device_gate`: the compute stream sets a flag right before each collective and clears it right after; the copy
    stream waits for 0 before each chunk. With `drain` the collective also waits until the chunk in flight has ended.
    """

    window: Literal["device_gate"] = "device_gate"
    drain: bool = False


def copied_bytes(layer_bytes: int, resident_fraction: float) -> int:
    """Bytes of a layer that are copied: floor(layer_bytes (1 - r)), rounded down to 2 (one bf16)."""
    return math.floor(layer_bytes * (1 - Fraction(str(resident_fraction)))) // 2 * 2


def build_rank(workload: Workload, policy: Resident | WholeLayer | Chunked | Yielding) -> RankProgram:
    """One rank's program (all ranks do the same)."""
    return _Schedule(workload, policy).build()


class _Schedule:
    """Emits the commands of one rank."""

    def __init__(self, workload: Workload, policy: Resident | WholeLayer | Chunked | Yielding) -> None:
        self.workload = workload
        self.policy = policy
        self.rank = RankBuilder()
        fraction = 1.0 if isinstance(policy, Resident) else policy.resident_fraction
        self.copied = [copied_bytes(layer.bytes, fraction) for layer in workload.layers]
        self.ahead = 0 if isinstance(policy, Resident) else policy.prefetch_layers
        self.gated = isinstance(policy, Yielding) and any(self.copied)
        self.drain = isinstance(policy, Yielding) and policy.drain
        self.landed: dict[int, int] = {}
        self.slot_free: dict[int, int] = {}

    def build(self) -> RankProgram:
        """Declare the memory, then issue all steps."""
        self._declare()
        per_step = len(self.workload.layers) * self.workload.passes_per_step
        for n in range(self.ahead):
            self._prefetch(n)
        self.rank.record_step(COMPUTE)
        for n in range(per_step * self.workload.steps):
            self._prefetch(n + self.ahead)
            self._layer(n)
            if (n + 1) % per_step == 0:
                self.rank.record_step(COMPUTE)
        return self.rank.build()

    def _declare(self) -> None:
        layers = self.workload.layers
        resident = sum(layer.bytes - copied for layer, copied in zip(layers, self.copied, strict=True))
        self.rank.buffer("resident", resident, "weights", static=True)
        if any(self.copied):
            for slot in range(self.ahead + 1):
                self.rank.buffer(f"slot{slot}", max(self.copied), "slot")
        if self.workload.activation_bytes:
            self.rank.buffer("activations", int(self.workload.activation_bytes), "activations", static=True)
        self.collective_buffers: dict[tuple[str, int], str] = {}
        for op in (op for layer in layers for op in layer.block if not isinstance(op, Compute)):
            if (op.kind, op.bytes) not in self.collective_buffers:
                # all_reduce works in place; the others keep their input until the output is complete
                size = {"all_to_all": 2 * op.bytes, "all_gather": op.bytes, "all_reduce": op.bytes}[op.kind]
                self.collective_buffers[op.kind, op.bytes] = self.rank.buffer(
                    f"{op.kind}_{op.bytes:d}", int(size), "collective"
                )

    def _place(self, n: int) -> tuple[int, int, int]:
        """(step, layer, copied bytes) of the n-th layer executed."""
        count = len(self.workload.layers)
        return n // (count * self.workload.passes_per_step), n % count, self.copied[n % count]

    def _slot(self, n: int) -> str:
        return f"slot{n % (self.ahead + 1)}"

    def _prefetch(self, n: int) -> None:
        """Issue the copies for the n-th layer executed."""
        policy, rank = self.policy, self.rank
        step, layer, size = self._place(n)
        if isinstance(policy, Resident) or size == 0:
            return
        if isinstance(policy, WholeLayer) and policy.issue == "after_compute":
            rank.wait(COPY, rank.record(COMPUTE))
        if (free := self.slot_free.get(n - self.ahead - 1)) is not None:
            rank.wait(COPY, free)
        chunk = policy.chunk_bytes if isinstance(policy, Chunked) else size
        slot = self._slot(n)
        for i, offset in enumerate(range(0, size, chunk)):
            if self.gated:
                rank.wait_flag(COPY, GATE, 0)
            if self.drain:
                rank.write_flag(COPY, BUSY, 1)
            rank.copy(COPY, f"chunk {i}", int(min(chunk, size - offset)), slot, offset=offset, step=step, layer=layer)
            if self.drain:
                rank.write_flag(COPY, BUSY, 0)
        self.landed[n] = rank.record(COPY)

    def _layer(self, n: int) -> None:
        """Issue the kernels and collectives of the n-th layer executed."""
        rank = self.rank
        step, layer, copied = self._place(n)
        weights: tuple[str, ...] = ("resident",)
        if copied:
            rank.wait(COMPUTE, self.landed.pop(n))
            weights = (self._slot(n), "resident")
        for op in self.workload.layers[layer].block:
            if isinstance(op, Compute):
                rank.kernel(
                    COMPUTE,
                    op.name,
                    seconds=None if op.seconds is None else float(op.seconds),
                    flops=float(op.flops or 0),
                    hbm_bytes=float(op.bytes or 0),
                    launches=op.launches,
                    reads=weights,
                    step=step,
                    layer=layer,
                    attention=op.attention,
                )
                continue
            if self.gated:
                rank.write_flag(COMPUTE, GATE, 1)
                if self.drain:
                    rank.wait_flag(COMPUTE, BUSY, 0)
            rank.collective(
                COMPUTE,
                op.name or op.kind,
                op.kind,
                int(op.bytes),
                writes=(self.collective_buffers[op.kind, op.bytes],),
                step=step,
                layer=layer,
            )
            if self.gated:
                rank.write_flag(COMPUTE, GATE, 0)
        if copied:
            self.slot_free.pop(n - self.ahead - 1, None)
            self.slot_free[n] = rank.record(COMPUTE)
