"""One run: a serving scenario in, requests and what became of them out."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from sim.fluid import weighted_max_min
from sim.hardware import Profile, load_profile
from sim.inputs import units
from sim.inputs.config import InputError
from sim.inputs.units import show_bytes
from sim.scenario import Scenario
from sim.serving.arrivals import MAX_REQUESTS, Arrival, Phases, Trace, arrivals
from sim.serving.classes import RequestClass
from sim.serving.costs import Costs
from sim.serving.host import Host, Segment
from sim.serving.jobs import Request
from sim.serving.scenario import ServingScenario
from sim.serving.step_times import Cell, ClassModel, Contention, SimulatedContention, cell, step_scenario
from sim.sweeps.evaluation import Evaluator

UNLIMITED = 2**60
"""B of a GPU where a scenario names no host and no memory."""


class Prepared(NamedTuple):
    """What runs of a scenario have in common, whatever the seed."""

    scenario: ServingScenario
    profile: Profile | None
    gpus: int
    memory: int
    classes: dict[str, ClassModel]
    contention: Contention | None
    rate: float
    """Requests a second, of arrivals that have a mean rate; else 0."""
    source: str = "scenario"
    """What errors call the scenario."""


class Known(NamedTuple):
    """What was found for other scenarios, by all that it follows from."""

    cells: dict[bytes, Cell]
    contention: dict[bytes, SimulatedContention]


class Served(NamedTuple):
    """What came of one run. `segments` are those of the window that was asked for."""

    prepared: Prepared
    seed: int
    requests: list[Request]
    segments: list[Segment]
    busy: dict[str, float]
    """GPU-seconds of each class."""
    peak_memory: list[int]
    """B of each GPU."""

    @property
    def makespan(self) -> float:
        """From the start until the last request was done, s."""
        return max((request.finish for request in self.requests), default=0.0)


def prepare(
    scenario: ServingScenario,
    evaluator: Evaluator | None = None,
    source: str = "scenario",
    known: Known | None = None,
) -> Prepared:
    """Read the host, and get all step times of classes on their own: by simulation where they are not stated.

    What is `known` is not asked for again, and what is found becomes so.

    Raises:
        InputError: of `source`: the host has too few GPUs, or a class does not fit it.
    """
    evaluator = evaluator or Evaluator()
    known = known or Known({}, {})
    try:
        profile = None if scenario.hardware is None else load_profile(scenario.hardware)
        gpus = scenario.gpus or (profile.gpus if profile else 0)
        if profile is not None and gpus > profile.gpus:
            raise InputError(source, "gpus", f"is {gpus}, but {scenario.hardware} has {profile.gpus} GPUs")
        memory = scenario.memory or (profile.memory_of(range(gpus)) if profile else UNLIMITED)
        scenarios: dict[tuple[str, int, int], Scenario] = {}
        keys: list[bytes] = []
        classes = {}
        for name, given in scenario.classes.items():
            if given.degrees[-1] > gpus:
                problem = f"has {given.degrees[-1]}, but there are {gpus} GPUs: expected no degree above that"
                raise InputError(source, f"classes.{name}.degrees", problem)
            cells: dict[tuple[int, int], Cell] = {}
            for degree in given.degrees:
                for batch in given.batches:
                    steps = None
                    if given.workload is not None:
                        steps = step_scenario(name, given, scenario.hardware or "", degree, batch)
                        scenarios[name, degree, batch] = steps
                    key = _key(scenario.hardware, given, degree, batch)
                    keys.append(name.encode() + key)
                    if key not in known.cells:
                        known.cells[key] = cell(name, given, degree, batch, steps, evaluator)
                    cells[degree, batch] = known.cells[key]
            classes[name] = _fitting(name, given, cells, int(memory), source)
    except InputError as error:
        raise error.within(source) from None
    contention = None
    if scenario.contention and profile is not None and scenarios:
        contention = known.contention.setdefault(b"".join(keys), SimulatedContention(profile, scenarios))
    return Prepared(scenario, profile, gpus, int(memory), classes, contention, _rate(scenario, classes, gpus), source)


def _key(hardware: str | None, given: RequestClass, degree: int, batch: int) -> bytes:
    """Of all that a cell follows from."""
    stated = given.step_times, given.batch_factors, given.weights, given.memory
    return msgspec.json.encode([hardware, given.workload, given.policy, stated, degree, batch], enc_hook=units.plain)


def _fitting(
    name: str, given: RequestClass, cells: Mapping[tuple[int, int], Cell], memory: int, source: str
) -> ClassModel:
    """The class with what of it fits a GPU's memory."""
    fits = {key: of for key, of in cells.items() if of.weights + of.memory <= memory}
    degrees = tuple(degree for degree in given.degrees if (degree, 1) in fits)
    if not degrees:
        least = min(cells.values(), key=lambda of: of.weights + of.memory)
        needs = show_bytes(least.weights + least.memory)
        problem = f"does not fit: it needs {needs} of each GPU's {show_bytes(memory)}"
        raise InputError(source, f"classes.{name}", f"{problem}; offload more of it, or give more degrees")
    if given.degree is not None and given.degree not in degrees:
        of = cells[given.degree, 1]
        needs = f"{show_bytes(of.weights + of.memory)} of each GPU's {show_bytes(memory)}"
        raise InputError(source, f"classes.{name}.degree", f"is {given.degree}, which needs {needs}")
    return ClassModel(name, given, cells, degrees, memory)


