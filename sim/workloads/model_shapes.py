"""Shapes of diffusion transformers, read from the data files in scenarios/models or from a file of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import msgspec

from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import Fault, refuse
from sim.inputs.other_formats import published_configuration
from sim.inputs.own_formats import other_than
from sim.inputs.shipped_files import ShippedFiles
from sim.inputs.yaml_files import read_yaml

T = TypeVar("T")

BlockKind = Literal["cross", "joint", "double", "double_last", "single"]
"""How a block is built:

- cross: self-attention over the image, cross-attention to the text, FFN (Wan, PixArt)
- joint: image and text in one sequence, one set of weights (CogVideoX)
- double: image and text attend jointly, each with its own weights (HunyuanVideo, FLUX, Qwen-Image, SD3.5)
- double_last: as double, but the text ends with its keys and values (the last block of SD3.5)
- single: image and text in one sequence, attention parallel to the FFN (HunyuanVideo, FLUX)
"""


NO_SOURCE = "not given"
"""Source of the shapes of a file that does not say where they come from; files that are shipped all do."""
MAX_SIZE = 10**6
"""Of widths, heads, tokens and strides."""
MAX_BLOCKS = 10_000
MAX_PARAMETERS = 10**13


class Transformer(Config, frozen=True, kw_only=True):
    """The sizes that all blocks share. Fields that are `UNSET` unless given are no part of a model's digest then."""

    hidden: int
    heads: int
    ffn: int
    """Width of the FFN between its two projections, after the gate if it is gated."""
    patch: tuple[int, int, int]
    """Latent frames, rows and columns that make one token."""
    modulation: int = 0
    """Width of the vector that each block projects to its shifts, scales and gates; 0: the block holds a table, or has
    them from a projection that all blocks share."""
    qk_norm: bool
    rope: bool
    bias: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether projections have a bias; they do unless given."""
    gated_ffn: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether the FFN is gated (SwiGLU): its first projection makes twice `ffn`; not so unless given."""
    source: str = NO_SOURCE


class BlockShape(Config, frozen=True):
    """`repeat` blocks of one kind. `small_parameters`: norm weights and tables, which no projection holds."""

    kind: BlockKind
    repeat: int
    small_parameters: int = 0
    source: str = NO_SOURCE


class Vae(Config, frozen=True):
    """Frames and pixels (a side) that make one latent: n frames make (n - 1) / temporal + 1 latent frames."""

    temporal: int
    spatial: int
    source: str = NO_SOURCE
    channels: int = 16
    """Numbers of a latent."""


class Text(Config, frozen=True):
    """Text tokens that the transformer sees."""

    tokens: int
    source: str = NO_SOURCE


class Ulysses(Config, frozen=True, kw_only=True):
    """What Ulysses attention sends.

    `separate`: q, k, v and output each in an all-to-all, the text of a joint attention with them. `packed`: q, k and v
    of the image in one all-to-all; the text, whole on every rank, is cut by heads, and its output all-gathered.
    `cross_attention` is the number of all-to-alls of a cross-attention.
    """

    attention: Literal["separate", "packed"] = "separate"
    cross_attention: Literal[0, 4] = 0
    source: str = NO_SOURCE


class Tensor(Config, frozen=True):
    """What tensor parallelism cuts. With `cross_attention: whole` every rank has all of it, and does not reduce."""

    cross_attention: Literal["cut", "whole"] = "cut"
    source: str = NO_SOURCE


class Guidance(Config, frozen=True):
    """Passes through the transformer a step: 2 where classifier-free guidance runs a second one."""

    passes: int = 1
    source: str = NO_SOURCE


class Parameters(Config, frozen=True):
    """Parameters of the whole transformer as published, if they are; ours outside of the blocks (embeddings, head)."""

    published: int | None = None
    outside: int = 0
    source: str = NO_SOURCE


