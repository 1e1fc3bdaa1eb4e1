"""Memory as users count it: a peak by component."""

from __future__ import annotations

from sim.planning.points import Point


def components(point: Point) -> dict[str, int]:
    """Bytes of a rank's peak: resident weights, slots, activations, scratch, and the rest, which is collective buffers.

    Encoders, VAE, CUDA context and NCCL are in no peak.
    """
    scenario, policy = point.scenario, point.policy
    workload = scenario.workload.resolve(scenario.world_size)
    copied = [policy.copied_of_layer(i, layer.bytes) for i, layer in enumerate(workload.layers)]
    slots = (policy.prefetch_layers + 1) * max(copied) if any(copied) else 0
    weights = policy.weight_bytes(workload, scenario.world_size)
    known = {
        "resident_weights": weights - slots,
        "slots": slots,
        "activations": workload.activation_bytes,
        "scratch": workload.scratch_bytes,
    }
    return {**known, "collective_buffers": max(point.peak_memory_bytes - sum(known.values()), 0)}
