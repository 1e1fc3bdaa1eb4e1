"""What ranks do between blocks: stages of a pipeline hand on what they computed, guidance joins its passes."""

from __future__ import annotations

from sim.inputs.units import Bytes
from sim.program import Recv, Send
from sim.workloads.activation_memory import ACTIVATIONS
from sim.workloads.block_items import CollectiveOp, Op, Transfers
from sim.workloads.block_setup import Setup
from sim.workloads.layer_builder import BF16
from sim.workloads.patches import LATENTS, StageOfPatches
from sim.workloads.skips import Skips
from sim.workloads.workload import Layer, Workload


def divided(whole: Workload, setup: Setup, text_each: bool = False, takes: tuple[bool, ...] = ()) -> Workload:
    """`whole`, what a rank of one stage does, as what each rank does of a pipeline, with guidance over its groups.

    Stages hand on the hidden vectors of each pass. The last one joins the passes of guidance and sends the latents of
    the next step to the first one, as xDiT and vLLM-Omni do. Sends are on the compute stream. With patches see
    `sim.workloads.patches`; `text_each`: each of them goes with the text. `takes` says of each layer whether it has a
    skip connection (`sim.workloads.skips`); none has one unless given.
    """
    layout = setup.layout
    if layout.patches > 1:
        return _in_patches(whole, setup, text_each, takes)
    latents = setup.latent_elements * setup.batch * BF16
    joined: tuple[Op, ...] = ()
    if layout.cfg > 1:
        size = Bytes(layout.cfg * latents)
        joined = (CollectiveOp(kind="all_gather", bytes=size, name="guidance", group=setup.groups("cfg")),)
    if layout.pipeline == 1:
        skips = Skips(setup, (0,), 0, takes)
        own = _with_skips(whole.layers, skips)
        return whole._replace(layers=own, closing=joined, skip_bytes=skips.bytes())
    hidden = setup.rows * setup.model.transformer.hidden * setup.batch * BF16
    ranks: list[Workload] = []
    of = {rank: group for group in layout.groups("pipeline") for rank in group}
    for rank in range(setup.world_size):
        group, stage = of[rank], layout.place(rank, "pipeline")
        skips = Skips(setup, group, stage, takes)
        layers = list(_with_skips(tuple(whole.layers[i] for i in layout.stage(stage, len(whole.layers))), skips))
        closing: tuple[Op, ...] = ()
        if stage > 0:
            came = Transfers("stage input", (Recv(group[stage - 1], hidden, ACTIVATIONS),))
            layers[0] = _with(layers[0], (came, *skips.receives(setup)), ())
        if stage < layout.pipeline - 1:
            goes = Transfers("stage output", (Send(group[stage + 1], hidden, ACTIVATIONS),))
            layers[-1] = _with(layers[-1], (), (goes, *skips.sends(setup)))
        if stage == 0:
            closing = (Transfers(LATENTS, (Recv(group[-1], latents, LATENTS),)),)
        elif stage == layout.pipeline - 1:
            closing = (*joined, Transfers(LATENTS, (Send(group[0], latents, LATENTS),)))
        ranks.append(whole._replace(layers=tuple(layers), closing=closing, skip_bytes=skips.bytes()))
    return ranks[0]._replace(ranks=tuple(ranks))


def _with_skips(layers: tuple[Layer, ...], skips: Skips) -> tuple[Layer, ...]:
    """A stage's layers with what they keep for later ones and take from earlier ones."""
    if not any(skips.takes):
        return layers
    made: list[Layer] = []
    for number, layer in zip(skips.own, layers, strict=True):
        kept = tuple(skips.keep(number, skips.setup))
        block, *others = ((*skips.take(number, block, skips.setup), *kept) for block in layer.blocks)
        made.append(layer._replace(block=block, others=tuple(others)))
    return tuple(made)


def _in_patches(whole: Workload, setup: Setup, text_each: bool, takes: tuple[bool, ...]) -> Workload:
    layout = setup.layout
    of = {rank: group for group in layout.groups("pipeline") for rank in group}
    ranks: list[Workload] = []
    for rank in range(setup.world_size):
        stage = layout.place(rank, "pipeline")
        own = tuple(whole.layers[i] for i in layout.stage(stage, len(whole.layers)))
        skips = Skips(setup, of[rank], stage, takes, layout.patches * whole.passes_per_step)
        made = StageOfPatches(setup, of[rank], stage, whole.passes_per_step, text_each, skips)
        ranks.append(made.workload(whole, own))
    return ranks[0]._replace(ranks=tuple(ranks))


def _with(layer: Layer, first: tuple[Op, ...], last: tuple[Op, ...]) -> Layer:
    return layer._replace(block=(*first, *layer.block, *last))
