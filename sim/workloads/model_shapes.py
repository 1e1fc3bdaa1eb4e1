"""Shapes of published diffusion transformers, read from the data files in scenarios/models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from sim.inputs.config import Config, InputError, convert
from sim.inputs.shipped_files import ShippedFiles
from sim.inputs.yaml_files import read_yaml

BlockKind = Literal["cross", "joint", "double", "double_last", "single"]
"""How a block is built:

- cross: self-attention over the image, cross-attention to the text, FFN (Wan, PixArt)
- joint: image and text in one sequence, one set of weights (CogVideoX)
- double: image and text attend jointly, each with its own weights (HunyuanVideo, FLUX, Qwen-Image, SD3.5)
- double_last: as double, but the text ends with its keys and values (the last block of SD3.5)
- single: image and text in one sequence, attention parallel to the FFN (HunyuanVideo, FLUX)
"""


class Transformer(Config, frozen=True, kw_only=True):
    """The sizes that all blocks share."""

    hidden: int
    heads: int
    ffn: int
    patch: tuple[int, int, int]
    """Latent frames, rows and columns that make one token."""
    modulation: int = 0
    """Width of the vector that each block projects to its shifts, scales and gates; 0: the block holds a table."""
    qk_norm: bool
    rope: bool
    source: str


class BlockShape(Config, frozen=True):
    """`repeat` blocks of one kind. `small_parameters`: norm weights and tables, which no projection holds."""

    kind: BlockKind
    repeat: int
    small_parameters: int
    source: str


class Vae(Config, frozen=True):
    """Frames and pixels (a side) that make one latent: n frames make (n - 1) / temporal + 1 latent frames."""

    temporal: int
    spatial: int
    source: str
    channels: int = 16
    """Numbers of a latent."""


class Text(Config, frozen=True):
    """Text tokens that the transformer sees."""

    tokens: int
    source: str


class Ulysses(Config, frozen=True, kw_only=True):
    """What Ulysses attention sends.

    `separate`: q, k, v and output each in an all-to-all, the text of a joint attention with them. `packed`: q, k and v
    of the image in one all-to-all; the text, whole on every rank, is cut by heads, and its output all-gathered.
    `cross_attention` is the number of all-to-alls of a cross-attention.
    """

    attention: Literal["separate", "packed"]
    cross_attention: Literal[0, 4] = 0
    source: str


class Guidance(Config, frozen=True):
    """Passes through the transformer a step: 2 where classifier-free guidance runs a second one."""

    passes: int
    source: str


class Parameters(Config, frozen=True):
    """Parameters of the whole transformer as published, and ours outside of the blocks (embeddings and head)."""

    published: int
    outside: int
    source: str


class Model(Config, frozen=True, kw_only=True):
    """A published model."""

    name: str
    description: str
    experts: int = 1
    """Transformers of this shape, of which a step runs one."""
    transformer: Transformer
    blocks: tuple[BlockShape, ...]
    vae: Vae
    text: Text
    ulysses: Ulysses
    guidance: Guidance
    parameters: Parameters

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return sum(b.repeat for b in self.blocks)


_REMEMBERED: ContextVar[dict[str, Model] | None] = ContextVar("models", default=None)


@contextmanager
def remembered(models: dict[str, Model]) -> Iterator[dict[str, Model]]:
    """Let `load_model` take what `models` has instead of reading it, and add what it reads: each model once."""
    token = _REMEMBERED.set(models)
    try:
        yield models
    finally:
        _REMEMBERED.reset(token)


_FILES = ShippedFiles("models", "known model", "chunkflow-sim models", paths=False, hub=True)
shipped = _FILES.names


def load_model(name: str, source: str = "", path: str = "") -> Model:
    """Load a shipped model.

    Raises:
        InputError: there is none of that name; it names `source` and key `path`, and close names.
    """
    known = _REMEMBERED.get()
    if known is not None and name in known:
        return known[name]
    model = _read_model(name, source, path)
    if known is not None:
        known[name] = model
    return model


def _read_model(name: str, source: str, path: str) -> Model:
    try:
        file = _FILES.file(name)
    except InputError as error:
        raise error.within(source or name, path) from None
    return convert(read_yaml(file), Model, str(file))
