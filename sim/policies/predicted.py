"""The first-order model of a step, extended with contention: how long a gated schedule takes on a host.

Ranks are taken to be alike and in step, so that one stands for all: its compute stream, its copy stream, and streams of
its own that blocks name. Each is walked in order. What runs beside a copy, or a copy beside it, goes at the rate that
`HostRates` has for the two, so the fabric is not solved. Chunks of one layer are one piece of work: a chunk of b bytes
takes o + b / r, with o what its commands cost and r the rate of copies beside what runs, and a gate that shuts cuts the
piece behind the chunk in flight. Of equal layers in a row a few are walked, and stand for the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import assert_never

from sim.policies.block_times import BlockTimes
from sim.policies.host_rates import HostRates
from sim.policies.walked_streams import Chunks, Move, Pieces, Spend, Stream, Until, Work
from sim.policies.yielding import Yielding
from sim.workloads.block_commands import COMPUTE
from sim.workloads.block_items import (
    Compute,
    CopyOp,
    Meeting,
    Op,
    Wait,
    stream_of,
)
from sim.workloads.workload import Workload

KEPT = 4
"""Equal layers in a row that are walked, besides those prefetched."""
_TINY = 1e-12


def predicted_step(workload: Workload, policy: Yielding, rates: HostRates, world_size: int) -> float:
    """Seconds of a step of `workload`, what one rank does, under a gated schedule in its steady state."""
    return _Prediction(workload, policy, rates, world_size).step()


class _Prediction:
    """One walk through two passes of a workload, shortened."""

    def __init__(self, workload: Workload, policy: Yielding, rates: HostRates, world_size: int) -> None:
        self.workload, self.policy, self.rates = workload, policy, rates
        self.times = BlockTimes(rates, world_size)
        numbered = [(layer, policy.copied_of_layer(i, layer.bytes)) for i, layer in enumerate(workload.layers)]
        self.groups = [(key, len(list(equal))) for key, equal in groupby(numbered)]
        kept = KEPT + policy.prefetch_layers
        self.executed = [key for key, count in self.groups for _ in range(min(count, kept))]
        self.per_pass = len(self.executed)
        self.executed *= 2
        self.offloads = any(copied for _, copied in self.executed)
        self.counts_all = policy.prefetch_counts == "all"
        self.finished = self.landed = 0
        """Turns whose layer has ended, and offloaded layers whose last byte has landed."""
        self.ends: list[float] = []
        self.gates: set[str] = set()
        """Streams whose gate is shut."""
        self.rest = 0.0
        """Chunks of the piece that stay behind a gate."""
        self.taken = 0.0
        """Commands that the copy stream has taken from its queue."""
        self.now = 0.0
        self.attention = False
        self.side: dict[str, Stream] = {}
        self.queues: dict[str, deque[Meeting | CopyOp]] = {}
        self.pending: dict[str, int] = {}
        chunk, gated = int(policy.chunk_bytes), policy.yield_to != "none"
        self.gated = gated
        self.commands = 1 + gated + 2 * policy.drain
        self.overhead = gated * float(rates.wait_flag) + policy.drain * 2 * float(rates.write_flag)
        self.chunk = chunk
        depth = rates.queue_depth
        most = max((self._copy_commands(copied) for _, copied in self.executed), default=0)
        self.at_once = (
            float(max(depth // self.commands // 4, 1)) if most * (policy.prefetch_layers + 1) > depth else math.inf
        )
        """Chunks that are one piece: few where the host may have to wait for the copy stream."""
        ahead = (*self.executed, *self.executed[: self.per_pass])
        self.issued = list(accumulate(self._copy_commands(copied) for _, copied in ahead))
        """Commands of the copy stream, of all layers up to each."""
        self.compute = Stream(self._compute())
        self.copying = Stream(self._copy())

    def _copy_commands(self, copied: int) -> int:
        """Those of a layer's copies: its chunks, an event, a wait."""
        return -(-copied // self.chunk) * self.commands + 2 if copied else 0

    def step(self) -> float:
        """Walk, and add up what the second pass shows."""
        self._run()
        ends, begin = self.ends, self.per_pass
        total, at = 0.0, begin
        kept = KEPT + self.policy.prefetch_layers
        for (layer, copied), count in self.groups:
            walked = min(count, kept)
            spans = [ends[i] - ends[i - 1] for i in range(at, at + walked)]
            each = sum(spans[-2:]) / len(spans[-2:])
            host = self.times.host_seconds(layer, copied, self.policy, self.commands)
            total += max(sum(spans) + (count - walked) * each, count * host)
            at += walked
        closing = sum(self.times.isolated(op) for op in self.workload.closing)
        return total * self.workload.passes_per_step + closing

    def _run(self) -> None:
        """Let all streams go until the compute stream has ended."""
        while self.compute.piece is not None:
            streams = (self.compute, self.copying, *self.side.values())
            for stream in streams:
                while isinstance(stream.piece, Until) and stream.piece.holds():
                    stream.next()
            if any(isinstance(s.piece, Until) and s.piece.holds() for s in streams):
                continue
            speeds = self._speeds(streams)
            lasts = min((s.left / v for s, v in zip(streams, speeds, strict=True) if v), default=math.inf)
            if lasts == math.inf:
                raise RuntimeError("the walk through a step is stuck")
            self.now += lasts
            for stream, speed in zip(streams, speeds, strict=True):
                if speed:
                    stream.left -= speed * lasts
                    if stream.left <= _TINY:
                        stream.next()

    def _speeds(self, streams: Sequence[Stream]) -> list[float]:
        """How fast each stream does what it does: 1 where nothing is in its way, chunks a second for copies."""
        moving = [s.piece for s in streams if isinstance(s.piece, Move)]
        working = any(isinstance(s.piece, Work) for s in streams)
        busy, duty, each = 0.0, 0.0, 0.0
        if isinstance(self.copying.piece, Chunks):
            rates, size = self.rates, self.copying.piece.bytes
            rate = min((float(m.phase.copy_rate) for m in moving), default=float(rates.copy_rate))
            each, overhead = self._chunk_seconds(size, rate, max((m.copy_start for m in moving), default=0.0), working)
            if self.turns:
                piece = max((float(m.phase.piece) for m in moving), default=0.0)
                each, overhead = each + piece, overhead + piece
            duty = 1 - overhead / each
            busy = duty * rate / float(rates.copy_rate)
        found = []
        for stream in streams:
            match stream.piece:
                case Spend():
                    found.append(1.0)
                case Chunks():
                    found.append(1 / each)
                case Move(phase, _):
                    if phase.beside_copies:
                        found.append(1 - duty + duty * float(phase.isolated) / float(phase.beside_copies))
                    else:
                        found.append((float(phase.piece) / each if self.turns else 0.0) if each else 1.0)
                case Work(seconds, launches):
                    delay = launches / max(seconds, 1e-18)
                    slower = 1 + busy * float(self.rates.launch_delay) * delay
                    if moving:
                        slower *= float(self.rates.beside_collective) + float(self.rates.crowd_delay) * delay
                    found.append(1 / slower)
                case Until() | None:
                    found.append(0.0)
                case _:
                    assert_never(stream.piece)
        return found

    @property
    def turns(self) -> bool:
        """Whether a copy engine turns from chunks to pieces of a collective: at flags, behind an open gate."""
        return self.gated and not self.gates

    def _chunk_seconds(self, size: int, rate: float, copy_start: float, working: bool) -> tuple[float, float]:
        """Seconds of a chunk, and those of them in which it moves nothing."""
        rates, moves = self.rates, size / rate
        overhead = max(float(rates.setup), float(rates.minimum) - moves) + self.overhead + copy_start
        overhead += working * self.commands * float(rates.beside_kernel)
        return overhead + moves, overhead

    def _compute(self) -> Pieces:
        """What the compute stream does, layer by layer."""
        rates, landed = self.rates, 0
        ahead, depth = self.policy.prefetch_layers, self.rates.queue_depth
        for number, (layer, copied) in enumerate(self.executed):
            # the host issues the copies for a layer ahead before this layer's kernels
            before = self.issued[min(number + ahead, len(self.issued) - 1)] - depth
            if before > self.taken:
                yield Until(lambda needed=before: self.taken >= needed)  # type: ignore[misc]
            if copied:
                landed += 1
                yield from self._wait(lambda needed=landed: self.landed >= needed)  # type: ignore[misc]
            for op in layer.block:
                yield from self._op(op)
            for stream in self.queues:
                yield from self._join(stream)
            if self.offloads:
                yield Spend(float(rates.event))
            if self.counts_all or copied:
                self.finished += 1
            self.ends.append(self.now)

    def _op(self, op: Op) -> Pieces:
        match op:
            case Compute():
                seconds = self.times.kernel_seconds(op)
                self.attention = op.attention
                yield Work(seconds, op.launches)
                self.attention = False
            case Wait():
                yield from self._join(op.stream)
            case _:
                stream = stream_of(op) or COMPUTE
                yield from self._run_here(op, COMPUTE) if stream == COMPUTE else self._fork(op, stream)

    def _run_here(self, op: Meeting | CopyOp, stream: str) -> Pieces:
        """A collective, with its gate, or a copy that a block names."""
        if isinstance(op, CopyOp):
            yield Spend(self.times.isolated(op))
            return
        rates, policy = self.rates, self.policy
        yields = self.offloads and policy.yields_to(op)
        if yields:
            yield Spend(float(rates.write_flag))
            self._shut(stream)
            if policy.drain:
                yield Spend(float(rates.write_flag) + float(rates.wait_flag))
                yield Until(lambda: not isinstance(self.copying.piece, Chunks))
        if stream != COMPUTE:
            yield Until(lambda: not self.attention)
        if (found := self.times.rates_of(op)) is not None:
            for phase in found.phases:
                yield Spend(float(phase.latency))
                yield Move(phase, float(found.copy_start))
        if yields:
            yield Spend(float(rates.write_flag))
            self.gates.discard(stream)

    def _fork(self, op: Meeting | CopyOp, name: str) -> Pieces:
        """Hand an entry to a stream of its own, which starts it when the compute stream has got there."""
        yield Spend(float(self.rates.event))
        self.queues.setdefault(name, deque()).append(op)
        self.pending[name] = self.pending.get(name, 0) + 1
        if name not in self.side:
            self.side[name] = Stream(self._side(name))

    def _side(self, name: str) -> Pieces:
        queue = self.queues[name]
        while True:
            yield Until(lambda: bool(queue))
            yield Spend(float(self.rates.wake))
            yield from self._run_here(queue.popleft(), name)
            self.pending[name] -= 1

    def _join(self, name: str) -> Pieces:
        yield from self._wait(lambda: not self.pending.get(name))

    def _wait(self, holds: Callable[[], bool]) -> Pieces:
        """Wait for an event."""
        if not holds():
            yield Until(holds)
            yield Spend(float(self.rates.wake))

    def _copy(self) -> Pieces:
        """What the copy stream does."""
        slots, turn = self.policy.slot_count, 0
        for _, copied in (*self.executed, *self.executed[: self.per_pass]):  # what follows is prefetched, too
            if copied:
                yield from self._wait(lambda needed=turn - slots + 1: self.finished >= needed)  # type: ignore[misc]
                chunk = min(self.chunk, copied)
                for count, size in ((copied // chunk, chunk), (1, copied % chunk)):
                    yield from self._chunks(float(count), size)
                yield Spend(float(self.rates.event))
                self.landed += 1
                self.taken += 2
            turn += self.counts_all or copied > 0

    def _chunks(self, count: float, size: int) -> Pieces:
        """Chunks that stop at a gate."""
        while count > 0 and size:
            if self.gates:
                yield Until(lambda: not self.gates)
                yield Spend(float(self.rates.flag_wake))
                if self.gates:  # it polls: shut again
                    continue
            self.rest = 0.0
            piece = min(count, self.at_once)
            yield Chunks(piece, size)
            self.taken += (piece - self.rest) * self.commands
            count += self.rest - piece

    def _shut(self, stream: str) -> None:
        """Shut a gate: the chunk in flight goes on, others stay."""
        self.gates.add(stream)
        piece = self.copying.piece
        if isinstance(piece, Chunks) and self.rest == 0.0:
            left = self.copying.left
            behind = math.floor(left + _TINY)
            each, _ = self._chunk_seconds(piece.bytes, float(self.rates.copy_rate), 0.0, False)
            begun = left - behind
            if (1 - begun) * each < float(self.rates.wait_flag) or begun < _TINY:  # it has not passed the gate yet
                behind, begun = behind + (begun >= _TINY), 0.0
            self.copying.left, self.rest = begun, float(behind)
            if begun <= 0:
                self.copying.next()
