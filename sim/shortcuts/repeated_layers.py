"""Simulates only some of consecutive equal layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import NamedTuple

import msgspec

from sim import policies
from sim.hardware.quotient import BrokenSymmetryError
from sim.machine import LONGEST, DeadlockError, Marked, SimulatedMachine
from sim.policies import Policy
from sim.program import Collective, Kernel, PointToPoint, Program, RankProgram
from sim.shortcuts.hosts import ahead, unobserved
from sim.shortcuts.repeats import Found, Marks, Region, Repeats
from sim.shortcuts.symmetric_ranks import Ranks
from sim.shortcuts.whole_run import each_step_whole, lengthened, pieces
from sim.timeline import Timeline
from sim.workloads.block_items import Compute, CopyOp
from sim.workloads.engine_collectives import EngineCollective
from sim.workloads.workload import Layer, Workload

MIN_KEPT = 4
"""Equal layers in a row that are simulated at first, and two for each layer of prefetch; then twice as many.

With prefetch, one less is tried before.
"""
MAX_SHARE = 1 / 2
"""Of a run's layers, that may be simulated to find a repeat; beyond, a run of all costs hardly more."""
MIN_COMMANDS = 2_000
"""Commands from which on a run is long enough for a try."""
MIN_STEPS = 2
"""Steps that are simulated where all others are like the second one."""


class Shortened(NamedTuple):
    """A run, and the layers of each rank that were simulated and that others stand for.

    `commands` are those of all ranks, of the layers left out too. With `left_out_steps`, the first of so many steps
    that were not simulated is the second one.
    """

    timeline: Timeline
    simulated_layers: int
    repeated_layers: int
    commands: int
    left_out_steps: int = 0


def run_layers(
    machine: SimulatedMachine,
    workload: Workload,
    policy: Policy,
    world_size: int,
    shortcuts: bool = True,
    worth: int = MIN_COMMANDS,
    placement: Sequence[int] = (),
    all_steps: bool = False,
    all_layers: bool = False,
) -> Shortened:
    """Run `workload` under `policy` on the GPUs of `placement`; with `shortcuts`, leave out what repeats.

    Of ranks that do the same at the same time, one is simulated. Runs of fewer than `worth` commands are simulated as
    they are. With `all_steps` none of them is left out whole, with `all_layers` no layer.
    """
    lasts = _length(machine, workload, policy)
    shortcuts = shortcuts and policies.count_commands(workload, policy, world_size) >= worth
    leave_out = shortcuts and not all_layers and _may_repeat(workload, policy)
    if shortcuts and (alike := Ranks.alike(machine, workload, policy, world_size, placement)) is not None:
        with suppress(BrokenSymmetryError, DeadlockError):  # a message about a deadlock names all ranks
            return _run(alike, workload, lasts, leave_out, all_steps)
    return _run(Ranks(machine, policy, world_size, placement), workload, lasts, leave_out, all_steps)


def _run(ranks: Ranks, workload: Workload, lasts: float, leave_out: bool, all_steps: bool) -> Shortened:
    if leave_out and (found := _Short(ranks, workload, lasts).run(all_steps)) is not None:
        return found._replace(timeline=ranks.of_all(found.timeline))
    program = ranks.build(workload)
    layers = workload.passes * len(workload.layers)
    return Shortened(ranks.of_all(ranks.machine.run(program, lasts)), layers, 0, _count(program, ranks))


def _may_repeat(workload: Workload, policy: Policy) -> bool:
    """Whether equal layers in a row are alike wherever they stand.

    What is done once has no layer to repeat, and copies of blocks have buffers that live from one layer to the next.
    Flags of collectives by copy engines count through all layers.
    """
    return (
        "layers_alike" in vars(type(policy))
        and policy.layers_alike
        and not policy.resident_layers
        and policy.prefetch_counts == "all"
        and policy.wrap_around
        and workload.forms is None
        and workload.recorded is None
        and not (workload.before or workload.after or workload.closing or workload.ranks)
        and not any(isinstance(op, CopyOp | EngineCollective) for layer in workload.layers for op in layer.block)
    )


