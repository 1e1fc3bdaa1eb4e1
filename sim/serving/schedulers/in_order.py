"""What schedulers have in common that take jobs in some order, on fixed numbers of GPUs."""

from __future__ import annotations

from collections.abc import Callable

from sim.serving.host import Host
from sim.serving.jobs import Job

Rank = Callable[[Job], float]
"""What jobs are ordered by, the least first."""


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

    def decide(self) -> None:
        """As `Decider` says."""
        host = self.host
        if not self.preemptive:
            if host.free_count:
                self._start(sorted(host.begun.values(), key=self._key) + sorted(host.fresh.values(), key=self._key))
            return
        running = list(host.running.values())
        kept = [job for job in running if not self._movable(job)]
        room = host.gpus - sum(len(job.gpus) for job in kept)
        chosen: list[Job] = []
        for job in sorted((*host.waiting(), *filter(self._movable, running)), key=self._first):
            degree = len(job.gpus) if job.number in host.running else host.fixed_degree(job)
            if degree <= room:
                room -= degree
                chosen.append(job)
            elif not self.skip:
                break
        wanted = {job.number for job in chosen}
        for job in running:
            if job.number not in wanted and self._movable(job):
                host.stop(job)
        self._start([job for job in chosen if job.number not in host.running])

    @staticmethod
    def _movable(job: Job) -> bool:
        return job.cls.preemptible and job.denoising

    def _key(self, job: Job) -> tuple[float, int]:
        return self.rank(job), job.number

    def _first(self, job: Job) -> tuple[bool, float, int]:
        """Those that may not be paused go on from stage to stage."""
        return not (job.started and not job.cls.preemptible), self.rank(job), job.number

    def _start(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not self.host.start_on(job, self.host.fixed_degree(job)) and not self.skip:
                return
