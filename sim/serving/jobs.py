"""Requests, and the jobs in which they run."""

from __future__ import annotations

from sim.serving.classes import Stage
from sim.serving.step_times import ClassModel, Running

EPSILON = 1e-9
"""Steps: what is nearer to a step's end has reached it."""


class Request:
    """One request and what became of it; times in s."""

    __slots__ = (
        "arrival",
        "cls",
        "contention",
        "deadline",
        "finish",
        "isolated",
        "number",
        "paused",
        "queued",
        "steps",
        "switching",
    )

    def __init__(self, number: int, cls: ClassModel, arrival: float, deadline: float, steps: int) -> None:
        self.number = number
        self.cls = cls
        self.arrival = arrival
        self.deadline = deadline
        """When it is to be done."""
        self.steps = steps
        self.finish = -1.0
        self.queued = 0.0
        """From the arrival until its first stage started."""
        self.paused = 0.0
        """Between stages and steps, while it had no GPUs."""
        self.switching = 0.0
        """Costs of loading, resuming, resharding and groups, on its GPUs."""
        self.isolated = 0.0
        """Of its stages at the degrees that they had, uncontended."""
        self.contention = 0.0
        """What its steps took beyond that."""

    @property
    def latency(self) -> float:
        """From its arrival until it was done."""
        return self.finish - self.arrival

    @property
    def met(self) -> bool:
        """Whether it was done in time."""
        return self.finish <= self.deadline + EPSILON

    def reason(self) -> str:
        """Why it was late: "slow step" where its stages alone took longer than the deadline gave; else what took most.

        Empty for a request that was in time.
        """
        if self.met:
            return ""
        if self.isolated > self.deadline - self.arrival + EPSILON:
            return "slow step"
        parts = {
            "queue": self.queued,
            "preempted": self.paused,
            "contention": self.contention,
            "switching": self.switching,
        }
        return max(parts, key=lambda part: parts[part])


class Job:
    """Requests of one class that run together, as one batch, from their first stage to their last.

    `done` of the stage's `total` steps have ended; encoding and decoding are stages of one step.
    """

    __slots__ = (
        "began",
        "cls",
        "deadline",
        "denoising",
        "done",
        "done_before",
        "ended",
        "gpus",
        "group",
        "isolated_step",
        "mark",
        "needs",
        "number",
        "rate",
        "ready_since",
        "requests",
        "stage",
        "stage_number",
        "stages",
        "started",
        "steps_from",
        "target",
        "token",
        "total",
        "was_paused",
    )

    def __init__(self, request: Request) -> None:
        self.requests: tuple[Request, ...] = (request,)
        self.cls = request.cls
        self.number = request.number
        self.deadline = request.deadline
        """The first of its requests'."""
        self.stages = self.cls.stages(request.steps)
        self.stage_number = -1
        self.ended = False
        """Whether all its stages are done."""
        self.done = 0.0
        self.gpus: tuple[int, ...] = ()
        """Those that it runs on, or ran on last."""
        self.group = Running(self.cls.name, 1, ())
        """It on these GPUs."""
        self.ready_since = request.arrival
        self.started = False
        """Whether a stage of it has been started."""
        self.was_paused = False
        self.rate = 0.0
        """Steps a second, while it runs."""
        self.isolated_step = 0.0
        """What a step takes where nothing else runs, s, while it runs."""
        self.began = 0.0
        """When it got its GPUs."""
        self.done_before = 0.0
        """What `done` was then."""
        self.mark = 0.0
        """Up to when `done` counts."""
        self.steps_from = 0.0
        """When what it paid for starting is over, and its steps begin."""
        self.target = 0.0
        """What `done` is when it gives its GPUs back."""
        self.token = 0
        self.needs: dict[int, float] | None = None
        """`Host.remaining_by_degree` of a job that waits, once it was asked for."""
        self.next_stage()

    def next_stage(self) -> None:
        """Go on to the next stage, if there is one; none of its steps has ended."""
        self.stage_number += 1
        self.ended = self.stage_number == len(self.stages)
        if not self.ended:
            self.done = 0.0
            self.stage: Stage
            self.stage, self.total = self.stages[self.stage_number]
            self.denoising = self.stage == "denoise"

    @property
    def batch(self) -> int:
        """How many requests it has."""
        return len(self.requests)

    def join(self, other: Job) -> None:
        """Take the requests of a job of the same class in; neither may have been started."""
        assert not self.started and not other.started and self.cls is other.cls and self.stages == other.stages
        self.requests += other.requests
        self.deadline = min(self.deadline, other.deadline)
        self.ready_since = min(self.ready_since, other.ready_since)
        self.needs = None