class Model(Config, frozen=True, kw_only=True):
    """A model: what a file in scenarios/models holds."""

    name: str
    description: str = ""
    experts: int = 1
    """Transformers of this shape, of which a step runs one."""
    transformer: Transformer
    blocks: tuple[BlockShape, ...]
    vae: Vae
    text: Text
    ulysses: Ulysses = Ulysses()
    tensor: Tensor | msgspec.UnsetType = msgspec.UNSET
    """`Tensor()` unless given."""
    guidance: Guidance = Guidance()
    parameters: Parameters = Parameters()

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        shapes, vae = self.transformer, self.vae
        least_one = {f"transformer.{name}": getattr(shapes, name) for name in ("hidden", "heads", "ffn")}
        least_one |= {f"transformer.patch[{i}]": size for i, size in enumerate(shapes.patch)}
        least_one |= {"vae.temporal": vae.temporal, "vae.spatial": vae.spatial, "text.tokens": self.text.tokens}
        least_one |= {"guidance.passes": self.guidance.passes, "experts": self.experts}
        least_one |= {f"blocks[{i}].repeat": shape.repeat for i, shape in enumerate(self.blocks)}
        least_none = {"transformer.modulation": shapes.modulation}
        least_none |= {f"blocks[{i}].small_parameters": b.small_parameters for i, b in enumerate(self.blocks)}
        counts = {"parameters.outside": self.parameters.outside, "parameters.published": self.parameters.published or 0}
        for least, most, values in (
            (1, MAX_SIZE, least_one),
            (0, MAX_SIZE, least_none),
            (0, MAX_PARAMETERS, counts),
        ):
            for path, value in values.items():
                if not least <= value <= most:
                    yield Fault(path, f"is {value}, expected {least} to {most}")
        if shapes.heads >= 1 and (shapes.hidden % shapes.heads or (shapes.rope and shapes.hidden // shapes.heads % 2)):
            wanted = "an even number of features a head" if shapes.rope else "a whole number of features a head"
            yield Fault("transformer.heads", f"is {shapes.heads}, but hidden is {shapes.hidden}: expected {wanted}")
        if not self.blocks:
            yield Fault("blocks", "is empty: give at least one kind of block")
        elif self.layers > MAX_BLOCKS:
            yield Fault("blocks", f"are {self.layers} in all, at most {MAX_BLOCKS} are simulated")
        kinds = {shape.kind for shape in self.blocks}
        if "cross" in kinds and len(kinds) > 1:
            others = ", ".join(sorted(kinds - {"cross"}))
            yield Fault("blocks", f"have cross and {others}: the text is in none of them or in all")
        if "cross" in kinds and self.ulysses.attention == "packed":
            yield Fault("ulysses.attention", "is packed, which is for joint attention: expected separate")
        if vae.temporal == 1 and shapes.patch[0] != 1:
            yield Fault("transformer.patch[0]", f"is {shapes.patch[0]}, but vae.temporal 1 makes images: expected 1")

    @property
    def cuts_cross_attention(self) -> bool:
        """Whether tensor parallelism cuts the cross-attention."""
        return self.tensor is msgspec.UNSET or self.tensor.cross_attention == "cut"

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return sum(b.repeat for b in self.blocks)


_REMEMBERED: ContextVar[dict[str, Any] | None] = ContextVar("models", default=None)


@contextmanager
def remembered(models: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Let `load_model` take what `models` has instead of reading it, and add what it reads: each model once.

    Recorded programs, which workloads name too, are remembered with them (`remember`).
    """
    token = _REMEMBERED.set(models)
    try:
        yield models
    finally:
        _REMEMBERED.reset(token)


_FILES = ShippedFiles("models", "a known model", "chunkflow-sim models", hub=True)
shipped = _FILES.names


def load_model(name: str, source: str = "", path: str = "") -> Model:
    """Load a shipped model by name, or a YAML file by path.

    Raises:
        InputError: there is neither; it names `source` and key `path`, and close names. Or the file's content is wrong.
    """
    return remember(name, lambda: _read_model(name, source, path))


def remember(name: str, read: Callable[[], T]) -> T:
    """What `read` gives, or gave for this name before, inside of `remembered`."""
    known = _REMEMBERED.get()
    if known is not None and name in known:
        found: T = known[name]
        return found
    found = read()
    if known is not None:
        known[name] = found
    return found


def _read_model(name: str, source: str, path: str) -> Model:
    try:
        file = _FILES.file(name)
    except InputError as error:
        raise error.within(source or name, path) from None
    try:
        data = read_yaml(file)
        if (problem := other_than("model", data, str(file)) or published_configuration(data)) is not None:
            raise InputError(str(file), "", problem)
        return convert(data, Model, str(file))
    except InputError as error:
        if not source:
            raise
        said = [": ".join(part for part in (error.source, *fault) if part) for fault in error.faults]
        raise InputError.of(source, [(path, problem) for problem in said]) from None
