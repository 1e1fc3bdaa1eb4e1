"""One run: scenario in, timeline and metrics out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

from sim.hardware import Profile
from sim.inputs.notebook_html import html_table
from sim.inputs.units import show_bytes, show_seconds
from sim.isolated_runs import isolated_times
from sim.machine import SimulatedMachine
from sim.policies import Policy, describe
from sim.scenario import Scenario
from sim.shortcuts import Shortened, expanded, run_layers
from sim.timeline import Sections, Timeline, settling
from sim.timeline.composed import with_isolated
from sim.timeline.memory_components import Weights
from sim.timeline.metrics import Metrics, fit, metrics, shown
from sim.workloads.block_items import meeting_name
from sim.workloads.engine_collectives import EngineCollective
from sim.workloads.workload import Workload


class _Fields(NamedTuple):
    scenario: Scenario
    profile: Profile
    simulated: Timeline
    """What was simulated, with the repeats that stand for more: figures and causes are read off it."""
    metrics: Metrics
    simulated_layers: int
    repeated_layers: int
    policy: Policy
    """What ran: the scenario's policy with all decisions made."""
    decided: str = ""
    """What that is, in words, where the policy had to decide."""


class Result(_Fields):
    """What a simulation gives.

    Of each rank `simulated_layers` of the longest run were simulated, `repeated_layers` were not: they repeat others.
    """

    @cached_property
    def timeline(self) -> Timeline:
        """All spans. Where layers were left out, all are simulated when this is asked for."""
        if not self.simulated.simulated_steps:
            return expanded(self.simulated)
        steps = len(self.simulated.steps[0]) - 1
        policy, decided = self.scenario.decided(self.profile)
        whole = _run(self.scenario, decided, policy, SimulatedMachine(self.profile), steps, all_layers=True)
        return expanded(whole.timeline._replace(period=self.simulated.period))

    def __repr__(self) -> str:
        step, peak = show_seconds(self.metrics["step_time_s"]), show_bytes(self.metrics["peak_memory_bytes"])
        return f"<Result: {self._about()}: step {step}, peak memory {peak}>"

    def _about(self) -> str:
        return f"{describe(self.scenario.policy)} on {self.profile.name}, {self.scenario.world_size} ranks"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, ...]] = []
        for key, name, value, remark in shown(self.metrics):
            show = show_seconds if key.endswith("_s") else show_bytes
            rows.append((name, show(value), remark))
        rows.append(("device memory", show_bytes(self.metrics["device_memory_bytes"]), fit(self.metrics)[1]))
        return html_table(self._about(), ("", "", ""), rows)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Put off the search for cycles of references: a run makes few, and millions of objects that live on."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def engine_collectives(workload: Workload) -> dict[str, int]:
    """Names of the collectives by copy engines of a workload's steps -> B of their pieces."""
    layers = (layer for own in workload.ranks or (workload,) for layer in own.layers)
    blocks = dict.fromkeys(block for layer in layers for block in layer.blocks)
    ops = (op for block in blocks for op in block)
    return {meeting_name(op): op.piece_bytes for op in ops if isinstance(op, EngineCollective)}


@_collector_paused()
def simulate(
    scenario: Scenario,
    profile: Profile | None = None,
    settle: bool = True,
    shortcuts: bool = True,
    max_steps: int = settling.MAX_STEPS,
) -> Result:
    """Run `scenario` on the simulated machine, on its own hardware profile unless another is given.

    Where its steps have not settled, more are simulated, at most `max_steps` (`sim.timeline.settling`), unless `settle`
    is False: figures are then those of the last step. With `shortcuts` layers are left out that are proved to repeat,
    which changes no figure (docs/performance.md).

    Raises:
        InputError: the profile cannot be loaded or has too few GPUs.
        ProgramError: the scenario makes no valid program.
    """
    profile = profile or scenario.profile()
    machine = SimulatedMachine(profile, trains=shortcuts)
    policy, decided = scenario.decided(profile)

    def run_of(steps: int, all_steps: bool = False, all_layers: bool = False) -> Shortened:
        return _run(scenario, decided, policy, machine, steps, shortcuts, all_steps, all_layers)

    found = first = longest = run_of(scenario.workload.steps)

    def run(steps: int) -> Timeline:
        nonlocal longest
        longest = run_of(steps)
        return longest.timeline

    timeline, forms, steps = first.timeline, decided.forms, scenario.workload.steps
    if forms is not None and len(forms.first) >= steps > 1:
        timeline = timeline._replace(period=steps)  # each step is one of its own: figures are means over all of them
    elif settle:
        timeline = settling.settle(timeline, first.commands, run, max_steps)
    if len(timeline.steps[0]) > len(first.timeline.steps[0]):
        found = longest
    count = len(timeline.steps[0]) - 1
    if found.left_out_steps and timeline.simulated_shown.start < 1:  # figures are of steps that were left out
        found = longest = run_of(count, all_steps=True)
    if Sections.of(found.timeline, 0) is None:
        found = longest = run_of(count, all_layers=True)
    timeline = found.timeline._replace(period=timeline.period)
    if timeline.composed:
        alone = isolated_times(machine, decided, scenario.world_size, scenario.placement or ())
        timeline = with_isolated(timeline, alone)
    weights = _weights(decided, policy, scenario.world_size)
    figures = metrics(timeline, profile, steps=scenario.workload.steps, weights=weights)
    words = "" if policy == scenario.policy else describe(policy)
    if words and (engines := engine_collectives(decided)):
        words += f", by copy engines: {', '.join(f'{name} ({show_bytes(size)})' for name, size in engines.items())}"
    counts = longest.simulated_layers, longest.repeated_layers
    return Result(scenario, profile, timeline, figures, *counts, policy, words)


@_collector_paused()
def _run(
    scenario: Scenario,
    decided: Workload,
    policy: Policy,
    machine: SimulatedMachine,
    steps: int,
    shortcuts: bool = True,
    all_steps: bool = False,
    all_layers: bool = False,
) -> Shortened:
    """A run of so many steps."""
    workload, size, placement = decided._replace(steps=steps), scenario.world_size, scenario.placement or ()
    return run_layers(
        machine,
        workload,
        policy,
        size,
        shortcuts,
        placement=placement,
        all_steps=all_steps,
        all_layers=all_layers,
    )


def _weights(whole: Workload, policy: Policy, ranks: int) -> Weights:
    """What host memory holds of them, and how many layers run once."""
    each = [_pinned(whole.of(rank), policy, ranks) for rank in range(ranks if whole.ranks else 1)]
    first = whole.of(0)
    pinned = sum(each) if whole.ranks else ranks * each[0]
    return Weights(pinned, len(first.before) + len(first.after))


def _pinned(workload: Workload, policy: Policy, ranks: int) -> int:
    return sum(policy.least_copied(number, layer.bytes, ranks) for number, layer in enumerate(workload.all_layers))
