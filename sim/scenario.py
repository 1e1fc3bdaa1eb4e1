"""Scenarios: a host, a workload and a policy, read from YAML."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import msgspec

from sim import policies
from sim.contention import host_rates
from sim.hardware import MAX_GPUS, Profile, load_profile, profile_file
from sim.hardware.collectives import domains_of, hierarchical_kinds
from sim.inputs import units
from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import Fault, refuse
from sim.inputs.input_files import read_bytes, text_of
from sim.inputs.notebook_html import html_text
from sim.inputs.other_formats import foreign_content, foreign_text
from sim.inputs.own_formats import SCENARIO, other_than
from sim.inputs.shipped_files import is_file
from sim.inputs.yaml_files import parse_yaml
from sim.policies import Decided, Policy
from sim.program import Program
from sim.workloads.block_items import CollectiveOp, too_few
from sim.workloads.explicit import Explicit
from sim.workloads.named import Named
from sim.workloads.recorded import Recorded

MAX_LAYERS = 10_000
MAX_COMMANDS = 10_000_000
"""Commands of all ranks together."""
COMMAND_BYTES = 600
"""Memory that a command takes, from the program to the figures, B: the most measured (docs/architecture.md)."""


def read_plain(file: Path) -> Any:
    """The plain data of a scenario file, paths in it (of its hardware and its model) made absolute.

    Raises:
        InputError: it cannot be read, or is of a format that is none of a scenario; it names the format.
    """
    if (problem := foreign_content(file)) is not None:  # a trace may be longer than any input that is read whole
        raise InputError(str(file), "", problem.replace("FILE", shlex.quote(str(file))))
    return with_files_of(file.parent, plain_of(read_bytes(file), str(file)))


def with_files_of(folder: Path, data: Any) -> Any:
    """Plain data of a scenario that was read in `folder`: what it names by a path from there has an absolute one."""
    workload = data.get("workload") if isinstance(data, dict) else None
    for holder, key in ((data, "hardware"), (workload, "model"), (workload, "program")):
        if isinstance(holder, dict) and isinstance(holder.get(key), str) and is_file(folder / holder[key]):
            holder[key] = str((folder / holder[key]).resolve())
    return data


def plain_of(content: bytes, source: str) -> Any:
    """The plain data of a scenario's text. Raises `InputError` of `source`, as `read_plain`."""
    if (problem := foreign_content(content)) is not None:
        raise InputError(source, "", problem.replace("FILE", shlex.quote(source)))
    try:
        data = parse_yaml(text_of(content, source), source)
    except InputError:
        if (problem := foreign_text(content)) is None:
            raise
        raise InputError(source, "", problem.replace("FILE", shlex.quote(source))) from None
    ours = isinstance(data, Mapping) and data.keys() & SCENARIO
    problem = None if ours else other_than("scenario", data, source) or foreign_text(content)
    if problem is not None:
        raise InputError(source, "", problem.replace("FILE", shlex.quote(source)))
    return data


