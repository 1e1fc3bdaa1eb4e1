"""Named models: a workload from published shapes, frames, height, width, batch and the kind of parallelism."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from sim.inputs.config import Config, InputError
from sim.inputs.faults import Fault
from sim.workloads.algorithms import Algorithms
from sim.workloads.block_setup import Parallelism, Setup, layout_of
from sim.workloads.exchanges import PLAIN, ExchangeForm
from sim.workloads.layer_builder import BF16
from sim.workloads.model_blocks import block
from sim.workloads.model_shapes import Model, load_model, remembered, shipped
from sim.workloads.patches import displaced, in_shares
from sim.workloads.phases import Phase, phase_layers, wrong_phases
from sim.workloads.stages import divided
from sim.workloads.weight_formats import AS_COMPUTED, Weights
from sim.workloads.workload import Layer, Workload

__all__ = ["Model", "Named", "block_bytes", "load_model", "parameters", "remembered", "shipped"]


_MOST = 10**6


class Named(Config, frozen=True):
    """A workload by the name of its model.

    `frames`, `height` and `width` are those of the output, in pixels; `frames` is 1 and may be left out for images.
    `passes_per_step`, `text_tokens` and `cross_attention_collectives` are the model's unless given. With `layers`,
    that many of the model's blocks are simulated, evenly spread over them. `synchronous`: the host waits for the GPU
    after each step, as profilers make it do. `weights` says how they are stored (`Weights`), `collectives` by what
    collectives run (`sim.workloads.algorithms`).
    """

    model: str
    height: int
    width: int
    frames: int | None = None
    batch: int = 1
    parallelism: Parallelism = "ulysses"
    before: tuple[Phase, ...] = ()
    after: tuple[Phase, ...] = ()
    steps: int = 4
    passes_per_step: int | None = None
    layers: int | None = None
    text_tokens: int | None = None
    cross_attention_collectives: Literal[0, 4] | None = None
    synchronous: bool = False
    weights: Weights = AS_COMPUTED
    divide_text: bool = False
    """Under Ulysses each rank has its part of the text of a joint attention, as in xDiT; else all of it."""
    collectives: dict[str, Any] = msgspec.field(default_factory=dict)
    exchange: ExchangeForm | None = None
    """How Ulysses exchanges run; flat unless given."""
    pad_heads: bool = False
    """Under Ulysses, heads that do not divide are padded: ranks attend to the padding as well, and send it."""
    patch_text: Literal["first", "each"] | None = None
    """Patches that the text of a joint attention goes with: the first one of a step (None), or each, as in xDiT."""

    def tokens(self, model: Model) -> int:
        """Image or video tokens of one sample: latent frames x rows x columns, each divided by the patch.

        Raises:
            InputError: `frames`, `height` or `width` do not fit the model's VAE and patches.
        """
        _refuse(self._wrong_shape(model))
        vae, patch = model.vae, model.transformer.patch
        rows, columns = self.height // (vae.spatial * patch[1]), self.width // (vae.spatial * patch[2])
        return (((self.frames or 1) - 1) // vae.temporal + 1) // patch[0] * rows * columns

    def setup(self, world_size: int) -> Setup:
        """The model and how it is divided among `world_size` ranks.

        Raises:
            InputError: the model is unknown, numbers are out of range, or heads or FFN cannot be divided.
        """
        faults = list(self._out_of_range())
        try:
            model = load_model(self.model, "scenario", "workload.model")
        except InputError as error:
            raise InputError.of("scenario", [*error.faults, *faults]) from None
        if not faults:
            faults += [*self._wrong_shape(model), *self._indivisible(model, world_size)]
        layout = layout_of(self.parallelism, world_size)
        for key, phases in (("before", self.before), ("after", self.after)):
            faults += (_wrong(path, problem) for path, problem in wrong_phases(phases, key, layout, world_size))
        _refuse(faults)
        text = model.text.tokens if self.text_tokens is None else self.text_tokens
        if self.divide_text:
            text = -(-text // layout.ulysses)
        cross = self.cross_attention_collectives
        cross = model.ulysses.cross_attention if cross is None else cross
        return Setup(
            model,
            self.parallelism,
            world_size,
            self.batch,
            self.tokens(model),
            text,
            cross,
            self.weights,
            exchange=self.exchange or PLAIN,
            pad_heads=self.pad_heads,
        )

    def _out_of_range(self) -> Iterator[Fault]:
        for name in ("height", "width", "frames", "batch", "steps", "passes_per_step", "layers", "text_tokens"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= _MOST:
                yield _wrong(name, f"is {value}, at least 1 is needed and at most {_MOST} are simulated")

    def _wrong_shape(self, model: Model) -> Iterator[Fault]:
        """Faults of `frames`, `height` and `width` against the model's VAE and patches."""
        vae, patch, frames = model.vae, model.transformer.patch, self.frames
        if frames is None and vae.temporal > 1:
            yield _wrong("frames", f"is missing: {model.name} makes videos")
        elif frames is not None and vae.temporal == 1 and frames != 1:
            yield _wrong("frames", f"is {frames}, but {model.name} makes images: expected 1")
        elif frames is not None and (frames - 1) % vae.temporal:
            near = (frames - 1) // vae.temporal * vae.temporal + 1
            takes = f"takes {vae.temporal} k + 1 frames, such as {near} or {near + vae.temporal}"
            yield _wrong("frames", f"is {frames}, but {model.name} {takes}")
        for name, size, cut in (("height", self.height, patch[1]), ("width", self.width, patch[2])):
            unit = vae.spatial * cut
            if size % unit:
                near = max(size // unit, 1) * unit
                yield _wrong(name, f"is {size}, but {model.name} takes multiples of {unit}, such as {near}")

    def _indivisible(self, model: Model, world_size: int) -> Iterator[Fault]:
        """Faults of dimensions that cannot be divided evenly, or that the model does not have."""
        layout, shapes = layout_of(self.parallelism, world_size), model.transformer
        if faults := list(layout.wrong_size(world_size)):
            yield from (_wrong(path, problem) for path, problem in faults)
            return
        over = f"{self.parallelism} over world_size {world_size}" if isinstance(self.parallelism, str) else str(layout)
        padded = self.pad_heads and not shapes.heads % layout.tensor
        if self.pad_heads and (model.ulysses.attention == "packed" or layout.stale):
            why = (
                f"{model.name} sends q, k and v packed" if model.ulysses.attention == "packed" else f"{layout} is stale"
            )
            yield _wrong("pad_heads", f"{why}: expected false")
        elif shapes.heads % (layout.tensor * layout.ulysses) and not padded:
            heads = f"{model.name} has {shapes.heads} attention heads, which cannot be divided evenly"
            why = "xDiT, SGLang and vLLM give each rank whole heads; a ring divides tokens only, pad_heads pads them"
            yield _wrong("parallelism", f"{over}: {heads}: {why}")
        elif shapes.ffn % layout.tensor:
            yield _wrong("parallelism", f"{over} does not divide the FFN of {shapes.ffn}")
        if (passes := self._passes(model)) % layout.cfg:
            says = f"{over}: a step of {model.name} has {passes} pass{'es' * (passes > 1)} to divide: passes_per_step"
            yield _wrong("parallelism", says)
        exchange = self.exchange or PLAIN
        if layout.ulysses % math.prod(exchange.levels):
            yield _wrong("exchange.levels", f"are {list(exchange.levels)}: they do not fill {layout.ulysses} ranks")
        if exchange.v_major is not None and layout.stale:
            yield _wrong("exchange.v_major", f"does not go with {layout}, which has stale activations of its own")
        if not any(self._wrong_shape(model)) and layout.patches > self.tokens(model):
            yield _wrong("parallelism.patches", f"is {layout.patches}, but there are {self.tokens(model)} tokens")
        if layout.pipeline > (self.layers or model.layers):
            yield _wrong("parallelism", f"{over}: {self.layers or model.layers} layers are fewer than stages")
        elif layout.stage_layers and (count := sum(layout.stage_layers)) != (self.layers or model.layers):
            expected = f"{self.layers or model.layers} in all"
            yield _wrong("parallelism.stage_layers", f"are {count} layers, expected {expected}")
        if self.layers is not None and self.layers > model.layers:
            yield _wrong("layers", f"is {self.layers}, but {model.name} has {model.layers}")
        if self.divide_text and (model.ulysses.attention == "packed" or any(b.kind == "cross" for b in model.blocks)):
            yield _wrong("divide_text", f"{model.name} exchanges no text with its image: expected false")
        if self.cross_attention_collectives is not None and not any(b.kind == "cross" for b in model.blocks):
            yield _wrong("cross_attention_collectives", f"{model.name} has no cross-attention")

    def _passes(self, model: Model) -> int:
        return model.guidance.passes if self.passes_per_step is None else self.passes_per_step

    def layer_count(self) -> int:
        """Layers that run once; those of a pass are at most the model's."""
        return sum(phase.repeat for phase in (*self.before, *self.after))

    def resolve(self, world_size: int) -> Workload:
        """What one of `world_size` ranks does: FLOP, bytes and launches of every item for the roofline.

        Raises:
            InputError: as `setup`.
        """
        setup = self.setup(world_size)
        model = setup.model
        every: list[Layer] = []
        takes: list[bool] = []
        major = None if self.exchange is None else self.exchange.v_major
        by_step = [major.share(step, self.steps) for step in range(self.steps)] if major else []
        shares = [1.0, *dict.fromkeys(share for share in by_step if share < 1)] if major else []
        activations = scratch = 0
        for shape in model.blocks:
            made = block(setup, shape)
            layer = made.layer
            if setup.layout.stale:
                patches = [block(setup._replace(patch=True, with_text=text), shape) for text in (True, False)]
                layer = layer._replace(others=tuple(patch.layer.block for patch in patches))
            if shares:
                partly = [block(setup._replace(share=share), shape) for share in shares[1:]]
                layer = layer._replace(others=tuple(made.layer.block for made in partly))
            every += [layer] * shape.repeat
            takes += [shape.skip is True] * shape.repeat
            activations, scratch = max(activations, made.activations), max(scratch, made.scratch)
        count = self.layers or len(every)
        chosen = [i * len(every) // count for i in range(count)]
        layers = tuple(every[i] for i in chosen)
        sample, layout = self.batch * BF16, setup.layout
        whole = Workload(
            layers,
            self.steps,
            self._passes(model) // layout.cfg,
            activations * sample,
            scratch * sample,
            self.synchronous,
            phase_layers(self.before, layout, world_size),
            phase_layers(self.after, layout, world_size),
            outside_bytes=model.parameters.outside * BF16,
        )
        if shares:
            whole = in_shares(whole, setup, [shares.index(share) for share in by_step])
        if layout.displaced > 1:
            whole = displaced(whole, setup)
        whole = divided(whole, setup, self.patch_text == "each", tuple(takes[i] for i in chosen))
        return Algorithms(self.collectives).applied(whole, world_size)


def block_bytes(model: Model) -> tuple[int, ...]:
    """Weights of one whole block of each of `model.blocks`, B in bf16."""
    setup = Setup(model, "ulysses", world_size=1, batch=1, tokens=1, text=1, cross_attention=0)
    return tuple(block(setup, shape).layer.bytes for shape in model.blocks)


def parameters(model: Model) -> int:
    """Parameters of the transformer, as counted from its shapes."""
    blocks = sum(size * shape.repeat for size, shape in zip(block_bytes(model), model.blocks, strict=True))
    return blocks // BF16 + model.parameters.outside


def _wrong(key: str, problem: str) -> Fault:
    return Fault(f"workload.{key}", problem)


def _refuse(faults: Iterable[Fault]) -> None:
    """Raise `InputError` if there are any."""
    if found := list(faults):
        raise InputError.of("scenario", found)
