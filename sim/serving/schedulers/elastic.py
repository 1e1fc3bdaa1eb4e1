"""Videos that pause and change their width for images: what schedulers have in common that do so."""

from __future__ import annotations

from collections.abc import Callable

from sim.serving.host import Host
from sim.serving.jobs import EPSILON, Job
from sim.serving.queues import Feasible, Queue
from sim.serving.schedulers.batches import batches
from sim.serving.schedulers.knapsack import Choice, best_chosen, choice

MAX_JOBS = 4
"""Videos a GPU that a decision looks at, those with the least slack: more could not be given anything."""


class Elastic:
    """Images (classes that are not preemptible) get GPUs first, those due first; a knapsack gives the rest to videos.

    `needs` is how long a job is thought to take, and `place` where it is put: schedulers that know more change these.
    Those to which it matters in which stage an image is set `by_stage`.
    """

    by_stage = False

    def __init__(self, host: Host, batching: bool, hysteresis: float, late: float, period: float | None = None) -> None:
        self.host = host
        self.batching = batching
        self.hysteresis = hysteresis
        self.late = late
        self.period = period
        self._looks_at = 0.0
        self._news = True
        self._left_over = (-1, -1)
        """Requests that were not done, and GPUs that were free, after the last decision about videos."""
        host.follow(self)
        self._late: dict[int, tuple[dict[int, float], Choice]] = {}
        """Of videos that wait and are late in any case: what is worth what changes no more, until they are started."""
        self._largest_batch = max((cls.batches[-1] for cls in host.classes.values() if not cls.preemptible), default=1)

        def image(started: bool) -> Feasible:
            # those that are late in any case come last, as with videos
            def wanted(job: Job) -> bool:
                return not job.cls.preemptible and job.started == started

            return host.follow(Feasible(lambda job: job.deadline, _latest_image_start(host), wanted))

        self._images_begun, self._images_fresh = image(started=True), image(started=False)
        self._waiting_videos = host.follow(Queue(self._latest_start, lambda job: job.cls.preemptible))

    def _latest_start(self, job: Job) -> float:
        """Until when a video that waits could go on with its largest width and still be in time, s."""
        return job.deadline - self.host.remaining_by_degree(job)[job.cls.degrees[-1]]

    def needs(self, job: Job, alone: dict[int, float]) -> dict[int, float]:
        """Time that a job still needs, s, by number of GPUs; `alone` uncontended."""
        return alone

    def place(self, job: Job, degree: int) -> tuple[int, ...] | None:
        """Free GPUs to put a job on; None where there are none."""
        return self.host.best_place(job, degree)

    def add(self, job: Job) -> None:
        """Something has come that a decision about videos may depend on: all but an image's next stage."""
        self._news = self._news or job.cls.preemptible or not job.started

    def remove(self, job: Job) -> None:
        """As `Follower` says."""

    def decide(self) -> None:
        """As `Decider` says."""
        host = self.host
        images_wait = len(self._images_begun) or len(self._images_fresh)
        videos = [job for job in host.running.values() if job.cls.preemptible]
        if not (images_wait or videos or len(self._waiting_videos)):
            return
        room = host.free_count + sum(len(job.gpus) for job in videos)
        if images_wait:
            room -= self._images(room)
        due = self.period is not None and self._looks_at <= host.now
        if self._news or due or self._left_over != (host.left, host.free_count):
            self._videos(videos, max(room, 0))
            self._news = self.by_stage
            self._left_over = host.left, host.free_count
        if self.period and due:
            self._looks_at = host.now + self.period
            host.wake(self._looks_at)

    def _images(self, room: int) -> int:
        """Start images where GPUs are free; returns how many GPUs they have, or are to get from videos."""
        host, taken = self.host, 0
        begun = self._images_begun.first(host.now, host.gpus)
        # more than could be started are left out
        fresh = self._images_fresh.first(host.now, host.gpus * self._largest_batch) if room > 0 else []
        groups = batches(host, fresh) if self.batching and len(fresh) > 1 else [[job] for job in fresh]
        for first, *others in [*([job] for job in begun), *groups]:
            degree = host.fixed_degree(first)
            if taken + degree > room:
                break
            taken += degree
            if (gpus := self.place(first, degree)) is not None:
                if others:
                    host.join(first, others)
                host.start(first, gpus)
        return taken

    def _videos(self, running: list[Job], room: int) -> None:
        host, soon = self.host, self.host.now - EPSILON
        most = MAX_JOBS * host.gpus
        # those that are late in any case come last: they take what is left
        ordered = []
        for job in (*running, *self._waiting_videos.up_from(soon, most)):
            if job.rate and not job.denoising:
                room -= len(job.gpus)
                continue
            alone = host.remaining_by_degree(job)
            at = job.deadline - alone[job.cls.degrees[-1]]
            ordered.append((at < soon, at, job.number, job, alone))
        ordered.sort()
        del ordered[most:]
        widths = best_chosen([self._choice(job, alone) for _, _, _, job, alone in ordered], max(room, 0))
        waiting = []
        for (_, at, number, job, _), width in zip(ordered, widths, strict=True):
            if not job.rate:
                if width:
                    waiting.append((-width, at, number, job))
            elif width != len(job.gpus) and (width < len(job.gpus) or host.could_have(job, width)):
                host.stop(job)
        waiting.sort()
        for width, _, _, job in waiting:
            # GPUs that are free may not lie together
            for degree in [d for d in reversed(host.degrees(job)) if d <= -width]:
                if (gpus := self.place(job, degree)) is not None:
                    host.start(job, gpus)
                    break

    def _choice(self, job: Job, alone: dict[int, float]) -> Choice:
        """{pause, continue, other widths}, and what it is worth to give a video so many GPUs, or to let it wait.

        One where it will be in time, and a tenth of the share of its time that would be left: GPUs that nobody else
        needs make a video faster. Half of the share that is left where it waits, and could still be in time on the
        degree that is fastest: the largest slack waits. `late` or less where it will be late.
        """
        known = self._late.get(job.number)
        if known is not None and known[0] is alone:
            return known[1]
        needs = self.needs(job, alone)
        until = job.deadline - self.host.now
        allowed = max(job.deadline - job.requests[0].arrival, 1e-9)
        fastest = min(needs.values())
        waits = 0.5 * min((until - fastest) / allowed, 1.0) if until > fastest else 0.0
        now = len(job.gpus) if job.rate else 0
        worth = []
        for width, takes in needs.items() if job.denoising else ((1, fastest),):
            left = until - takes
            value = 1.0 + 0.1 * left / allowed if left >= -EPSILON else self.late / (1.0 + takes / allowed)
            if now and width != now:
                value -= self.hysteresis
            worth.append((width, value - waits))
        found = choice(worth)
        if not job.rate and needs is alone and until < fastest - EPSILON:
            self._late[job.number] = alone, found
        return found


def _latest_image_start(host: Host) -> Callable[[Job], float]:
    return lambda job: job.deadline - host.remaining(job, job.cls.degree)
