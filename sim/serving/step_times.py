"""Step times, alone and together, and memory: stated by a file, or simulated."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from sim.hardware import Profile
from sim.inputs.config import InputError
from sim.policies import build
from sim.program import Program
from sim.scenario import Scenario
from sim.serving.classes import RequestClass, Stage
from sim.serving.corun import Group, steps_together
from sim.serving.shared_resources import Alike, components, resources_used
from sim.sweeps.evaluation import Evaluator
from sim.sweeps.job import Job as StepJob
from sim.workloads.named import Named

LAYERS_TOGETHER = 12
"""Layers of a named model that are simulated where groups run together; their slow-down is taken for all layers."""


class Running(NamedTuple):
    """A group that takes steps: a batch of a class on these GPUs."""

    cls: str
    batch: int
    gpus: tuple[int, ...]


class Cell(NamedTuple):
    """A class on so many GPUs with such a batch, uncontended."""

    step: float
    """s."""
    weights: int
    """B that stay on each GPU while the model is loaded."""
    memory: int
    """B of a GPU that it takes besides while it runs."""


class ClassModel:
    """A class of requests with its step times and memory, by degree and batch.

    `every` has all of them, `cells` those that fit a GPU.
    """

    def __init__(
        self, name: str, given: RequestClass, every: Mapping[tuple[int, int], Cell], degrees: tuple[int, ...], most: int
    ) -> None:
        self.name = name
        self.given = given
        self.every = every
        self.cells = {at: of for at, of in every.items() if at[0] in degrees and of.weights + of.memory <= most}
        self.degrees = degrees
        self.degree = given.degree or degrees[0]
        self.batches = given.batches
        self.preemptible = given.preemptible
        self.priority = given.priority
        self.weights_name = given.model or name
        self.state = int(given.state)
        self._degrees_of: dict[int, tuple[int, ...]] = {}
        self._by_degree: dict[int, tuple[tuple[int, float], ...]] = {}
        self._after: dict[tuple[tuple[tuple[Stage, int], ...], int, int], tuple[int, float]] = {}
        self._stages: dict[int, tuple[tuple[Stage, int], ...]] = {}

    def step(self, degree: int, batch: int = 1) -> float:
        """Isolated step time on `degree` GPUs, s."""
        return self.every[degree, batch].step

    def stages(self, steps: int) -> tuple[tuple[Stage, int], ...]:
        """(stage, steps in it) of a request, in order; stages that take no time are left out."""
        found = self._stages.get(steps)
        if found is None:
            first: list[tuple[Stage, int]] = [("encode", 1)] if self.given.encode > 0.0 else []
            last: list[tuple[Stage, int]] = [("decode", 1)] if self.given.decode > 0.0 else []
            found = self._stages[steps] = (*first, ("denoise", steps), *last)
        return found

    def stage_step(self, stage: Stage, degree: int, batch: int) -> float:
        """Isolated time of one step of a stage, s: encoding and decoding run on one GPU, one request after another."""
        if stage == "denoise":
            return self.cells[degree, batch].step
        return batch * float(self.given.encode if stage == "encode" else self.given.decode)

    def after(self, stages: tuple[tuple[Stage, int], ...], number: int, batch: int) -> tuple[int, float]:
        """What comes after stage `number` of a batch's stages: steps of denoising, and seconds on one GPU."""
        key = stages, number, batch
        found = self._after.get(key)
        if found is None:
            later = stages[number + 1 :]
            steps = sum(count for stage, count in later if stage == "denoise")
            once = sum(count * self.stage_step(stage, 1, batch) for stage, count in later if stage != "denoise")
            found = self._after[key] = steps, once
        return found

    def degrees_of(self, batch: int) -> tuple[int, ...]:
        """Degrees on which a batch fits a GPU."""
        found = self._degrees_of.get(batch)
        if found is None:
            known = tuple(degree for degree in self.degrees if (degree, batch) in self.cells)
            found = self._degrees_of[batch] = known
        return found

    def steps_by_degree(self, batch: int) -> tuple[tuple[int, float], ...]:
        """(degree, isolated step time in s) of a batch, for all degrees that fit a GPU."""
        found = self._by_degree.get(batch)
        if found is None:
            known = tuple((degree, self.every[degree, batch].step) for degree in self.degrees)
            found = self._by_degree[batch] = known
        return found

    def latency(self, degree: int, steps: int | None = None) -> float:
        """Isolated latency of a request on `degree` GPUs, s."""
        steps = self.given.steps if steps is None else steps
        return float(self.given.encode + self.given.decode) + steps * self.step(degree)

    def allowance(self) -> float:
        """From a request's arrival to its deadline, s."""
        given = self.given.deadline
        if given.seconds is not None:
            return float(given.seconds)
        base = float(given.of) if given.of is not None else self.latency(given.degree or self.given.degrees[0])
        return float(given.scale or 0.0) * base

    def work(self) -> float:
        """GPU-seconds of a request on its smallest degree."""
        degree = self.given.degrees[0]
        once = float(self.given.encode + self.given.decode)
        return once + degree * self.given.steps * self.step(degree)


