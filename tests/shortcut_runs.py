"""Runs with and without shortcuts, with queues so short that little is in flight."""

from __future__ import annotations

import msgspec

from sim import Scenario
from sim.hardware.topology import Sourced
from sim.inputs.units import Number
from sim.machine import SimulatedMachine
from sim.shortcuts import run_layers
from sim.shortcuts.repeated_layers import Shortened


def both_ways(scenario: Scenario, queue_depth: float) -> tuple[Shortened, Shortened]:
    """The scenario with every layer simulated, and with those left out that repeat."""
    profile = scenario.profile()
    short_queues = msgspec.structs.replace(profile.host, queue_depth=Sourced(Number(queue_depth), "test"))
    machine = SimulatedMachine(msgspec.structs.replace(profile, host=short_queues))
    workload = scenario.workload.resolve(scenario.world_size)

    def run(shortcuts: bool) -> Shortened:
        ranks, placement = scenario.world_size, scenario.placement or ()
        return run_layers(machine, workload, scenario.policy, ranks, shortcuts, worth=0, placement=placement)

    return run(False), run(True)


def steps_of(run: Shortened) -> list[float]:
    """All steps of all ranks, s."""
    return [seconds for steps in run.timeline.steps for seconds in steps]
