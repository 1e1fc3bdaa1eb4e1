"""Classes of requests, as a serving scenario's file describes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

from sim.inputs.config import Config
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bytes, Number, Seconds

MAX_STEPS = 10_000

Stage = Literal["encode", "denoise", "decode"]


class Deadline(Config, frozen=True):
    """When a request of a class is to be done, s after its arrival.

    Either `seconds`, or `scale` times a base: `of`, or the class's isolated latency on `degree` GPUs (its smallest
    degree unless given). The scenario's `deadline_scale` multiplies all of them.
    """

    seconds: Seconds | None = None
    scale: Number | None = None
    of: Seconds | None = None
    degree: int | None = None

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        if (self.seconds is None) == (self.scale is None):
            yield Fault("", "expected either seconds, or scale: a multiple of the isolated latency")
        if self.seconds is not None and (self.of is not None or self.degree is not None):
            yield Fault("seconds", "is given with of or degree, which belong to scale: expected one of the two forms")
        if self.of is not None and self.degree is not None:
            yield Fault("of", "is given with degree: expected one of the two")


class RequestClass(Config, frozen=True):
    """Requests of one model and size, and how they may be run.

    Step times are simulated from `workload` and `policy`, as in a scenario's file but without steps, batch and
    parallelism's degree; or stated as `step_times`, by degree, with `batch_factors` for batches of several requests.
    `memory` and `weights` are what a GPU holds, by degree or alike for all: simulated unless stated.
    """

    steps: int
    degrees: tuple[int, ...]
    deadline: Deadline
    share: Number = Number(1.0)
    workload: dict[str, Any] | None = None
    policy: dict[str, Any] | None = None
    step_times: dict[int, Seconds] | None = None
    batch_factors: dict[int, Number] | None = None
    degree: int | None = None
    """What schedulers of fixed degrees give it: the smallest unless given."""
    batches: tuple[int, ...] = (1,)
    encode: Seconds = Seconds(0.0)
    decode: Seconds = Seconds(0.0)
    preemptible: bool = True
    """Whether schedulers may pause it between two steps."""
    priority: int = 0
    """Of classes with more, schedulers that know priorities think first."""
    weights: Bytes | None = None
    """Of the model on each GPU while it is loaded."""
    memory: Bytes | None = None
    """What a running request takes on each GPU besides."""
    state: Bytes = Bytes(27_200_000)
    """Of a request that is paused, on its first GPU: the most that GENSERVE's authors report."""
    model: str | None = None
    """Classes of one model share its weights; each class has its own unless given."""

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        if not 1 <= self.steps <= MAX_STEPS:
            yield Fault("steps", f"is {self.steps}, expected 1 to {MAX_STEPS}")
        yield from _ascending("degrees", self.degrees)
        yield from _ascending("batches", self.batches)
        if self.batches and self.batches[0] != 1:
            yield Fault("batches", "expected 1 as the first: a request may be alone")
        if self.degree is not None and self.degree not in self.degrees:
            yield Fault("degree", f"is {self.degree}, expected one of degrees: {list(self.degrees)}")
        if self.deadline.degree is not None and self.deadline.degree not in self.degrees:
            yield Fault("deadline.degree", f"is {self.deadline.degree}, expected one of degrees: {list(self.degrees)}")
        if (self.workload is None) == (self.step_times is None):
            yield Fault("", "expected either workload (with policy), which is simulated, or step_times")
        elif self.workload is not None:
            if self.batch_factors is not None:
                yield Fault("batch_factors", "is for stated step_times: those of a workload are simulated")
        else:
            yield from self._wrong_table()

    def _wrong_table(self) -> Iterator[Fault]:
        times, factors = self.step_times or {}, self.batch_factors or {}
        if self.policy is not None:
            yield Fault("policy", "is for a workload that is simulated, not for stated step_times")
        for degree in self.degrees:
            if not times.get(degree, 0.0) > 0.0:
                yield Fault(f"step_times.{degree}", "expected the time of a step on so many GPUs, above 0")
        for batch in self.batches[1:]:
            if not factors.get(batch, 0.0) > 0.0:
                yield Fault(f"batch_factors.{batch}", "expected a batch's step time over that of one request, above 0")


def _ascending(name: str, values: tuple[int, ...]) -> Iterator[Fault]:
    if not values or values[0] < 1 or any(a >= b for a, b in pairwise(values)):
        yield Fault(name, f"is {list(values)}, expected whole numbers from 1 on, ascending")
