"""Offload policies: pure functions from (workload, parameters, world size) to a `Program`.

A policy's parameters are a struct, tagged by `kind` in scenario files. `build` is the one way in.
"""

from __future__ import annotations

from sim.policies.layerwise import Chunked, Resident, WholeLayer, Yielding, build_rank
from sim.program import Program
from sim.workload import Workload

Policy = Resident | WholeLayer | Chunked | Yielding

__all__ = ["Chunked", "Policy", "Resident", "WholeLayer", "Yielding", "build"]


def build(workload: Workload, policy: Policy, world_size: int) -> Program:
    """The program of `workload` under `policy`: the same for every rank."""
    return Program((build_rank(workload, policy),) * world_size)
