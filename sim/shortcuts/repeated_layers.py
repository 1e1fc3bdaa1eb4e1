"""Simulates only some of consecutive equal layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec

from sim import policies
from sim.machine import LONGEST, SimulatedMachine
from sim.policies import Policy
from sim.program import AnyCommand, Collective, Kernel, PointToPoint, Program
from sim.shortcuts.expand import lengthened
from sim.shortcuts.repeats import Region, find
from sim.timeline import Timeline
from sim.workloads.block_items import Compute, CopyOp
from sim.workloads.workload import Layer, Workload

MIN_KEPT = 6
"""Equal layers that are simulated at first; twice as many where nothing repeats among them."""
MAX_SHARE = 1 / 2
"""Of a pass's layers, that may be simulated to find a repeat; beyond, a run of all costs hardly more."""
MIN_COMMANDS = 50_000
"""Commands from which on a run is long enough for a try."""


class Shortened(NamedTuple):
    """A run, and the layers of each rank that were simulated and that others stand for."""

    timeline: Timeline
    simulated_layers: int
    repeated_layers: int


def run_layers(
    machine: SimulatedMachine,
    workload: Workload,
    policy: Policy,
    world_size: int,
    shortcuts: bool = True,
    worth: int = MIN_COMMANDS,
    placement: Sequence[int] = (),
) -> Shortened:
    """Run `workload` under `policy` on the GPUs of `placement`; with `shortcuts`, leave out layers that repeat.

    Runs of fewer than `worth` commands are simulated as they are.
    """
    # what is done once has no layer to repeat, and copies of blocks have buffers that live from one layer to the next
    shortcuts = shortcuts and not (workload.before or workload.after or workload.closing or workload.ranks)
    shortcuts = shortcuts and not any(isinstance(op, CopyOp) for layer in workload.layers for op in layer.block)
    shortcuts = shortcuts and policies.count_commands(workload, policy, world_size) >= worth
    passes, kept = workload.steps * workload.passes_per_step, MIN_KEPT + 2 * policy.prefetch_layers
    layers, lasts = len(workload.layers), _length(machine, workload, policy)
    whole: Program | None = None
    while shortcuts and (regions := _regions(workload, policy, kept)):
        whole = whole or policies.build(workload._replace(steps=0), policy, world_size, placement)
        program, marks = _program(workload, policy, world_size, regions, whole, placement)
        left = sum(region.kept for region in regions)
        if len(marks) == passes * left:
            timeline, states = machine.run_marked(program, marks, lasts)
            jitter = machine.profile.host.wake_spread.value > 0
            if (repeats := find(program, states, regions, left, jitter)) is not None:
                longer = lengthened(timeline, tuple(repeats))
                end = max(times[-1] for times in longer.steps)
                if end >= LONGEST * lasts:  # beyond the grid: again with another, as the machine does
                    lasts = end
                    continue
                return Shortened(longer, passes * left, passes * (layers - left))
        kept *= 2
    program = policies.build(workload, policy, world_size, placement)
    return Shortened(machine.run(program, lasts), passes * layers, 0)


def _length(machine: SimulatedMachine, workload: Workload, policy: Policy) -> float:
    """About how long a run takes, s: kernels, and copies at their cap, of rank 0; 1 where there are none.

    It does not depend on whether layers are left out: neither does the grid of times, which follows from it.
    """
    profile, once = machine.profile, len(workload.all_layers) - len(workload.layers)
    kernels: dict[int, float] = {}
    compute = copied = 0.0
    for number, layer in enumerate(workload.all_layers):
        block = id(layer.block)
        if block not in kernels:
            works = (Kernel(stream="", name="", **op.work()) for op in layer.block if isinstance(op, Compute))
            kernels[block] = sum(map(profile.kernel_seconds, works))
        times = 1 if once and number >= len(workload.layers) else workload.steps * workload.passes_per_step
        compute += times * kernels[block]
        copied += times * policy.copied_of_layer(number, layer.bytes)
    return max(compute, copied / profile.copy_class("h2d").cap.value) or 1.0


def _regions(workload: Workload, policy: Policy, kept: int) -> list[Region]:
    """The pass as regions of equal layers, of which `kept` stay; empty if too few layers would be skipped."""
    if "layers_alike" not in vars(type(policy)) or not policy.layers_alike:
        return []
    if policy.resident_layers or policy.prefetch_counts != "all" or not policy.wrap_around:
        return []
    regions, first = [], 0
    for _, equal in groupby(workload.layers):
        count = len(list(equal))
        stay = min(kept, count)
        regions.append(Region(first, stay, count - stay))
        first += stay
    return regions if first <= MAX_SHARE * len(workload.layers) else []


def _program(
    workload: Workload,
    policy: Policy,
    world_size: int,
    regions: list[Region],
    whole: Program,
    placement: Sequence[int],
) -> tuple[Program, list[AnyCommand]]:
    """The program without the removed layers, with the memory of `whole`; its layers' first commands on rank 0."""
    layers: list[Layer] = []
    at = 0
    for region in regions:
        layers += workload.layers[at : at + region.kept]
        at += region.kept + region.removed
    program = policies.build(workload._replace(layers=tuple(layers)), policy, world_size, placement)
    with_memory = {
        id(rank): msgspec.structs.replace(rank, buffers=full.buffers, weights=full.weights)
        for rank, full in zip(program.ranks, whole.ranks, strict=True)
    }
    program = Program(tuple(with_memory[id(rank)] for rank in program.ranks), program.placement)
    return program, list(_first_of_layers(program))


def _first_of_layers(program: Program) -> Iterator[AnyCommand]:
    """The first kernel or collective of each layer on the compute stream of rank 0."""
    rank = program.ranks[0]
    stream, layer = rank.step_stream(), None
    for command in rank.commands():
        if isinstance(command, Kernel | Collective | PointToPoint) and command.stream == stream:
            if command.layer != layer:
                yield command
            layer = command.layer
