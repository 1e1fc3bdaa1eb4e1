"""Scenarios: a host, a workload and a policy, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from sim import policies
from sim.config import Config, InputError, convert, read_yaml
from sim.hardware import Profile, load_profile, profile_file
from sim.models import Named
from sim.policies import Chunked, Policy, Resident, Sharded, copied_of_layer
from sim.program import Program
from sim.shelf import is_there
from sim.workload import Explicit

MOST_LAYERS = 10_000
MOST_COMMANDS = 10_000_000
"""A rank's commands that fit into the memory of a large machine."""


def read_plain(file: Path) -> Any:
    """The plain data of a scenario file, a hardware path in it made absolute. Raises `InputError`."""
    data = read_yaml(file)
    if isinstance(data, dict) and isinstance(data.get("hardware"), str):
        beside = file.parent / data["hardware"]
        if is_there(beside) and beside.is_file():
            data["hardware"] = str(beside.resolve())
    return data


class Scenario(Config, frozen=True):
    """A scenario as its YAML file holds it. `profile` is the loaded hardware."""

    hardware: str
    world_size: int
    workload: Explicit | Named
    policy: Policy

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ValueError(f"world_size is {self.world_size}, at least 1 is needed")

    @classmethod
    def load(cls, file: str | Path) -> Scenario:
        """Read a scenario file; a hardware path in it is relative to the file. Raises `InputError`."""
        return cls.from_plain(read_plain(Path(file)), str(file))

    @classmethod
    def from_plain(cls, data: object, source: str = "scenario") -> Scenario:
        """Build a scenario from plain data, as YAML or JSON gives it. Raises `InputError`."""
        workload = data.get("workload") if isinstance(data, Mapping) else None
        named = isinstance(workload, Mapping) and "model" in workload
        scenario = convert(data, _OfModel if named else _Explicit, source)
        try:
            profile_file(scenario.hardware)
        except InputError as error:
            raise InputError(source, "hardware", error.problem) from None
        try:
            _check_size(scenario)
        except InputError as error:
            raise InputError(source, error.path, error.problem) from None
        return scenario

    def profile(self, source: str = "scenario") -> Profile:
        """The hardware profile. Raises `InputError`, of `source` where it has too few GPUs."""
        profile = load_profile(self.hardware)
        if self.world_size > profile.gpus:
            problem = f"is {self.world_size}, but {self.hardware} has {profile.gpus} GPUs"
            raise InputError(source, "world_size", problem)
        return profile

    def with_steps(self, steps: int) -> Self:
        """The scenario with so many steps."""
        return msgspec.structs.replace(self, workload=msgspec.structs.replace(self.workload, steps=steps))

    def program(self) -> Program:
        """What the policy makes of the workload."""
        return policies.build(self.workload.resolve(self.world_size), self.policy, self.world_size)


def _check_size(scenario: Scenario) -> None:
    """Raise `InputError` for a scenario whose program would fill the memory, before anything is built."""
    if isinstance(scenario.workload, Explicit) and (layers := scenario.workload.layer_count()) > MOST_LAYERS:
        raise InputError("scenario", "workload", f"has {layers} layers, at most {MOST_LAYERS} are simulated")
    workload, policy = scenario.workload.resolve(scenario.world_size), scenario.policy
    ahead = 0 if isinstance(policy, Resident) else max(policy.prefetch_layers, getattr(policy, "slots", None) or 0)
    passes = workload.steps * workload.passes_per_step
    commands = ahead
    for number in () if isinstance(policy, Resident) else policy.resident_layers:
        if not 0 <= number < len(workload.layers):
            problem = f"has {number}, but the workload's layers are 0 to {len(workload.layers) - 1}"
            raise InputError("scenario", "policy.resident_layers", problem)
    for number, layer in enumerate(workload.layers):
        copied, chunks = copied_of_layer(policy, number, layer.bytes), 1
        if isinstance(policy, Chunked):
            chunks = -(-copied // policy.chunk_bytes)
        elif isinstance(policy, Sharded) and policy.chunk_bytes is not None:
            chunks = 4 * -(-copied // (policy.chunk_bytes * scenario.world_size))
        commands += (passes + -(-ahead // len(workload.layers))) * (len(layer.block) + chunks)
    if commands > MOST_COMMANDS:
        problem = f"makes at least {commands} commands a rank, at most {MOST_COMMANDS} are simulated: "
        raise InputError("scenario", "", problem + "take fewer steps, prefetch_layers or slots, or larger chunks")


# A workload is of a model if it has the key `model`. Unions of structs need a tag to be told apart, so each form of
# scenario is read as a type of its own.


class _Explicit(Scenario, frozen=True):
    workload: Explicit


class _OfModel(Scenario, frozen=True):
    workload: Named
