"""What all layerwise schedules share: the memory, the order of layers, copies, and the block on the compute stream.

With prefetch depth k there are k + 1 slots. The copy for layer i + k is issued before layer i's kernels and waits for
the event after layer i - 1's last kernel, which frees the slot; layer i's first kernel waits for the last byte of
layer i. Layers are counted through passes and steps without a break, also past the last step: a server never stops.
Layers that run once, before or after all steps, stand in the same row; past its end the next request begins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

from sim.policies.base import Policy
from sim.program import LayerWeights, ProgramError, RankBuilder, RankProgram
from sim.workloads.activation_memory import ACTIVATIONS
from sim.workloads.block_builder import SKIPS
from sim.workloads.block_commands import COMPUTE, BlockCommands
from sim.workloads.block_items import Meeting, Op, Transfers
from sim.workloads.workload import Workload

COPY = "copy"


class Schedule:
    """Emits the commands of one rank: chunks (or whole layers) back to back on the copy stream.

    Policies change `prefetch`, `copy` and the hooks around layers and collectives.
    """

    def __init__(self, workload: Workload, policy: Policy) -> None:
        self.workload = workload
        self.policy = policy
        self.rank = RankBuilder()
        self.layers = workload.all_layers
        self.copied = [policy.copied_of_layer(i, layer.bytes) for i, layer in enumerate(self.layers)]
        self.offloads = any(self.copied)
        self.ahead = policy.prefetch_layers
        self.slots = max(policy.slot_count, self.ahead + 1)
        self.landed: dict[int, int] = {}
        self.slot_free: dict[int, int] = {}
        self.fetched_late: dict[int, int] = {}
        """Layers executed that are fetched when their pass begins -> the event that it begins with."""
        self.communication_stream = COMPUTE
        """The stream of the collective that is about to be issued, or has been."""
        self.communication: Meeting | None = None
        """That collective."""
        self.block = BlockCommands(self.rank, self._around, self._around_piece)
        self.once = bool(workload.before or workload.after)
        self.period = len(workload.layers)
        """Executed layers after which the same ones come again."""
        if self.once:
            in_steps = self.period * workload.passes
            self.period = len(workload.before) + in_steps + len(workload.after)
        self.turns: list[int] | None = None
        """Where only offloaded layers are counted: those of a period."""
        if policy.prefetch_counts == "offloaded" and self.offloads:
            self.turns = [n for n in range(self.period) if self.place(n)[2]]

    def build(self) -> RankProgram:
        """Declare the memory, then issue all steps."""
        self.declare()
        before, count = len(self.workload.before), len(self.workload.layers)
        in_steps = count * self.workload.passes
        if self.once:
            self.rank.record_request(COMPUTE)
        else:
            self._end_step()
        if self.policy.wrap_around:
            for turn in range(self.ahead):
                self.prefetch(self.executed(turn))
        for n in range(before + in_steps + len(self.workload.after)):
            if self.once and n == before:
                self.block.forget_copies()
                self._end_step()
            self._arrive(n)
            self._prefetch_from(n)
            self._layer(n)
            done = n + 1 - before
            if 0 < done <= in_steps and done % count == 0:
                step, passed = self.workload.step_of(done // count)
                if passed == 0:
                    self.block.issue(self.workload.closing, step - 1, -1)
                    self._end_step()
        if self.once:
            self.rank.record_request(COMPUTE)
        return self.rank.build(tuple(self._weights()))

    def _arrive(self, n: int) -> None:
        """Issue what the n-th layer executed receives before it does anything: its input from another stage."""
        step, layer, _ = self.place(n)
        self.block.issue(_arrivals(self.block_of(n)), step, layer)

    def _prefetch_from(self, n: int) -> None:
        """Issue the copies that the n-th layer executed is to be followed by."""
        if self.policy.wrap_around:
            if self.counts(n):
                self.prefetch(self.executed(self.turn(n) + self.ahead))
            return
        first, end = self._pass_of(n)
        if n == first:
            begins = self.rank.record(COMPUTE) if n and self.ahead and self.offloads else None
            start = self.turn(n)
            for ahead in (self.executed(turn) for turn in range(start, start + self.ahead)):
                if ahead < end:
                    if begins is not None and self.place(ahead)[2]:
                        self.fetched_late[ahead], begins = begins, None
                    self.prefetch(ahead)
        if self.counts(n) and (ahead := self.executed(self.turn(n) + self.ahead)) < end:
            self.prefetch(ahead)

    def _pass_of(self, n: int) -> tuple[int, int]:
        """The first layer executed of the pass that the n-th one is in, and the one behind its last."""
        count, before = len(self.workload.layers), len(self.workload.before)
        in_steps = count * self.workload.passes
        if self.once and n < before:
            return 0, before
        if self.once and n >= before + in_steps:
            return before + in_steps, self.period
        first = before + (n - before) // count * count
        return first, first + count

    def all_chunks(self, n: int) -> Iterator[tuple[str, int, int]]:
        """`chunks`. Raises `ProgramError` if they are not all bytes that the layer copies."""
        _, layer, copied = self.place(n)
        total = 0
        for chunk in self.chunks(n):
            total += chunk[2]
            yield chunk
        if total != copied:
            raise ProgramError(f"chunks of layer {layer} have {total} bytes in all, but {copied} are copied")

    def prefetch(self, n: int) -> None:
        """Issue the copies for the n-th layer executed; leave the event after them in `landed`."""
        if not self.place(n)[2]:
            return
        self.wait_for_slot(n)
        for name, offset, size in self.all_chunks(n):
            self.copy(n, name, offset, size)
        self.landed[n] = self.rank.record(COPY)

    def before_layer(self, n: int) -> None:
        """Issue what precedes the n-th layer's wait for its weights."""

    def before_collective(self) -> None:
        """Issue what precedes each collective, or sends and receives, on `communication_stream`."""

    def after_collective(self) -> None:
        """Issue what follows each collective."""

    def before_piece(self, stream: str) -> None:
        """Issue what precedes the copy of a piece that has come, of a collective by copy engines, on `stream`."""

    def after_piece(self, stream: str) -> None:
        """Issue what follows it."""

    def chunks(self, n: int) -> Iterator[tuple[str, int, int]]:
        """(name, offset, bytes) of the copies for the n-th layer executed."""
        _, _, size = self.place(n)
        chunk = int(self.policy.chunk_bytes or max(size, 1))
        for i, offset in enumerate(range(0, size, chunk)):
            yield f"chunk {i}", offset, min(chunk, size - offset)

    def copy(self, n: int, name: str, offset: int, size: int) -> None:
        """Issue one copy of the n-th layer executed."""
        step, layer, _ = self.place(n)
        self.rank.copy(COPY, name, size, self.slot(n), offset=offset, step=step, layer=layer)

    def wait_for_slot(self, n: int, stream: str = COPY) -> None:
        """Make the stream that fills the n-th layer's slot wait until it is free."""
        if (begins := self.fetched_late.pop(n, None)) is not None:
            self.rank.wait(stream, begins)
        if (free := self.slot_free.get(self.turn(n) - self.slots)) is not None:
            self.rank.wait(stream, free)

    @contextmanager
    def _around(self, stream: str, op: Meeting) -> Iterator[None]:
        self.communication_stream, self.communication = stream, op
        self.before_collective()
        yield
        self.after_collective()

    @contextmanager
    def _around_piece(self, stream: str) -> Iterator[None]:
        self.before_piece(stream)
        yield
        self.after_piece(stream)

    def slot_bytes(self) -> int:
        """Size of a slot."""
        return max(self.copied)

    def slot_buffers(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of all slots."""
        for slot in range(self.slots):
            yield f"slot{slot}", self.slot_bytes()

    def _end_step(self) -> None:
        ended = self.rank.record_step(COMPUTE)
        if self.workload.synchronous:
            self.rank.host_wait(ended)

    def declare(self) -> None:
        """Declare the memory."""
        layers = self.layers
        resident = sum(layer.bytes - copied for layer, copied in zip(layers, self.copied, strict=True))
        self.rank.buffer("resident", resident, "weights", static=True)
        if self.offloads:
            # an allocator's slots come and go, others are taken once
            static = self.slots == self.ahead + 1
            for name, size in self.slot_buffers():
                self.rank.buffer(name, size, "slot", static=static)
        if self.workload.activation_bytes:
            self.rank.buffer(ACTIVATIONS, int(self.workload.activation_bytes), "activations", static=True)
        if self.workload.scratch_bytes:
            self.rank.buffer("scratch", self.workload.scratch_bytes, "scratch", static=True)
        if self.workload.cache_bytes:
            self.rank.buffer("kv_cache", self.workload.cache_bytes, "activations", static=True)
        if self.workload.skip_bytes:
            self.rank.buffer(SKIPS, self.workload.skip_bytes, "activations", static=True)
        blocks = (*(block for layer in layers for block in layer.blocks), self.workload.closing)
        self.block.declare((op for block in blocks for op in block), (ACTIVATIONS, SKIPS))
        memories = {self.memory_of(number): layer.memory for number, layer in enumerate(layers) if layer.memory}
        for name, size in memories.items():
            self.rank.buffer(name, size, "activations")

    def _weights(self) -> Iterator[LayerWeights]:
        offset = 0
        for layer, copied in zip(self.layers, self.copied, strict=True):
            yield LayerWeights(layer.bytes, layer.bytes - copied, offset)
            offset += layer.bytes - copied

    def place(self, n: int) -> tuple[int, int, int]:
        """(step, layer, copied bytes) of the n-th layer executed."""
        count, work = len(self.workload.layers), self.workload
        if not self.once:
            return work.step_of(n // count)[0], n % count, self.copied[n % count]
        request, at = divmod(n, self.period)
        at -= len(work.before)
        if 0 <= at < count * work.passes:
            return request * work.steps + work.step_of(at // count)[0], at % count, self.copied[at % count]
        layer = count + len(work.before) + (at if at < 0 else at - count * work.passes)
        return -1, layer, self.copied[layer]

    def block_of(self, n: int) -> tuple[Op, ...]:
        """The block of the n-th layer executed, in the form of its pass."""
        work = self.workload
        step, number, _ = self.place(n)
        layer = self.layers[number]
        if work.forms is None or step < 0:
            return layer.block
        at = n % self.period - len(work.before) if self.once else n
        step, passed = work.step_of(at // len(work.layers))
        return layer.blocks[work.forms_of(step)[passed]]

    def memory_of(self, layer: int) -> str:
        """Name of the buffer of a layer's own memory."""
        first = len(self.workload.layers)
        phase = "step" if layer < first else "before" if layer < first + len(self.workload.before) else "after"
        return f"{phase} {self.layers[layer].memory}"

    def slot(self, n: int) -> str:
        """Name of the slot that the n-th layer executed is in."""
        return f"slot{self.turn(n) % self.slots}"

    def counts(self, n: int) -> bool:
        """Whether the n-th layer executed is counted by `prefetch_layers`, and takes a slot."""
        return self.turns is None or self.place(n)[2] > 0

    def turn(self, n: int) -> int:
        """How many layers that count were executed before the n-th one: what slots are taken by."""
        if self.turns is None:
            return n
        return n // self.period * len(self.turns) + bisect_left(self.turns, n % self.period)

    def executed(self, turn: int) -> int:
        """Which layer executed has that turn."""
        if self.turns is None:
            return turn
        periods, at = divmod(turn, len(self.turns))
        return periods * self.period + self.turns[at]

    def _layer(self, n: int) -> None:
        """Issue the kernels and collectives of the n-th layer executed."""
        rank = self.rank
        step, layer, copied = self.place(n)
        self.before_layer(n)
        weights: tuple[str, ...] = ("resident",)
        if copied:
            rank.wait(COMPUTE, self.landed.pop(n))
            weights = (self.slot(n), "resident")
        of = self.layers[layer]
        writes = (self.memory_of(layer),) if of.memory else ()
        block = self.block_of(n)
        self.block.issue(block[len(_arrivals(block)) :], step, layer, weights, writes)
        if step >= 0:
            self.block.forget_copies()
        if self.offloads and self.counts(n):
            self.slot_free.pop(self.turn(n) - self.slots, None)
            self.slot_free[self.turn(n)] = rank.record(COMPUTE)


def _arrivals(block: Sequence[Op]) -> Sequence[Op]:
    """The sends and receives that a block begins with."""
    return list(takewhile(lambda op: isinstance(op, Transfers) and not op.detached, block))
