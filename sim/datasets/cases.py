"""Measured cases: what `chunkflow-sim measure` writes and `validate` compares with, one JSON object a line.

A data set is a folder: `cases.jsonl`, a line a case in the order of measuring, and `host.json`, the host, the versions,
the date and the command that made it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sim.hardware import shipped
from sim.inputs.config import Config, InputError, convert
from sim.inputs.json_lines import load_json, load_lines
from sim.inputs.yaml_files import read_yaml
from sim.program import AnyCommand, Copy
from sim.scenario import Scenario
from sim.timeline import Timeline

SCHEMA = 1
CASES, HOST = "cases.jsonl", "host.json"

Step = Annotated[float, Meta(gt=0, le=1e6)]
"""How long a step took, s."""
Moment = Annotated[float, Meta(ge=-1e12, le=1e12)]
"""Microseconds since a step began."""
Whole = Annotated[int, Meta(ge=0)]
Steps = Annotated[tuple[Step, ...], Meta(min_length=2)]


DISTURBED = 0.03
"""Events only add work: a run with them that is faster by more than this share was not in the state of the others."""


class Operation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A kernel, copy or collective of the instrumented run's last step on rank 0; times in us since the step began.

    `ready` is when a collective's last rank had arrived.
    """

    stream: str
    kind: str
    name: str
    layer: int
    bytes: Whole
    start: Moment
    ready: Moment
    end: Moment

    def __post_init__(self) -> None:
        if not self.start <= self.ready <= self.end:
            order = f"{self.start:g}, {self.ready:g} and {self.end:g}"
            raise ValueError(f"start, ready and end are {order}, expected one after the other")


class Origin(Config, frozen=True):
    """Where, when and how a data set was measured."""

    fingerprint: dict[str, str]
    date: str
    command: str
    environment: dict[str, str]


class MeasuredCase(Config, frozen=True):
    """One scenario as it ran. Times in s, memory in bytes.

    The first step of a run warms up; `step_times_s` holds, for each run without instrumentation, every rank's steps.
    """

    schema: int
    number: Whole
    """Its place in the order of measuring; resident repeats stand between the others."""
    scenario: dict[str, Any]
    program: str
    """Hash of the program that ran."""
    date: str
    workload: str = ""
    """What the workload is called, where its scenario names no model."""
    timed_ranks: Annotated[int, Meta(ge=1)] | None = None
    """How many ranks were timed, from rank 0 on; all of them unless given."""
    window: Literal["step", "layers"] = "step"
    """What the run with events timed: the last of several steps, or some layers of one step after a synchronise."""
    kernel_times: Literal["resident", "scenario"] = "resident"
    """What shows the isolated time of kernels: the baselines of the workload, or the scenario's own seconds."""
    error: str = ""
    """Why there are no figures."""
    step_times_s: tuple[tuple[Steps, ...], ...] = ()
    instrumented_step_times_s: tuple[Step, ...] = ()
    """Rank 0; events around every kernel, copy and collective cost time."""
    issue_s: float = 0.0
    """How long rank 0's first host thread took to issue the program."""
    memory_bytes: tuple[Whole, ...] = ()
    """Each rank's peak: buffers, mapped weights, and what kernels took for themselves."""
    simulated_memory_bytes: Whole = 0
    """What the simulator says of rank 0's peak."""
    workspace_bytes: tuple[Whole, ...] = ()
    """What libraries keep on each rank, not in its peak: cuBLAS workspaces."""
    output: tuple[str, ...] = ()
    """SHA-256 of each rank's activations at the end: equal for every policy."""
    sampled: dict[str, dict[str, float]] = msgspec.field(default_factory=dict)
    """GPU and quantity -> least, median and most: clocks (MHz), power (W), temperature (C)."""
    operations: tuple[Operation, ...] = ()

    @property
    def steps_s(self) -> list[float]:
        """Rank 0's steps of all runs, without each run's first."""
        return [s for run in self.step_times_s for s in run[0][1:]]

    @property
    def step_time_s(self) -> float:
        """Median of `steps_s`."""
        return median(self.steps_s)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of `steps_s`, relative to the median."""
        values = sorted(self.steps_s)
        low, high = values[len(values) // 4], values[-1 - len(values) // 4]
        return (high - low) / 2 / self.step_time_s

    @property
    def event_overhead(self) -> float:
        """By how much instrumentation lengthened the step, relative."""
        return median(self.instrumented_step_times_s[1:]) / self.step_time_s - 1

    @property
    def disturbed(self) -> bool:
        """Whether the runs without events took longer than one with them could explain."""
        return len(self.instrumented_step_times_s) > 1 and self.event_overhead < -DISTURBED

    @property
    def by_copy_engines(self) -> bool:
        """Whether it says so of some of its collectives."""
        return with_nccl(self.scenario) != self.scenario

    @property
    def is_baseline(self) -> bool:
        """Whether kernels take their times from it: it is resident, and NCCL runs all of its collectives."""
        return self.scenario["policy"]["kind"] == "resident" and not self.by_copy_engines

    def load_scenario(self, source: str = "") -> Scenario:
        """The scenario. Raises InputError, of `source` if given.

        Its own profile may be a file of the host that it was measured on; a shipped one stands in for that.
        """
        known = shipped()
        own = self.scenario.get("hardware")
        data = {**self.scenario, "hardware": known[0] if isinstance(own, str) and own not in known else own}
        return Scenario.from_plain(data, source or f"measured case {self.number}")


def operations_of(timeline: Timeline) -> tuple[Operation, ...]:
    """What rank 0 did in the last step of an instrumented timeline; of composed collectives each is one operation."""
    parts = timeline.program.ranks[0].composed_streams
    start, end = timeline.steps[0][-2:]

    def since(time: float) -> float:
        return round((time - start) * 1e6, 1)

    return tuple(
        Operation(
            s.command.stream,
            s.kind,
            getattr(s.command, "name", ""),
            getattr(s.command, "layer", -1),
            getattr(s.command, "bytes", 0),
            since(s.start),
            since(s.ready),
            since(s.end),
        )
        for s in timeline.drawn(0)
        if s.end > start and s.start < end and s.command.stream not in parts and not _within_gpu(s.command)
    )


def _within_gpu(command: AnyCommand) -> bool:
    """Whether it is a copy from the GPU's memory to itself, as collectives by copy engines make."""
    return isinstance(command, Copy) and command.kind == "d2d"


