"""What schedulers have in common that bind each request, when it comes, to a lane: GPUs that it keeps to the end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from sim.serving.host import Host
from sim.serving.jobs import Job

Lane = tuple[int, ...]


class Lanes:
    """Queues of lanes, first come first served: one request at a time is active on each.

    Lanes may overlap. Active requests of lanes that do take turns, step by step: the one that has waited longest goes
    on first. Encoding and decoding run on a lane's first GPU. `pick` chooses a lane, given how many requests that have
    one are not done.
    """

    def __init__(self, host: Host, pick: Callable[[int], Lane]) -> None:
        self.host = host
        self._pick = pick
        self._new: list[Job] = []
        self._bound = 0
        """Requests that have a lane and are not done."""
        self._queues: dict[Lane, deque[Job]] = {}
        self._active: dict[Lane, Job] = {}
        self._overlaps: dict[Lane, list[Lane]] = {}
        """Of each lane, the others that have GPUs in common with it."""
        host.follow(self)

    def add(self, job: Job) -> None:
        """As `Follower` says."""
        if not job.started:
            self._new.append(job)

    def remove(self, job: Job) -> None:
        """As `Follower` says."""

    def _wide_enough(self, job: Job, lane: Lane) -> Lane:
        """The lane, or the GPUs around its first one that the class needs at least: these overlap other lanes."""
        least = job.cls.degrees[0]
        if len(lane) >= least:
            return lane
        blocks = self.host.blocks(least)
        return blocks[min(lane[0] // least, len(blocks) - 1)]

    def _queue(self, lane: Lane) -> deque[Job]:
        if lane not in self._queues:
            self._queues[lane] = deque()
            self._overlaps[lane] = [other for other in self._overlaps if not set(other).isdisjoint(lane)]
            for other in self._overlaps[lane]:
                self._overlaps[other].append(lane)
        return self._queues[lane]

    def decide(self) -> None:
        """As `Decider` says."""
        host, active = self.host, self._active
        for lane, job in list(active.items()):
            if job.ended:
                del active[lane]
                self._bound -= 1
        for job in self._new:
            self._queue(self._wide_enough(job, self._pick(self._bound))).append(job)
            self._bound += 1
        self._new.clear()
        for lane, queue in self._queues.items():
            if queue and lane not in active:
                active[lane] = queue.popleft()
                for other in self._overlaps[lane]:
                    if other in active and active[other].rate:
                        host.stop(active[other])
        ready = [(job.ready_since, job.number, lane, job) for lane, job in active.items() if not job.rate]
        for _, _, lane, job in sorted(ready, key=lambda entry: entry[:2]):
            # a class that cannot have as many GPUs as the lane uses the first ones
            gpus = lane[: max((d for d in host.degrees(job) if d <= len(lane)), default=len(lane))]
            if all(host.free[gpu] for gpu in gpus):
                turns = any(other in active for other in self._overlaps[lane])
                host.start(job, gpus, 1.0 if turns else math.inf)
