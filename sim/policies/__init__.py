"""Offload policies: pure functions from (workload, parameters, world size) to a `Program`.

Each policy is one module of this folder: its parameters, as a scenario file gives them under its `kind`, its label, the
variants that `explain` compares, how many commands it makes, and its schedule. A module is found by being here; one
elsewhere by `register` or `load_policies` (docs/policies.md). Only `build` makes programs from policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.policies.base import Axes, Decided, Offload, Policy, copied_bytes
from sim.policies.registry import (
    all_fields,
    fields_of,
    kinds,
    load_policies,
    loaded_contents,
    naming_own_file,
    register,
    union,
    unregister,
)
from sim.policies.resident import Resident
from sim.policies.schedule import COPY, Schedule
from sim.policies.shared_programs import Programs, programs_shared, shared
from sim.policies.text import describe, describe_plain, difference
from sim.program import Program, RankProgram
from sim.workloads.block_commands import COMPUTE
from sim.workloads.block_items import command_count
from sim.workloads.workload import Workload

__all__ = [
    "COMPUTE",
    "COPY",
    "Axes",
    "Decided",
    "Offload",
    "Policy",
    "Programs",
    "Resident",
    "Schedule",
    "all_fields",
    "build",
    "copied_bytes",
    "count_commands",
    "describe",
    "describe_plain",
    "difference",
    "fields_of",
    "kinds",
    "load_policies",
    "loaded_contents",
    "programs_shared",
    "register",
    "shared",
    "union",
    "unregister",
    "variants",
]


def build(workload: Workload, policy: Policy, world_size: int, placement: Sequence[int] = ()) -> Program:
    """The program of `workload` under `policy`; ranks that do the same share one.

    `placement` is the GPU of each rank; rank r sits on GPU r without it. Inside of `programs_shared` it is one that was
    built before, if there is one.
    """

    def make() -> Program:
        made: dict[Workload | int, RankProgram] = {}
        ranks = []
        alike = workload.alike
        for rank in range(world_size):
            own = workload if alike else workload.of(rank)
            key = rank if not policy.ranks_alike else 0 if own is workload else own
            if key not in made:
                with naming_own_file(policy):
                    made[key] = policy.schedule(own, world_size, rank)
                    if not isinstance(made[key], RankProgram):
                        raise TypeError(f"schedule returns {type(made[key]).__name__}, expected a RankProgram")
            ranks.append(made[key])
        return Program(tuple(ranks), placed)

    placed = tuple(placement)
    return shared((workload, policy, world_size, placed), make)


def count_commands(workload: Workload, policy: Policy, world_size: int) -> int:
    """At most how many commands and slots `build` makes, over all ranks; it takes hardly more than that.

    Counts the layers of all steps, those prefetched for the step after the last one, and each step's events.
    """
    if workload.ranks:
        ranks = (own._replace(steps=workload.steps) for own in workload.ranks)
        return -(-sum(count_commands(own, policy, world_size) for own in ranks) // world_size)
    of = [policy.commands_per_layer(layer, workload, world_size) for layer in range(len(workload.all_layers))]
    each, once = of[: len(workload.layers)], sum(of[len(workload.layers) :])
    passes, beyond = divmod(policy.prefetch_layers, len(each))
    passes += max(workload.passes, workload.steps)
    closing = command_count(workload.closing)
    steps = world_size * (policy.slot_count + 2 * (workload.steps + 1) + closing * workload.steps)
    if not policy.wrap_around:  # an event and its wait, as a pass begins
        once += world_size * (passes + 2)
    if policy.prefetch_counts == "offloaded":  # those ahead may be the largest, and lie many layers ahead
        return (passes + 1) * sum(each) + policy.prefetch_layers * max(each) + 2 * once + steps
    return passes * sum(each) + sum(each[:beyond]) + 2 * once + steps


def variants(policy: Policy, world_size: int, workload: Workload | None = None) -> Iterator[Policy]:
    """Valid policies that differ from `policy` in one thing: a field, or the kind with all fields that both have.

    Of a `workload`, those that depend on it, too.
    """
    seen = {policy}
    kept = (kind.from_policy(policy, world_size) for kind in kinds().values() if kind is not type(policy))
    # those that decide come last: what they choose may be what another kind does by its nature
    others = sorted(kept, key=lambda variant: variant is not None and variant.needs_rates)
    more = () if workload is None else policy.variants_on(workload, world_size)
    for variant in (*others, *policy.variants(world_size), *more):
        if variant is not None and variant not in seen:
            seen.add(variant)
            yield variant
