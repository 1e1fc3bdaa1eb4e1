"""A measured case as if the simulated machine were the host."""

from __future__ import annotations

from typing import Any

from sim.datasets.cases import SCHEMA, MeasuredCase, operations_of
from sim.machine import SimulatedMachine
from sim.program import instrument
from sim.scenario import Scenario

SCENARIO: dict[str, Any] = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "layers": 2,
        "layer_bytes": 300_000,
        "steps": 3,
        "block": [
            {"compute": {"name": "a", "seconds": "2 ms"}},
            {"collective": {"kind": "all_to_all", "bytes": 1024}},
            {"compute": {"name": "b", "seconds": "1 ms"}},
            {"compute": {"name": "a", "seconds": "3 ms"}},
        ],
    },
    "policy": {"kind": "whole_layer"},
}


def as_measured(number: int, data: dict[str, Any], overhead_s: float = 0.0) -> MeasuredCase:
    """A case as if the simulated machine were the host, each of its events taking time on the compute stream."""
    scenario = Scenario.from_plain(data)
    machine = SimulatedMachine(scenario.profile())
    steps = machine.run(scenario.program()).step_times()
    timeline = machine.run(instrument(scenario.program()).program)
    operations = operations_of(timeline)
    return MeasuredCase(
        schema=SCHEMA,
        number=number,
        scenario=data,
        program=scenario.program().hash,
        date="",
        step_times_s=((tuple(steps),),),
        instrumented_step_times_s=tuple(timeline.step_times()),
        operations=operations,
    )
