"""Videos that pause and change their width for images, as GENSERVE (arXiv 2604.04335) does it.

From public summaries of the paper: videos are preempted between steps, those with the largest slack first; a knapsack
gives each video one of {pause, continue, 2, 4, 8} GPUs; images are batched where all of the batch still meet their
deadlines. What a choice is worth to that knapsack is not public: `Elastic` says what it is here.
"""

from __future__ import annotations

from sim.inputs.units import Number, Seconds
from sim.serving.host import Decider, Host
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.elastic import Elastic
from sim.serving.schedulers.registry import register


@register
class GenServe(Scheduler, frozen=True, tag="genserve"):
    """Classes that are preemptible are videos, the others images.

    Images get GPUs first, those due first, each batch on its class's `degree`. The rest goes to videos. A width is
    changed only where that is worth `hysteresis` of a video in time. Videos already late count `late` of one. With
    `batching` off each image is alone. What is public does not say how often the scheduler looks again at videos that
    run while nothing comes or goes: every `period`, if given.
    """

    batching: bool = True
    hysteresis: Number = Number(0.02)
    late: Number = Number(0.1)
    period: Seconds | None = None

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return Elastic(host, self.batching, float(self.hysteresis), float(self.late), self.period)
