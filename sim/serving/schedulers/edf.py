"""Earliest deadline first."""

from __future__ import annotations

from sim.serving.host import Decider, Host
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.in_order import InOrder
from sim.serving.schedulers.registry import register


@register
class Edf(Scheduler, frozen=True, tag="edf"):
    """Jobs by their deadlines, each on its class's `degree` of GPUs.

    With `preemptive`, those that are due earlier stop others between two steps.
    """

    preemptive: bool = False
    skip: bool = True

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return InOrder(host, lambda job: job.deadline, self.skip, self.preemptive)
