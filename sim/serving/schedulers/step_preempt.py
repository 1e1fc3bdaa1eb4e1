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
        host = self.host
        jobs = [*host.running.values(), *host.waiting()]
        if not jobs:
            return
        # the highest that is there may be background: then there is none to give way to
        top = max(job.cls.priority for job in jobs)
        foreground = [job for job in jobs if job.cls.priority == top and not job.cls.preemptible]
        background = [job for job in jobs if job.cls.preemptible]
        others = [job for job in jobs if not job.cls.preemptible and job.cls.priority < top]
        if foreground:
            for job in background:
                if job.number in host.running and len(job.gpus) > self.demoted and not self._held_long(job):
                    host.stop(job)
        self._start(foreground, max(host.gpus, 1))
        self._start(others, host.gpus)
        if not foreground:
            self._start(background, host.gpus)
            return
        self._start([job for job in background if self._held_long(job)], host.gpus)
        if self.demoted:
            self._start([job for job in background if not self._held_long(job)], self.demoted)
        waits = [job for job in background if job.number in host.begun]
        if self.max_pause and waits:
            host_next = min(job.ready_since for job in waits) + self.max_pause
            if host_next > host.now:
                host.wake(host_next)

    def _held_long(self, job: Job) -> bool:
        return job.number in self.host.begun and self.host.now - job.ready_since >= self.max_pause

    def _start(self, jobs: Sequence[Job], most: int) -> None:
        host = self.host
        waiting = sorted((job for job in jobs if not job.rate), key=lambda job: (job.deadline, job.number))
        for place, job in enumerate(waiting):
            if not host.free_count:
                return
            allowed = [degree for degree in host.degrees(job) if degree <= most]
            if not allowed:
                continue
            left = len(waiting) - place
            wide = [degree for degree in allowed if degree * left <= host.free_count]
            for degree in sorted({*wide, allowed[0]}, reverse=True):
                if host.start_on(job, degree):
                    break
