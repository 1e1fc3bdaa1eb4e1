"""What schedulers have in common that bind each request, when it comes, to a lane: GPUs that it keeps to the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sim.serving.host import Host
from sim.serving.jobs import Job

Lane = tuple[int, ...]


class Lanes:
    """Queues of lanes, first come first served: one request at a time is active on each.

    Lanes may overlap. Active requests of lanes that do take turns, step by step: the one that has waited longest goes
    on first. Encoding and decoding run on a lane's first GPU.
    """

    def __init__(self, host: Host, pick: Callable[[Job], Lane], overlap: bool) -> None:
        self.host = host
        self._pick = pick
        self._steps = 1.0 if overlap else float("inf")
        self._lane: dict[int, Lane] = {}
        self._queues: dict[Lane, deque[Job]] = {}
        self._active: dict[Lane, Job] = {}

    def _wide_enough(self, job: Job, lane: Lane) -> Lane:
        """The lane, or the GPUs around its first one that the class needs at least: these overlap other lanes."""
        least = job.cls.degrees[0]
        if len(lane) >= least:
            return lane
        self._steps = 1.0
        blocks = self.host.blocks(least)
        return blocks[min(lane[0] // least, len(blocks) - 1)]

    def decide(self) -> None:
        """As `Decider` says."""
        host = self.host
        for lane, job in list(self._active.items()):
            if job.stage_number == len(job.stages):  # done
                del self._active[lane]
        for job in host.fresh.values():
            if job.number not in self._lane:
                lane = self._lane[job.number] = self._wide_enough(job, self._pick(job))
                self._queues.setdefault(lane, deque()).append(job)
        for lane, queue in self._queues.items():
            if lane not in self._active and queue:
                self._active[lane] = queue.popleft()
        ready = [(job.ready_since, job.number, lane, job) for lane, job in self._active.items() if not job.rate]
        for _, _, lane, job in sorted(ready, key=lambda entry: entry[:2]):
            # a class that cannot have as many GPUs as the lane uses the first ones
            gpus = lane[: max((d for d in host.degrees(job) if d <= len(lane)), default=len(lane))]
            if all(host.free[gpu] for gpu in gpus):
                host.start(job, gpus, self._steps)
