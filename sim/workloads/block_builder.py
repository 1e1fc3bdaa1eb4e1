"""One block of a model under a parallel layout, kernel by kernel and collective by collective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from sim.inputs.units import Bytes, Flops
from sim.program import CollectiveKind
from sim.program.ops import (
    WEIGHTS,
    AnyOperation,
    Attention,
    Gate,
    Gelu,
    Linear,
    Matrix,
    Normalise,
    Permute,
    Rotate,
)
from sim.workloads.activation_memory import Registers, batched
from sim.workloads.block_setup import Block, Setup
from sim.workloads.explicit import CollectiveOp, Compute, Layer, collective_buffer
from sim.workloads.model_shapes import BlockShape

BF16 = 2
"""Bytes of a bf16 number."""


class BlockBuilder:
    """Collects one layer in program order. Consecutive kernels of one name become one item.

    Matrices have the rows of one sample and are there for each: work, traffic and collectives are multiplied by the
    batch. What an exchange sends to a rank, or gets from one, has the samples one after the other.
    """

    def __init__(self, setup: Setup, shape: BlockShape) -> None:
        self.setup = setup
        shapes = setup.model.transformer
        self.hidden = shapes.hidden
        self.heads = self.hidden // setup.shards
        """Features of a rank's heads before an exchange."""
        self.inner = shapes.ffn // setup.shards
        """Features of a rank's part of the FFN, after the gate."""
        self.gated = shapes.gated_ffn is True
        self.up = 2 * self.inner if self.gated else self.inner
        """Features that the FFN's first projection makes."""
        self.head = self.hidden // shapes.heads
        self.items: list[Compute | CollectiveOp] = []
        cross = any(b.kind == "cross" for b in setup.model.blocks)
        rows = setup.local + (0 if cross else setup.text)
        self.registers = Registers(
            [
                ("x", rows, self.hidden),
                *([("context", setup.text, self.hidden)] if cross else []),
                *([("condition", 1, shapes.modulation)] if shapes.modulation else []),
            ],
            setup.batch,
        )
        self.x = self.registers.kept["x"]
        self.normed = self.registers.new("normed", rows, self.hidden)
        width = self.hidden if shape.small_parameters >= self.hidden else self.head
        self.weights = shape.small_parameters
        self.vectors = [Matrix(WEIGHTS, i * width, 1, width, width) for i in range(self.weights // width)]
        self.vectors_used = 0
        self.scratch = 0

    def finish(self) -> Block:
        """The layer, every matrix at its place."""
        operations = [op for item in self.items if isinstance(item, Compute) for op in item.ops]
        elements = self.registers.plan(operations)
        replace = msgspec.structs.replace

        def placed(item: Compute | CollectiveOp) -> Compute | CollectiveOp:
            if isinstance(item, CollectiveOp):
                return item
            return replace(item, ops=tuple(map(self.registers.place, item.ops)))

        return Block(Layer(self.weights * BF16, tuple(map(placed, self.items))), elements, self.scratch)

    def add(self, name: str, op: AnyOperation, moved: int, flops: int = 0) -> None:
        """One kernel that moves `moved` B through device memory."""
        ops, launches, attention = (op,), 1, isinstance(op, Attention)
        if self.items and isinstance(last := self.items[-1], Compute) and last.name == name:
            flops += int(last.flops or 0)
            moved += int(last.bytes or 0)
            launches += last.launches
            ops = (*last.ops, op)  # type: ignore[assignment]
            self.items.pop()
        self.items.append(
            Compute(
                name=name,
                flops=Flops(flops) if flops else None,
                bytes=Bytes(moved),
                launches=launches,
                attention=attention,
                ops=ops,
            )
        )

    def small(self, name: str, op: AnyOperation, elements: int) -> None:
        """A kernel bound by device memory, which reads and writes `elements` of a sample."""
        self.add(name, op, elements * self.setup.batch * BF16)

    def linear(self, name: str, x: Matrix, y: Matrix) -> None:
        """A projection, with bias if the model's have one: the next weights of the layer."""
        batch, inputs, outputs = self.setup.batch, x.columns, y.columns
        weight = Matrix(WEIGHTS, self.weights, outputs, inputs, inputs)
        self.weights += outputs * inputs
        bias = None
        if self.setup.model.transformer.bias is not False:
            bias = Matrix(WEIGHTS, self.weights, 1, outputs, outputs)
            self.weights += outputs
        moved = BF16 * (batch * x.rows * (inputs + outputs) + inputs * outputs)
        self.add(name, Linear(x, weight, bias, y), moved, 2 * batch * x.rows * inputs * outputs)

    def vector(self, columns: int) -> Matrix | None:
        """The next of the layer's vectors for a norm or a gate, if it has any."""
        if not self.vectors:
            return None
        chosen = self.vectors[self.vectors_used % len(self.vectors)]
        self.vectors_used += 1
        return chosen.part(columns=min(columns, chosen.columns))

    def normalise(self, name: str, x: Matrix, y: Matrix | None, residual: Matrix | None = None) -> None:
        """x += gate * residual; y = norm(x) * (1 + scale) + shift."""
        gate = self.vector(x.columns) if residual else None
        scale, shift = (self.vector(x.columns), self.vector(x.columns)) if y else (None, None)
        operands = 1 + (2 if residual else 0) + (1 if y else 0)
        self.small(name, Normalise(x, y, residual, gate, scale, shift), operands * x.rows * x.columns)

    def rms_norm(self, name: str, x: Matrix) -> None:
        """x = norm(x) * (1 + scale), for queries and keys."""
        op = Normalise(x, x, scale=self.vector(x.columns), rms=True)
        self.small(name, op, 2 * x.rows * x.columns)

    def permute(self, x: Matrix, y: Matrix, shape: tuple[int, ...], order: tuple[int, ...], samples: int) -> None:
        """y = x, read as an array of `shape`, its axes in `order`. Axis `samples` is the batch's."""
        batch = self.setup.batch
        if batch == 1:
            shape = (*shape[:samples], *shape[samples + 1 :])
            order = tuple(axis - (axis > samples) for axis in order if axis != samples)
            if order == tuple(range(len(order))) and x.rows == y.rows:
                shape, order = (x.rows, x.columns), (0, 1)  # a plain copy
        self.small("transpose", Permute(x, y, shape, order), 2 * x.elements // batch)

    def part_of(self, buffer: str, elements: int, rows: int, columns: int) -> Matrix:
        """[rows of all samples, columns] of a collective's buffer, from `elements` of each sample on."""
        batch = self.setup.batch
        return Matrix(buffer, batch * elements, batch * rows, columns, columns)

    def buffer(self, kind: CollectiveKind, elements: int) -> str:
        """Name of the buffer of a collective over `elements` of each sample."""
        return collective_buffer(kind, elements * self.setup.batch * BF16)

    def collective(self, kind: CollectiveKind, name: str, elements: int) -> None:
        """Run a collective over a buffer of `elements` of each sample."""
        size = Bytes(elements * self.setup.batch * BF16)
        self.items.append(CollectiveOp(kind=kind, bytes=size, name=name))

    def to_heads(self, name: str, x: Matrix) -> Matrix:
        """Exchange a rank's tokens for its heads: [rows, heads] to [ranks * rows, heads / ranks]."""
        setup = self.setup
        if not setup.ulysses:
            return x
        ranks, size, share = setup.world_size, x.rows * x.columns, x.columns // setup.world_size
        buffer, batch = self.buffer("all_to_all", size), setup.batch
        y = self.registers.new(name, ranks * x.rows, share)
        sent, received = (self.part_of(buffer, start, y.rows, share) for start in (0, size))
        self.permute(x, sent, (batch, x.rows, ranks, share), (2, 0, 1, 3), 0)
        self.collective("all_to_all", name, size)
        self.permute(received, y, (ranks, batch, x.rows, share), (1, 0, 2, 3), 1)
        return y

    def to_tokens(self, name: str, x: Matrix, y: Matrix) -> None:
        """Exchange a rank's heads for its tokens: x [ranks * rows, heads / ranks] to y [rows, heads]."""
        setup = self.setup
        ranks, size, share = setup.world_size, x.rows * x.columns, x.columns
        buffer, batch = self.buffer("all_to_all", size), setup.batch
        sent, received = (self.part_of(buffer, start, x.rows, share) for start in (0, size))
        self.permute(x, sent, (batch, ranks, y.rows, share), (1, 0, 2, 3), 0)
        self.collective("all_to_all", name, size)
        self.permute(received, y, (ranks, batch, y.rows, share), (1, 2, 0, 3), 1)

    def attention(self, name: str, q: Matrix, k: Matrix, v: Matrix, y: Matrix) -> None:
        """Attention of every query over all keys; its output passes through memory of the kernel's own."""
        batch = self.setup.batch
        # one more matrix like y, and for each query and head a sum in fp32
        self.scratch = max(self.scratch, q.rows * q.columns + 2 * q.rows * q.columns // self.head)
        moved = BF16 * 2 * (q.rows + k.rows) * q.columns * batch
        self.add(name, Attention(q, k, v, y, self.head), moved, 4 * batch * q.rows * k.rows * q.columns)

    def modulation(self, vectors: int) -> None:
        """Project the conditioning to `vectors` shifts, scales and gates; replicated on every rank."""
        if self.setup.model.transformer.modulation:
            y = self.registers.new("modulation", 1, vectors * self.hidden)
            self.linear("modulation", self.registers.kept["condition"], y)
            self.vectors += [y.part(column=i * self.hidden, columns=self.hidden) for i in range(vectors)]

    def queries_and_keys(self, qkv: Matrix) -> None:
        """Norms and rotary embedding of the queries and keys."""
        shapes = self.setup.model.transformer
        parts = [qkv.part(column=i * self.heads, columns=self.heads) for i in range(2)]
        if shapes.qk_norm:
            for part in parts:
                self.rms_norm("qk_norm", part)
        if shapes.rope:
            # the text has no place in the image
            first = self.setup.local if self.setup.ulysses else 0
            for part in (p.part(rows=self.setup.local) for p in parts):
                self.small("rope", Rotate(part, self.head, first), 2 * part.rows * part.columns)

    def self_attention(self, qkv: Matrix, y: Matrix) -> None:
        """Attention over all rows of q, k and v, side by side in `qkv`."""
        setup = self.setup
        q, k, v = (qkv.part(column=i * self.heads, columns=self.heads) for i in range(3))
        if not setup.ulysses:
            self.attention("attention", q, k, v, y)
        elif setup.model.ulysses.attention == "packed":
            self._packed_attention(qkv, y)
        elif setup.model.ulysses.attention == "separate":
            q, k, v = (self.to_heads(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
            mine = self.registers.new("attention", q.rows, q.columns)
            self.attention("attention", q, k, v, mine)
            self.to_tokens("output", mine, y)
        else:
            assert_never(setup.model.ulysses.attention)

    def _packed_attention(self, qkv: Matrix, y: Matrix) -> None:
        """q, k and v of the image in one exchange; the text, whole on every rank, is cut by heads and gathered."""
        setup = self.setup
        ranks, local, text, share = setup.world_size, setup.local, setup.text, self.heads // setup.world_size
        size, batch = 3 * local * self.heads, setup.batch
        buffer = self.buffer("all_to_all", size)
        sent = self.part_of(buffer, 0, ranks * 3 * local, share)
        self.permute(qkv.part(rows=local), sent, (batch, local, 3, ranks, share), (3, 2, 0, 1, 4), 0)
        self.collective("all_to_all", "qkv", size)
        whole = []
        for i in range(3):
            block = batch * local * share
            x = Matrix(buffer, batch * size + i * block, ranks, block, 3 * block)
            whole.append(self.registers.new("qkv"[i], ranks * local + text, share))
            self.permute(x, whole[i].part(rows=ranks * local), (ranks, batch, local, share), (1, 0, 2, 3), 1)
            words = qkv.part(local, text, i * self.heads, share)
            words = msgspec.structs.replace(words, per_rank=share)
            self.permute(words, whole[i].part(ranks * local), (batch, text, share), (0, 1, 2), 0)
        mine = self.registers.new("attention", whole[0].rows, share)
        self.attention("attention", whole[0], whole[1], whole[2], mine)
        gathered = text * self.heads
        buffer = self.buffer("all_gather", gathered)
        place = msgspec.structs.replace(self.part_of(buffer, 0, text, share), per_rank=batch * text * share)
        self.permute(mine.part(ranks * local), place, (batch, text, share), (0, 1, 2), 0)
        self.collective("all_gather", "text", gathered)
        every = self.part_of(buffer, 0, ranks * text, share)
        self.permute(every, y.part(local), (ranks, batch, text, share), (1, 2, 0, 3), 1)
        self.to_tokens("output", mine.part(rows=ranks * local), y.part(rows=local))

    def projections(self, name: str, x: Matrix, y: Matrix, streams: Streams, width: int = 0) -> None:
        """Matrices side by side in y, each of a rank's heads (or `width`): q, k and v of each stream, own weights."""
        width = width or self.heads
        for row, rows in streams:
            for column in range(0, y.columns, width):
                self.linear(name, x.part(row, rows), y.part(row, rows, column, width))

    def reduced(self, name: str, collective: str, x: Matrix, streams: Streams) -> Matrix:
        """Project x of each stream to hidden vectors and, under tensor parallelism, sum the ranks' partial results."""
        rows = sum(n for _, n in streams)
        size = rows * self.hidden
        if self.setup.shards > 1:
            buffer = self.buffer("all_reduce", size)
            y = batched(Matrix(buffer, 0, rows, self.hidden, self.hidden), self.setup.batch, size)
        else:
            y = self.registers.new(name, rows, self.hidden)
        for row, n in streams:
            self.linear(name, x.part(row, n), y.part(row, n))
        if self.setup.shards > 1:
            self.collective("all_reduce", collective, size)
        return y

    def cross_attention(self) -> None:
        """The image attends to the text."""
        setup, context = self.setup, self.registers.kept["context"]
        width = self.heads if setup.model.cuts_cross_attention else self.hidden
        q = self.registers.new("cross_q", self.x.rows, width)
        kv = self.registers.new("cross_kv", setup.text, 2 * width)
        self.linear("cross_qkv", self.normed, q)
        self.projections("cross_qkv", context, kv, [(0, setup.text)], width)
        k, v = kv.part(columns=width), kv.part(column=width)
        if setup.model.transformer.qk_norm:
            self.rms_norm("cross_qk_norm", q)
            self.rms_norm("cross_qk_norm", k)
        y = self.registers.new("cross_attention", q.rows, width)
        if setup.ulysses and setup.cross_attention:
            # every rank sends the whole text, so attention sees it world_size times
            q, k, v = (self.to_heads(name, x) for name, x in (("cross_q", q), ("cross_k", k), ("cross_v", v)))
            mine = self.registers.new("cross_attention", q.rows, q.columns)
            self.attention("cross_attention", q, k, v, mine)
            self.to_tokens("cross_output", mine, y)
        else:
            self.attention("cross_attention", q, k, v, y)
        if setup.model.cuts_cross_attention:
            out = self.reduced("cross_out", "cross_output", y, [(0, y.rows)])
        else:
            out = self.registers.new("cross_out", y.rows, self.hidden)
            self.linear("cross_out", y, out)
        self.normalise("residual_norm", self.x, self.normed, out)

    def ffn(self, streams: Streams) -> None:
        """Two projections with an activation between them, for each stream of rows; its own weights each."""
        x = self.registers.new("ffn", sum(n for _, n in streams), self.up)
        for row, rows in streams:
            self.linear("ffn_up", self.normed.part(row, rows), x.part(row, rows))
        for row, rows in streams:
            self.activation(x.part(row, rows))
        out = self.reduced("ffn_down", "ffn", x.part(columns=self.inner), streams)
        for row, rows in streams:
            self.normalise("residual", self.x.part(row, rows), None, out.part(row, rows))

    def activation(self, x: Matrix) -> None:
        """The FFN's activation, in place; of a gated one, the second half of x gates the first."""
        if self.gated:
            value, by = x.part(columns=self.inner), x.part(column=self.inner)
            self.small("activation", Gate(value, by), 3 * value.rows * value.columns)
        else:
            self.small("activation", Gelu(x), 2 * x.rows * x.columns)


Streams = Sequence[tuple[int, int]]
"""(first row, rows) of those parts of a sequence that have weights of their own."""
