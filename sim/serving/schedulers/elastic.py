"""Videos that pause and change their width for images: what schedulers have in common that do so."""

from __future__ import annotations

from sim.serving.host import Host
from sim.serving.jobs import Job
from sim.serving.schedulers.batches import batches
from sim.serving.schedulers.knapsack import Option, best_widths

MAX_JOBS = 4
"""Videos a GPU that a decision looks at, those with the least slack: more could not be given anything."""


class Elastic:
    """Images (classes that are not preemptible) get GPUs first, those due first; a knapsack gives the rest to videos.

    `needs` is how long a job is thought to take, and `place` where it is put: schedulers that know more change these.
    """

    def __init__(self, host: Host, batching: bool, hysteresis: float, late: float, period: float | None = None) -> None:
        self.host = host
        self.batching = batching
        self.hysteresis = hysteresis
        self.late = late
        self.period = period
        self._looks_at = 0.0

    def needs(self, job: Job) -> dict[int, float]:
        """Time that a job still needs, s, by number of GPUs."""
        return self.host.remaining_by_degree(job)

    def place(self, job: Job, degree: int) -> tuple[int, ...] | None:
        """Free GPUs to put a job on; None where there are none."""
        return next(iter(self.host.places(job, degree)), None)

    def decide(self) -> None:
        """As `Decider` says."""
        host = self.host
        images = [job for job in host.waiting() if not job.cls.preemptible]
        videos = [job for job in (*host.running.values(), *host.waiting()) if job.cls.preemptible]
        room = host.gpus - sum(len(job.gpus) for job in host.running.values() if not job.cls.preemptible)
        room -= self._images(images, room)
        self._videos(videos, max(room, 0))
        if self.period and (videos or images) and self._looks_at <= host.now:
            self._looks_at = host.now + self.period
            host.wake(self._looks_at)

    def _images(self, images: list[Job], room: int) -> int:
        """Start images where GPUs are free; returns how many GPUs they have, or are to get from videos."""
        host, taken = self.host, 0
        # those that are late in any case come last, as with videos; more than could be started are left out
        late = {job.number: host.slack(job, job.cls.degree) < 0.0 for job in images}
        images.sort(key=lambda job: (not job.started, late[job.number], job.deadline, job.number))
        fresh = [job for job in images if not job.started]
        fresh = fresh[: host.gpus * max((job.cls.batches[-1] for job in fresh), default=1)]
        groups = batches(host, fresh, lambda job: job.cls.degree) if self.batching else [[job] for job in fresh]
        for first, *others in [*([job] for job in images if job.started), *groups]:
            degree = host.fixed_degree(first)
            if taken + degree > room:
                break
            taken += degree
            if (gpus := self.place(first, degree)) is not None:
                if others:
                    host.join(first, others)
                host.start(first, gpus)
        return taken

    def _videos(self, videos: list[Job], room: int) -> None:
        host = self.host
        fixed = [job for job in videos if job.rate and not job.denoising]
        room -= sum(len(job.gpus) for job in fixed)
        movable = [job for job in videos if not (job.rate and not job.denoising)]
        slack = {job.number: host.slack(job, job.cls.degrees[-1]) for job in movable}
        # those that are late in any case come last: they take what is left
        movable.sort(key=lambda job: (slack[job.number] < 0.0, slack[job.number], job.number))
        movable = movable[: MAX_JOBS * host.gpus]
        widths = dict(zip(movable, best_widths([self._options(job) for job in movable], max(room, 0)), strict=True))
        for job, width in widths.items():
            if job.rate and width != len(job.gpus) and (width < len(job.gpus) or host.could_have(job, width)):
                host.stop(job)
        waiting = [job for job, width in widths.items() if width and not job.rate]
        for job in sorted(waiting, key=lambda job: (-widths[job], slack[job.number], job.number)):
            # GPUs that are free may not lie together
            for degree in [d for d in reversed(host.degrees(job)) if d <= widths[job]]:
                if (gpus := self.place(job, degree)) is not None:
                    host.start(job, gpus)
                    break

    def _options(self, job: Job) -> list[Option]:
        """{pause, continue, other widths}."""
        needs = self.needs(job)
        fastest = min(needs.values())
        found = [Option(0, self._worth(job, fastest, waits=True))]
        if not job.denoising:
            return [*found, Option(1, self._worth(job, fastest))]
        now = len(job.gpus) if job.rate else 0
        for degree in self.host.degrees(job):
            worth = self._worth(job, needs[degree])
            found.append(Option(degree, worth - self.hysteresis if now and degree != now else worth))
        return found

    def _worth(self, job: Job, needs: float, waits: bool = False) -> float:
        """What it is worth to give a video GPUs on which it `needs` so long, or to let it wait.

        One where it will be in time, and a tenth of the share of its time that would be left: GPUs that nobody else
        needs make a video faster. Half of the share that is left where it waits, and could still be in time on the
        degree that is fastest: the largest slack waits. `late` or less where it will be late.
        """
        allowed = max(job.deadline - job.requests[0].arrival, 1e-9)
        left = (job.deadline - self.host.now - needs) / allowed
        if waits:
            return 0.5 * min(left, 1.0) if left > 0.0 else 0.0
        return 1.0 + 0.1 * left if left >= 0.0 else self.late / (1.0 + needs / allowed)
