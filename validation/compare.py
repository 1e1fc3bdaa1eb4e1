"""Measured cases next to their predictions: step times, operations, overlap of copies and collectives, memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from statistics import median
from typing import NamedTuple

from sim.datasets.cases import MeasuredCase, Operation, operations_of, workload_key
from sim.hardware import Profile, load_profile
from sim.inputs.config import InputError
from sim.timeline import clip, measure, overlap, union
from validation.datasets import DataSet, schedule_name, session
from validation.predict import Prediction, predict, predict_instrumented

COLLECTIVE, COPY, KERNEL = "Collective", "Copy", "Kernel"


class Side(NamedTuple):
    """One side of a comparison, s and bytes. All but the step is of the instrumented run.

    The window is what was timed there: the last step, or some layers of it.
    """

    step_s: float
    memory_bytes: int
    """Peak of rank 0; 0 where it was not measured."""
    window_s: float
    kernels_s: float
    copies_s: float
    """A copy in flight."""
    collectives_s: float
    """Once all ranks had arrived."""
    waits_s: float
    """Collectives that wait for a rank to arrive."""
    overlap_s: float
    """A copy and a collective in flight at once."""
    operations: dict[tuple[str, str], float]
    """(kind, name) -> median duration of one; all copies have one name."""


class Compared(NamedTuple):
    """A case of a data set, measured and predicted on `profile`."""

    set: str
    profile: str
    number: int
    workload: str
    schedule: str
    """The policy and its parameters in a few words."""
    policy: str
    chunk_bytes: int | None
    resident_fraction: float
    prefetch_layers: int
    group: str
    """"resident", "fitted" (constants may be fitted on it) or "unseen"."""
    spread: float
    disturbed: bool
    """Whether its measurement was disturbed, so that nothing is judged by it."""
    program: str
    measured: Side
    predicted: Side

    @property
    def error(self) -> float:
        """Predicted / measured step time - 1."""
        return self.predicted.step_s / self.measured.step_s - 1

    @property
    def session(self) -> str:
        """The set's name in short, such as "h200x2-hostpath b"."""
        return session(self.set)

    @property
    def name(self) -> str:
        """Workload and schedule."""
        return f"{self.workload} {self.schedule}"


class Job(NamedTuple):
    """A case to be predicted on a profile."""

    set: str
    case: MeasuredCase
    baselines: Sequence[MeasuredCase]
    profile: Profile
    workload: str
    group: str
    steps_only: bool
    """Whether operations are left out: they take a simulation of their own."""


def jobs(data: DataSet, profile: Profile | None = None, steps_only: bool = False) -> list[Job]:
    """Every case of a data set, on its own profile unless another is given. Raises InputError."""
    profile = profile or data.profile()
    baselines = data.baselines()
    found = []
    for case in data.cases:
        key = workload_key(case)
        group = "resident" if case.is_baseline else "fitted" if case.number in data.fitted else "unseen"
        found.append(Job(data.name, case, baselines.get(key, ()), profile, data.workloads[key], group, steps_only))
    return found


def cross_jobs(data: DataSet) -> list[Job]:
    """The offloaded cases of a data set, on the profile of another session to a host of its kind, if there is one."""
    sibling = data.sibling()
    found = jobs(data, load_profile(sibling), steps_only=True) if sibling else []
    return [job for job in found if job.group != "resident"]


def compare(job: Job) -> Compared:
    """Simulate a case, once for the step times and once with events for the operations.

    Raises:
        InputError: the case cannot be predicted; names the data set and the case.
    """
    case = job.case
    measured: tuple[Operation, ...] = ()
    predicted: tuple[Operation, ...] = ()
    try:
        prediction = predict(case, job.baselines, job.profile)
        if not job.steps_only:
            measured = case.operations
            predicted = operations_of(predict_instrumented(case, job.baselines, job.profile))
    except InputError as error:
        raise error.within(f"{job.set}: {error.source}") from None
    return compared_sides(job, prediction, measured, predicted)


def compared_sides(
    job: Job, prediction: Prediction, measured: Sequence[Operation] = (), predicted: Sequence[Operation] = ()
) -> Compared:
    """A case with its prediction, and the operations of both where they are to be compared."""
    case = job.case
    peak = max(level for _, level in prediction.timeline.memory(0))
    policy = case.load_scenario().policy
    return Compared(
        job.set,
        job.profile.name,
        case.number,
        job.workload,
        schedule_name(case),
        policy.label() + ("+copy_engine" if case.by_copy_engines else ""),
        policy.chunk_bytes,
        policy.resident_fraction,
        policy.prefetch_layers,
        job.group,
        case.spread,
        case.disturbed,
        case.program,
        side_of(case.step_time_s, case.memory_bytes[0] if case.memory_bytes else 0, measured, measured),
        side_of(prediction.predicted_s, peak, predicted, measured),
    )


def compare_all(chosen: Sequence[Job], executor: Executor | None = None) -> Iterable[Compared]:
    """Compare cases in order, on `executor` if given."""
    return executor.map(compare, chosen) if executor else map(compare, chosen)


def window(operations: Iterable[Operation], layers: set[int]) -> tuple[float, float]:
    """When the first operation of `layers` on a stream that computes begins and the last one ends, us."""
    own = [op for op in operations if op.kind != COPY and op.layer in layers]
    return min((op.start for op in own), default=0.0), max((op.end for op in own), default=0.0)


def layers(operations: Iterable[Operation]) -> set[int]:
    """The layers whose kernels and collectives were timed."""
    return {op.layer for op in operations if op.kind != COPY}


def side_of(step_s: float, memory: int, operations: Sequence[Operation], timed: Sequence[Operation]) -> Side:
    """`timed` are the measured operations: only their layers are looked at."""
    wanted = layers(timed)
    start, end = window(operations, wanted)
    shown = [op for op in operations if op.end > start and op.start < end and (op.kind == COPY or op.layer in wanted)]
    kinds = {
        kind: clip(union((op.ready, op.end) for op in shown if op.kind == kind), start, end)
        for kind in (KERNEL, COPY, COLLECTIVE)
    }
    waits = clip(union((op.start, op.ready) for op in shown if op.kind == COLLECTIVE), start, end)
    lasted: dict[tuple[str, str], list[float]] = defaultdict(list)
    for op in shown:
        lasted[op.kind, "" if op.kind == COPY else op.name].append(op.end - op.ready)
    return Side(
        step_s,
        memory,
        (end - start) * 1e-6,
        measure(kinds[KERNEL]) * 1e-6,
        measure(kinds[COPY]) * 1e-6,
        measure(kinds[COLLECTIVE]) * 1e-6,
        measure(waits) * 1e-6,
        overlap(kinds[COPY], kinds[COLLECTIVE]) * 1e-6,
        {key: median(durations) * 1e-6 for key, durations in lasted.items()},
    )
