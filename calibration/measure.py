"""Measuring: scenarios run on the torch machine, each written to a data set as it ends.

Step times come from runs without instrumentation, timelines from one more run with events. Resident repeats stand
between the other cases, as clocks and power drift. A data set that is there already is continued: cases whose number
and program it holds are not run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from calibration.host import Sampler, now, write_origin
from calibration.torch_machine import Execution, Kind, MachineError, TorchMachine, check_ranks, unsupported
from sim.datasets.cases import CASES, SCHEMA, MeasuredCase, load_cases, operations_of, with_nccl
from sim.hardware import Profile, load_profile
from sim.inputs.atomic_files import append, cut_torn_line, naming, open_alone
from sim.inputs.config import InputError
from sim.machine import DeadlockError
from sim.program import Program
from sim.run import simulate
from sim.scenario import Scenario, read_plain
from sim.sweeps.axes import parse_axes
from sim.sweeps.experiments import is_experiment, load_experiment
from sim.sweeps.grid import points

RESIDENT_EVERY = 5
"""Cases between two repeats of their workload without offload."""


class Measurement(NamedTuple):
    """What is to be measured: its number, and its scenario as plain data."""

    number: int
    scenario: dict[str, Any]


def scenarios(file: Path, settings: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The scenarios of a scenario file, swept over `settings` ("key.path=values"), or of an experiment file.

    Raises:
        InputError: a file or a setting is wrong, an experiment comes with settings, or the torch machine cannot run
            what a scenario asks for.
    """
    if is_experiment(file):
        if settings:
            raise InputError("--set", settings[0], f"{file} is an experiment, which has axes of its own")
        found = [p.data for p in load_experiment(str(file)).points(str(file), check_gpu_count=False)]
    else:
        found = [p.data for p in points(read_plain(file), parse_axes(settings), str(file), check_gpu_count=False)]
    for scenario in found:
        program = Scenario.from_plain(scenario, str(file)).program()
        if (why := unsupported(program)) is not None:
            raise InputError(str(file), "workload", f"cannot be measured: {why}")
        if (steps := len(program.ranks[0].step_events) - 1) < 2:
            problem = f"is {steps}, expected at least 2: a run's first does not count"
            raise InputError(str(file), "workload.steps", problem)
    return found


def plan(cases: Sequence[dict[str, Any]]) -> list[Measurement]:
    """`cases` in order, each workload's own begun, interleaved and ended with the baseline: resident, with NCCL."""
    chosen: list[dict[str, Any]] = []

    def resident(data: dict[str, Any]) -> dict[str, Any]:
        return {**with_nccl(data), "policy": {"kind": "resident"}}

    def workload(data: dict[str, Any]) -> tuple[Any, Any]:
        return with_nccl(data)["workload"], (data["world_size"], data.get("placement"))

    since = 0
    for i, data in enumerate(cases):
        new = i == 0 or workload(cases[i - 1]) != workload(data)
        if new and i:
            chosen.append(resident(cases[i - 1]))
        if new or since == RESIDENT_EVERY:
            chosen.append(resident(data))
            since = 0
        if data["policy"]["kind"] != "resident" or with_nccl(data) != data:
            chosen.append(data)
            since += 1
    if cases:
        chosen.append(resident(cases[-1]))
    return [Measurement(n, data) for n, data in enumerate(chosen)]


def measure(
    cases: Sequence[dict[str, Any]],
    out: Path,
    runs: int = 2,
    kind: Kind | None = None,
    progress: Callable[[int], None] = lambda done: None,
    timeout_s: float = 120.0,
) -> list[MeasuredCase]:
    """Measure `cases` (plain data of scenarios, checked) and write the data set `out`.

    `runs` is how many times each program runs without instrumentation, `kind` "cuda" or "cpu". `progress` is called
    with the number of finished cases.

    A case that fails or does not end is written with its error, and the others still run.

    Raises:
        InputError: `out` holds other cases than these, or another run is writing to it.
        MachineError: the ranks cannot be started.
        OSError: `out` cannot be written.
    """
    planned = plan(cases)
    check_ranks(max((data["world_size"] for data in cases), default=1), kind)
    with open_alone(out / CASES) as file, _Machines(kind, timeout_s) as machines:
        done = _continued(out, planned)
        cut_torn_line(file, out / CASES)
        write_origin(out)
        progress(len(done))
        for measurement in planned[len(done) :]:
            case = _measure(measurement, machines, runs)
            with naming(out / CASES):
                append(file, msgspec.json.encode(case) + b"\n")
                os.fsync(file.fileno())
            done.append(case)
            progress(len(done))
    return done


