"""What ranks do between blocks: stages of a pipeline hand on what they computed, guidance joins its passes."""

from __future__ import annotations

from sim.inputs.units import Bytes
from sim.program import Recv, Send
from sim.workloads.activation_memory import ACTIVATIONS
from sim.workloads.block_items import CollectiveOp, Op, Transfers
from sim.workloads.block_setup import Setup
from sim.workloads.layer_builder import BF16
from sim.workloads.patches import LATENTS, StageOfPatches
from sim.workloads.workload import Layer, Workload


def divided(whole: Workload, setup: Setup, text_each: bool = False) -> Workload:
    """`whole`, what a rank of one stage does, as what each rank does of a pipeline, with guidance over its groups.

    Stages hand on the hidden vectors of each pass. The last one joins the passes of guidance and sends the latents of
    the next step to the first one, as xDiT and vLLM-Omni do. Sends are on the compute stream. With patches see
    `sim.workloads.patches`; `text_each`: each of them goes with the text.
    """
    layout = setup.layout
    if layout.patches > 1:
        return _in_patches(whole, setup, text_each)
    latents = setup.latent_elements * setup.batch * BF16
    joined: tuple[Op, ...] = ()
    if layout.cfg > 1:
        size = Bytes(layout.cfg * latents)
        joined = (CollectiveOp(kind="all_gather", bytes=size, name="guidance", group=setup.groups("cfg")),)
    if layout.pipeline == 1:
        return whole._replace(closing=joined)
    hidden = setup.rows * setup.model.transformer.hidden * setup.batch * BF16
    ranks: list[Workload] = []
    of = {rank: group for group in layout.groups("pipeline") for rank in group}
    for rank in range(setup.world_size):
        group, stage = of[rank], layout.place(rank, "pipeline")
        layers = [whole.layers[i] for i in layout.stage(stage, len(whole.layers))]
        closing: tuple[Op, ...] = ()
        if stage > 0:
            came = Transfers("stage input", (Recv(group[stage - 1], hidden, ACTIVATIONS),))
            layers[0] = _with(layers[0], (came,), ())
        if stage < layout.pipeline - 1:
            goes = Transfers("stage output", (Send(group[stage + 1], hidden, ACTIVATIONS),))
            layers[-1] = _with(layers[-1], (), (goes,))
        if stage == 0:
            closing = (Transfers(LATENTS, (Recv(group[-1], latents, LATENTS),)),)
        elif stage == layout.pipeline - 1:
            closing = (*joined, Transfers(LATENTS, (Send(group[0], latents, LATENTS),)))
        ranks.append(whole._replace(layers=tuple(layers), closing=closing))
    return ranks[0]._replace(ranks=tuple(ranks))


def _in_patches(whole: Workload, setup: Setup, text_each: bool) -> Workload:
    layout = setup.layout
    of = {rank: group for group in layout.groups("pipeline") for rank in group}
    ranks: list[Workload] = []
    for rank in range(setup.world_size):
        stage = layout.place(rank, "pipeline")
        own = tuple(whole.layers[i] for i in layout.stage(stage, len(whole.layers)))
        made = StageOfPatches(setup, of[rank], stage, whole.passes_per_step, text_each)
        ranks.append(made.workload(whole, own))
    return ranks[0]._replace(ranks=tuple(ranks))


def _with(layer: Layer, first: tuple[Op, ...], last: tuple[Op, ...]) -> Layer:
    return layer._replace(block=(*first, *layer.block, *last))
