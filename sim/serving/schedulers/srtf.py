"""Shortest remaining time first."""

from __future__ import annotations

from sim.serving.host import Decider, Host
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.in_order import InOrder
from sim.serving.schedulers.registry import register


@register
class Srtf(Scheduler, frozen=True, tag="srtf"):
    """Jobs by the isolated time that they still need, each on its class's `degree` of GPUs.

    With `preemptive`, shorter jobs stop longer ones between two steps.
    """

    preemptive: bool = False
    skip: bool = True

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return InOrder(host, lambda job: host.remaining(job, job.cls.degree), self.skip, self.preemptive)
