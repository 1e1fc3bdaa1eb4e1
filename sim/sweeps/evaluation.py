"""One service that all who need the figures of many scenarios ask: each point once, here or in other processes.

    with Workers() as workers:
        evaluator = Evaluator(workers)
        for evaluated in evaluator.in_order(Job.of(scenario.with_policy(policy), profile) for policy in policies):
            print(evaluated.figures().metrics["step_time_s"])

`as_completed` takes points from their iterator as there is room for them, so that many cost no more memory than few, as
long as the caller keeps neither points nor figures. A sweep keeps its rows.
"""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, Self, cast

import msgspec

from sim.policies import Programs, programs_shared
from sim.run import Result
from sim.sweeps.job import Job
from sim.sweeps.worker_pool import NoWorkersError
from sim.timeline import settling
from sim.timeline.critical_path import causes
from sim.timeline.metrics import Metrics

MAX_IN_FLIGHT = 1_000
"""Points that an executor is given ahead: more than any has cores, and few enough for their memory not to count."""
MAX_REMEMBERED = 4_096
"""Figures that an evaluator remembers, to give them again where a point is equal."""


class Figures(NamedTuple):
    """What a run came to, without its timeline; `causes_s` only where they were asked for (`Job.causes`)."""

    metrics: Metrics
    simulated_layers: int
    repeated_layers: int
    steps: str
    """What steps that have not settled do, in words."""
    program: str = ""
    """Hash of the program that ran, with causes."""
    gathers: bool = False
    """Whether its weights are gathered from other ranks, with causes."""
    decided: str = ""
    """The schedule that ran, where the policy decided on one."""
    causes_s: dict[str, float] = {}  # noqa: RUF012 - nobody changes it

    @classmethod
    def of(cls, result: Result, with_causes: bool = False) -> Self:
        """Those of a run."""
        steps = settling.words(result.simulated)
        found = cls(result.metrics, result.simulated_layers, result.repeated_layers, steps, decided=result.decided)
        if not with_causes:
            return found
        program = result.simulated.program
        gathers = bool(program.ranks[0].gather_streams())
        by_cause: dict[str, float] = dict(causes(result.simulated, result.profile))
        return found._replace(program=program.hash, gathers=gathers, causes_s=by_cause)


class Evaluated(NamedTuple):
    """What became of one point: its figures, or the exception that it ended with."""

    found: Figures | None
    raised: Exception | None = None
    of_executor: bool = False
    """Whether that was the executor's exception, as of a process that died, and not the run's."""

    def figures(self) -> Figures:
        """The figures. Raises what its run raised."""
        if self.raised is not None:
            raise self.raised
        assert self.found is not None
        return self.found


class Progress(NamedTuple):
    """How far a plan is: finished points, all points (None where that is not known), seconds left by those so far."""

    done: int
    total: int | None
    left_s: float | None


class Store(Protocol):
    """Where figures are kept by the key of their point; `None` for what is not there. Never raises."""

    def get(self, key: str) -> bytes | None:
        """What was put for `key`."""

    def put(self, key: str, content: bytes) -> None:
        """Keep `content`, if that is possible."""


_PROGRAMS = Programs()
"""Those of this process, which its runs share."""


def evaluate(job: Job) -> Evaluated:
    """Simulate one point in this process. What goes wrong, foreseen or not, is its outcome."""
    try:
        with programs_shared(_PROGRAMS):
            return Evaluated(Figures.of(job.simulate(), job.causes))
    except MemoryError:
        return _MEMORY_FULL  # made before: there is nothing left to make it of
    except Exception as error:
        return Evaluated(None, _portable(error))


_MEMORY_FULL = Evaluated(None, MemoryError("the memory is full"))