class Contention(Protocol):
    """What steps take while groups run together."""

    def together(self, running: frozenset[Running]) -> Mapping[Running, float]:
        """How many times as long as its class's isolated step each group's step takes, while just these run."""


class SimulatedContention:
    """Groups whose programs are simulated together on the host; each set of groups once.

    Only groups that cross a common resource are simulated together. Placements that are alike count as one. Of named
    models at most `layers` layers run, fewer where steps of the other groups are much shorter: what counts is how much
    slower these layers get.
    """

    def __init__(
        self, profile: Profile, scenarios: Mapping[tuple[str, int, int], Scenario], layers: int = LAYERS_TOGETHER
    ) -> None:
        self._profile = profile
        self._scenarios = scenarios
        """By class, degree and batch; classes whose times are stated have none."""
        self._layers = layers
        self._alike = Alike(profile)
        self._known: dict[frozenset[Running], dict[Running, float]] = {}
        self._factors: dict[Hashable, tuple[float, ...]] = {}
        self._used: dict[Running, frozenset[int]] = {}
        self._isolated: dict[Hashable, float] = {}
        self.simulated = 0
        """Sets of groups that were simulated."""

    def together(self, running: frozenset[Running]) -> Mapping[Running, float]:
        """As `Contention` says. Raises what the simulation raises."""
        found = self._known.get(running)
        if found is None:
            found = self._known[running] = dict.fromkeys(running, 1.0)
            groups = sorted(r for r in running if self._key(r) in self._scenarios)
            for members in components([self._resources(r) for r in groups]):
                if len(members) > 1:
                    found |= self._component([groups[number] for number in members])
            for group in groups:
                found[group] *= self._placed(group)
        return found

    def _placed(self, group: Running) -> float:
        """How many times as long a step takes alone on these GPUs as on the host's first ones."""
        first = group._replace(gpus=tuple(range(len(group.gpus))))
        if self._alike.key(group.gpus) == self._alike.key(first.gpus):
            return 1.0
        return self._alone(group, self._layers) / self._alone(first, self._layers)

    @staticmethod
    def _key(group: Running) -> tuple[str, int, int]:
        return group.cls, len(group.gpus), group.batch

    def _component(self, groups: list[Running]) -> dict[Running, float]:
        def place(group: Running) -> tuple[Any, ...]:
            return *self._key(group), repr(self._alike.key(group.gpus)), group.gpus

        groups = sorted(groups, key=place)
        kinds = tuple(self._key(group) for group in groups)
        key = kinds, self._alike.key(gpu for group in groups for gpu in group.gpus)
        factors = self._factors.get(key)
        if factors is None:
            factors = self._factors[key] = self._simulate(groups)
        return dict(zip(groups, factors, strict=True))

    def _simulate(self, groups: list[Running]) -> tuple[float, ...]:
        self.simulated += 1
        alone = [self._alone(group, self._layers) for group in groups]
        least = min(alone)
        # a group whose steps are much longer would need many steps of the others
        layers = [
            self._layers if step <= 4.0 * least else max(2, round(4.0 * self._layers * least / step)) for step in alone
        ]
        made = [
            Group(self._maker(group, count), self._alone(group, count))
            for group, count in zip(groups, layers, strict=True)
        ]
        times = steps_together(self._profile, made)
        return tuple(max(step / group.isolated_step, 1.0) for step, group in zip(times, made, strict=True))

    def _maker(self, group: Running, layers: int) -> Any:
        def program(steps: int) -> Program:
            scenario = _with_layers(self._scenarios[self._key(group)], layers)
            workload = scenario.workload.resolve(scenario.world_size)._replace(steps=steps)
            return build(workload, scenario.policy, scenario.world_size, group.gpus)

        return program

    def _alone(self, group: Running, layers: int) -> float:
        """Uncontended step time of so many layers."""
        key = *self._key(group), self._alike.key(group.gpus), layers
        if key not in self._isolated:
            only = Group(self._maker(group, layers), 1.0)
            self._isolated[key] = steps_together(self._profile, [only])[0]
        return self._isolated[key]

    def _resources(self, group: Running) -> frozenset[int]:
        if group not in self._used:
            self._used[group] = resources_used(self._profile, self._maker(group, 2)(1))
        return self._used[group]