def load_cases(folder: Path) -> list[MeasuredCase]:
    """All cases of a data set, failed ones too, in the order of measuring. A half-written last line is left out.

    Raises:
        InputError: there is no such file, or a line is no measured case of this schema.
    """
    found = load_lines(folder / CASES, MeasuredCase, SCHEMA)
    for place, (where, case) in enumerate(found):
        if case.number != place:
            raise InputError(where, "number", f"is {case.number}, expected {place}")
        ranks = case.load_scenario(where).world_size
        if not case.error:
            _check_figures(case, ranks, where)
    return [case for _, case in found]


def _check_figures(case: MeasuredCase, ranks: int, where: str) -> None:
    """Raise InputError for a case without error and without all its figures."""
    if not case.step_times_s:
        raise InputError(where, "step_times_s", "is empty, and there is no error that says why")
    for i, run in enumerate(case.step_times_s):
        if len(run) != (case.timed_ranks or ranks):
            raise InputError(where, f"step_times_s[{i}]", f"has {len(run)} ranks, expected {case.timed_ranks or ranks}")
    if case.window == "step" and len(case.instrumented_step_times_s) < 2:
        raise InputError(where, "instrumented_step_times_s", "expected two steps or more")
    if not case.instrumented_step_times_s:
        raise InputError(where, "instrumented_step_times_s", "expected one step or more")
    if not case.operations:
        raise InputError(where, "operations", "is empty: expected those of the last step")


def references(cases: Sequence[MeasuredCase]) -> dict[str, list[MeasuredCase]]:
    """The baselines of each workload that ran."""
    found: dict[str, list[MeasuredCase]] = defaultdict(list)
    for case in cases:
        if case.is_baseline and not case.error:
            found[workload_key(case)].append(case)
    return dict(found)


def workload_key(case: MeasuredCase) -> str:
    """What a case shares with those that do the same work."""
    plain = with_nccl(case.scenario)
    return msgspec.json.encode((plain["workload"], plain["world_size"]), order="sorted").decode()


def with_nccl(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario, as plain data, whose collectives run on NCCL's kernels: it computes the same."""

    def plain(data: Any) -> Any:
        if isinstance(data, list | tuple):
            return [plain(item) for item in data]
        if not isinstance(data, Mapping):
            return data
        entry = data.get("collective")
        if isinstance(entry, Mapping):
            own = {key: value for key, value in entry.items() if key not in ("algorithm", "piece_bytes")}
            return {**data, "collective": own}
        return {key: plain(value) for key, value in data.items()}

    workload = {key: plain(value) for key, value in scenario["workload"].items() if key != "collectives"}
    return {**scenario, "workload": workload}


def load_origin(folder: Path) -> Origin:
    """Where, when and how a data set was measured. Raises InputError."""
    return load_json(folder / HOST, Origin)


def load_split(file: Path) -> dict[str, Literal["all"] | list[Whole]]:
    """Data set -> numbers of the cases that constants may be fitted on, or "all". Raises InputError."""
    return convert(read_yaml(file), dict[str, Literal["all"] | list[Whole]], str(file))
