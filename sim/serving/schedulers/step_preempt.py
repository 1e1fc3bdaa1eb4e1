"""Background gives way to foreground between two steps: it pauses, or goes on with fewer GPUs, as GF-DiT's policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from sim.inputs.units import Seconds
from sim.serving.host import Decider, Host
from sim.serving.jobs import EPSILON, Job
from sim.serving.queues import Feasible, Queue
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.registry import register


class _Preempting(Scheduler, frozen=True):
    """Foreground is of the classes of the highest priority, background of those that are preemptible.

    Foreground goes first, then others, then background; each kind in the order of deadlines, on the most GPUs each
    that all who wait of it can have. A background job that was held up for `max_pause` is held up no longer.
    """

    max_pause: Seconds = Seconds(600.0)


@register
class StepPause(_Preempting, frozen=True, tag="step_pause"):
    """While there is foreground, background pauses.

    Foreground goes first, then others, then background; each kind in the order of deadlines, on the most GPUs each
    that all who wait of it can have. A background job that was held up for `max_pause` is held up no longer.
    """

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return _Decider(host, float(self.max_pause), 0, keeps=False)


@register
class StepDemote(_Preempting, frozen=True, tag="step_demote"):
    """While there is foreground, background goes on with at most `degree` GPUs a job, where there are any left.

    What is demoted keeps these GPUs; without `keeps`, foreground that waits takes them at the end of a step. Else as
    `step_pause`.
    """

    degree: int = 1
    keeps: bool = True

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return _Decider(host, float(self.max_pause), self.degree, self.keeps)


@dataclass
class _Kind:
    """Jobs of one kind: those that run, and those that wait, by the fewest GPUs that each can have."""

    running: list[Job]
    waiting: list[tuple[int, Queue]]

    def count(self) -> int:
        return len(self.running) + sum(len(queue) for _, queue in self.waiting)

    def short(self) -> int:
        """GPUs that those which wait need at least."""
        return sum(degree * len(queue) for degree, queue in self.waiting)

    def first(self, gpus: int) -> list[Job]:
        """As many as could get any of so many GPUs, in order: where one does not fit, no other of its queue does."""
        return sorted((job for _, queue in self.waiting for job in islice(queue, gpus)), key=_urgency)


class _Decider:
    def __init__(self, host: Host, max_pause: float, demoted: int, keeps: bool) -> None:
        self.host = host
        self.max_pause = max_pause
        self.demoted = demoted
        self.keeps = keeps
        # by priority and the fewest GPUs
        self._firm: dict[tuple[int, int], Queue] = {}
        self._background: dict[tuple[int, int], Feasible] = {}
        for priority, least, preemptible in {
            (cls.priority, least, cls.preemptible) for cls in host.classes.values() for least in (1, cls.degrees[0])
        }:
            wanted = self._wanted(priority, least, preemptible)
            if preemptible:
                queue = Feasible(_deadline, self._held_until, wanted)
                self._background[priority, least] = host.follow(queue)
            else:
                self._firm[priority, least] = host.follow(Queue(_deadline, wanted))
        host.follow(self)

    def _wanted(self, priority: int, least: int, preemptible: bool) -> Callable[[Job], bool]:
        def wanted(job: Job) -> bool:
            kind = job.cls.priority, self.host.degrees(job)[0], job.cls.preemptible
            return kind == (priority, least, preemptible)

        return wanted

    def _held_until(self, job: Job) -> float:
        """When a job of the background has been held up for long enough, s: from then on, hence a bit before."""
        return job.ready_since + self.max_pause - 2 * EPSILON if job.number in self.host.begun else math.inf

    def add(self, job: Job) -> None:
        """A pause begins, perhaps: its end is to be seen."""
        if self.max_pause and job.cls.preemptible and job.started:
            self.host.wake(job.ready_since + self.max_pause)

    def remove(self, job: Job) -> None:
        """As `Follower` says."""

    def decide(self) -> None:
        """As `Decider` says."""
        host = self.host
        running = list(host.running.values())
        present = [job.cls.priority for job in running]
        present += [priority for (priority, _), queue in self._queues() if len(queue)]
        if not present:
            return
        top = max(present)
        # where the highest that is there is background, there is nothing to give way to
        firm = [job for job in running if not job.cls.preemptible]
        foreground = _Kind([job for job in firm if job.cls.priority == top], self._of(lambda priority: priority == top))
        others = _Kind([job for job in firm if job.cls.priority < top], self._of(lambda priority: priority < top))
        split = [(least, queue.split(host.now)) for (_, least), queue in self._background.items()]
        aged = _Kind([], [(least, late) for least, (_, late) in split])
        young = _Kind(
            [job for job in running if job.cls.preemptible], [(least, in_time) for least, (in_time, _) in split]
        )
        gives_way = foreground.count() > 0
        self._start(foreground, host.gpus)
        short = foreground.short()
        self._share(others, host.gpus, short)
        self._start(aged, host.gpus)
        needed = 0 if self.keeps and gives_way else short + others.short()
        self._share(young, self.demoted if gives_way else host.gpus, needed)

    def _queues(self) -> Iterator[tuple[tuple[int, int], Queue | Feasible]]:
        yield from self._firm.items()
        yield from self._background.items()

    def _of(self, wanted: Callable[[int], bool]) -> list[tuple[int, Queue]]:
        return [(least, queue) for (priority, least), queue in self._firm.items() if wanted(priority)]

    def _share(self, jobs: _Kind, most: int, short: int) -> None:
        """Give jobs what others leave, who still need `short`: the same width to all of them, anew between steps."""
        host, count = self.host, jobs.count()
        room = host.free_count + sum(len(job.gpus) for job in jobs.running) - short
        left = room
        for job in sorted((*jobs.running, *jobs.first(host.gpus)), key=_urgency) if jobs.running else ():
            fair = [d for d in host.degrees(job) if d <= most and d * count <= room]
            smallest = host.degrees(job)[0]
            width = max(fair, default=smallest if smallest <= min(most, left) else 0)
            left -= width
            if job.rate and job.denoising and len(job.gpus) != width:
                host.stop(job)
        if most and room > 0:
            self._start(jobs, most)

    def _start(self, jobs: _Kind, most: int) -> None:
        host = self.host
        count = sum(len(queue) for _, queue in jobs.waiting)
        if not (host.free_count and count):
            return
        for place, job in enumerate(jobs.first(host.gpus)):
            if not host.free_count:
                return
            allowed = [degree for degree in host.degrees(job) if degree <= most]
            wide = [degree for degree in allowed if degree * (count - place) <= host.free_count]
            for degree in sorted({*wide, *allowed[:1]}, reverse=True):
                if host.start_on(job, degree):
                    break


def _deadline(job: Job) -> float:
    return job.deadline


def _urgency(job: Job) -> tuple[float, int]:
    return job.deadline, job.number
