"""Jobs that wait, kept in order: a decision looks at the first ones only, however many there are."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Protocol, TypeVar

from sim.serving.jobs import EPSILON, Job

Rank = Callable[[Job], float]
"""What jobs are ordered by, the least first. It does not change while a job waits."""

Entry = tuple[float, int, Job]


class Queue:
    """Jobs by `rank`, equal ones as they came. `host.follow` keeps in it those that wait and are `wanted`."""

    def __init__(self, rank: Rank, wanted: Callable[[Job], bool] = lambda job: True) -> None:
        self._rank = rank
        self._wanted = wanted
        self._order: list[Entry] = []
        self._ranks: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Job]:
        """In order. Jobs must not leave meanwhile."""
        return (job for _, _, job in self._order)

    def add(self, job: Job) -> None:
        """A job begins to wait."""
        if self._wanted(job):
            rank = self._ranks[job.number] = self._rank(job)
            insort(self._order, (rank, job.number, job))

    def remove(self, job: Job) -> None:
        """A job waits no longer; nothing for one that is not here."""
        rank = self._ranks.pop(job.number, None)
        if rank is not None:
            del self._order[bisect_left(self._order, (rank, job.number))]

    def __contains__(self, job: Job) -> bool:
        return job.number in self._ranks

    def first(self) -> Job | None:
        """The first one; None where none waits."""
        return self._order[0][2] if self._order else None

    def entries(self) -> Iterator[Entry]:
        """(rank, number, job) in order. Jobs must not leave meanwhile."""
        return iter(self._order)

    def up_from(self, rank: float, count: int) -> list[Job]:
        """At most `count` jobs: those of at least this rank in order, and then the others in order."""
        order = self._order
        start = bisect_left(order, (rank,))
        found = [job for _, _, job in order[start : start + count]]
        if len(found) < count and start:
            found += [job for _, _, job in order[: min(count - len(found), start)]]
        return found


class Feasible:
    """Jobs by `rank`, but those last of which a time has passed.

    `latest` is that time, s: such as until when a job can be started and still be in time. It does not change while a
    job waits.
    """

    def __init__(self, rank: Rank, latest: Rank, wanted: Callable[[Job], bool] = lambda job: True) -> None:
        self._wanted = wanted
        self._latest = latest
        self._in_time = Queue(rank)
        self._late = Queue(rank)
        self._times: list[Entry] = []
        """Heap of (latest time to start, number, job); some of them wait no longer."""

    def __len__(self) -> int:
        return len(self._in_time) + len(self._late)

    def add(self, job: Job) -> None:
        """A job begins to wait."""
        if self._wanted(job):
            self._in_time.add(job)
            heappush(self._times, (self._latest(job), job.number, job))

    def remove(self, job: Job) -> None:
        """A job waits no longer; nothing for one that is not here."""
        self._in_time.remove(job)
        self._late.remove(job)

    def first(self, now: float, count: int) -> list[Job]:
        """At most `count` jobs in order at time `now`, which never falls."""
        in_time, late = self.split(now)
        found = list(islice(in_time, count))
        return found + list(islice(late, count - len(found))) if len(late) else found

    def split(self, now: float) -> tuple[Queue, Queue]:
        """Those whose time has not passed at time `now`, which never falls, and those whose time has."""
        times = self._times
        while times and times[0][0] + EPSILON < now:
            job = heappop(times)[2]
            # one that was started meanwhile, and waits again, has another time
            if job in self._in_time and self._latest(job) + EPSILON < now:
                self._in_time.remove(job)
                self._late.add(job)
        return self._in_time, self._late


class Follower(Protocol):
    """Is told which jobs begin to wait, and which wait no longer: such as a `Queue`."""

    def add(self, job: Job) -> None:
        """A job begins to wait."""

    def remove(self, job: Job) -> None:
        """A job waits no longer."""


F = TypeVar("F", bound=Follower)


class WaitingRoom:
    """All jobs that wait, and the queues that schedulers keep of them."""

    def __init__(self) -> None:
        self.fresh: OrderedDict[int, Job] = OrderedDict()
        """Jobs of which nothing was started yet, in the order of their arrivals."""
        self.begun: dict[int, Job] = {}
        """Other jobs that wait."""
        self._queues: list[Follower] = []

    def follow(self, queue: F) -> F:
        """Keep the jobs that wait in `queue`, from the start of a run on. Returns it."""
        self._queues.append(queue)
        return queue

    def waiting(self) -> Iterator[Job]:
        """Jobs that wait, those that have begun first: to look at all takes long where many wait."""
        yield from self.begun.values()
        yield from self.fresh.values()

    def join(self, job: Job, others: Sequence[Job]) -> None:
        """Make one batch of fresh jobs of one class."""
        for queue in self._queues:
            queue.remove(job)
        for other in others:
            self._leaves(other)
            job.join(other)
        for queue in self._queues:
            queue.add(job)

    def _waits(self, job: Job, where: dict[int, Job]) -> None:
        """A job begins to wait."""
        where[job.number] = job
        for queue in self._queues:
            queue.add(job)

    def _leaves(self, job: Job) -> None:
        """A job waits no longer."""
        (self.begun if job.number in self.begun else self.fresh).pop(job.number)
        for queue in self._queues:
            queue.remove(job)
