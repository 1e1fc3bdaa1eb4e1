"""Serving scenarios: a host, classes of requests, when they arrive, and who decides what runs; read from YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, cast

import msgspec

from sim.hardware import MAX_GPUS, profile_file
from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import Fault, refuse
from sim.inputs.input_files import read_bytes
from sim.inputs.other_formats import parse_kind
from sim.inputs.shipped_files import is_file
from sim.inputs.units import Bytes, Number, Seconds
from sim.serving.arrivals import Arrivals, Phases
from sim.serving.classes import RequestClass
from sim.serving.costs import Costs
from sim.serving.schedulers import Scheduler, union


class ServingScenario(Config, frozen=True):
    """A serving scenario as its YAML file holds it."""

    classes: dict[str, RequestClass]
    arrivals: Arrivals
    scheduler: Scheduler
    duration: Seconds = Seconds(3600.0)
    """Requests arrive until then; all are served."""
    hardware: str | None = None
    gpus: int | None = None
    """The first ones of the host; all of them unless given."""
    memory: Bytes | None = None
    """Of each GPU; the card's unless given."""
    placement: Literal["aligned", "any"] = "aligned"
    """`aligned`: a group of n GPUs begins at a multiple of n."""
    deadline_scale: Number = Number(1.0)
    costs: Costs = Costs()
    contention: bool = True
    """Whether groups that run together on the host slow each other; without, each runs as if it were alone."""
    seed: int = 0

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        if not self.classes:
            yield Fault("classes", "expected at least one")
        if not any(of.share > 0.0 for of in self.classes.values()):
            yield Fault("classes", "all have a share of 0")
        if self.gpus is not None and not 1 <= self.gpus <= MAX_GPUS:
            yield Fault("gpus", f"is {self.gpus}, expected 1 to {MAX_GPUS}")
        if self.memory is not None and self.memory < 1:
            yield Fault("memory", f"is {int(self.memory)}, at least 1 is needed")
        if not self.duration > 0.0:
            yield Fault("duration", "is 0, expected more")
        if not self.deadline_scale > 0.0:
            yield Fault("deadline_scale", "is 0, expected more")
        if self.hardware is None:
            if self.gpus is None:
                yield Fault("gpus", "is missing: expected the number of GPUs, or hardware")
            for name, of in self.classes.items():
                if of.workload is not None:
                    yield Fault(f"classes.{name}.workload", "is simulated on a host: expected hardware")
        if isinstance(self.arrivals, Phases):
            for number, phase in enumerate(self.arrivals.phases):
                for name in phase.shares:
                    if name not in self.classes:
                        known = ", ".join(self.classes)
                        yield Fault(f"arrivals.phases[{number}].shares.{name}", f"is no class: expected {known}")

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read a serving scenario; paths in it are relative to the file. Raises `InputError`."""
        return cls.from_plain(read_plain(Path(file)), str(file))

    @classmethod
    def from_plain(cls, data: object, source: str = "scenario") -> Self:
        """Build one from plain data, as YAML gives it. Raises `InputError`."""
        fields = [("scheduler", union())]
        form = msgspec.defstruct("ServingScenario", fields, bases=(cls,), frozen=True, kw_only=True, module=__name__)
        read: Any = convert(data, cast(type[Any], form), source)
        if read.hardware is not None:
            try:
                profile_file(read.hardware)
            except InputError as error:
                raise InputError(source, "hardware", error.problem) from None
        return cls(**{name: getattr(read, name) for name in cls.__struct_fields__})


def read_plain(file: Path) -> Any:
    """The plain data of a serving scenario's file, paths in it made absolute. Raises `InputError`."""
    return plain_of(read_bytes(file), str(file), file.parent)


def plain_of(content: bytes, source: str, folder: Path) -> Any:
    """The plain data of a serving scenario's content; paths in it are relative to `folder`. Raises `InputError`."""
    data = parse_kind(content, source, "serving scenario", {"classes", "arrivals", "scheduler", "serving"})
    return with_files_of(folder, data)


def with_files_of(folder: Path, data: Any) -> Any:
    """Plain data of a serving scenario read in `folder`: what it names by a path from there has an absolute one."""
    if not isinstance(data, dict):
        return data
    holders: list[tuple[Any, str]] = [(data, "hardware"), (data.get("arrivals"), "file")]
    classes = data.get("classes")
    if isinstance(classes, dict):
        workloads = (of.get("workload") for of in classes.values() if isinstance(of, dict))
        holders += [(workload, "model") for workload in workloads]
    for holder, key in holders:
        if isinstance(holder, dict) and isinstance(holder.get(key), str) and is_file(folder / holder[key]):
            holder[key] = str((folder / holder[key]).resolve())
    return data
