"""The host that serves: GPUs, jobs that wait and run, and what starting, stopping and changing costs.

Events are arrivals, ends of what a job was started for, and times that a scheduler asked for: not single steps. A job
that is stopped early ends with the step that runs. When the set of groups that run changes, so do their rates, also in
the middle of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from sim.environment import Environment, Process
from sim.serving.classes import Stage
from sim.serving.costs import Costs
from sim.serving.jobs import EPSILON, Job, Request
from sim.serving.placement import Gpus
from sim.serving.queues import WaitingRoom
from sim.serving.step_times import ClassModel, Contention, Running


class Decider(Protocol):
    """Decides what runs on a host, for one run."""

    def decide(self) -> None:
        """Start what is to run now, and stop what is to end early."""


class Segment(NamedTuple):
    """A time for which a job had GPUs, s."""

    requests: tuple[int, ...]
    cls: str
    stage: Stage
    gpus: tuple[int, ...]
    start: float
    steps_from: float
    """When what it paid for starting was over."""
    end: float
    steps: float


class Host(Gpus, WaitingRoom):
    """`gpus` GPUs. Schedulers read its fields, and call `start`, `stop`, `join` and `wake`."""

    def __init__(
        self,
        classes: Mapping[str, ClassModel],
        gpus: int,
        memory: int,
        costs: Costs,
        contention: Contention | None,
        load_seconds: Callable[[Sequence[int], int], float],
        aligned: bool = True,
        record: tuple[float, float] | None = None,
    ) -> None:
        Gpus.__init__(self, gpus, memory, aligned)
        WaitingRoom.__init__(self)
        self.env = Environment()
        self.classes = classes
        self.costs = costs
        self.contention = contention
        """None where groups do not slow each other."""
        self.running: dict[int, Job] = {}
        self.segments: list[Segment] = []
        self.busy: dict[str, float] = {}
        """GPU-seconds of each class."""
        self.decider: Decider | None = None
        self.left = 0
        """Requests that are not done."""
        self._load_seconds = load_seconds
        self._record = record
        self._asked = False
        self._ended: list[Job] = []
        self._starting: list[tuple[Job, float]] = []
        self._ready = [0.0] * gpus
        """When each GPU has done what a pause costs, s."""
        self._groups: set[tuple[int, ...]] = set()

    # what schedulers ask

    @property
    def now(self) -> float:
        """Present time, s."""
        return self.env.now

    def fixed_degree(self, job: Job) -> int:
        """How many GPUs a job gets from schedulers that do not choose."""
        return job.cls.degree if job.denoising else 1

    def degrees(self, job: Job) -> Sequence[int]:
        """How many GPUs the stage that a job is in can have, ascending."""
        return job.cls.degrees_of(len(job.requests)) if job.denoising else (1,)

    def done(self, job: Job) -> float:
        """Steps of its stage that a job has done, parts of a step included."""
        since = max(job.mark, job.steps_from)
        return job.done + max(self.now - since, 0.0) * job.rate if job.rate else job.done

    def remaining(self, job: Job, degree: int, batch: int | None = None) -> float:
        """Isolated time that a job still needs with its steps on `degree` GPUs, s."""
        count = len(job.requests) if batch is None else batch
        number, stages, step = job.stage_number, job.stages, job.cls.stage_step
        total = (stages[number][1] - self.done(job)) * step(stages[number][0], degree, count)
        for stage, steps in stages[number + 1 :]:
            total += steps * step(stage, degree, count)
        return total

    def remaining_by_degree(self, job: Job) -> dict[int, float]:
        """`remaining` for each degree of its class."""
        if job.needs is not None:
            return job.needs
        cls, batch = job.cls, len(job.requests)
        left = job.total - self.done(job)
        steps, once = cls.after(job.stages, job.stage_number, batch)
        if job.denoising:
            found = {degree: once + left * step for degree, step in cls.steps_by_degree(batch)}
        else:
            once += left * cls.stage_step(job.stage, 1, batch)
            found = {degree: once + steps * step for degree, step in cls.steps_by_degree(batch)}
        if not job.rate:
            job.needs = found
        return found

    def slack(self, job: Job, degree: int) -> float:
        """How much later than now a job could go on with `degree` GPUs, and still meet its deadline, s."""
        return job.deadline - self.now - self.remaining(job, degree)

    def groups(self) -> dict[Running, Job]:
        """Groups that take steps, and those that are started at this instant, with their jobs."""
        started = (job for job, _ in self._starting)
        return {job.group: job for job in (*self.running.values(), *started) if job.denoising}

    # what schedulers do

    def start_on(self, job: Job, degree: int, steps: float = math.inf) -> bool:
        """Start a waiting job on the best `degree` free GPUs, for at most so many steps; whether there were any."""
        place = self.best_place(job, degree)
        if place is not None:
            self.start(job, place, steps)
        return place is not None

    def start(self, job: Job, gpus: tuple[int, ...], steps: float = math.inf) -> None:
        """Start a waiting job on these free GPUs: for at most so many steps of the stage that it is in.

        Raises:
            ValueError: the job does not wait, GPUs are not free, or its class cannot have so many.
        """
        if job.number not in self.begun and job.number not in self.fresh:
            raise ValueError(f"job {job.number} does not wait")
        if len(set(gpus)) != len(gpus) or not all(self.free[gpu] for gpu in gpus):
            raise ValueError(f"job {job.number} is started on GPUs {list(gpus)}, of which not all are free")
        if len(gpus) not in self.degrees(job):
            raise ValueError(f"job {job.number} of class {job.cls.name} cannot be on {len(gpus)} GPUs")
        self._leaves(job)
        for gpu in gpus:
            self.free[gpu] = False
        self.free_count -= len(gpus)
        self._starting.append((job, self._cost(job, gpus)))
        job.gpus = gpus
        job.group = Running(job.cls.name, len(job.requests), gpus)
        job.target = min(job.done + max(steps, 1), job.total)

    def stop(self, job: Job) -> None:
        """Let a running job give its GPUs back after the step that runs; another stage than denoising runs to its end.

        A job that has just started takes one step. Nothing for one that does not run.
        """
        if job.number not in self.running or not job.denoising:
            return
        # one step at least is taken, or two jobs could take turns for ever without any
        boundary = max(math.ceil(self.done(job) - EPSILON), job.done_before + 1.0)
        if boundary < job.target:
            self._advance(job)
            job.target = boundary
            self._schedule_end(job)

    def wake(self, at: float) -> None:
        """Ask the scheduler again at time `at`, s."""
        self.env.call_at(max(at, self.now), self.changed)

    def changed(self) -> None:
        """Ask the scheduler once all that happens at this instant has happened."""
        if not self._asked:
            self._asked = True
            self.env.at_end_of_instant(self._settle)

    # what happens

    def serve(self, requests: Sequence[Request], decider: Decider) -> None:
        """Serve all requests, in the order of their arrivals.

        Raises:
            RuntimeError: the scheduler leaves requests waiting for ever.
        """
        self.decider, self.left = decider, len(requests)
        Process(self.env, self._arrivals(requests))
        self.env.run()
        if self.left:
            raise RuntimeError(f"the scheduler left {self.left} of {len(requests)} requests waiting for ever")

    def _arrivals(self, requests: Sequence[Request]) -> Generator[float, None, None]:
        for request in requests:
            if request.arrival > self.now:
                yield request.arrival
            self._waits(Job(request), self.fresh)
            self.changed()

    def _settle(self) -> None:
        self._asked = False
        assert self.decider is not None
        self.decider.decide()
        started = {job.number for job, _ in self._starting}
        for job in self._ended:
            if job.number not in started and job.number in self.begun and job.done > 0.0:
                job.was_paused = True
                self.memory.keep_state(job, job.gpus[0])
                if self.costs.pause:
                    for gpu in job.gpus:
                        self._ready[gpu] = self.now + self.costs.pause
        changed = bool(self._ended or self._starting)
        self._ended.clear()
        for job, cost in self._starting:
            self._begin(job, cost)
        self._starting.clear()
        if changed and self.contention is not None:
            self._share(self.contention)

    def _cost(self, job: Job, gpus: tuple[int, ...]) -> float:
        """What a start costs, s, but for loading the model."""
        costs, cost = self.costs, 0.0
        if job.was_paused:
            cost += costs.resume
        if job.done > 0.0:
            held = gpus == job.gpus and (not job.was_paused or self.memory.has_state(job))
            cost += 0.0 if held else costs.reshard
        elif job.stage == "decode" and gpus[0] not in job.gpus:
            cost += costs.reshard
        if costs.group and len(gpus) > 1 and gpus not in self._groups:
            self._groups.add(gpus)
            cost += costs.group
        return cost

    def _begin(self, job: Job, cost: float) -> None:
        now, gpus = self.now, job.gpus
        if job.denoising:
            cell = job.cls.cells[len(gpus), job.batch]
            load = self.memory.take(job, gpus, cell.weights, cell.memory)
            if load:
                cost += self._load_seconds(load, cell.weights)
        ready = max([now, *(self._ready[gpu] for gpu in gpus)]) + cost
        for request in job.requests:
            if job.started:
                request.paused += now - job.ready_since
            else:
                request.queued = now - request.arrival
            request.switching += ready - now
        job.started, job.was_paused = True, False
        job.mark, job.began, job.steps_from, job.done_before = now, now, ready, job.done
        job.isolated_step = job.cls.stage_step(job.stage, len(gpus), job.batch)
        job.rate, job.needs = 1.0 / job.isolated_step, None
        self.running[job.number] = job
        self._schedule_end(job)

    def _schedule_end(self, job: Job) -> None:
        job.token += 1
        begins = max(job.mark, job.steps_from)
        self.env.call_at(max(begins + (job.target - job.done) / job.rate, self.now), partial(self._end, job, job.token))

    def _advance(self, job: Job) -> None:
        """Count what a running job has done up to now."""
        since = max(job.mark, job.steps_from)
        if self.now > since:
            self._count(job, (self.now - since) * job.rate, self.now - since)
            job.mark = self.now

    @staticmethod
    def _count(job: Job, steps: float, seconds: float) -> None:
        job.done += steps
        isolated = steps * job.isolated_step
        for request in job.requests:
            request.isolated += isolated
            request.contention += max(seconds - isolated, 0.0)  # alone they differ by rounding

    def _end(self, job: Job, token: int) -> None:
        """A job comes to the end of what it was started for."""
        if token != job.token:
            return
        now, gpus = self.now, job.gpus
        del self.running[job.number]
        since = max(job.mark, job.steps_from)
        self._count(job, job.target - job.done, max(now - since, 0.0))
        job.done, job.rate = job.target, 0.0
        self.busy[job.cls.name] = self.busy.get(job.cls.name, 0.0) + (now - job.began) * len(gpus)
        if self._record is not None and job.began < self._record[1] and now > self._record[0]:
            numbers = tuple(request.number for request in job.requests)
            steps = job.done - job.done_before
            self.segments.append(Segment(numbers, job.cls.name, job.stage, gpus, job.began, job.steps_from, now, steps))
        for gpu in gpus:
            self.free[gpu] = True
        self.free_count += len(gpus)
        self.memory.release(gpus)
        self._ended.append(job)
        if job.done >= job.total:
            job.next_stage()
        job.ready_since = now
        if job.ended:
            for request in job.requests:
                request.finish = now
            self.left -= len(job.requests)
        else:
            self._waits(job, self.begun)
        self.changed()

    def _share(self, contention: Contention) -> None:
        """Set the rates of all groups that take steps by which others run."""
        taking = [job for job in self.running.values() if job.denoising]
        together = contention.together(frozenset(job.group for job in taking))
        for job in taking:
            rate = 1.0 / (job.isolated_step * together[job.group])
            if rate != job.rate:
                self._advance(job)
                job.rate = rate
                self._schedule_end(job)


def slowdowns(contention: Contention | None, groups: frozenset[Running]) -> Mapping[Running, float]:
    """How much longer each group's step takes while all of them run; 1 where groups do not slow each other."""
    return dict.fromkeys(groups, 1.0) if contention is None else contention.together(groups)
