"""What measured timelines and probes show, and the same of predicted timelines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from sim.datasets.cases import MeasuredCase, Operation, operations_of
from sim.datasets.probe_rows import RAW, Row, load_rows
from sim.hardware import load_profile
from sim.timeline import measure, overlap, union
from validation.compare import Compared, Job, compared_sides, jobs
from validation.datasets import DATA, load_set
from validation.predict import predict

TWO, FOUR, NVLINK = (
    "h200x2-hostpath-20261121a",
    "h200x4-hostpath-20261121d",
    "h200x2-nvlink-20261121a",
)
"""The sets that stand for their kind of host where one is enough."""

NEIGHBOURS = ("h200x2-hostpath-20261121h", "h200x2-nvlink-20261121h")
"""Sets of a session whose copies were disturbed from outside for most of the time."""

MIB = 2**20
CHUNKS = tuple(MIB << k for k in (0, 2, 4, 6, 8))
LARGE = 160 * MIB
"""The collectives' buffer where contention is shown: latency hardly counts."""

NEAR = 200.0
"""Chunks that follow within this time had nothing to wait for but each other, us."""


def folder(name: str) -> Path:
    """Where a shipped data set lies."""
    return DATA / name


def short(name: str) -> str:
    """A set by its session's letter."""
    return f"{name[-1]} NVLink" if crosses_nvlink(name) else name[-1]


@cache
def crosses_nvlink(name: str) -> bool:
    """Whether a shipped set's collectives went over NVLink: its own profile's topology has that."""
    return any(node.kind == "nvswitch" for node in load_profile(name).topology.nodes.values())


@cache
def probes(name: str) -> dict[str, Row]:
    """The rows of a set's raw.jsonl by case."""
    return {row.case: row for row in load_rows(folder(name) / RAW)}


def value(row: Row, quantity: str) -> float:
    """Mean over ranks of a quantity's medians."""
    return mean(rank[quantity].median for rank in row.ranks)


def rates(row: Row, quantity: str) -> list[float]:
    """Each rank's bytes a second in a row of timed transfers."""
    return [row.params["bytes"] / rank[quantity].median for rank in row.ranks]


class Account(NamedTuple):
    """The last step of rank 0 in sums. Times in s, rates in B/s; None where the step does not show it."""

    kernels: float
    collectives: float
    waited: float
    """Part of `collectives` that peers had not arrived."""
    share: float | None
    """Part of the collectives' time that copies ran in."""
    uncontended: float | None
    """Rate of copies without a concurrent collective."""
    contended: float | None
    """Rate of copies during a collective."""
    gap: float | None
    """Mean time between two chunks that follow each other, no collective between them, s."""
    resume: float | None
    """Mean time from the end of a collective that no copy outlasts to the next copy, s."""
    largest: float | None
    """Median time of the collectives of the largest size."""
    late: float | None
    """Median of the part of `largest` that peers had not arrived."""


def account(operations: Sequence[Operation]) -> Account:
    """What a step's operations add up to."""
    collectives = [op for op in operations if op.kind == "Collective"]
    copies = sorted((op for op in operations if op.kind == "Copy"), key=lambda op: op.start)
    busy, moving = (union((op.start, op.end) for op in ops) for ops in (copies, collectives))
    contended = [overlap([(op.start, op.end)], moving) > 0 for op in copies]
    kernels = [op for op in operations if op.kind == "Kernel"]
    whole = [op.start >= 0 for op in copies]
    gaps = [
        b.start - a.end
        for a, b in pairwise(copies)
        if b.start - a.end < NEAR and not overlap([(a.end - 1, b.start + 1)], moving)
    ]
    resumes = [
        next(start for start in starts if start >= op.end) - op.end
        for starts in [[op.start for op in copies]]
        for op in collectives
        if starts and starts[-1] >= op.end and not overlap([(op.end, op.end + 1)], busy)
    ]
    size = max((op.bytes for op in collectives), default=0)
    largest = [op for op in collectives if op.bytes == size]
    return Account(
        sum(op.end - op.start for op in kernels) * 1e-6,
        measure(moving) * 1e-6,
        sum(op.ready - op.start for op in collectives) * 1e-6,
        overlap(moving, busy) / measure(moving) if moving else None,
        _rate([op for op, m, w in zip(copies, contended, whole, strict=True) if w and not m]),
        _rate([op for op, m, w in zip(copies, contended, whole, strict=True) if w and m]),
        mean(gaps) * 1e-6 if gaps else None,
        mean(resumes) * 1e-6 if resumes else None,
        median(op.end - op.start for op in largest) * 1e-6 if largest else None,
        median(op.ready - op.start for op in largest) * 1e-6 if largest else None,
    )


