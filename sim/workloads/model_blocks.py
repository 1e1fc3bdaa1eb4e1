"""Blocks of named models from their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from sim.workloads.block_builder import BlockBuilder, Streams
from sim.workloads.block_setup import Block, Setup
from sim.workloads.model_shapes import BlockShape


def block(setup: Setup, shape: BlockShape) -> Block:
    """One block of kind `shape`: the weights of a rank in bytes, and what it runs in program order."""
    made = BlockBuilder(setup, shape)
    image, text = (0, setup.local), (setup.local, setup.words)
    both = [image, text] if setup.with_text else [image]
    match shape.kind:
        case "cross":
            if shape.skip:
                made.joined_with_skip()
            _cross(made, [image], shape.vectors or 6)
        case "joint":
            _streams(made, [(0, setup.local + setup.words)], [6, 6])
        case "double":
            _streams(made, both, [6, 6][: len(both)])
        case "double_last":
            _streams(made, both, [6, 2][: len(both)], last=True)
        case "single":
            _single(made)
        case _:
            assert_never(shape.kind)
    return made.finish()


def _cross(block: BlockBuilder, streams: Streams, vectors: int) -> None:
    block.modulation(vectors)
    _attend(block, streams, streams)
    block.cross_attention()
    block.ffn(streams)


def _streams(block: BlockBuilder, streams: Streams, modulations: Sequence[int], last: bool = False) -> None:
    """Joint attention and FFN of streams with weights of their own; of only the first in the `last` block."""
    for vectors in modulations:
        block.modulation(vectors)
    lasting = streams[:1] if last else streams
    _attend(block, streams, lasting)
    block.ffn(lasting)


def _attend(block: BlockBuilder, streams: Streams, lasting: Streams) -> None:
    """Norm, self-attention over all streams, and its output added to the `lasting` ones."""
    x, normed = block.x, block.normed
    for row, rows in streams:
        block.normalise("norm", x.part(row, rows), normed.part(row, rows))
    qkv = block.registers.new("qkv", x.rows, 3 * block.heads)
    block.queries_keys_values(normed, qkv, streams)
    block.queries_and_keys(qkv)
    y = block.registers.new("attention", x.rows, block.heads)
    block.self_attention(qkv, y)
    out = block.reduced("out", "output", y, lasting)
    for row, rows in lasting:
        block.normalise("residual_norm", x.part(row, rows), normed.part(row, rows), out.part(row, rows))


def _single(block: BlockBuilder) -> None:
    """Attention parallel to the FFN: q, k, v and the FFN's hidden layer from one projection."""
    x, heads = block.x, block.heads
    block.modulation(3)
    block.normalise("norm", x, block.normed)
    wide = block.registers.new("qkv_mlp", x.rows, 3 * heads + block.up)
    qkv = wide.part(columns=3 * heads)
    if block.sends_values_first:
        weights = block.projection(x.columns, wide.columns)
        block.product("v", block.normed, weights, wide.part(column=2 * heads, columns=heads), 2 * heads)
        block.values_first(qkv)
        block.product("qk_mlp", block.normed, weights, wide.part(columns=2 * heads))
        block.product("qk_mlp", block.normed, weights, wide.part(column=3 * heads), 3 * heads)
    else:
        block.linear("qkv_mlp", block.normed, wide)
    block.queries_and_keys(qkv)
    # attention leaves its output where v was, next to the FFN's hidden layer
    block.self_attention(qkv, qkv.part(column=2 * heads))
    block.activation(wide.part(column=3 * heads))
    out = block.reduced("out_mlp", "output", wide.part(column=2 * heads, columns=heads + block.inner), [(0, x.rows)])
    block.normalise("residual", x, None, out)
