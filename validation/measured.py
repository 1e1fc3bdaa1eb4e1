"""Measured cases: what `chunkflow-sim measure` writes and the comparison reads, one JSON object a line.

A data set is a folder: `cases.jsonl`, a line a case in the order of measuring, and `host.json`, the host, the versions,
the date and the command that made it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from sim.config import InputError
from sim.scenario import Scenario
from sim.timeline import Timeline

SCHEMA = 1
CASES, HOST = "cases.jsonl", "host.json"


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """A kernel, copy or collective of the instrumented run's last step on rank 0; times in us since the step began.

    `ready` is when a collective's last rank had arrived.
    """

    stream: str
    kind: str
    name: str
    layer: int
    bytes: int
    start: float
    ready: float
    end: float


class MeasuredCase(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario as it ran. Times in s, memory in bytes.

    The first step of a run warms up; `step_times_s` holds, for each run without instrumentation, every rank's steps.
    """

    schema: int = SCHEMA
    number: int
    """Its place in the order of measuring; resident repeats stand between the others."""
    scenario: dict[str, Any]
    program: str
    """Hash of the program that ran."""
    date: str
    error: str = ""
    """Why there are no figures."""
    step_times_s: tuple[tuple[tuple[float, ...], ...], ...] = ()
    instrumented_step_times_s: tuple[float, ...] = ()
    """Rank 0; events around every kernel, copy and collective cost time."""
    issue_s: float = 0.0
    """How long rank 0's first host thread took to issue the program."""
    memory_bytes: tuple[int, ...] = ()
    """Each rank's peak: buffers, mapped weights, and what kernels took for themselves."""
    simulated_memory_bytes: int = 0
    """What the simulator says of rank 0's peak."""
    workspace_bytes: tuple[int, ...] = ()
    """What libraries keep on each rank, not in its peak: cuBLAS workspaces."""
    output: tuple[str, ...] = ()
    """SHA-256 of each rank's activations at the end: equal for every policy."""
    sampled: dict[str, dict[str, float]] = {}
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

    def load_scenario(self, hardware: str | None = None) -> Scenario:
        """The scenario, on another profile if given. Raises InputError."""
        data = {**self.scenario, "hardware": hardware or self.scenario["hardware"]}
        return Scenario.from_plain(data, f"measured case {self.number}")


def operations_of(timeline: Timeline) -> tuple[Operation, ...]:
    """What rank 0 did in the last step of an instrumented timeline."""
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
        for s in timeline.of(0)
        if s.end > start and s.start < end
    )


def load_cases(folder: Path) -> list[MeasuredCase]:
    """All cases of a data set, failed ones too, in the order of measuring. A half-written last line is left out.

    Raises:
        InputError: there is no such file, or a line is no measured case of this schema.
    """
    file = folder / CASES
    try:
        lines = file.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise InputError(str(file), "", f"cannot be read: {error.strerror}") from None
    return list(_decode(file, (line for line in lines if line.endswith(b"\n"))))


def _decode(file: Path, lines: Iterable[bytes]) -> Iterable[MeasuredCase]:
    decoder = msgspec.json.Decoder(MeasuredCase)
    for number, line in enumerate(lines, 1):
        try:
            case = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise InputError(str(file), f"line {number}", f"is no measured case: {error}") from None
        if case.schema != SCHEMA:
            raise InputError(str(file), f"line {number}", f"has schema {case.schema}, expected {SCHEMA}")
        yield case


def host_of(folder: Path) -> dict[str, Any]:
    """What a data set says of its host. Raises InputError."""
    try:
        return msgspec.json.decode((folder / HOST).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(str(folder / HOST), "", f"cannot be read: {error}") from None
