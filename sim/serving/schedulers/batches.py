"""Batches of requests of one class, formed only where all of them are still in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.serving.host import Host
from sim.serving.jobs import Job


def batches(host: Host, jobs: Sequence[Job], degree_of: Callable[[Job], int]) -> list[list[Job]]:
    """Fresh jobs in batches, in the order given; each is of one class, and of a size that the class has.

    A job joins the first batch of its class in which all, itself included, meet their deadlines if that batch starts
    now, uncontended; one that would be late alone joins none.
    """
    found: list[list[Job]] = []
    open_: dict[tuple[str, int], list[list[Job]]] = {}
    for job in jobs:
        key = job.cls.name, job.requests[0].steps
        joined = False
        for batch in open_.get(key, ()):
            if _in_time(host, [*batch, job], degree_of(job)):
                batch.append(job)
                joined = True
                break
        if not joined:
            found.append([job])
            if _in_time(host, [job], degree_of(job)):
                open_.setdefault(key, []).append(found[-1])
    return [part for batch in found for part in _allowed(batch)]


def _in_time(host: Host, batch: Sequence[Job], degree: int) -> bool:
    cls = batch[0].cls
    size = next((size for size in cls.batches if size >= len(batch)), None)
    if size is None or (degree, size) not in cls.cells:
        return False
    needs = host.remaining(batch[0], degree, size)
    return all(host.now + needs <= job.deadline for job in batch)


def _allowed(batch: list[Job]) -> list[list[Job]]:
    """A batch cut into sizes that its class has, the largest first."""
    parts, rest = [], batch
    while rest:
        size = max(size for size in rest[0].cls.batches if size <= len(rest))
        parts.append(rest[:size])
        rest = rest[size:]
    return parts
