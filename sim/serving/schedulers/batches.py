"""Batches of requests of one class, formed only where all of them are still in time."""

from __future__ import annotations

from collections.abc import Sequence

from sim.serving.host import Host
from sim.serving.jobs import EPSILON, Job


def batches(host: Host, jobs: Sequence[Job]) -> list[list[Job]]:
    """Fresh jobs in batches, in the order given; each is of one class, and of a size that the class has.

    A job joins the first batch of its class in which all, itself included, meet their deadlines if that batch starts
    now on its class's `degree`, uncontended; one that would be late alone joins none.
    """
    found: list[list[Job]] = []
    open_: dict[tuple[str, int], list[_Batch]] = {}
    for job in jobs:
        key = job.cls.name, job.requests[0].steps
        for batch in open_.get(key, ()):
            if len(batch.jobs) < job.cls.batches[-1] and batch.in_time(host, job):
                batch.add(job)
                break
        else:
            made = _Batch([], job.deadline)
            found.append(made.jobs)
            if len(job.cls.batches) > 1 and made.in_time(host, job):
                open_.setdefault(key, []).append(made)
            made.add(job)
    return [part for batch in found for part in _allowed(batch)]


class _Batch:
    """Jobs that are to run together, and the first deadline of theirs."""

    __slots__ = ("deadline", "jobs")

    def __init__(self, jobs: list[Job], deadline: float) -> None:
        self.jobs = jobs
        self.deadline = deadline

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        self.deadline = min(self.deadline, job.deadline)

    def in_time(self, host: Host, job: Job) -> bool:
        """Whether all would be in time, if this job joined and they started now."""
        cls = job.cls
        size = next((size for size in cls.batches if size > len(self.jobs)), None)
        if size is None or (cls.degree, size) not in cls.cells:
            return False
        return host.now + host.remaining(job, cls.degree, size) <= min(self.deadline, job.deadline) + EPSILON


def _allowed(batch: list[Job]) -> list[list[Job]]:
    """A batch cut into sizes that its class has, the largest first."""
    parts, rest = [], batch
    while rest:
        size = max(size for size in rest[0].cls.batches if size <= len(rest))
        parts.append(rest[:size])
        rest = rest[size:]
    return parts
