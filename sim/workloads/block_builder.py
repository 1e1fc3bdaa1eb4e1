"""One block of a model under a parallel layout, kernel by kernel and collective by collective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from sim.program.ops import (
    Attention,
    Gate,
    Gelu,
    Matrix,
    Normalise,
    Permute,
    Rotate,
)
from sim.workloads.activation_memory import batched
from sim.workloads.block_items import Shift, Wait
from sim.workloads.exchange_builder import VALUES, ExchangeBuilder
from sim.workloads.layer_builder import BF16

RING = "ring"
"""The stream on which keys and values go round, as NCCL's own one does in torch."""
DISPLACED = "displaced"
"""The stream on which keys and values are gathered for the next step."""
KV_CACHE = "kv_cache"
"""The buffer of the keys and values of all tokens."""
SKIPS = "skips"
"""The buffer of hidden vectors that layers take from others (`sim.workloads.skips`)."""


class BlockBuilder(ExchangeBuilder):
    """The parts that blocks of models are made of."""

    def attention(self, name: str, q: Matrix, k: Matrix, v: Matrix, y: Matrix) -> None:
        """Attention of every query over all keys; its output passes through memory of the kernel's own."""
        batch = self.setup.batch
        # one more matrix like y, and for each query and head a sum in fp32
        self.scratch = max(self.scratch, q.rows * q.columns + 2 * q.rows * q.columns // self.head)
        moved = BF16 * 2 * (q.rows + k.rows) * q.columns * batch
        self.add(name, Attention(q, k, v, y, self.head), moved, 4 * batch * q.rows * k.rows * q.columns)

    def attend(self, q: Matrix, k: Matrix, v: Matrix, y: Matrix, cut: int) -> None:
        """Self-attention over keys and values that go round the ring: their first `cut` rows, others are on each rank.

        Each step sends what the one before brought while attention reads it. What attention gives is added up; ring
        attention weighs it by its sums as well, which reads and writes no more.
        """
        setup, batch = self.setup, self.setup.batch
        if setup.ring == 1:
            self.attention("attention", q, k, v, y)
            return
        size = cut * k.columns
        buffer = f"ring_{2 * size * batch * BF16}"
        starts = [batch * size * i for i in range(4)]  # keys and values of one half, then of the other
        parts = [batched(Matrix(buffer, start, cut, k.columns, k.columns), batch, size) for start in starts]
        halves = parts[:2], parts[2:]
        for source, sent in zip((k, v), halves[0], strict=True):
            self.permute(source.part(rows=cut), sent, (batch, cut, k.columns), (0, 1, 2), 0)
        self._shift(buffer, 2 * size, 0)
        self.attention("attention", q, k, v, y)
        self.items.append(Wait(stream=RING))
        partial = self.registers.new("ring_attention", y.rows, y.columns)
        for step in range(1, setup.ring):
            if step + 1 < setup.ring:
                self._shift(buffer, 2 * size, step % 2)
            keys, values = halves[step % 2]
            self.attention("attention", q, keys, values, partial)
            self.small("ring_merge", Normalise(y, residual=partial), 3 * y.rows * y.columns)
            if step + 1 < setup.ring:
                self.items.append(Wait(stream=RING))

    def _shift(self, buffer: str, elements: int, half: int) -> None:
        """Send a half of a ring's buffer on, and get the other one."""
        size = elements * self.setup.batch * BF16
        groups = self.setup.layout.groups("ring")
        self.items.append(Shift("ring", size, buffer, half * size, (1 - half) * size, groups, RING))

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
            first = self.setup.local if self.setup.ulysses == self.setup.world_size > 1 else 0
            for part in (p.part(rows=self.setup.local) for p in parts):
                self.small("rope", Rotate(part, self.head, first), 2 * part.rows * part.columns)

    def self_attention(self, qkv: Matrix, y: Matrix) -> None:
        """Attention over all rows of q, k and v, side by side in `qkv`."""
        setup = self.setup
        q, k, v = (qkv.part(column=i * self.heads, columns=self.heads) for i in range(3))
        if self.values is not None:
            self.selected(q)
            q, k = (self.to_heads(name, x) for name, x in (("q", q), ("k", k)))
            self.items.append(Wait(stream=VALUES))
            v = self.heads_of("v", v, self.values)
            mine = self.registers.new("attention", q.rows, q.columns)
            self.attend(q, k, v, mine, k.rows)
            self.to_tokens("output", mine, y)
        elif setup.patch or setup.layout.displaced > 1:
            self._attend_to_cache(q, k, v, y)
        elif setup.ulysses == 1:
            self._keep_whole(k, v)
            self.attend(q, k, v, y, self.setup.local)
        elif setup.model.ulysses.attention == "packed":
            self._packed_attention(qkv, y)
        elif setup.model.ulysses.attention == "separate":
            self.selected(q)
            q, k, v = (self.to_heads(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
            self._keep_whole(k, v)
            mine = self.registers.new("attention", q.rows, q.columns)
            self.attend(q, k, v, mine, k.rows)
            self.to_tokens("output", mine, y)
        else:
            assert_never(setup.model.ulysses.attention)

    def _attend_to_cache(self, q: Matrix, k: Matrix, v: Matrix, y: Matrix) -> None:
        """Attention over the keys and values of all tokens, of which these are the fresh ones.

        Those of the ring's other ranks are gathered before, so that each rank has all of its heads (xDiT's hybrid.md).
        Those of displaced ranks come a step late, beside what follows; while warm-up lasts, they are waited for.
        """
        setup, layout, batch = self.setup, self.setup.layout, self.setup.batch
        mine = y
        if setup.ulysses > 1:
            q, k, v = (self.to_heads(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
            mine = self.registers.new("attention", q.rows, q.columns)
        width, size = k.columns, 2 * k.rows * k.columns
        rows, (keys, values) = setup.cached_rows, self.cached(width)
        late = layout.displaced > 1 and setup.patch
        if late:
            self.items.append(Wait(stream=DISPLACED, of_layer=True))
        for fresh, kept in ((k, keys), (v, values)):
            self.keep(fresh, kept)
            if layout.displaced > 1:  # what came is put together with what is fresh, as DistriFusion does
                self.permute(kept, kept, (batch, rows, width), (0, 1, 2), 0)
        if layout.ring > 1:
            self.collective("all_gather", "kv", layout.ring * size, "ring")
        elif layout.displaced > 1:
            self.collective("all_gather", "kv", layout.displaced * size, "displaced", DISPLACED if late else None)
        self.attention("attention", q, keys, values, mine)
        if setup.ulysses > 1:
            self.to_tokens("output", mine, y)

    def _keep_whole(self, k: Matrix, v: Matrix) -> None:
        """Write the cache in a step of warm-up, where later ones read it."""
        if self.setup.layout.patches > 1:
            for fresh, kept in zip((k, v), self.cached(k.columns), strict=True):
                self.keep(fresh, kept)

    def cached(self, width: int) -> tuple[Matrix, Matrix]:
        """The keys and values of all tokens, of `width` features."""
        rows, batch = self.setup.cached_rows, self.setup.batch
        keys, values = (Matrix(KV_CACHE, batch * i * rows * width, rows, width, width) for i in range(2))
        return batched(keys, batch, rows * width), batched(values, batch, rows * width)

    def keep(self, fresh: Matrix, kept: Matrix) -> None:
        """Write keys or values into the cache: tokens from their patch's place on, text behind all tokens.

        The place is that of the first patch of the first layer; `sim.workloads.patches` moves it.
        """
        setup, batch = self.setup, self.setup.batch
        text = 0 if setup.is_cross or setup.ulysses > 1 else setup.words
        for row, to, rows in ((0, 0, fresh.rows - text), (fresh.rows - text, kept.rows - text, text)):
            if rows:
                shape = (batch, rows, fresh.columns)
                self.permute(fresh.part(row, rows), kept.part(to, rows), shape, (0, 1, 2), 0)

    def _packed_attention(self, qkv: Matrix, y: Matrix) -> None:
        """q, k and v of the image in one exchange; the text, whole on every rank, is cut by heads and gathered."""
        setup = self.setup
        ranks, local, text, share = setup.ulysses, setup.local, setup.text, self.heads // setup.ulysses
        size, batch = 3 * local * self.heads, setup.batch
        alone = ranks == setup.world_size  # else a rank's number is not its place: kernels take the first one's part
        buffer = self.buffer("all_to_all", size)
        sent = self.part_of(buffer, 0, ranks * 3 * local, share)
        self.permute(qkv.part(rows=local), sent, (batch, local, 3, ranks, share), (3, 2, 0, 1, 4), 0)
        self.exchange("qkv", size)
        whole = []
        for i in range(3):
            block = batch * local * share
            x = Matrix(buffer, batch * size + i * block, ranks, block, 3 * block)
            whole.append(self.registers.new("qkv"[i], ranks * local + text, share))
            self.permute(x, whole[i].part(rows=ranks * local), (ranks, batch, local, share), (1, 0, 2, 3), 1)
            words = qkv.part(local, text, i * self.heads, share)
            words = msgspec.structs.replace(words, per_rank=share if alone else 0)
            self.permute(words, whole[i].part(ranks * local), (batch, text, share), (0, 1, 2), 0)
        mine = self.registers.new("attention", whole[0].rows, share)
        self.attend(whole[0], whole[1], whole[2], mine, ranks * local)
        gathered = text * self.heads
        buffer = self.buffer("all_gather", gathered)
        place = msgspec.structs.replace(
            self.part_of(buffer, 0, text, share), per_rank=batch * text * share if alone else 0
        )
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

    def queries_keys_values(self, x: Matrix, qkv: Matrix, streams: Streams) -> None:
        """The projections of each stream to q, k and v, side by side; values first if they are sent first."""
        if not self.sends_values_first:
            self.projections("qkv", x, qkv, streams)
            return
        width = self.heads
        every = [[self.projection(x.columns, width) for _ in range(3)] for _ in streams]
        for places in ((2,), (0, 1)):
            for (row, rows), weights in zip(streams, every, strict=True):
                for i in places:
                    self.product(
                        "v" if i == 2 else "qk", x.part(row, rows), weights[i], qkv.part(row, rows, i * width, width)
                    )
            if places == (2,):
                self.values_first(qkv)

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
            self.collective("all_reduce", collective, size, "tensor")
        return y

    def joined_with_skip(self) -> None:
        """Hidden vectors and those of the layer's mirror side by side, normalised and projected to hidden vectors.

        The mirror's are at the buffer's start; `sim.workloads.skips` moves them.
        """
        x, batch, hidden = self.x, self.setup.batch, self.hidden
        skipped = batched(Matrix(SKIPS, 0, x.rows, hidden, hidden), batch, x.rows * hidden)
        both = self.registers.new("skip", x.rows, 2 * hidden)
        for i, part in enumerate((x, skipped)):
            whole = Permute(part, both.part(column=i * hidden, columns=hidden), (batch, x.rows, hidden), (0, 1, 2))
            self.small("skip_join", whole, 2 * x.rows * hidden)
        self.normalise("skip_norm", both, both)
        self.linear("skip_linear", both, x)

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
        if setup.ulysses > 1 and setup.cross_attention:
            # every rank sends the whole text, so attention sees it as many times as there are ranks
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
