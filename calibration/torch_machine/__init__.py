"""The torch machine: runs a `Program` on real GPUs, or on a CPU, and returns its `Timeline`.

One process a rank, with CUDA streams, events, pinned memory, NCCL collectives and stream memory operations for flags.
On a CPU streams are threads and collectives are gloo's: order, data and results are real there, times mean nothing.

    with TorchMachine(world_size=2) as machine:
        timeline = machine.run(program)
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Literal, NamedTuple

from calibration.processes import START_S, MachineError, Ranks
from calibration.torch_machine.communicators import communicators
from calibration.torch_machine.job import Job
from calibration.torch_machine.rank_result import RankResult
from calibration.torch_machine.shared_memory import layout, shared_file
from calibration.torch_machine.support import unsupported
from calibration.torch_machine.worker import Answer, serve
from sim.machine import DeadlockError
from sim.program import Program, instrument
from sim.timeline import Timeline, between_events
from sim.timeline.composed import composed_spans

__all__ = ["Execution", "Kind", "MachineError", "RankResult", "TorchMachine", "check_ranks", "devices", "unsupported"]

Kind = Literal["cuda", "cpu"]


class Execution(NamedTuple):
    """A program's run: its timeline, and what each rank reported."""

    timeline: Timeline
    ranks: tuple[RankResult, ...]


def devices() -> tuple[Kind, int]:
    """("cuda", number of GPUs), or ("cpu", 1) where there are none."""
    import torch

    return ("cuda", torch.cuda.device_count()) if torch.cuda.is_available() else ("cpu", 1)


def check_ranks(world_size: int, kind: Kind | None = None, placement: Sequence[int] = ()) -> Kind:
    """The kind of device for `world_size` ranks, on the GPUs of `placement`: `kind`, or what there is.

    Raises:
        MachineError: there are too few GPUs.
    """
    found, gpus = devices()
    there = gpus if found == "cuda" else 0
    if (kind or found) == "cuda":
        if world_size > there:
            raise MachineError(f"{world_size} ranks need as many GPUs, there are {there}")
        if max(placement, default=0) >= there:
            raise MachineError(f"placement {list(placement)} needs {max(placement) + 1} GPUs, there are {there}")
    return kind or found


class TorchMachine:
    """`world_size` processes that run programs. `kind` is "cuda" or "cpu": what there is, unless given.

    Rank r has GPU `placement[r]`, or GPU r without a placement. A CPU takes no notice.
    """

    def __init__(
        self, world_size: int, kind: Kind | None = None, timeout_s: float = 120.0, placement: Sequence[int] = ()
    ) -> None:
        if placement and len(placement) != world_size:
            raise MachineError(
                f"placement {list(placement)} places {len(placement)} ranks, the machine has {world_size}"
            )
        self.kind = check_ranks(world_size, kind, placement)
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.gpus = tuple(placement) or tuple(range(world_size))
        self.closed = False
        self._ranks = Ranks(world_size, serve, (self.kind, self.gpus), Answer, _failure)

    def __enter__(self) -> TorchMachine:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, program: Program) -> Timeline:
        """The timeline of `program`, as `execute`."""
        return self.execute(program).timeline

    def execute(self, program: Program, instrumented: bool = False, keep: Sequence[str] = ()) -> Execution:
        """Run `program` to its end.

        The timeline has the steps' bounds; with `instrumented` the program runs with events around every kernel, copy
        and collective (`sim.program.instrument`), which cost time, and the timeline has those spans. `keep` names
        buffers whose contents each rank is to report.

        Raises:
            DeadlockError: a rank did not end within `timeout_s`.
            MachineError: a rank failed; the machine is closed then. Or the program is `unsupported`, or for other GPUs.
        """
        if program.world_size != self.world_size:
            raise MachineError(f"the program has {program.world_size} ranks, the machine {self.world_size}")
        if self.kind == "cuda" and program.gpus != self.gpus:
            raise MachineError(f"the program is placed on GPUs {list(program.gpus)}, the machine on {list(self.gpus)}")
        if (why := unsupported(program)) is not None:
            raise MachineError(why)
        if self.closed:
            raise MachineError("the machine is closed: a rank has failed before")
        run = instrument(program) if instrumented else None
        executed = run.program if run else program
        jobs, needed, shared = [], communicators(executed), layout(executed, self.kind)
        world = executed.ranks[0].step_stream()
        for rank, rank_program in enumerate(executed.ranks):
            timed = set(rank_program.step_events)
            if run:
                timed |= {e for _, start, end in run.brackets[rank] for e in (start, end)}
                timed |= rank_program.composed_events
            jobs.append(Job(rank_program, sorted(timed), self.timeout_s, needed, world, shared, list(keep)))
        try:
            with shared_file(shared.bytes) as file:
                results = [a.result for a in self._ranks.ask(jobs, self.timeout_s + START_S, file)]
        except BaseException:
            self.close(0)  # ranks that wait for one that has failed would never end
            raise
        ranks = tuple(r for r in results if r is not None)
        steps = tuple(tuple(r.events[e] for e in p.step_events) for r, p in zip(ranks, executed.ranks, strict=True))
        if run is None:
            return Execution(Timeline(executed, (), steps), ranks)
        times = [r.events for r in ranks]
        spans, composed = between_events(run.brackets, times), composed_spans(executed, times)
        return Execution(Timeline(executed, spans, steps, composed=composed), ranks)

    def close(self, patience_s: float = 10.0) -> None:
        """End the processes; kill those that take longer than `patience_s`."""
        self.closed = True
        self._ranks.close(patience_s)


def _failure(answer: Answer) -> Exception | None:
    if answer.failure is None:
        return None
    return (DeadlockError if answer.failure.deadlock else MachineError)(answer.failure.reason)
