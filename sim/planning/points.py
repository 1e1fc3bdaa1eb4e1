"""A point of a plan: a schedule on a layout, with what its simulation gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from sim.inputs import units
from sim.policies import Policy, describe
from sim.scenario import Scenario


class Point(NamedTuple):
    """A simulated schedule (s, B)."""

    scenario: Scenario
    step_time_s: float
    interval: tuple[float, float] | None
    """Where the step time lies with 90 %, by the model's error; None where that is not known."""
    peak_memory_bytes: int
    fits_memory: bool
    """On every rank, within the plan's limit."""
    memory_bytes: Mapping[str, int]
    """The peak by component."""
    host_memory_bytes: int
    """Pinned, of all ranks together: at least."""
    fits_host_memory: bool | None
    """None where it is not known how much the host has."""
    lower_bound_s: float
    exposed_prefetch_s: float
    decided: str = ""
    """The schedule that ran, where the policy decided on one."""

    @property
    def policy(self) -> Policy:
        """The schedule."""
        return self.scenario.policy

    @property
    def fits(self) -> bool:
        """Whether it fits the GPUs, and the host as far as its memory is known."""
        return self.fits_memory and self.fits_host_memory is not False

    @property
    def world_size(self) -> int:
        """GPUs."""
        return self.scenario.world_size

    @property
    def runtimes(self) -> Mapping[str, str]:
        """Runtime -> its flags for this schedule."""
        return self.policy.flags(self.world_size)

    @property
    def words(self) -> str:
        """The policy as tables show it."""
        return describe(self.policy, short=True)

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON; `policy` is as a scenario file has it."""
        return {
            "policy": plain_policy(self.policy),
            "label": self.words,
            "world_size": self.world_size,
            "parallelism": msgspec.to_builtins(getattr(self.scenario.workload, "parallelism", None)),
            "step_time_s": self.step_time_s,
            "interval": None if self.interval is None else list(self.interval),
            "peak_memory_bytes": self.peak_memory_bytes,
            "fits_memory": self.fits_memory,
            "memory_bytes": dict(self.memory_bytes),
            "host_memory_bytes": self.host_memory_bytes,
            "fits_host_memory": self.fits_host_memory,
            "lower_bound_s": self.lower_bound_s,
            "exposed_prefetch_s": self.exposed_prefetch_s,
            "runtimes": dict(self.runtimes),
            **({"decided": self.decided} if self.decided else {}),
        }


def plain_policy(policy: Policy) -> dict[str, Any]:
    """A policy as a scenario file has it, with all of its fields that are given."""
    plain: dict[str, Any] = msgspec.to_builtins(policy, enc_hook=units.plain)
    return {key: value for key, value in plain.items() if value not in (None, [], ())}


def pareto(points: Iterable[Point]) -> list[Point]:
    """Points that no other one beats in memory and step time, the smallest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.peak_memory_bytes, p.step_time_s)):
        if not front or point.step_time_s < front[-1].step_time_s:
            front.append(point)
    return front
