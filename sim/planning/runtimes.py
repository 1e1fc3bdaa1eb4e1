"""Runtimes that run a schedule: which schedules they allow, and the nearest that each of them has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sim.inputs.config import InputError
from sim.planning.points import Point
from sim.policies import Policy, describe, difference
from sim.policies.text import brief_parameters

TODAY, ANY = "today", "any"
"""Schedules that some named runtime runs; all schedules."""
NAMED = ("sglang", "vllm-omni", "diffusers")
"""Runtimes whose flags are looked for; policies may name others."""


def allowed_by(runtime: str, world_size: int) -> Callable[[Policy], bool]:
    """Whether a policy is a schedule of `runtime`. Raises `InputError` of an unknown one."""
    if runtime == ANY:
        return lambda policy: True
    if runtime == TODAY:
        return lambda policy: bool(policy.flags(world_size))
    if runtime not in NAMED:
        raise InputError("--runtime", runtime, f"expected one of {', '.join((TODAY, ANY, *NAMED))}")
    return lambda policy: runtime in policy.flags(world_size)


class Nearest(NamedTuple):
    """The fastest schedule that fits and that a runtime has, beside the chosen one."""

    runtime: str
    flags: str
    point: Point
    lacks: str
    """What the chosen schedule has and this one has not; empty where they are the same."""
    cost: float
    """How much longer its step is, relative."""


def _lacks(policy: Policy, best: Policy) -> str:
    if policy == best:
        return ""
    if policy.kind != best.kind:
        return describe(best, short=True)
    has, wanted = brief_parameters(policy), brief_parameters(best)
    return ", ".join(f"{k}: {v}" for k, v in wanted.items() if has.get(k) != v) or difference(policy, best)


def nearest(best: Point, points: Iterable[Point]) -> list[Nearest]:
    """For each runtime that has any of `points`, the fastest."""
    found: dict[str, Point] = {}
    for point in sorted(points, key=lambda p: p.step_time_s):
        for runtime in point.runtimes if point.fits else ():
            found.setdefault(runtime, point)
    return [
        Nearest(
            runtime,
            point.runtimes[runtime],
            point,
            _lacks(point.policy, best.policy),
            point.step_time_s / best.step_time_s - 1 if best.step_time_s else 0.0,
        )
        for runtime, point in sorted(found.items(), key=lambda item: item[1].step_time_s)
    ]
