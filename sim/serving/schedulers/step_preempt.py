"""Background gives way to foreground between two steps: it pauses, or goes on with fewer GPUs, as GF-DiT's policies."""

from __future__ import annotations

from collections.abc import Sequence

from sim.inputs.units import Seconds
from sim.serving.host import Decider, Host
from sim.serving.jobs import Job
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
        return _Decider(host, float(self.max_pause), 0)


@register
class StepDemote(_Preempting, frozen=True, tag="step_demote"):
    """While there is foreground, background goes on with at most `degree` GPUs a job, where there are any left.

    Else as `step_pause`.
    """

    degree: int = 1

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return _Decider(host, float(self.max_pause), self.degree)


class _Decider:
    def __init__(self, host: Host, max_pause: float, demoted: int) -> None:
        self.host = host
        self.max_pause = max_pause
        self.demoted = demoted

    def decide(self) -> None:
        """As `Decider` says."""
        host = self.host
        jobs = [*host.running.values(), *host.waiting()]
        if not jobs:
            return
        top = max(job.cls.priority for job in jobs)
        # where the highest that is there is background, there is nothing to give way to
        foreground = [job for job in jobs if job.cls.priority == top and not job.cls.preemptible]
        others = [job for job in jobs if job.cls.priority < top and not job.cls.preemptible]
        background = [job for job in jobs if job.cls.preemptible]
        aged = [job for job in background if self._aged(job)]
        young = [job for job in background if job not in aged]
        self._start(foreground, host.gpus)
        short = self._short(foreground)
        self._share(others, host.gpus, short)
        self._start(aged, host.gpus)
        # what is demoted keeps its GPUs: it pauses for nobody
        needed = 0 if self.demoted and foreground else short + self._short(others)
        self._share(young, self.demoted if foreground else host.gpus, needed)
        waits = [job.ready_since for job in young if job.number in host.begun]
        if foreground and waits and self.max_pause:
            host.wake(min(waits) + self.max_pause)

    def _aged(self, job: Job) -> bool:
        return job.number in self.host.begun and self.host.now - job.ready_since >= self.max_pause

    def _short(self, jobs: Sequence[Job]) -> int:
        """GPUs that jobs which wait need at least."""
        return sum(self.host.degrees(job)[0] for job in jobs if not job.rate)

    def _share(self, jobs: Sequence[Job], most: int, short: int) -> None:
        """Give jobs what others leave, who still need `short`: the same width to all of them, anew between steps."""
        host = self.host
        room = host.free_count + sum(len(job.gpus) for job in jobs if job.rate) - short
        left = room
        for job in sorted(jobs, key=_urgency):
            fair = [d for d in host.degrees(job) if d <= most and d * len(jobs) <= room]
            smallest = host.degrees(job)[0]
            width = max(fair, default=smallest if smallest <= min(most, left) else 0)
            left -= width
            if job.rate and job.denoising and len(job.gpus) != width:
                host.stop(job)
        if most and room > 0:
            self._start(jobs, most)

    def _start(self, jobs: Sequence[Job], most: int) -> None:
        host = self.host
        waiting = sorted((job for job in jobs if not job.rate), key=_urgency)
        for place, job in enumerate(waiting):
            if not host.free_count:
                return
            allowed = [degree for degree in host.degrees(job) if degree <= most]
            left = len(waiting) - place
            wide = [degree for degree in allowed if degree * left <= host.free_count]
            for degree in sorted({*wide, *allowed[:1]}, reverse=True):
                if host.start_on(job, degree):
                    break


def _urgency(job: Job) -> tuple[float, int]:
    return job.deadline, job.number
