"""The torch machine: runs a `Program` on real GPUs, or on a CPU, and returns its `Timeline`.

One process a rank, with CUDA streams, events, pinned memory, NCCL collectives and stream memory operations for flags.
On a CPU streams are threads and collectives are gloo's: order, data and results are real there, times mean nothing.

    with TorchMachine(world_size=2) as machine:
        timeline = machine.run(program)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, NamedTuple

from calibration.processes import START_S, MachineError, Ranks
from calibration.torch_machine.runner import RankResult
from calibration.torch_machine.worker import Answer, Job, serve
from sim.machine import DeadlockError
from sim.program import AnyCommand, Collective, Program, instrument
from sim.timeline import Span, Timeline

__all__ = ["Execution", "Kind", "MachineError", "RankResult", "TorchMachine", "check_ranks", "devices"]

Kind = Literal["cuda", "cpu"]


class Execution(NamedTuple):
    """A program's run: its timeline, and what each rank reported."""

    timeline: Timeline
    ranks: tuple[RankResult, ...]


def devices() -> tuple[Kind, int]:
    """("cuda", number of GPUs), or ("cpu", 1) where there are none."""
    import torch

    return ("cuda", torch.cuda.device_count()) if torch.cuda.is_available() else ("cpu", 1)


def check_ranks(world_size: int, kind: Kind | None = None) -> Kind:
    """The kind of device for `world_size` ranks: `kind`, or what there is. Raises MachineError if there are too few."""
    found, gpus = devices()
    if (kind or found) == "cuda" and world_size > (gpus if found == "cuda" else 0):
        raise MachineError(f"{world_size} ranks need as many GPUs, there are {gpus if found == 'cuda' else 0}")
    return kind or found


class TorchMachine:
    """`world_size` processes that run programs. `kind` is "cuda" or "cpu": what there is, unless given."""

    def __init__(self, world_size: int, kind: Kind | None = None, timeout_s: float = 120.0) -> None:
        self.kind = check_ranks(world_size, kind)
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.closed = False
        self._ranks = Ranks(world_size, serve, (self.kind,), Answer, _failure)

    def __enter__(self) -> TorchMachine:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, program: Program) -> Timeline:
        """The timeline of `program`, as `execute`."""
        return self.execute(program).timeline

    def execute(self, program: Program, instrumented: bool = False) -> Execution:
        """Run `program` to its end.

        The timeline has the steps' bounds; with `instrumented` the program runs with events around every kernel, copy
        and collective (`sim.program.instrument`), which cost time, and the timeline has those spans.

        Raises:
            DeadlockError: a rank did not end within `timeout_s`.
            MachineError: a rank failed; the machine is closed then.
        """
        if program.world_size != self.world_size:
            raise MachineError(f"the program has {program.world_size} ranks, the machine {self.world_size}")
        if self.closed:
            raise MachineError("the machine is closed: a rank has failed before")
        run = instrument(program) if instrumented else None
        executed = run.program if run else program
        jobs = []
        for rank, rank_program in enumerate(executed.ranks):
            timed = set(rank_program.step_events)
            if run:
                timed |= {e for _, start, end in run.brackets[rank] for e in (start, end)}
            jobs.append(Job(rank_program, sorted(timed), self.timeout_s))
        try:
            results = [a.result for a in self._ranks.ask(jobs, self.timeout_s + START_S)]
        except BaseException:
            self.close()
            raise
        ranks = tuple(r for r in results if r is not None)
        steps = tuple(tuple(r.events[e] for e in p.step_events) for r, p in zip(ranks, executed.ranks, strict=True))
        spans = _spans(run.brackets, ranks) if run else ()
        return Execution(Timeline(executed, spans, steps), ranks)

    def close(self) -> None:
        """End the processes."""
        self.closed = True
        self._ranks.close()


def _failure(answer: Answer) -> Exception | None:
    if answer.failure is None:
        return None
    return (DeadlockError if answer.failure.deadlock else MachineError)(answer.failure.reason)


def _spans(brackets: Sequence[Sequence[tuple[AnyCommand, int, int]]], ranks: Sequence[RankResult]) -> tuple[Span, ...]:
    """Spans of the commands between events, in order of their ends.

    A collective is `ready` when its last rank has started it. What a command takes alone is not known: nan.
    """
    calls = [
        [ranks[rank].events[start] for command, start, _ in found if isinstance(command, Collective)]
        for rank, found in enumerate(brackets)
    ]
    arrivals = [max(starts) for starts in zip(*calls, strict=True)]
    spans = []
    for rank, found in enumerate(brackets):
        arrival = iter(arrivals)
        for command, before, after in found:
            start, end = ranks[rank].events[before], ranks[rank].events[after]
            ready = min(max(next(arrival), start), end) if isinstance(command, Collective) else start
            spans.append(Span(rank, command, start, ready, end, math.nan))
    return tuple(sorted(spans, key=lambda s: s.end))
