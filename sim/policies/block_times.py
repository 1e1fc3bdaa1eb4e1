"""Times of what a block does on a host: isolated, and what a host thread takes to issue it."""

from __future__ import annotations

from collections.abc import Iterator

from sim.policies.host_rates import CollectiveRates, HostRates
from sim.policies.yielding import Yielding
from sim.workloads.block_items import (
    MEETINGS,
    CollectiveOp,
    Compute,
    CopyOp,
    Exchange,
    Meeting,
    Op,
    Shift,
    Wait,
    meeting_name,
)
from sim.workloads.engine_collectives import EngineCollective, EnginePart
from sim.workloads.workload import Layer, Workload


class BlockTimes:
    """Looks up rates of a host for entries of blocks."""

    def __init__(self, rates: HostRates, world_size: int) -> None:
        self.rates = rates
        self.world_size = world_size
        self.collectives = {(c.kind, int(c.bytes), c.ranks, int(c.piece_bytes)): c for c in rates.collectives}

    def rates_of(self, op: Meeting) -> CollectiveRates | None:
        """Those of a collective; None of one that moves nothing."""
        if isinstance(op, EnginePart):
            op = op.whole
        if isinstance(op, EngineCollective):
            return self.collectives.get((op.kind, op.bytes, len(op.groups[0]), op.piece_bytes))
        if isinstance(op, CollectiveOp | Exchange):
            ranks = len(op.groups[0]) if op.groups else self.world_size
            return self.collectives.get((op.kind, int(op.bytes), ranks, 0))
        if isinstance(op, Shift):
            return self.collectives.get(("send_recv", op.bytes, len(op.groups[0]), 0))
        sizes = [t.bytes for t in op.transfers]
        return next((c for c in self.collectives.values() if c.kind == "send_recv" and int(c.bytes) in sizes), None)

    def kernel_seconds(self, op: Compute) -> float:
        work = op.work()
        return self.rates.kernel_seconds(work["seconds"], work["flops"], work["hbm_bytes"], work["attention"])

    def isolated(self, op: Op) -> float:
        """Seconds of an entry with nothing else in flight."""
        if isinstance(op, Compute):
            return self.kernel_seconds(op)
        if isinstance(op, CopyOp):
            rate = self.rates.copy_rate if op.kind == "h2d" else self.rates.d2h_rate
            return float(self.rates.setup) + int(op.bytes) / float(rate)
        if isinstance(op, Wait):
            return 0.0
        found = self.rates_of(op)
        return 0.0 if found is None else sum(float(p.latency) + float(p.isolated) for p in found.phases)

    def host_seconds(self, layer: Layer, copied: int, policy: Yielding, commands: int) -> float:
        """Seconds that a host thread needs to issue a layer."""
        rates = self.rates
        chunks = -(-copied // int(policy.chunk_bytes))
        seconds = 5 * float(rates.host_event) if copied else 0.0
        seconds += chunks * (float(rates.host_copy) + (commands - 1) * float(rates.host_memop))
        for op in layer.block:
            if isinstance(op, Compute):
                seconds += op.launches * float(rates.host_kernel)
            elif isinstance(op, MEETINGS):
                if isinstance(op, EnginePart):
                    seconds += op.commands * (float(rates.host_copy) + 2 * float(rates.host_memop)) / 3
                else:
                    seconds += float(rates.host_collective)
                if copied and policy.yields_to(op):
                    seconds += (2 + 2 * policy.drain) * float(rates.host_memop)
        return seconds


def names_of(workload: Workload) -> Iterator[str]:
    """Names of the collectives of a step's layers, each once."""
    ops = (op for layer in dict.fromkeys(workload.layers) for op in layer.block)
    yield from dict.fromkeys(meeting_name(op) for op in ops if isinstance(op, MEETINGS))