class Scenario(Config, frozen=True):
    """A scenario as its YAML file holds it. `profile` is the loaded hardware."""

    hardware: str
    world_size: int
    workload: Explicit | Named | Recorded
    policy: Policy
    placement: tuple[int, ...] | None = None
    """The GPU of each rank; rank r sits on GPU r without it."""

    def __post_init__(self) -> None:
        refuse((*too_few(self, ("world_size",)), *self._wrong_placement()))

    def _wrong_placement(self) -> Iterator[Fault]:
        placed = self.placement
        if placed is None:
            return
        if len(placed) != self.world_size:
            yield Fault("placement", f"places {len(placed)} ranks, but world_size is {self.world_size}")
        for number, gpu in enumerate(placed):
            if gpu < 0:
                yield Fault(f"placement[{number}]", f"is {gpu}, expected the number of a GPU, from 0 on")
            elif gpu in placed[:number]:
                problem = f"is {gpu}, which rank {placed.index(gpu)} has too: expected a GPU of its own for each rank"
                yield Fault(f"placement[{number}]", problem)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPU of each rank."""
        return tuple(range(self.world_size)) if self.placement is None else self.placement

    def __repr__(self) -> str:
        return f"<Scenario: {self._about()}>"

    def _about(self) -> str:
        return f"{policies.describe(self.policy)} on {self.hardware}, {self.world_size} ranks"

    def _repr_html_(self) -> str:
        import yaml

        return html_text(self._about(), yaml.safe_dump(self.to_plain(), sort_keys=False, allow_unicode=True))

    def to_plain(self) -> dict[str, Any]:
        """Plain data that `from_plain` reads as the same scenario, without what is left empty."""
        plain: dict[str, Any] = _given(msgspec.to_builtins(self, enc_hook=units.plain))
        return plain

    @classmethod
    def load(cls, file: str | Path) -> Scenario:
        """Read a scenario file; a hardware path in it is relative to the file. Raises `InputError`."""
        return cls.from_plain(read_plain(Path(file)), str(file))

    @classmethod
    def from_plain(cls, data: object, source: str = "scenario", known: Container[str] = ()) -> Scenario:
        """Build a scenario from plain data, as YAML or JSON gives it. Profiles that are `known` are not looked for.

        Raises:
            InputError: it is wrong, or names a profile that is not there.
        """
        workload = data.get("workload") if isinstance(data, Mapping) else None
        keys = workload.keys() if isinstance(workload, Mapping) else ()
        kind = Named if "model" in keys else Recorded if "program" in keys else Explicit
        form = _form(kind, policies.union())
        faults: list[Fault] = []
        read = None
        try:
            read = convert(data, form, source)
        except InputError as error:
            faults += error.faults
        hardware = data.get("hardware") if isinstance(data, Mapping) else None
        if isinstance(hardware, str) and hardware not in known and all(fault.path != "hardware" for fault in faults):
            try:
                profile_file(hardware)
            except InputError as error:
                faults.append(Fault("hardware", error.problem))
        if read is None:
            raise InputError.of(source, faults)
        scenario = cls(**{name: getattr(read, name) for name in cls.__struct_fields__})
        try:
            _check_size(scenario)
        except InputError as error:
            faults += error.faults
        if faults:
            raise InputError.of(source, faults)
        return scenario

    def profile(self, source: str = "scenario") -> Profile:
        """The hardware profile. Raises `InputError`, of `source` where it has too few GPUs."""
        profile = load_profile(self.hardware)
        self.check(profile, source)
        return profile

    def check(self, profile: Profile, source: str = "scenario") -> None:
        """Raise `InputError` where `profile` has too few GPUs, or domains that its collectives do not fill evenly."""
        if self.world_size > profile.gpus:
            problem = f"is {self.world_size}, but {self.hardware} has {profile.gpus} GPUs"
            raise InputError(source, "world_size", problem)
        for number, gpu in enumerate(self.gpus):
            if gpu >= profile.gpus:
                problem = f"is {gpu}, but the GPUs of {self.hardware} are 0 to {profile.gpus - 1}"
                raise InputError(source, f"placement[{number}]", problem)
        if self.world_size > 1 and (hierarchical := hierarchical_kinds(profile)):
            layers = self.workload.resolve(self.world_size).all_layers
            used = {
                (op.kind, op.groups)
                for layer in layers
                for block in layer.blocks
                for op in block
                if isinstance(op, CollectiveOp) and op.kind in hierarchical
            }
            used |= {(kind, ()) for kind in hierarchical & self.policy.own_collectives}
            for groups in {groups or (tuple(range(self.world_size)),) for _, groups in used}:
                for group in groups:
                    domains_of(profile, [self.gpus[rank] for rank in group])

    def with_policy(self, policy: Policy) -> Scenario:
        """The scenario under another policy. Raises `InputError` if it would be too large to simulate."""
        scenario = msgspec.structs.replace(self, policy=policy)
        _check_size(scenario)
        return scenario

    def with_steps(self, steps: int) -> Self:
        """The scenario with so many steps."""
        return msgspec.structs.replace(self, workload=msgspec.structs.replace(self.workload, steps=steps))

    def decided(self, profile: Profile | None = None) -> Decided:
        """The policy with all decisions made, and what it runs; by `profile` (its own unless given).

        Raises:
            InputError: the profile cannot be loaded, or has too few GPUs.
        """
        policy, workload = self.policy, self.workload.resolve(self.world_size)
        if policy.needs_rates:
            choices = policy.choices(workload, self.world_size)
            policy = policy.with_rates(host_rates(profile or self.profile(), choices, self.gpus))
        return policy.decided(workload, self.world_size)

    def program(self) -> Program:
        """What the policy makes of the workload. Raises `InputError` as `decided`."""
        policy, workload = self.decided()
        return policies.build(workload, policy, self.world_size, self.placement or ())


def _given(plain: Any) -> Any:
    """Plain data without what is left empty."""
    if isinstance(plain, dict):
        return {key: _given(value) for key, value in plain.items() if value not in (None, "", [], ())}
    return [_given(item) for item in plain] if isinstance(plain, list | tuple) else plain


def _check_size(scenario: Scenario) -> None:
    """Raise `InputError` for a scenario whose program would fill the memory, before anything is built."""
    if scenario.world_size > MAX_GPUS:
        raise InputError("scenario", "world_size", f"is {scenario.world_size}, at most {MAX_GPUS} ranks are simulated")
    if (layers := scenario.workload.layer_count()) > MAX_LAYERS:
        raise InputError("scenario", "workload", f"has {layers} layers, at most {MAX_LAYERS} are simulated")
    workload, policy = scenario.workload.resolve(scenario.world_size), scenario.policy
    if workload.ranks and policy.own_collectives:
        problem = "gathers weights over all ranks, but the stages of a pipeline have layers of their own"
        raise InputError("scenario", "policy.kind", f"is {policy.kind}, which {problem}")
    if isinstance(policy.resident_layers, int) and policy.resident_layers > len(workload.layers):
        problem = f"is {policy.resident_layers}, but the workload has {len(workload.layers)} layers"
        raise InputError("scenario", "policy.resident_layers", problem)
    for number in policy.numbers_of_resident_layers:
        if not 0 <= number < len(workload.layers):
            problem = f"has {number}, but the workload's layers are 0 to {len(workload.layers) - 1}"
            raise InputError("scenario", "policy.resident_layers", problem)
    if faults := list(policy.wrong_for(workload)):
        raise InputError.of("scenario", [(f"policy.{path}", problem) for path, problem in faults])
    commands = policies.count_commands(workload, policy, scenario.world_size)
    if commands > MAX_COMMANDS:
        problem = f"makes about {commands} commands on {scenario.world_size} ranks, at most {MAX_COMMANDS} are "
        problem += f"simulated: it would take about {commands * COMMAND_BYTES / 1e9:.3g} GB of memory; "
        problem += "take fewer steps, prefetch_layers or slots, or larger chunks or pieces"
        raise InputError("scenario", "", problem)


@cache
def _form(workload: type, policy: Any) -> type[Scenario]:
    """The type that a scenario file is read as.

    A workload is of a model if it has the key `model`, of a recorded program if it has `program`: unions of structs
    need a tag to be told apart, so each form of scenario is a type of its own. Policies are those known now.
    """
    fields = [("workload", workload), ("policy", policy)]
    form = msgspec.defstruct("Scenario", fields, bases=(Scenario,), frozen=True, kw_only=True, module=__name__)
    return cast(type[Scenario], form)
