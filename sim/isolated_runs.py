"""Isolated times of collectives that are made of other commands: each is simulated alone, its ranks in step."""

from __future__ import annotations

from collections.abc import Sequence

from sim import policies
from sim.inputs.units import Seconds
from sim.machine import SimulatedMachine
from sim.policies import Resident
from sim.timeline.composed import IsolatedKey, isolated_key
from sim.workloads.block_items import Compute
from sim.workloads.engine_collectives import EngineCollective
from sim.workloads.workload import Layer, Workload

ISSUE_S = 1e-4
"""More than a host takes to issue a command, s: a kernel that lasts as long for each comes before the collective."""


def isolated_times(
    machine: SimulatedMachine, workload: Workload, world_size: int, placement: Sequence[int] = ()
) -> dict[IsolatedKey, float]:
    """Seconds of each collective by copy engines of `workload` on each rank of its group, with nothing beside it."""
    found: dict[IsolatedKey, float] = {}
    for whole in dict.fromkeys(op for op in workload.entries() if isinstance(op, EngineCollective)):
        for group in whole.groups:
            found |= times_together(machine, whole._replace(groups=(group,)), world_size, placement)
    return found


def times_together(
    machine: SimulatedMachine, whole: EngineCollective, world_size: int, placement: Sequence[int] = ()
) -> dict[IsolatedKey, float]:
    """Seconds of a collective by copy engines on each rank of its groups, all of them at once and nothing else."""
    lead = Compute(name="lead", seconds=Seconds(ISSUE_S * whole.commands))
    # the second time it finds slots that have been used, as in the middle of a run
    only = Workload((Layer(2, (lead, whole)),), steps=2)
    program = policies.build(only, Resident(), world_size, placement)
    return {isolated_key(span): span.end - span.start for span in machine.run(program).composed}
