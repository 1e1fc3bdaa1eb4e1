"""Layerwise offload of vLLM-Omni as it runs: one copy a layer, and a hook that re-points tensors."""

from __future__ import annotations

from typing import ClassVar, Literal

from sim.policies.hooked_layerwise import HookedLayerwise
from sim.policies.registry import register


@register
class VllmOmniLayerwise(HookedLayerwise, frozen=True, tag="vllm_omni_layerwise"):
    """`--enable-layerwise-offload`: weights of a layer lie in one pinned buffer, and are one copy.

    It waits for its slot only, as `whole_layer` does. Weights of no block stay on the GPU. `hook` is the host's time
    for a layer, `per_tensor` that for each tensor which it makes a view of the layer's buffer.
    """

    issue: ClassVar[Literal["async", "after_compute"]] = "async"
