"""Rounds in which each request gets the fewest GPUs by which it is still in time, as TetriServe (arXiv 2510.01565)."""

from __future__ import annotations

import math

from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Seconds
from sim.serving.host import Decider, Host
from sim.serving.jobs import EPSILON, Job
from sim.serving.queues import Feasible, Queue
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.knapsack import NOTHING, best_chosen, choice
from sim.serving.schedulers.registry import register

MAX_JOBS = 3
"""Jobs a GPU that a round looks at, the most urgent ones."""


def _deadline(job: Job) -> float:
    return job.deadline


@register
class TetriServe(Scheduler, frozen=True, tag="tetriserve"):
    """At each round's start, GPUs are given anew: by a knapsack, to as many requests as can still be in time.

    A request that gets GPUs takes as many steps as end within the round, one at least. Where `round` is not given, it
    is five steps of the class with the shortest ones, on its smallest degree. GPUs that are left go to the most urgent
    of those that got none, and then widen the others. Encoding and decoding do not wait for a round.
    """

    round: Seconds | None = None

    def __post_init__(self) -> None:
        refuse([Fault("round", "is 0, expected more")] if self.round is not None and not self.round > 0.0 else [])

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        shortest = min(cls.step(cls.degrees[0]) for cls in host.classes.values())
        return _Decider(host, float(self.round) if self.round is not None else 5.0 * shortest)


class _Decider:
    def __init__(self, host: Host, length: float) -> None:
        self.host = host
        self.length = length
        self._ends = 0.0
        self._once = host.follow(Queue(_deadline, lambda job: not job.denoising))
        self._denoise = host.follow(Feasible(_deadline, self._latest_start, lambda job: job.denoising))

    def _latest_start(self, job: Job) -> float:
        """Until when it could go on and still be in time, s."""
        return job.deadline - min(self.host.remaining_by_degree(job).values())

    def decide(self) -> None:
        """Nothing within a round but encoding and decoding, on GPUs that are free."""
        host = self.host
        if host.now < self._ends - 1e-12:
            self._start_once()
            return
        if not (len(self._once) or len(self._denoise) or host.running):
            return  # the next request begins a round
        self._ends = host.now + self.length
        host.wake(self._ends)
        self._start_once()
        if host.free_count:
            # those that can be in time first, and no more than could be given anything
            self._give(self._denoise.first(host.now, MAX_JOBS * host.gpus))

    def _start_once(self) -> None:
        """Start encoding and decoding."""
        while self.host.free_count and (job := self._once.first()) is not None:
            self.host.start_on(job, 1)

    def _give(self, jobs: list[Job]) -> None:
        host, until = self.host, EPSILON - self.host.now
        leasts: list[int | None] = []
        choices = []
        for job in jobs:
            left, needs = until + job.deadline, host.remaining_by_degree(job)
            least = next((degree for degree, takes in needs.items() if takes <= left), None)
            leasts.append(least)
            # one that would still be in time after the next round can wait
            gives = least is not None and min(needs.values()) + self.length > left
            choices.append(choice([(least, 1.0 - 1e-6 * least)]) if least is not None and gives else NOTHING)
        widths = best_chosen(choices, host.free_count)
        left_over = host.free_count - sum(widths)
        for place, job in enumerate(jobs):
            if not left_over:
                break
            if not widths[place]:
                smallest = host.degrees(job)[0]
                wanted = leasts[place] or smallest
                widths[place] = wanted if wanted <= left_over else smallest if smallest <= left_over else 0
                left_over -= widths[place]
        for place, job in enumerate(jobs):
            if widths[place] and left_over:
                wider = [d for d in host.degrees(job) if widths[place] < d <= widths[place] + left_over]
                faster = [d for d in wider if host.remaining(job, d) < host.remaining(job, widths[place])]
                if faster:
                    left_over -= faster[-1] - widths[place]
                    widths[place] = faster[-1]
        order = sorted(range(len(jobs)), key=lambda place: (-widths[place], place))
        for place in order:
            job, width = jobs[place], widths[place]
            if not width:
                continue
            steps = max(math.floor(self.length / job.cls.cells[width, job.batch].step + 1e-9), 1)
            # GPUs that are free may not lie together
            for degree in [d for d in reversed(host.degrees(job)) if d <= width]:
                if host.start_on(job, degree, float(steps)):
                    break
