"""What schedulers have in common that take jobs in some order, on fixed numbers of GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sim.serving.host import Host
from sim.serving.jobs import Job
from sim.serving.queues import Queue, Rank


class InOrder:
    """Starts waiting jobs in the order of `rank`, equal ones as they came.

    Without `skip` those behind one that does not fit wait too. With `preemptive`, running jobs that may be paused are
    stopped where others come before them and there is no room for both.
    """

    def __init__(self, host: Host, rank: Rank, skip: bool, preemptive: bool) -> None:
        self.host = host
        self.rank = rank
        self.skip = skip
        self.preemptive = preemptive
        self._queues: dict[tuple[bool, int], Queue] = {}
        """By whether they go before all others, and by number of GPUs: where one does not fit, no other of it does."""
        for ahead in (True, False):
            for degree in {1, *(cls.degree for cls in host.classes.values())}:
                self._queues[ahead, degree] = host.follow(Queue(rank, self._belongs(ahead, degree)))

    def _belongs(self, ahead: bool, degree: int) -> Callable[[Job], bool]:
        return lambda job: self._ahead(job) == ahead and self.host.fixed_degree(job) == degree

    def _ahead(self, job: Job) -> bool:
        """Jobs that have begun go before others; with `preemptive` only those that may not be paused."""
        return job.started and not (self.preemptive and job.cls.preemptible)

    def decide(self) -> None:
        """As `Decider` says."""
        host = self.host
        if not self.preemptive:
            self._start_in_order()
            return
        movable = [job for job in host.running.values() if job.cls.preemptible and job.denoising]
        chosen = self._chosen(movable)
        wanted = {job.number for job in chosen}
        for job in movable:
            if job.number not in wanted:
                host.stop(job)
        for job in chosen:
            if not job.rate and not host.start_on(job, host.fixed_degree(job)) and not self.skip:
                return

    def _start_in_order(self) -> None:
        host, full = self.host, set[int]()
        while host.free_count:
            job = min(self._heads(full), key=self._first, default=None)
            if job is None:
                return
            degree = host.fixed_degree(job)
            if not host.start_on(job, degree):
                if not self.skip:
                    return
                full.add(degree)

    def _heads(self, full: set[int]) -> Iterator[Job]:
        """The first of each queue, but of those for which there is no place."""
        for (_, degree), queue in self._queues.items():
            if degree not in full and (job := queue.first()) is not None:
                yield job

    def _chosen(self, movable: list[Job]) -> list[Job]:
        """Jobs in order for which there are GPUs enough, if the running ones that are `movable` give theirs back."""
        host = self.host
        room = host.free_count + sum(len(job.gpus) for job in movable)
        sources = [(degree, iter(queue)) for (_, degree), queue in self._queues.items()]
        sources += [(len(job.gpus), iter((job,))) for job in movable]
        heads = {number: job for number, (_, of) in enumerate(sources) if (job := next(of, None)) is not None}
        chosen: list[Job] = []
        while heads and room:
            number = min(heads, key=lambda number: self._first(heads[number]))
            job = heads.pop(number)
            degree, others = sources[number]
            if degree <= room:
                room -= degree
                chosen.append(job)
                if (after := next(others, None)) is not None:
                    heads[number] = after
            elif not self.skip:
                break
        return chosen

    def _first(self, job: Job) -> tuple[bool, float, int]:
        return not self._ahead(job), self.rank(job), job.number