def _count(program: Program, ranks: Ranks) -> int:
    """Commands of all ranks."""
    return sum(
        size * len(thread) for rank, size in zip(program.ranks, ranks.sizes, strict=True) for thread in rank.threads
    )


class _Short:
    """Tries to run a workload with some of its layers."""

    def __init__(self, ranks: Ranks, workload: Workload, lasts: float) -> None:
        self.ranks = ranks
        self.machine = ranks.machine
        self.workload = workload
        self.lasts = lasts
        self.layers = workload.layers * workload.passes_per_step
        """Of a step: a pass begins as any other layer does."""
        self.hosts_ahead = True
        """Whether host threads may be left out: not once they have been found to be waited for."""
        self._whole: Program | None = None

    def run(self, all_steps: bool) -> Shortened | None:
        """The run, from what repeats in it; None if nothing is found among a share of its layers."""
        steps = self.workload.steps
        fewest = steps if all_steps else min(steps, MIN_STEPS)
        kept = MIN_KEPT + 2 * self.ranks.policy.prefetch_layers
        if self.ranks.policy.prefetch_layers:  # most schedules repeat so soon where host threads are ahead
            regions = self._regions(kept - 1)
            if self._worth(regions, fewest) and (found := self._try(regions, fewest, endless_queues=True)) is not None:
                return found
        while True:
            regions = self._regions(kept)
            for count in dict.fromkeys((fewest, steps)):
                if self._worth(regions, count):
                    for endless_queues in (True, False):
                        if (found := self._try(regions, count, endless_queues)) is not None:
                            return found
            if not any(region.removed for region in regions):
                return None
            kept *= 2

    def _worth(self, regions: Sequence[Region], steps: int) -> bool:
        """Whether so many steps of what is kept are few enough of all layers."""
        return sum(r.kept for r in regions) * steps <= MAX_SHARE * len(self.layers) * self.workload.steps

    def _regions(self, kept: int) -> list[Region]:
        """A step as regions of equal layers, of which `kept` stay."""
        regions, first = [], 0
        for _, equal in groupby(self.layers):
            count = len(list(equal))
            stay = min(kept, count)
            regions.append(Region(first, stay, count - stay))
            first += stay
        return regions

    def _try(self, regions: list[Region], steps: int, endless_queues: bool) -> Shortened | None:
        """Simulate `steps` steps, each with what is kept of `regions`; None if not all of them repeat.

        With `endless_queues` host threads are left out of the states, if they prove to be ahead in the whole run.
        """
        if endless_queues and not self.hosts_ahead:
            return None
        program, left = self._program(regions, steps), sum(region.kept for region in regions)
        if endless_queues and not self._may_be_ahead(program, steps * left):
            self.hosts_ahead = False
            return None
        places = {id(rank): list(_first_of_layers(rank)) for rank in program.ranks}
        if any(len(of) != steps * left for of in places.values()):
            return None
        first = program.ranks[0]
        commands = list(first.commands())
        marks = [commands[place] for place in places[id(first)]]
        try:
            run = self.machine.run_marked(program, marks, self.lasts, endless_queues)
        except DeadlockError:
            if endless_queues:
                return None
            raise
        jitter = self.machine.profile.host.wake_spread.value > 0
        repeats = Repeats(program, Marks(run.states, places if endless_queues else {}, left, jitter))
        of_layers = repeats.of_layers(regions)
        more, of_steps = self.workload.steps - steps, None
        if more and of_layers is not None:
            tried = [of_layers[0].first] if of_layers else range(left)
            of_steps = next((f for layer in tried if (f := repeats.of_steps(layer, more)) is not None), None)
            of_layers = repeats.in_both_steps([f for f in of_layers if f.last < left])
        if of_layers is None or (of_steps is None and (more or not of_layers)):
            return None
        if not each_step_whole(run, of_layers, left, self.workload.steps):
            return None
        if endless_queues and not self._ahead(program, run, repeats, of_layers, of_steps, places):
            self.hosts_ahead = False
            return None
        timeline = lengthened(run, of_layers, of_steps)
        end = max(times[-1] for times in timeline.steps)
        if end >= LONGEST * self.lasts:  # beyond the grid: again with another, as the machine does
            self.lasts = end
            return self._try(regions, steps, endless_queues)
        layers = self.workload.steps * len(self.layers)
        if endless_queues:
            count = sum(
                size * (piece.stop - piece.first)
                for rank, size in zip(program.ranks, self.ranks.sizes, strict=True)
                for piece in pieces(run.states, places[id(rank)], len(rank.threads[0]), of_layers, of_steps)
            )
        else:
            count = _count(program, self.ranks) + sum(
                f.copies * self.ranks.sizes[key[0]] * (run.states[f.last].issued[key] - run.states[f.first].issued[key])
                for f in of_layers
                for key in run.states[0].issued
            )
        return Shortened(timeline, steps * left, layers - steps * left, count, more)

    def _program(self, regions: list[Region], steps: int) -> Program:
        """The program of `steps` steps without the removed layers, with the memory of the whole one."""
        layers: list[Layer] = []
        at = 0
        for region in regions:
            layers += self.layers[at : at + region.kept]
            at += region.kept + region.removed
        less = self.workload._replace(layers=tuple(layers), steps=steps, passes_per_step=1)
        nothing = self.workload._replace(steps=0)
        return self.ranks.shared((less, nothing), lambda: self._with_memory(less, nothing))

    def _with_memory(self, less: Workload, nothing: Workload) -> Program:
        """The program of `less` with the memory of `nothing`, which has all layers."""
        if self._whole is None:
            self._whole = self.ranks.build(nothing)
        program = self.ranks.build(less)
        with_memory = {
            id(rank): msgspec.structs.replace(rank, buffers=full.buffers, weights=full.weights)
            for rank, full in zip(program.ranks, self._whole.ranks, strict=True)
        }
        return Program(tuple(with_memory[id(rank)] for rank in program.ranks), program.placement)

    def _may_be_ahead(self, program: Program, layers: int) -> bool:
        """Whether it is worth a try: a queue takes more than what its stream gets in a layer."""
        places = max(Counter(c.stream for c in program.ranks[0].commands()).values())
        return unobserved(program) and places < layers * self.machine.profile.host.queue_depth.value

    def _ahead(
        self,
        program: Program,
        run: Marked,
        repeats: Repeats,
        of_layers: Sequence[Found],
        of_steps: Found | None,
        places: dict[int, list[int]],
    ) -> bool:
        """Whether all host threads keep ahead in the whole run."""
        first = min(found.first for found in (*of_layers, of_steps) if found is not None)
        depth = int(self.machine.profile.host.queue_depth.value)
        return all(
            ahead(
                rank,
                run.issued[number],
                pieces(run.states, places[id(rank)], len(rank.threads[0]), of_layers, of_steps),
                repeats.unfinished(number, first),
                depth,
            )
            for number, rank in enumerate(program.ranks)
        )


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
        times = 1 if once and number >= len(workload.layers) else workload.passes
        compute += times * kernels[block]
        copied += times * policy.copied_of_layer(number, layer.bytes)
    return max(compute, copied / profile.copy_class("h2d").cap.value) or 1.0


def _first_of_layers(rank: RankProgram) -> Iterator[int]:
    """The place of the first kernel or collective of each layer on the compute stream, among all commands of a rank."""
    stream, layer = rank.step_stream(), None
    for place, command in enumerate(rank.commands()):
        if isinstance(command, Kernel | Collective | PointToPoint) and command.stream == stream:
            if command.layer != layer:
                yield place
            layer = command.layer