def _with_layers(scenario: Scenario, layers: int) -> Scenario:
    """The scenario with at most so many layers; as it is where its policy names layers, or it is no named model's."""
    workload = scenario.workload
    if not isinstance(workload, Named) or scenario.policy.numbers_of_resident_layers:
        return scenario
    count = len(workload.resolve(scenario.world_size).layers)
    if count <= layers:
        return scenario
    return msgspec.structs.replace(scenario, workload=msgspec.structs.replace(workload, layers=layers))


def step_scenario(name: str, given: RequestClass, hardware: str, degree: int, batch: int) -> Scenario:
    """The scenario of steps of a class on `degree` GPUs. Raises InputError, which names the class."""
    workload = dict(given.workload or {})
    path = f"classes.{name}"
    for key in ("steps", "batch"):
        if key in workload:
            problem = f"is the class's own: give it as {path}.{'steps' if key == 'steps' else 'batches'}"
            raise InputError("scenario", f"{path}.workload.{key}", problem)
    if batch > 1 and "model" not in workload:
        raise InputError("scenario", f"{path}.batches", "has more than 1: explicit blocks have no batches")
    if batch > 1:
        workload["batch"] = batch
    plain = {
        "hardware": hardware,
        "world_size": degree,
        "workload": workload,
        "policy": given.policy or {"kind": "resident"},
    }
    try:
        scenario = Scenario.from_plain(plain)
        scenario.workload.resolve(degree)
    except InputError as error:
        raise error.within("scenario", path) from None
    return scenario


def cell(
    name: str, given: RequestClass, degree: int, batch: int, scenario: Scenario | None, evaluator: Evaluator
) -> Cell:
    """What a class's steps take on so many GPUs. Raises what the simulation raises."""
    weights, memory = int(given.weights or 0), int(given.memory or 0)
    if scenario is None:
        assert given.step_times is not None
        factor = (given.batch_factors or {}).get(batch, 1.0) if batch > 1 else 1.0
        return Cell(float(given.step_times[degree]) * float(factor), weights, memory)
    try:
        metrics = evaluator.one(StepJob.of(scenario)).figures().metrics
    except InputError as error:
        raise error.within("scenario", f"classes.{name}") from None
    if given.weights is None:
        workload = scenario.workload.resolve(degree)
        of = workload.ranks or (workload,)
        weights = max(
            sum(
                layer.bytes - scenario.policy.copied_of_layer(i, layer.bytes) for i, layer in enumerate(each.all_layers)
            )
            for each in of
        )
    if given.memory is None:
        memory = max(metrics["peak_memory_bytes"] - weights, 0)
    return Cell(metrics["step_time_s"], weights, memory)