def _rate(copies: Sequence[Operation]) -> float | None:
    return sum(op.bytes for op in copies) / sum((op.end - op.start) * 1e-6 for op in copies) if copies else None


class Detailed(NamedTuple):
    """A compared case with what its steps without events add up to."""

    compared: Compared
    case: MeasuredCase
    measured: Account
    predicted: Account
    late: tuple[int, int]
    """`late_chunks`, measured and predicted."""


def detailed(job: Job) -> Detailed:
    """Simulate a case once, without events."""
    case = job.case
    prediction = predict(case, job.baselines, job.profile)
    both = case.operations, operations_of(prediction.timeline)
    measured, predicted = map(account, both)
    late = late_chunks(both[0]), late_chunks(both[1])
    return Detailed(compared_sides(job, prediction), case, measured, predicted, late)


def entries(names: Sequence[str], executor: Executor) -> list[Detailed]:
    """Every case of some shipped sets next to its prediction on the set's own profile."""
    return list(executor.map(detailed, (job for name in names for job in jobs(load_set(name), steps_only=True))))


def yields(case: MeasuredCase) -> str:
    """How a case keeps its copies clear of collectives."""
    policy = case.scenario["policy"]
    if policy["kind"] != "yielding":
        return str(policy["kind"])
    return "device_gate, drain" if policy.get("drain") else str(policy.get("window", "device_gate"))


def long_kernels(case: MeasuredCase, baselines: Sequence[MeasuredCase], least_us: float = 500.0) -> float | None:
    """Time of a case's kernels of `least_us` and more, in which events hardly count, over that of its baselines'."""
    isolated: dict[tuple[int, str], list[float]] = defaultdict(list)
    for resident in baselines:
        for op in resident.operations:
            if op.kind == "Kernel" and op.end - op.start >= least_us:
                isolated[op.layer, op.name].append(op.end - op.start)
    own = [op for op in case.operations if op.kind == "Kernel" and (op.layer, op.name) in isolated]
    own = [op for op in own if op.end - op.start >= least_us / 2]
    if not own:
        return None
    return sum(op.end - op.start for op in own) / sum(median(isolated[op.layer, op.name]) for op in own)


def lateness(case: MeasuredCase, nvlink: bool) -> float | None:
    """By how much copies with nothing else on their route took longer than the fastest tenth of them, on average.

    Of the longest copies of a case; over NVLink collectives are not on their route.
    """
    busy = [] if nvlink else [(op.start, op.end) for op in case.operations if op.kind == "Collective"]
    copies = [op for op in case.operations if op.kind == "Copy" and op.bytes >= MIB]
    clear = [op for op in copies if not any(start < op.end and end > op.ready for start, end in busy)]
    longest = max((op.bytes for op in clear), default=0)
    times = sorted(op.end - op.ready for op in clear if op.bytes == longest)
    return mean(times) / times[len(times) // 10] - 1 if times else None


def unsteadiness(case: MeasuredCase) -> float:
    """By how much the median step is longer than the fastest."""
    return case.step_time_s / min(case.steps_s) - 1


def kernel_to_collective_gaps(case: MeasuredCase) -> list[tuple[bool, float]]:
    """(whether a copy was in flight, s): delay from each kernel's end to the next collective.

    Between them is a flag write and a timed event with a device gate, and an event with a launch window.
    """
    compute = [op for op in case.operations if op.kind != "Copy"]
    copies = [op for op in case.operations if op.kind == "Copy"]
    found = []
    for a, b in pairwise(compute):
        if a.kind == "Kernel" and b.kind == "Collective" and a.stream == b.stream and a.end <= b.start:
            flying = any(c.start < a.end + 3 and c.end > a.end + 8 for c in copies)
            found.append((flying, (b.start - a.end) * 1e-6))
    return found


def late_chunks(operations: Sequence[Operation], before_us: float = 5.0) -> int:
    """Collectives for which a copy starts after, or just before, the kernel ahead of them ends: as a gate closes."""
    compute = [op for op in operations if op.kind in ("Kernel", "Collective")]
    starts = [op.start for op in operations if op.kind == "Copy"]
    pairs = [(a, b) for a, b in pairwise(compute) if a.kind == "Kernel" and b.kind == "Collective"]
    return sum(any(a.end - before_us < start < b.start for start in starts) for a, b in pairs)
