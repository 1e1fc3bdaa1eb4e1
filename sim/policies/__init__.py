"""Offload policies: pure functions from (workload, parameters, world size) to a `Program`.

A policy's parameters are a struct, tagged by `kind` in scenario files. `build` is the one way in.
"""

from __future__ import annotations

from typing import get_args

from sim.policies.device import DeviceSchedule
from sim.policies.host import HostSchedule
from sim.policies.parameters import Chunked, Policy, Resident, Sharded, WholeLayer, Yielding
from sim.policies.schedule import copied_bytes, copied_of_layer
from sim.policies.sharded import ShardedSchedule, pieces
from sim.program import Program
from sim.workload import Workload

__all__ = [
    "Chunked",
    "Policy",
    "Resident",
    "Sharded",
    "WholeLayer",
    "Yielding",
    "all_fields",
    "build",
    "copied_bytes",
    "copied_of_layer",
    "fields_of",
    "label",
    "pieces",
]


def fields_of(kind: object) -> frozenset[str] | None:
    """Keys that a policy of `kind` has in a scenario file; None for an unknown kind."""
    for policy in get_args(Policy):
        if policy.__struct_config__.tag == kind:
            return frozenset({"kind", *policy.__struct_fields__})
    return None


def all_fields() -> frozenset[str]:
    """Keys that a policy of any kind has in a scenario file."""
    return frozenset({"kind"}.union(*(policy.__struct_fields__ for policy in get_args(Policy))))


def label(policy: Policy) -> str:
    """The policy's kind, with what sets it apart from others of its kind, such as "yielding+drain"."""
    kind = str(policy.__struct_config__.tag)
    if isinstance(policy, Yielding) and (policy.drain or policy.window != "device_gate"):
        return f"{kind}+{'drain' if policy.drain else policy.window}"
    if isinstance(policy, WholeLayer):
        issue = "+after_compute" if policy.issue == "after_compute" else ""
        return f"{kind}{issue}{'+quiesce' if policy.quiesce else ''}"
    if isinstance(policy, Sharded) and policy.store == "device":
        return f"{kind}+device"
    return kind


def build(workload: Workload, policy: Policy, world_size: int) -> Program:
    """The program of `workload` under `policy`: the same for every rank, but for where its part of a layer lies."""
    if isinstance(policy, Sharded):
        schedules = (ShardedSchedule(workload, policy, world_size, rank) for rank in range(world_size))
        return Program(tuple(schedule.build() for schedule in schedules))
    on_host = isinstance(policy, Yielding) and policy.window != "device_gate"
    schedule = HostSchedule(workload, policy) if on_host else DeviceSchedule(workload, policy)  # type: ignore[arg-type]
    return Program((schedule.build(),) * world_size)
