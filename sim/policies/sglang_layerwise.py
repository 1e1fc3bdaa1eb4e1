"""Layerwise offload of SGLang as it runs: one copy a layer behind queued compute, and a hook that re-points tensors."""

from __future__ import annotations

from typing import ClassVar, Literal

from sim.policies.hooked_layerwise import HookedLayerwise
from sim.policies.registry import register


@register
class SglangLayerwise(HookedLayerwise, frozen=True, tag="sglang_layerwise"):
    """`--dit-layerwise-offload`: weights of a layer lie in one pinned buffer, and are one copy.

    It waits for all compute queued when it is issued, as `whole_layer` does with `issue: after_compute`. Weights of no
    block stay on the GPU. `hook` is the host's time for a layer, `per_tensor` that for each tensor which it makes a
    view of the layer's buffer.
    """

    issue: ClassVar[Literal["async", "after_compute"]] = "after_compute"
