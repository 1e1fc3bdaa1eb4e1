"""First come, first served."""

from __future__ import annotations

from sim.serving.host import Decider, Host
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.registry import register


@register
class Fcfs(Scheduler, frozen=True, tag="fcfs"):
    """Jobs in the order of their arrivals, each on its class's `degree` of GPUs.

    The first one that does not fit holds up those behind it; with `skip`, those that fit overtake it.
    """

    skip: bool = False

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return _Fcfs(host, self.skip)


class _Fcfs:
    def __init__(self, host: Host, skip: bool) -> None:
        self.host = host
        self.skip = skip

    def decide(self) -> None:
        """Start from the head of the queue: nothing is sorted, since jobs come in order."""
        host = self.host
        for job in sorted(host.begun.values(), key=lambda job: job.number):
            if not host.start_on(job, host.fixed_degree(job)) and not self.skip:
                return
        if self.skip:
            for job in list(host.fresh.values()):
                if not host.free_count:
                    return
                host.start_on(job, host.fixed_degree(job))
            return
        while host.free_count and host.fresh:
            job = next(iter(host.fresh.values()))
            if not host.start_on(job, host.fixed_degree(job)):
                return
