"""Predictions of measured cases: the program that ran, with its kernels' times from the baseline next to it.

The isolated time of a kernel is not for the fabric to predict: it comes from the baselines of the same workload in
the same data set, less what the events around it took. All else is the profile's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import mean, median
from typing import NamedTuple

import msgspec

from sim.datasets.cases import MeasuredCase
from sim.hardware import Profile
from sim.hardware.collectives import isolated_time
from sim.inputs.config import InputError
from sim.machine import SimulatedMachine
from sim.program import AnyCommand, Collective, Kernel, Program, RankProgram, RecordEvent, instrument
from sim.program.ops import Add
from sim.scenario import Scenario
from sim.timeline import Timeline, between_events
from sim.timeline.composed import composed_spans
from sim.workloads.block_commands import COMPUTE

SETTLED = 3
"""Steps of a simulated run with events: the last one is shown, and simulated runs have settled by then."""

EVENT_S = 2.8e-6
"""What a timed event takes of its stream at most (`streams.event` of h200x2-hostpath), s."""


class KernelTimes(NamedTuple):
    """(layer, name, how many of that name came before in the layer) -> s, for rank 0 and for the other ranks."""

    rank0: dict[tuple[int, str, int], float]
    other_ranks: dict[tuple[int, str, int], float]


class Prediction(NamedTuple):
    """One case, measured and predicted (s). `timeline` is the predicted one."""

    case: MeasuredCase
    predicted_s: float
    timeline: Timeline

    @property
    def error(self) -> float:
        """Predicted / measured step time - 1."""
        return self.predicted_s / self.case.step_time_s - 1


def kernel_times(baselines: Sequence[MeasuredCase], profile: Profile) -> KernelTimes:
    """Seconds of each kernel of a layer: means over baselines of the layers' own times.

    An instrumented step is longer by its events, up to `EVENT_S` each; beyond that by the clock of the moment, and
    kernels are scaled so that, with the collectives as measured, the step takes what it did without events. GPUs run
    at clocks of their own: where rank 0 waited for its peers, theirs took that much longer since the last collective.
    When peers arrived is known to 0.1 ms only, as their clocks are compared by an event behind a collective: a wait
    counts as far as the collective also took longer than its isolated time by the profile.

    Raises:
        InputError: a case's operations leave no time to its kernels.
    """
    isolated = _isolated_times(baselines[0].load_scenario().program(), profile)
    rank0: dict[tuple[int, str, int], list[float]] = defaultdict(list)
    other_ranks: dict[tuple[int, str, int], list[float]] = defaultdict(list)
    for case in baselines:
        operations = [op for op in case.operations if op.kind in ("Kernel", "Collective")]
        longer = case.instrumented_step_times_s[-1] - case.step_time_s
        event = min(max(longer / max(len(operations), 1), 0.0), EVENT_S)
        seconds = [max((op.end - op.start) * 1e-6 - event, 0.0) for op in operations]
        kernels = sum(s for op, s in zip(operations, seconds, strict=True) if op.kind == "Kernel")
        left = case.step_time_s - (sum(seconds) - kernels) - _idle(case, event)
        if left <= 0 or kernels == 0:
            problem = f"leave {left:.3g} s of the step to kernels that take {kernels:.3g} s, expected more of both"
            raise InputError(f"measured case {case.number}", "operations", problem)
        scale = left / kernels
        numbers = _numbers((op.layer, op.name) for op in operations if op.kind == "Kernel")
        since: list[tuple[tuple[int, str, int], float]] = []
        for op, taken in zip(operations, seconds, strict=True):
            if op.kind == "Kernel":
                since.append(((op.layer, op.name, next(numbers)), taken * scale))
                continue
            beyond = taken - isolated.get(op.name, 0.0)
            _add(rank0, other_ranks, since, max(min((op.ready - op.start) * 1e-6, beyond), 0.0))
            since = []
        _add(rank0, other_ranks, since, 0.0)
    return KernelTimes({k: mean(v) for k, v in rank0.items()}, {k: mean(v) for k, v in other_ranks.items()})


def _idle(case: MeasuredCase, event: float) -> float:
    """How long the compute stream of a step ran no kernel and no collective: it sent, received or waited for that, s.

    Only for programs with sends and receives: without them a resident step has a kernel or a collective at any time.
    """
    if not any(op.kind == "PointToPoint" for op in case.operations):
        return 0.0
    idle, end = 0.0, 0.0
    busy = (op for op in case.operations if op.stream == COMPUTE and op.kind != "PointToPoint")
    for op in sorted(busy, key=lambda op: op.start):
        idle += max((op.start - end) * 1e-6 - event, 0.0)
        end = max(end, op.end)
    return idle + max(case.instrumented_step_times_s[-1] - end * 1e-6, 0.0)


def _isolated_times(program: Program, profile: Profile) -> dict[str, float]:
    """Isolated seconds of each collective, by its name."""
    calls = {c.name: c for c in program.ranks[0].commands() if isinstance(c, Collective)}
    return {name: isolated_time(profile, call.kind, call.bytes, program.gpus) for name, call in calls.items()}


def _add(
    rank0: dict[tuple[int, str, int], list[float]],
    other_ranks: dict[tuple[int, str, int], list[float]],
    kernels: Sequence[tuple[tuple[int, str, int], float]],
    waited: float,
) -> None:
    """Take the kernels before a collective at which rank 0 `waited`, s."""
    whole = sum(seconds for _, seconds in kernels)
    for key, seconds in kernels:
        rank0[key].append(seconds)
        other_ranks[key].append(seconds * (1 + waited / whole) if whole else seconds)


def with_kernel_times(program: Program, times: KernelTimes) -> Program:
    """`program` with the seconds of its kernels as given. Raises InputError for a kernel that has none."""
    done: dict[tuple[int, bool], RankProgram] = {}
    ranks = []
    for number, rank in enumerate(program.ranks):
        key = id(rank), number == 0
        if key not in done:
            chosen = times.other_ranks if number else times.rank0
            done[key] = msgspec.structs.replace(rank, threads=tuple(_timed(t, chosen) for t in rank.threads))
        ranks.append(done[key])
    return Program(tuple(ranks), program.placement)


def _timed(thread: Sequence[AnyCommand], times: dict[tuple[int, str, int], float]) -> tuple[AnyCommand, ...]:
    known = Counter((layer, name) for layer, name, _ in times)
    numbers = _numbers((c.layer, c.name) for c in thread if isinstance(c, Kernel))

    def timed(command: AnyCommand) -> AnyCommand:
        if not isinstance(command, Kernel):
            return command
        place = command.layer, command.name
        if not known[place] and (command.step < 0 or _adds(command)):  # in no step that was timed
            return command
        if not known[place]:
            problem = f"have no kernel {command.name!r} of layer {command.layer}, which the program has"
            raise InputError("the baselines", "operations", problem)
        return msgspec.structs.replace(command, seconds=times[*place, next(numbers) % known[place]])

    return tuple(map(timed, thread))


def _adds(kernel: Kernel) -> bool:
    """Whether it is a part of a collective by copy engines, which baselines leave to NCCL."""
    return bool(kernel.ops) and all(isinstance(op, Add) for op in kernel.ops)


def _numbers(kernels: Iterable[tuple[int, str]]) -> Iterator[int]:
    """For kernels given as (layer, name): how many of that name have run since their layer began."""
    seen: Counter[str] = Counter()
    before = None
    for layer, name in kernels:
        if layer != before:
            before = layer
            seen.clear()
        yield seen[name]
        seen[name] += 1


def predict(case: MeasuredCase, baselines: Sequence[MeasuredCase], profile: Profile) -> Prediction:
    """Simulate a measured case on `profile` with the kernel times of `baselines`, of the same workload.

    Without baselines kernels take what the scenario says.

    Raises:
        InputError: `profile` has too few GPUs, or `baselines` do not show every kernel.
    """
    scenario = case.load_scenario()
    if max(scenario.gpus) >= profile.gpus:
        key, needed = (
            ("world_size", scenario.world_size) if scenario.placement is None else ("placement", scenario.gpus)
        )
        problem = f"is {needed}, but {profile.name} has {profile.gpus} GPUs"
        raise InputError(f"measured case {case.number}", key, problem)
    timeline = SimulatedMachine(profile).run(_program(scenario, baselines, profile))
    return Prediction(case, median(timeline.step_times()[1:]), timeline)


def predict_instrumented(case: MeasuredCase, baselines: Sequence[MeasuredCase], profile: Profile) -> Timeline:
    """Simulate a run with events, of up to `SETTLED` steps; spans are what those events see."""
    scenario = case.load_scenario()
    workload = msgspec.structs.replace(scenario.workload, steps=min(len(case.instrumented_step_times_s), SETTLED))
    program, brackets = instrument(_program(msgspec.structs.replace(scenario, workload=workload), baselines, profile))
    timeline = SimulatedMachine(profile).run(program)
    times: list[dict[int, float]] = [{} for _ in program.ranks]
    for span in timeline.spans:
        if isinstance(span.command, RecordEvent):
            times[span.rank][span.command.event] = span.end
    spans, composed = between_events(brackets, times), composed_spans(program, times)
    return Timeline(program, spans, timeline.steps, composed=composed)


def _program(scenario: Scenario, baselines: Sequence[MeasuredCase], profile: Profile) -> Program:
    program = scenario.program()
    return with_kernel_times(program, kernel_times(baselines, profile)) if baselines else program
