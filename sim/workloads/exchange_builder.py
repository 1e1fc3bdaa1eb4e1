"""Ulysses exchanges of a block: tokens for heads and back, values first, and of which tokens."""

from __future__ import annotations

from sim.program.ops import Matrix, Permute
from sim.workloads.layer_builder import LayerBuilder

VALUES = "values"
"""The stream on which values are exchanged before queries and keys."""


class ExchangeBuilder(LayerBuilder):
    """The exchanges that blocks are made of."""

    values: Matrix | None = None
    """Where the values come that are exchanged first."""

    def to_heads(self, name: str, x: Matrix) -> Matrix:
        """Exchange a rank's tokens for its heads: [rows, heads] to [ranks * rows, heads / ranks].

        Where heads are padded until they divide, the padding is sent and attended to, too.
        """
        return x if self.setup.ulysses == 1 else self.heads_of(name, x, self.send_heads(name, x))

    def send_heads(self, name: str, x: Matrix, stream: str | None = None) -> Matrix:
        """Start to exchange tokens for heads, on a stream of its own if that is given; returns where they come."""
        setup = self.setup
        ranks, share = setup.ulysses, setup.heads_share(x.columns)
        size = ranks * x.rows * share
        buffer, batch = self.buffer("all_to_all", size) + (f"@{stream}" if stream else ""), setup.batch
        sent, received = (self.part_of(buffer, start, ranks * x.rows, share) for start in (0, size))
        if size == x.rows * x.columns:
            self.permute(x, sent, (batch, x.rows, ranks, share), (2, 0, 1, 3), 0)
        else:
            self._padded(x, sent, False)
        self.exchange(name, size, stream, setup.share)
        return received

    def heads_of(self, name: str, x: Matrix, received: Matrix) -> Matrix:
        """What has come of all ranks' x."""
        ranks, share = self.setup.ulysses, self.setup.heads_share(x.columns)
        y = self.registers.new(name, ranks * x.rows, share)
        self.permute(received, y, (ranks, self.setup.batch, x.rows, share), (1, 0, 2, 3), 1)
        return y

    def to_tokens(self, name: str, x: Matrix, y: Matrix) -> None:
        """Exchange a rank's heads for its tokens: x [ranks * rows, heads / ranks] to y [rows, heads]."""
        setup = self.setup
        ranks, size, share = setup.ulysses, x.rows * x.columns, x.columns
        buffer, batch = self.buffer("all_to_all", size), setup.batch
        sent, received = (self.part_of(buffer, start, x.rows, share) for start in (0, size))
        self.permute(x, sent, (batch, ranks, y.rows, share), (1, 0, 2, 3), 0)
        self.exchange(name, size)
        if size == y.rows * y.columns:
            self.permute(received, y, (ranks, batch, y.rows, share), (1, 2, 0, 3), 1)
        else:
            self._padded(y, received, True)

    def _padded(self, x: Matrix, buffer: Matrix, back: bool) -> None:
        """Copy x to the start of what is sent, which has room for padded heads, or back: as many bytes as real ones."""
        place = Matrix(buffer.buffer, buffer.offset, self.setup.batch * x.rows, x.columns, x.columns)
        source, target = (place, x) if back else (x, place)
        self.permute(source, target, (self.setup.batch, x.rows, x.columns), (0, 1, 2), 0)

    def values_first(self, qkv: Matrix) -> None:
        """Start to exchange the values, beside what computes queries and keys (CoCoDiff's V-first)."""
        self.values = self.send_heads("v", qkv.part(column=2 * self.heads, columns=self.heads), VALUES)

    @property
    def sends_values_first(self) -> bool:
        """Whether values are exchanged before queries and keys are computed."""
        setup = self.setup
        separate = setup.model.ulysses.attention == "separate" and not setup.layout.stale
        return setup.exchange.v_first and setup.ulysses > 1 and separate

    def selected(self, x: Matrix) -> None:
        """Choose the tokens whose values have changed most, and tell all ranks which: 4 B a token."""
        setup = self.setup
        if setup.share < 1:
            same = Permute(x, x, (setup.batch, x.rows, x.columns), (0, 1, 2))
            self.small("v_change", same, 3 * x.rows * x.columns)
            chosen = max(round(setup.share * x.rows), 1)
            self.collective("all_gather", "chosen tokens", 2 * chosen * setup.ulysses)