def _continued(out: Path, planned: Sequence[Measurement]) -> list[MeasuredCase]:
    """The cases that the data set `out` holds. Raises InputError unless `planned` begins with them."""
    done = load_cases(out)
    for line, (case, measurement) in enumerate(zip(done, planned, strict=False), 1):
        if case.scenario != measurement.scenario:
            raise InputError(str(out / CASES), f"line {line}", "is another case: give another --out")
    if len(done) > len(planned):
        raise InputError(str(out / CASES), "", "holds more cases than these: give another --out")
    return done


class _Machines:
    """The machine for a number of ranks; one is kept."""

    def __init__(self, kind: Kind | None, timeout_s: float) -> None:
        self.kind = kind
        self.timeout_s = timeout_s
        self.machine: TorchMachine | None = None

    def __enter__(self) -> _Machines:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.machine:
            self.machine.close(10 if kind is None else 0)

    def of(self, program: Program) -> TorchMachine:
        """A machine for the ranks of `program`, on its GPUs."""
        if self.machine and (self.machine.closed or self.machine.gpus != program.gpus):
            self.machine.close()
            self.machine = None
        if self.machine is None:
            self.machine = TorchMachine(program.world_size, self.kind, self.timeout_s, program.placement)
        return self.machine


def _measure(measurement: Measurement, machines: _Machines, runs: int) -> MeasuredCase:
    scenario = Scenario.from_plain(measurement.scenario)
    program = scenario.program()
    machine = machines.of(program)
    case = MeasuredCase(
        schema=SCHEMA,
        number=measurement.number,
        scenario=measurement.scenario,
        program=program.hash,
        date=now(),
    )
    try:
        with Sampler() as sampler:
            plain = [machine.execute(program) for _ in range(runs)]
            timed = machine.execute(program, instrumented=True)
        _check([*plain, timed])
    except (MachineError, DeadlockError) as error:
        return msgspec.structs.replace(case, error=str(error))
    ranks = plain[-1].ranks
    return msgspec.structs.replace(
        case,
        step_times_s=tuple(_step_times(run) for run in plain),
        instrumented_step_times_s=_step_times(timed)[0],
        issue_s=round(ranks[0].issue_s, 6),
        memory_bytes=tuple(r.memory_bytes for r in ranks),
        simulated_memory_bytes=simulate(scenario, _large_enough(scenario), settle=False).metrics["peak_memory_bytes"],
        workspace_bytes=tuple(r.workspace_bytes for r in ranks),
        output=tuple(r.output for r in ranks),
        sampled=sampler.summary(),
        operations=operations_of(timed.timeline),
    )


def _large_enough(scenario: Scenario) -> Profile:
    """The scenario's profile with as many GPUs as it has ranks: peak memory does not depend on the host."""
    profile = load_profile(scenario.hardware)
    return msgspec.structs.replace(profile, gpus=max(profile.gpus, max(scenario.gpus) + 1))


def _check(executions: Sequence[Execution]) -> None:
    """Raise MachineError unless every run computed the same, finite numbers from weights that had landed."""
    first = [r.output for r in executions[0].ranks]
    for execution in executions:
        for rank, result in enumerate(execution.ranks):
            if not result.landed:
                raise MachineError(f"rank {rank}: a slot does not hold the layer that was copied into it")
            if not result.finite:
                raise MachineError(f"rank {rank}: the output has numbers that are not finite")
            if result.output != first[rank]:
                raise MachineError(f"rank {rank}: two runs of the same program computed different outputs")


def _step_times(run: Execution) -> tuple[tuple[float, ...], ...]:
    """Every rank's steps, s."""
    timeline = run.timeline
    return tuple(tuple(round(s, 9) for s in timeline.step_times(rank)) for rank in range(len(timeline.steps)))
