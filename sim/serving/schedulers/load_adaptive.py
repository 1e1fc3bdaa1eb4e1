"""Wide lanes while there is little to do, narrow ones else, as GF-DiT's load-adaptive baseline."""

from __future__ import annotations

import math
from itertools import cycle

from sim.inputs.units import Seconds
from sim.serving.host import Decider, Host
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.lanes import Lane, Lanes
from sim.serving.schedulers.registry import register


@register
class LoadAdaptive(Scheduler, frozen=True, tag="load_adaptive"):
    """Requests are bound when they come: to a lane of `wide` GPUs, or of `narrow` where load is high; each in turn.

    Load is high for `cooldown` after a request that came within `gap` of the one before it, and while `backlog`
    requests or more are not done. Wide and narrow lanes share their GPUs, step by step.
    """

    wide: int = 4
    narrow: int = 1
    gap: Seconds = Seconds(120.0)
    cooldown: Seconds = Seconds(60.0)
    backlog: int = 2

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return Lanes(host, _Pick(host, self))


class _Pick:
    def __init__(self, host: Host, given: LoadAdaptive) -> None:
        self.host = host
        self.given = given
        self._wide = cycle(host.blocks(min(given.wide, host.gpus)))
        self._narrow = cycle(host.blocks(min(given.narrow, host.gpus)))
        self._last = -math.inf
        self._high_until = -math.inf

    def __call__(self, bound: int) -> Lane:
        now = self.host.now
        if now - self._last <= self.given.gap:
            self._high_until = max(self._high_until, now + self.given.cooldown)
        self._last = now
        high = now <= self._high_until or bound >= self.given.backlog
        return next(self._narrow if high else self._wide)
