"""How a model runs, and what one of its blocks is then."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from sim.workloads.block_items import Groups
from sim.workloads.exchanges import PLAIN, ExchangeForm
from sim.workloads.layouts import Dimension, Layout
from sim.workloads.model_shapes import Model
from sim.workloads.weight_formats import AS_COMPUTED, Weights
from sim.workloads.workload import Layer

Parallelism = Literal["ulysses", "tensor"] | Layout
"""One dimension over all ranks, or the size of each."""


class Setup(NamedTuple):
    """How a model runs. `tokens` are those of one image or video, `local` those of them on a rank.

    A block is that of one `patch` where the layout has stale activations and warm-up is over. Text of a joint attention
    goes with it or, `with_text` False, its keys and values are those of the patch that it went with.
    """

    model: Model
    parallelism: Parallelism
    world_size: int
    batch: int
    tokens: int
    text: int
    cross_attention: int
    weights: Weights = AS_COMPUTED
    patch: bool = False
    with_text: bool = True
    exchange: ExchangeForm = PLAIN
    share: float = 1.0
    """Of the tokens whose queries, keys and values cross slow levels in this form of the block."""
    pad_heads: bool = False
    """Whether heads that do not divide by Ulysses are padded until they do."""

    @property
    def layout(self) -> Layout:
        """Ranks of each dimension."""
        return layout_of(self.parallelism, self.world_size)

    @property
    def ulysses(self) -> int:
        """Ranks among which attention exchanges tokens for heads."""
        return self.layout.ulysses

    @property
    def ring(self) -> int:
        """Ranks among which keys and values go round."""
        return self.layout.ring

    def heads_share(self, columns: int) -> int:
        """Features of the heads that a rank gets in an exchange, of `columns` that each has before it."""
        head = self.model.transformer.hidden // self.model.transformer.heads
        return -(-columns // (head * self.ulysses)) * head if self.pad_heads else columns // self.ulysses

    @property
    def shards(self) -> int:
        """Parts into which weights are cut."""
        return self.layout.tensor

    @property
    def local(self) -> int:
        """Image tokens on a rank; the last one's are padded."""
        return -(-self.tokens // self.parts)

    @property
    def parts(self) -> int:
        """Parts of the image tokens of which a block works on one: those of ranks, and those of time."""
        layout = self.layout
        return layout.ulysses * layout.ring * layout.displaced * (layout.patches if self.patch else 1)

    @property
    def words(self) -> int:
        """Text rows of a joint attention that the block works on."""
        return self.text if self.with_text else 0

    @property
    def rows(self) -> int:
        """Rows of a rank's hidden vectors of one sample: its image tokens and, where they attend jointly, the text."""
        return self.local + (0 if self.is_cross else self.words)

    @property
    def is_cross(self) -> bool:
        """Whether the text is in no sequence with the image."""
        return any(b.kind == "cross" for b in self.model.blocks)

    @property
    def cached_rows(self) -> int:
        """Rows of the keys and values of all tokens, padded, with the text as often as it is exchanged."""
        padded = self._replace(patch=True)
        return padded.local * padded.parts + (0 if self.is_cross else self.ulysses * self.text)

    @property
    def latent_elements(self) -> int:
        """Elements of what a step predicts for one sample."""
        return self.tokens * math.prod(self.model.transformer.patch) * self.model.vae.channels

    def groups(self, dimension: Dimension) -> Groups | None:
        """The groups of ranks of a dimension; None where that is one of all ranks."""
        groups = self.layout.groups(dimension)
        return None if len(groups) == 1 else groups


def layout_of(parallelism: Parallelism, world_size: int) -> Layout:
    """Ranks of each dimension; a dimension's name stands for all ranks."""
    if isinstance(parallelism, Layout):
        return parallelism
    return Layout(tensor=world_size) if parallelism == "tensor" else Layout(ulysses=world_size)


class Block(NamedTuple):
    """A layer, and the elements that one sample of it needs: of activations, and of kernels for themselves."""

    layer: Layer
    activations: int
    scratch: int
