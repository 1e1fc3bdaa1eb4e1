"""First come, first served."""

from __future__ import annotations

from sim.serving.host import Decider, Host
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.in_order import InOrder
from sim.serving.schedulers.registry import register


@register
class Fcfs(Scheduler, frozen=True, tag="fcfs"):
    """Jobs in the order of their arrivals, each on its class's `degree` of GPUs.

    The first one that does not fit holds up those behind it; with `skip`, those that fit overtake it.
    """

    skip: bool = False

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return InOrder(host, lambda job: job.number, self.skip, preemptive=False)