def _portable(error: Exception) -> Exception:
    """The exception, or one in its place if it cannot go to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Evaluator:
    """Figures of points: equal ones are simulated once, on `executor` (any of `concurrent.futures`) if given.

    `cache` keeps figures beyond this process. `progress` is called with each point that has finished. Points that fail
    are reported by `Evaluated.raised`, the others still run.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        cache: Store | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.executor = executor
        self.cache = cache
        self.progress = progress
        self.simulated = 0
        """Points that were simulated for this evaluator."""
        self._known: OrderedDict[str, Figures] = OrderedDict()

    def one(self, job: Job) -> Evaluated:
        """What becomes of one point. Raises NoWorkersError where the executor has no processes."""
        return self.in_order([job])[0]

    def in_order(self, jobs: Iterable[Job], total: int | None = None) -> list[Evaluated]:
        """What becomes of all points, in their order. Raises NoWorkersError where the executor has no processes."""
        found = dict(self.as_completed(jobs, total))
        return [found[number] for number in range(len(found))]

    def as_completed(self, jobs: Iterable[Job], total: int | None = None) -> Iterator[tuple[int, Evaluated]]:
        """(number of the point, what became of it), as they come.

        `jobs` is read no further than `MAX_IN_FLIGHT` points ahead of what has finished; `total` is how many there
        are, for the progress, where they cannot be counted.

        Raises:
            NoWorkersError: the executor has no processes.
        """
        if total is None and isinstance(jobs, Sized):
            total = len(jobs)
        began, simulated = time.monotonic(), self.simulated
        found = self._simulated(jobs) if self.executor is None else self._handed_out(jobs)
        for done, (number, evaluated) in enumerate(found, 1):
            per_point = (time.monotonic() - began) / done if self.simulated > simulated else 0.0
            self.progress(Progress(done, total, None if total is None else per_point * (total - done)))
            yield number, evaluated

    def _simulated(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Evaluated]]:
        for number, job in enumerate(jobs):
            key = job.key()
            if (found := self._look_up(key)) is None:
                evaluated = evaluate(job)
                self._keep(key, evaluated)
            else:
                evaluated = Evaluated(found)
            yield number, evaluated

    def _handed_out(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Evaluated]]:
        assert self.executor is not None
        waiting: dict[str, list[int]] = {}
        running: dict[Future[Evaluated], str] = {}
        finished: SimpleQueue[Future[Evaluated]] = SimpleQueue()  # which Ctrl-C leaves whole, unlike futures' locks
        try:
            for number, job in enumerate(jobs):
                key = job.key()
                if key in waiting:
                    waiting[key].append(number)
                elif (found := self._look_up(key)) is not None:
                    yield number, Evaluated(found)
                else:
                    waiting[key] = [number]
                    future = self.executor.submit(evaluate, job)
                    running[future] = key
                    future.add_done_callback(finished.put)
                while len(running) >= MAX_IN_FLIGHT or (running and not finished.empty()):
                    yield from self._finished(finished.get(), running, waiting)
            while running:
                yield from self._finished(finished.get(), running, waiting)
        finally:
            for future in running:
                future.cancel()

    def _finished(
        self, future: Future[Evaluated], running: dict[Future[Evaluated], str], waiting: dict[str, list[int]]
    ) -> Iterator[tuple[int, Evaluated]]:
        """Take a point out of `running`, and give it to all that wait for it."""
        key = running.pop(future)
        evaluated = _outcome(future)
        self._keep(key, evaluated)
        for number in waiting.pop(key):
            yield number, evaluated

    def _look_up(self, key: str) -> Figures | None:
        if (found := self._known.get(key)) is not None:
            return found
        if self.cache is None or (content := self.cache.get(key)) is None:
            return None
        try:
            found = msgspec.msgpack.decode(content, type=Figures)
        except msgspec.MsgspecError:
            return None
        self._remember(key, found)
        return found

    def _keep(self, key: str, evaluated: Evaluated) -> None:
        self.simulated += 1
        if evaluated.found is not None:
            self._remember(key, evaluated.found)
            if self.cache is not None:
                self.cache.put(key, msgspec.msgpack.encode(evaluated.found))

    def _remember(self, key: str, found: Figures) -> None:
        self._known[key] = found
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)


def _outcome(future: Future[Evaluated]) -> Evaluated:
    """What an executor's call gave; what happened to its process is the point's outcome. Raises NoWorkersError."""
    try:
        return future.result()
    except NoWorkersError:
        raise
    except MemoryError:
        return _MEMORY_FULL
    except Exception as error:  # of the executor: `evaluate` raises none
        return Evaluated(None, error, of_executor=True)


def metric_of(evaluated: Evaluated, name: str) -> float:
    """One of the figures. Raises what its run raised."""
    return float(cast(dict[str, Any], evaluated.figures().metrics)[name])
