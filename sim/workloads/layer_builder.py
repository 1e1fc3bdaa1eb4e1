"""A layer's kernels and collectives, one after the other, with the weights and activations that they use."""

from __future__ import annotations

import msgspec

from sim.inputs.units import Bytes, Flops
from sim.program import CollectiveKind
from sim.program.ops import (
    WEIGHTS,
    AnyOperation,
    Attention,
    Linear,
    Matrix,
    Normalise,
    Permute,
)
from sim.workloads.activation_memory import Registers
from sim.workloads.block_items import CollectiveOp, Compute, Op, collective_buffer
from sim.workloads.block_setup import Block, Setup
from sim.workloads.exchanges import in_phases
from sim.workloads.layouts import Dimension
from sim.workloads.model_shapes import BlockShape
from sim.workloads.workload import Layer

BF16 = 2
"""Bytes of a bf16 number."""


class LayerBuilder:
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
        self.items: list[Op] = []
        cross = any(b.kind == "cross" for b in setup.model.blocks)
        rows = setup.rows
        self.registers = Registers(
            [
                ("x", rows, self.hidden),
                *([("context", setup.text, shapes.context or self.hidden)] if cross else []),
                *([("condition", 1, shapes.modulation)] if shapes.modulation else []),
            ],
            setup.batch,
        )
        self.x = self.registers.kept["x"]
        self.normed = self.registers.new("normed", rows, self.hidden)
        width = self.hidden if shape.small_parameters >= self.hidden else self.head
        self.weights = shape.small_parameters
        """Parameters so far: where in the layer the next matrix lies, if it is stored as it is computed with."""
        self.weight_bytes = self.weights * BF16
        self.vectors = [Matrix(WEIGHTS, i * width, 1, width, width) for i in range(self.weights // width)]
        self.vectors_used = 0
        self.scratch = 0

    def finish(self) -> Block:
        """The layer, every matrix at its place."""
        operations = [op for item in self.items if isinstance(item, Compute) for op in item.ops]
        elements = self.registers.plan(operations)
        replace = msgspec.structs.replace

        def placed(item: Op) -> Op:
            if not isinstance(item, Compute):
                return item
            if not self.setup.weights.computable and any(isinstance(op, Linear) for op in item.ops):
                return replace(item, ops=())  # what they read is not stored as matrices of bf16
            return replace(item, ops=tuple(map(self.registers.place, item.ops)))

        return Block(Layer(self.weight_bytes, tuple(map(placed, self.items))), elements, self.scratch)

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

    def projection(self, inputs: int, outputs: int) -> tuple[Matrix, Matrix | None]:
        """The next weights of the layer: a matrix, and a bias if the model's have one."""
        weight = Matrix(WEIGHTS, self.weights, outputs, inputs, inputs)
        self.weights += outputs * inputs
        self.weight_bytes += self.setup.weights.matrix_bytes(outputs, inputs)
        bias = None
        if self.setup.model.transformer.bias is not False:
            bias = Matrix(WEIGHTS, self.weights, 1, outputs, outputs)
            self.weights += outputs
            self.weight_bytes += outputs * BF16
        return weight, bias

    def product(self, name: str, x: Matrix, weights: tuple[Matrix, Matrix | None], y: Matrix, column: int = 0) -> None:
        """Columns of a projection from `column` on, as many as y has."""
        weight, bias = weights
        batch, inputs, outputs = self.setup.batch, x.columns, y.columns
        weight = weight.part(row=column, rows=outputs)
        bias = None if bias is None else bias.part(column=column, columns=outputs)
        moved = BF16 * batch * x.rows * (inputs + outputs) + self.setup.weights.matrix_bytes(outputs, inputs)
        self.add(name, Linear(x, weight, bias, y), moved, 2 * batch * x.rows * inputs * outputs)

    def linear(self, name: str, x: Matrix, y: Matrix) -> None:
        """A projection: the next weights of the layer."""
        self.product(name, x, self.projection(x.columns, y.columns), y)

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

    def exchange(self, name: str, elements: int, stream: str | None = None, share: float = 1.0) -> None:
        """Run an all_to_all over a buffer of `elements` of each sample, of which a `share` crosses slow levels."""
        setup, size = self.setup, elements * self.setup.batch * BF16
        slow = None if share == 1 else max(round(share * size / BF16 / setup.ulysses) * BF16 * setup.ulysses, 1)
        levels = setup.exchange.levels
        if slow is not None and not levels:
            size, slow = slow, None
        op = CollectiveOp(
            kind="all_to_all",
            bytes=Bytes(size),
            name=name,
            group=setup.groups("ulysses"),
            stream=stream,
            levels=levels,
        )
        self.items += in_phases(op, setup.world_size, slow)

    def collective(
        self, kind: CollectiveKind, name: str, elements: int, among: Dimension = "ulysses", detached: str | None = None
    ) -> None:
        """Run a collective over a buffer of `elements` of each sample, or start it on the stream `detached`."""
        size = Bytes(elements * self.setup.batch * BF16)
        op = CollectiveOp(
            kind=kind,
            bytes=size,
            name=name,
            group=self.setup.groups(among),
            stream=detached,
            detached=msgspec.UNSET if detached is None else True,
        )
        self.items.append(op)
