"""What a block of a model does on one rank: compute, collectives, small kernels and weights, from its shapes.

Everything is bf16. Per rank: a projection of m rows from k to n features takes 2 m k n FLOP and moves its input,
weights and output through device memory once; attention of q queries over k keys takes 4 q k times its features.
Norms, rotary embeddings, activations and residuals are counted as fused kernels that read each operand and write each
result once. docs/models.md gives the formulas and what they leave out.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sim.models.shapes import BlockShape, Model
from sim.program import CollectiveKind
from sim.units import Bytes, Flops
from sim.workload import CollectiveOp, Compute, Layer

BF16 = 2
"""Bytes of a bf16 number."""

Parallelism = Literal["ulysses", "tensor"]


class Setup(NamedTuple):
    """How a model runs. `tokens` are those of one image or video, `local` those of them on a rank."""

    model: Model
    parallelism: Parallelism
    world_size: int
    batch: int
    tokens: int
    text: int
    cross_attention: int

    @property
    def ulysses(self) -> bool:
        """Whether tokens are divided and attention exchanges them for heads."""
        return self.parallelism == "ulysses" and self.world_size > 1

    @property
    def shards(self) -> int:
        """Parts into which weights are cut."""
        return self.world_size if self.parallelism == "tensor" else 1

    @property
    def local(self) -> int:
        """Image tokens on a rank; Ulysses pads the last rank's."""
        return -(-self.tokens // self.world_size) if self.parallelism == "ulysses" else self.tokens


class _Block:
    """Collects one layer in program order. Neighbouring kernels of one name become one item."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.hidden = setup.model.transformer.hidden
        self.items: list[Compute | CollectiveOp] = []
        self.weights = 0

    def row_bytes(self, rows: int) -> int:
        """Bytes of `rows` hidden vectors."""
        return rows * self.hidden * BF16

    def add(self, name: str, flops: int, moved: int, launches: int = 1, attention: bool = False) -> None:
        if self.items and isinstance(last := self.items[-1], Compute) and last.name == name:
            flops += int(last.flops or 0)
            moved += int(last.bytes or 0)
            launches += last.launches
            self.items.pop()
        self.items.append(
            Compute(
                name=name,
                flops=Flops(flops) if flops else None,
                bytes=Bytes(moved),
                launches=launches,
                attention=attention,
            )
        )

    def small(self, name: str, moved: int, launches: int = 1) -> None:
        """Kernels bound by device memory."""
        self.add(name, 0, moved, launches)

    def linear(
        self,
        name: str,
        rows: int,
        inputs: int,
        outputs: int,
        cut: Literal["columns", "rows", "none"],
        launches: int = 1,
    ) -> None:
        """A projection with bias, its weights cut under tensor parallelism."""
        shards = 1 if cut == "none" else self.setup.shards
        inner, outer = (inputs // shards, outputs) if cut == "rows" else (inputs, outputs // shards)
        self.weights += inner * outer + outer
        self.add(name, 2 * rows * inner * outer, BF16 * (rows * inner + inner * outer + rows * outer), launches)

    def collective(self, kind: CollectiveKind, name: str, size: int) -> None:
        self.items.append(CollectiveOp(kind=kind, bytes=Bytes(size), name=name))

    def exchange(self, name: str, rows: int) -> None:
        """An all-to-all of `rows` hidden vectors, and the transposes before and after it."""
        if self.setup.ulysses:
            size = self.row_bytes(rows)
            self.small("transpose", 2 * size)
            self.collective("all_to_all", name, size)
            self.small("transpose", 2 * size)

    def reduce(self, name: str, rows: int) -> None:
        """Sum the ranks' partial results under tensor parallelism."""
        if self.setup.shards > 1:
            self.collective("all_reduce", name, self.row_bytes(rows))

    def attention(self, name: str, queries: int, keys: int) -> None:
        """Attention of one rank's heads, `queries` over `keys` tokens of each sample."""
        setup = self.setup
        width = setup.batch * self.hidden // setup.world_size
        self.add(name, 4 * queries * keys * width, BF16 * 2 * (queries + keys) * width, attention=True)

    def modulation(self, vectors: int) -> None:
        """Project the conditioning to `vectors` shifts, scales and gates; replicated on every rank."""
        if width := self.setup.model.transformer.modulation:
            self.linear("modulation", self.setup.batch, width, vectors * self.hidden, "none")

    def queries_and_keys(self, rows: int) -> None:
        """Norms and rotary embedding of the queries and keys of `rows`."""
        shapes = self.setup.model.transformer
        size = 4 * self.row_bytes(rows) // self.setup.shards
        if shapes.qk_norm:
            self.small("qk_norm", size, 2)
        if shapes.rope:
            self.small("rope", size, 2)

    def self_attention(self, text: int) -> None:
        """The image attends to itself and to `text` tokens a sample (0: cross-attention follows)."""
        setup = self.setup
        if setup.model.ulysses.attention == "packed":
            self.exchange("qkv", 3 * setup.batch * setup.local)
            tokens = setup.local * (setup.world_size if setup.ulysses else 1) + text
            self.attention("attention", tokens, tokens)
            if setup.ulysses:
                self.collective("all_gather", "text", self.row_bytes(setup.batch * text))
            self.exchange("output", setup.batch * setup.local)
            return
        rows = setup.batch * (setup.local + text)
        for name in ("q", "k", "v"):
            self.exchange(name, rows)
        tokens = (setup.local + text) * (setup.world_size if setup.ulysses else 1)
        self.attention("attention", tokens, tokens)
        self.exchange("output", rows)

    def cross_attention(self, rows: int, text_rows: int) -> None:
        """The image attends to the text."""
        setup, hidden = self.setup, self.hidden
        self.linear("cross_qkv", rows, hidden, hidden, "columns")
        self.linear("cross_qkv", text_rows, hidden, 2 * hidden, "columns", 2)
        if setup.model.transformer.qk_norm:
            self.small("cross_qk_norm", 2 * self.row_bytes(rows + text_rows) // setup.shards, 2)
        exchanged = setup.ulysses and setup.cross_attention
        if exchanged:
            for name, sent in (("cross_q", rows), ("cross_k", text_rows), ("cross_v", text_rows)):
                self.exchange(name, sent)
        # every rank sends the whole text, so an exchanged attention sees it world_size times
        self.attention(
            "cross_attention",
            setup.local * (setup.world_size if setup.ulysses else 1),
            setup.text * (setup.world_size if exchanged else 1),
        )
        if exchanged:
            self.exchange("cross_output", rows)
        self.linear("cross_out", rows, hidden, hidden, "rows")
        self.reduce("cross_output", rows)

    def ffn(self, *streams: int) -> None:
        """Two projections with an activation between them, for each stream of rows; its own weights each."""
        inner = self.setup.model.transformer.ffn
        for rows in streams:
            self.linear("ffn_up", rows, self.hidden, inner, "columns")
        self.small("activation", sum(streams) * inner // self.setup.shards * BF16 * 2, len(streams))
        for rows in streams:
            self.linear("ffn_down", rows, inner, self.hidden, "rows")
        self.reduce("ffn", sum(streams))
        self.small("residual", 3 * self.row_bytes(sum(streams)), len(streams))

    def projections(self, name: str, outputs: int, cut: Literal["columns", "rows"], *streams: int) -> None:
        """q, k and v, or the output, of each stream of rows; its own weights each."""
        for rows in streams:
            self.linear(name, rows, self.hidden, outputs * self.hidden, cut, outputs)


def layer(setup: Setup, shape: BlockShape) -> Layer:
    """One block of kind `shape`: the weights of a rank in bytes, and what it runs in program order."""
    block = _Block(setup)
    image, text = setup.batch * setup.local, setup.batch * setup.text
    build = {"cross": _cross, "joint": _joint, "double": _double, "double_last": _double_last, "single": _single}
    build[shape.kind](block, image, text)
    return Layer((block.weights + shape.small_parameters) * BF16, tuple(block.items))


def _cross(block: _Block, image: int, text: int) -> None:
    block.modulation(6)
    block.small("norm", 2 * block.row_bytes(image))
    block.projections("qkv", 3, "columns", image)
    block.queries_and_keys(image)
    block.self_attention(0)
    block.projections("out", 1, "rows", image)
    block.reduce("output", image)
    block.small("residual_norm", 4 * block.row_bytes(image))
    block.cross_attention(image, text)
    block.small("residual_norm", 4 * block.row_bytes(image))
    block.ffn(image)


def _streams(block: _Block, *streams: int) -> None:
    """Joint attention and FFN of streams with weights of their own."""
    rows = sum(streams)
    block.small("norm", 2 * block.row_bytes(rows), len(streams))
    block.projections("qkv", 3, "columns", *streams)
    block.queries_and_keys(rows)
    block.self_attention(block.setup.text)
    block.projections("out", 1, "rows", *streams)
    block.reduce("output", rows)
    block.small("residual_norm", 4 * block.row_bytes(rows), len(streams))
    block.ffn(*streams)


def _joint(block: _Block, image: int, text: int) -> None:
    block.modulation(6)
    block.modulation(6)
    _streams(block, image + text)


def _double(block: _Block, image: int, text: int) -> None:
    block.modulation(6)
    block.modulation(6)
    _streams(block, image, text)


def _double_last(block: _Block, image: int, text: int) -> None:
    block.modulation(6)
    block.modulation(2)
    block.small("norm", 2 * block.row_bytes(image + text), 2)
    block.projections("qkv", 3, "columns", image, text)
    block.queries_and_keys(image + text)
    block.self_attention(block.setup.text)
    block.projections("out", 1, "rows", image)
    block.reduce("output", image)
    block.small("residual_norm", 4 * block.row_bytes(image))
    block.ffn(image)


def _single(block: _Block, image: int, text: int) -> None:
    rows, inner = image + text, block.setup.model.transformer.ffn
    block.modulation(3)
    block.small("norm", 2 * block.row_bytes(rows))
    block.linear("qkv_mlp", rows, block.hidden, 3 * block.hidden + inner, "columns")
    block.queries_and_keys(rows)
    block.self_attention(block.setup.text)
    block.small("activation", rows * inner // block.setup.shards * BF16 * 2)
    block.linear("out_mlp", rows, block.hidden + inner, block.hidden, "rows")
    block.reduce("output", rows)
    block.small("residual", 3 * block.row_bytes(rows))


def activation_bytes(setup: Setup) -> int:
    """Activations of a rank at the fullest moment of a block, B; buffers of collectives come on top.

    The residual stream and a normed copy of it, with the larger of q, k, v and the attention's output, and the FFN's
    hidden layer before and after its activation; a single block holds all of these at once.
    """
    shapes = setup.model.transformer
    rows = setup.batch * (setup.local + setup.text)
    stream = rows * shapes.hidden * BF16
    heads = 4 * stream // setup.shards
    inner = 2 * rows * shapes.ffn * BF16 // setup.shards
    at_once = any(b.kind == "single" for b in setup.model.blocks)
    return 2 * stream + (heads + inner if at_once else max(heads, inner))
