"""Scenarios: a host, a workload and a policy, read from YAML."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sim import policies
from sim.config import Config, InputError, convert, read_yaml
from sim.hardware import Profile, load_profile
from sim.policies import Policy
from sim.program import Program
from sim.workload import Explicit


class Scenario(Config, frozen=True):
    """A scenario as its YAML file holds it. `profile` is the loaded hardware."""

    hardware: str
    world_size: int
    workload: Explicit
    policy: Policy

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ValueError(f"world_size is {self.world_size}, at least 1 is needed")

    @classmethod
    def load(cls, file: str | Path) -> Scenario:
        """Read a scenario file; a hardware path in it is relative to the file. Raises `InputError`."""
        path = Path(file)
        scenario = cls.from_plain(read_yaml(path), str(path))
        if (path.parent / scenario.hardware).is_file():
            scenario = msgspec.structs.replace(scenario, hardware=str(path.parent / scenario.hardware))
        return scenario

    @classmethod
    def from_plain(cls, data: object, source: str = "scenario") -> Scenario:
        """Build a scenario from plain data, as YAML or JSON gives it. Raises `InputError`."""
        return convert(data, cls, source)

    def profile(self) -> Profile:
        """The hardware profile. Raises `InputError`, also where it has too few GPUs."""
        profile = load_profile(self.hardware)
        if self.world_size > profile.gpus:
            raise InputError(
                self.hardware, "gpus", f"the profile has {profile.gpus}, the scenario's world_size is {self.world_size}"
            )
        return profile

    def program(self) -> Program:
        """What the policy makes of the workload."""
        return policies.build(self.workload.resolve(), self.policy, self.world_size)
