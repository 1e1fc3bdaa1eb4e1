"""One degree for all requests, as GF-DiT's static baselines."""

from __future__ import annotations

from itertools import cycle

from sim.serving.host import Decider, Host
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.lanes import Lanes
from sim.serving.schedulers.registry import register


@register
class StaticSp(Scheduler, frozen=True, tag="static_sp"):
    """The GPUs are lanes of `degree`; requests are bound to them in turn, and wait there, first come first served."""

    degree: int = 4

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        turns = cycle(host.blocks(min(self.degree, host.gpus)))
        return Lanes(host, lambda bound: next(turns))