def _rate(scenario: ServingScenario, classes: Mapping[str, ClassModel], gpus: int) -> float:
    if isinstance(scenario.arrivals, Phases | Trace):
        return 0.0
    shares = {name: float(of.share) for name, of in scenario.classes.items()}
    whole = math.fsum(shares.values())
    work = math.fsum(share / whole * classes[name].work() for name, share in shares.items())
    return scenario.arrivals.mean_rate(work, gpus)


def requests_of(prepared: Prepared, seed: int) -> list[Request]:
    """The requests of a run, in the order of their arrivals. Raises InputError where there are too many, or none."""
    scenario = prepared.scenario
    shares = {name: float(of.share) for name, of in scenario.classes.items()}
    _check_count(scenario, prepared.rate)
    found: list[Request] = []
    allowances = {name: cls.allowance() for name, cls in prepared.classes.items()}
    given: Iterable[Arrival] = arrivals(scenario.arrivals, shares, float(scenario.duration), prepared.rate, seed)
    for number, arrival in enumerate(given):
        if number >= MAX_REQUESTS:
            raise InputError("scenario", "arrivals", f"make more than {MAX_REQUESTS} requests: take a shorter duration")
        cls = prepared.classes[arrival.cls]
        allowance = allowances[arrival.cls] if arrival.deadline is None else arrival.deadline
        deadline = arrival.at + allowance * float(scenario.deadline_scale)
        steps = cls.given.steps if arrival.steps is None else arrival.steps
        found.append(Request(number, cls, arrival.at, deadline, steps))
    return found


def _check_count(scenario: ServingScenario, rate: float) -> None:
    """Raise InputError where far too many requests are to be expected, before any is made."""
    given, expected = scenario.arrivals, rate * float(scenario.duration)
    if isinstance(given, Phases):
        expected = math.fsum(float(phase.seconds) * float(phase.rate) for phase in given.phases)
    if expected > 1.1 * MAX_REQUESTS:
        problem = f"make about {expected:.3g} requests, at most {MAX_REQUESTS} are served: take a shorter duration"
        raise InputError("scenario", "arrivals", problem)


def serve(
    scenario: ServingScenario | Prepared,
    seed: int | None = None,
    evaluator: Evaluator | None = None,
    record: tuple[float, float] | None = None,
) -> Served:
    """Simulate the serving of all requests that arrive; with `record`, keep what runs between these times (s).

    Raises:
        InputError: the scenario does not fit its host, or its trace cannot be read.
        RuntimeError: the scheduler leaves requests waiting for ever.
    """
    prepared = scenario if isinstance(scenario, Prepared) else prepare(scenario, evaluator)
    scenario = prepared.scenario
    seed = scenario.seed if seed is None else seed
    try:
        requests = requests_of(prepared, seed)
        return _served(prepared, seed, requests, record)
    except InputError as error:
        raise error.within(prepared.source) if error.source == "scenario" else error from None


def _served(prepared: Prepared, seed: int, requests: list[Request], record: tuple[float, float] | None) -> Served:
    scenario = prepared.scenario
    host = Host(
        prepared.classes,
        prepared.gpus,
        prepared.memory,
        scenario.costs,
        prepared.contention,
        _loading(prepared.profile, scenario.costs),
        scenario.placement == "aligned",
        record,
    )
    enabled = gc.isenabled()
    gc.disable()  # a run makes few cycles of references, and millions of objects
    try:
        host.serve(requests, scenario.scheduler.decider(host))
    finally:
        if enabled:
            gc.enable()
    return Served(prepared, seed, requests, host.segments, host.busy, host.memory.peak)


class _Loading:
    """Seconds to load a model's weights to several GPUs at once, by the copies' shares of the host."""

    def __init__(self, profile: Profile | None, rate: float | None) -> None:
        self.profile = profile
        self.rate = rate
        self._known: dict[tuple[int, ...], float] = {}

    def __call__(self, gpus: Sequence[int], size: int) -> float:
        if self.rate is not None:
            return size / self.rate
        if self.profile is None:
            return 0.0
        key = tuple(gpus)
        if key not in self._known:
            flows = [self.profile.copy_flow("h2d", gpu) for gpu in key]
            self._known[key] = min(weighted_max_min(flows, self.profile.capacities))
        return size / self._known[key]


def _loading(profile: Profile | None, costs: Costs) -> _Loading:
    return _Loading(profile, None if costs.load_rate is None else float(costs.load_rate))
