"""One run: scenario in, timeline and metrics out."""

from __future__ import annotations

from typing import NamedTuple

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


def simulate(scenario: Scenario, profile: Profile | None = None) -> Result:
    """Run `scenario` on the simulated machine, on its own hardware profile unless another is given.

    Raises:
        InputError: the profile cannot be loaded or has too few GPUs.
        ProgramError: the scenario makes no valid program.
    """
    profile = profile or scenario.profile()
    timeline = SimulatedMachine(profile).run(scenario.program())
    return Result(scenario, profile, timeline, metrics(timeline, profile))
