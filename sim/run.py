"""One run: scenario in, timeline and metrics out."""

from __future__ import annotations

from typing import NamedTuple

from sim import settling
from sim.hardware import Profile
from sim.machine import SimulatedMachine
from sim.metrics import Metrics, metrics
from sim.scenario import Scenario
from sim.timeline import Timeline


class Result(NamedTuple):
    """What a simulation gives."""

    scenario: Scenario
    profile: Profile
    timeline: Timeline
    metrics: Metrics


def simulate(scenario: Scenario, profile: Profile | None = None, settle: bool = True) -> Result:
    """Run `scenario` on the simulated machine, on its own hardware profile unless another is given.

    Where its steps have not settled, more are simulated (`sim.settling`), unless `settle` is False: figures are then
    those of the last step.

    Raises:
        InputError: the profile cannot be loaded or has too few GPUs.
        ProgramError: the scenario makes no valid program.
    """
    profile = profile or scenario.profile()
    machine = SimulatedMachine(profile)
    timeline = machine.run(scenario.program())
    if settle:
        timeline = settling.settle(timeline, lambda steps: machine.run(scenario.with_steps(steps).program()))
    return Result(scenario, profile, timeline, metrics(timeline, profile))
