"""GPUs divided once and for all into groups of several sizes, each class on groups of its own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sim.inputs.config import InputError
from sim.inputs.faults import Fault, refuse
from sim.serving.host import Decider, Host
from sim.serving.jobs import Job
from sim.serving.queues import Queue
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.registry import register


def _arrival(job: Job) -> float:
    return job.requests[0].arrival


@register
class StaticPartition(Scheduler, frozen=True, tag="static_partition"):
    """Groups of `sizes`, side by side: a request runs on one of its class's `degree`, first come first served.

    Without `sizes`, each degree gets GPUs by the share of its classes in all work, at least one group. A class whose
    degree has no group runs on part of a larger group, or on a smaller one.
    """

    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        wrong = [] if all(size >= 1 for size in self.sizes) else [Fault("sizes", "expected numbers of GPUs, from 1 on")]
        refuse(wrong)

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return _Decider(host, self.sizes)


class _Decider:
    def __init__(self, host: Host, sizes: tuple[int, ...]) -> None:
        self.host = host
        self._groups: dict[int, list[tuple[int, ...]]] = {}
        first = 0
        for size in sizes or self._divided():
            if first + size <= host.gpus:
                self._groups.setdefault(size, []).append(tuple(range(first, first + size)))
                first += size
        for cls in host.classes.values():
            if not any(size >= cls.degrees[0] for size in self._groups):
                problem = (
                    f"makes no group on {host.gpus} GPUs for class {cls.name}, which needs {cls.degrees[0]} at least"
                )
                raise InputError("scenario", "scheduler.sizes", problem)
        self._taken: dict[tuple[int, ...], Job] = {}
        self._queues = {size: host.follow(Queue(_arrival, self._belongs(size))) for size in self._groups}

    def decide(self) -> None:
        """Start the first of each size whose group is free."""
        for group, job in list(self._taken.items()):
            if job.ended:
                del self._taken[group]
            elif not job.rate:
                self._start(job, group)
        for size, queue in self._queues.items():
            for group in self._groups[size]:
                if group not in self._taken and (head := queue.first()) is not None:
                    self._taken[group] = head
                    self._start(head, group)

    def _start(self, job: Job, group: tuple[int, ...]) -> None:
        degree = max(d for d in self.host.degrees(job) if d <= min(len(group), self.host.fixed_degree(job)))
        self.host.start(job, group[:degree])

    def _belongs(self, size: int) -> Callable[[Job], bool]:
        return lambda job: not job.started and self._size(job) == size

    def _size(self, job: Job) -> int:
        sizes = sorted(size for size in self._groups if size >= job.cls.degrees[0])
        return next((size for size in sizes if size >= job.cls.degree), sizes[-1])

    def _divided(self) -> Iterator[int]:
        """Sizes of groups by work: the largest first."""
        work: dict[int, float] = {}
        for cls in self.host.classes.values():
            if cls.given.share > 0.0:
                of = float(cls.given.share) * cls.degree * cls.latency(cls.degree)
                work[cls.degree] = work.get(cls.degree, 0.0) + of
        left, whole = self.host.gpus, sum(work.values())
        wanted = sorted(work, reverse=True)
        for number, degree in enumerate(wanted):
            # the others get a group each where that is possible: else they run on part of a larger one
            most = max((left - sum(wanted[number + 1 :])) // degree, int(number == 0))
            last = number == len(wanted) - 1
            share = work[degree] / whole * self.host.gpus / degree
            count = left // degree if last else min(max(round(share), int(number == 0)), most)
            yield from [degree] * count
            left -= degree * count
