"""Offload policies: pure functions from (workload, parameters, world size) to a `Program`.

A policy's parameters are a struct, tagged by `kind` in scenario files. `build` is the one way in.
"""

from __future__ import annotations

from typing import get_args

from sim.policies.layerwise import Chunked, Resident, WholeLayer, Yielding, build_rank
from sim.program import Program
from sim.workload import Workload

Policy = Resident | WholeLayer | Chunked | Yielding

__all__ = ["Chunked", "Policy", "Resident", "WholeLayer", "Yielding", "build", "fields_of", "label"]


def fields_of(kind: object) -> frozenset[str] | None:
    """Keys that a policy of `kind` has in a scenario file; None for an unknown kind."""
    for policy in get_args(Policy):
        if policy.__struct_config__.tag == kind:
            return frozenset({"kind", *policy.__struct_fields__})
    return None


def label(policy: Policy) -> str:
    """The policy's kind, with "+drain" or "+after_compute" where it does that."""
    drains = isinstance(policy, Yielding) and policy.drain
    late = isinstance(policy, WholeLayer) and policy.issue == "after_compute"
    return str(policy.__struct_config__.tag) + ("+drain" if drains else "+after_compute" if late else "")


def build(workload: Workload, policy: Policy, world_size: int) -> Program:
    """The program of `workload` under `policy`: the same for every rank."""
    return Program((build_rank(workload, policy),) * world_size)
