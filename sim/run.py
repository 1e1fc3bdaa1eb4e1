"""One run: scenario in, timeline and metrics out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sim.hardware import Profile
from sim.inputs.notebook_html import html_table
from sim.inputs.units import show_bytes, show_seconds
from sim.machine import SimulatedMachine
from sim.policies import describe
from sim.scenario import Scenario
from sim.shortcuts import expanded, run_layers
from sim.timeline import Timeline, settling
from sim.timeline.metrics import Metrics, fit, metrics, shown


class Result(NamedTuple):
    """What a simulation gives.

    Of each rank `simulated_layers` were simulated and `repeated_layers` were not: they repeat what others did. The
    timeline then has all spans of the steps that figures are of, and gaps before them.
    """

    scenario: Scenario
    profile: Profile
    timeline: Timeline
    metrics: Metrics
    simulated_layers: int
    repeated_layers: int

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


@_collector_paused()
def simulate(
    scenario: Scenario, profile: Profile | None = None, settle: bool = True, shortcuts: bool = False
) -> Result:
    """Run `scenario` on the simulated machine, on its own hardware profile unless another is given.

    Where its steps have not settled, more are simulated (`sim.timeline.settling`), unless `settle` is False: figures
    are then those of the last step. With `shortcuts` layers are left out that are found to repeat
    (docs/performance.md says how exact that is).

    Raises:
        InputError: the profile cannot be loaded or has too few GPUs.
        ProgramError: the scenario makes no valid program.
    """
    profile = profile or scenario.profile()
    machine = SimulatedMachine(profile)
    counts = (0, 0)

    def run(steps: int) -> Timeline:
        nonlocal counts
        workload = scenario.workload.resolve(scenario.world_size)._replace(steps=steps)
        found = run_layers(
            machine, workload, scenario.policy, scenario.world_size, shortcuts, placement=scenario.placement or ()
        )
        counts = found.simulated_layers, found.repeated_layers
        return found.timeline

    steps = scenario.workload.steps
    timeline = run(steps)
    forms = scenario.workload.resolve(scenario.world_size).forms
    if forms is not None and len(forms.first) >= steps > 1:
        timeline = timeline._replace(period=steps)  # each step is one of its own: figures are means over all of them
    elif settle:
        timeline = settling.settle(timeline, run)
    timeline = expanded(timeline)
    return Result(scenario, profile, timeline, metrics(timeline, profile, steps=scenario.workload.steps), *counts)
