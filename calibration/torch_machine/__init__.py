"""The torch machine: runs a `Program` on real GPUs, or on a CPU, and returns its `Timeline`.

One process a rank, with CUDA streams, events, pinned memory, NCCL collectives and stream memory operations for flags.
On a CPU streams are threads and collectives are gloo's: order, data and results are real there, times mean nothing.

    with TorchMachine(world_size=2) as machine:
        timeline = machine.run(program)
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from calibration.torch_machine.runner import RankResult
from calibration.torch_machine.worker import Answer, Job, serve
from sim.machine import DeadlockError
from sim.program import Program, instrument
from sim.timeline import Timeline, between_events

__all__ = ["Execution", "MachineError", "RankResult", "TorchMachine", "devices"]

START_S = 120.0
"""How long processes may take to start, s: contexts of several GPUs, NCCL's first connection."""


class MachineError(RuntimeError):
    """A program could not be run. The message says which rank failed, and why."""


class Execution(NamedTuple):
    """A program's run: its timeline, and what each rank reported."""

    timeline: Timeline
    ranks: tuple[RankResult, ...]


def devices() -> tuple[str, int]:
    """("cuda", number of GPUs), or ("cpu", 1) where there are none."""
    import torch

    return ("cuda", torch.cuda.device_count()) if torch.cuda.is_available() else ("cpu", 1)


class TorchMachine:
    """`world_size` processes that run programs. `kind` is "cuda" or "cpu": what there is, unless given."""

    def __init__(self, world_size: int, kind: str | None = None, timeout_s: float = 120.0) -> None:
        found, gpus = devices()
        self.kind = kind or found
        if self.kind == "cuda" and world_size > gpus:
            raise MachineError(f"{world_size} ranks need as many GPUs, there are {gpus if found == 'cuda' else 0}")
        self.world_size = world_size
        self.timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="chunkflow-")
        context = multiprocessing.get_context("spawn")
        store = str(Path(self._folder.name) / "store")
        self._pipes = []
        self._processes = []
        for rank in range(world_size):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, world_size, store, self.kind, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)
        try:
            self._answers(START_S)
        except BaseException:
            self.close()
            raise

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
        for rank, pipe in enumerate(self._pipes):
            timed = set(executed.ranks[rank].step_events)
            if run:
                timed |= {e for _, start, end in run.brackets[rank] for e in (start, end)}
            job = Job(executed.ranks[rank], sorted(timed), self.timeout_s)
            pipe.send_bytes(msgspec.msgpack.encode(job))
        try:
            results = [a.result for a in self._answers(self.timeout_s + START_S)]
        except BaseException:
            self.close()
            raise
        ranks = tuple(r for r in results if r is not None)
        steps = tuple(tuple(r.events[e] for e in p.step_events) for r, p in zip(ranks, executed.ranks, strict=True))
        spans = between_events(run.brackets, [r.events for r in ranks]) if run else ()
        return Execution(Timeline(executed, spans, steps), ranks)

    @property
    def closed(self) -> bool:
        """Whether the processes have been ended."""
        return any(pipe.closed for pipe in self._pipes)

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()

    def _answers(self, timeout_s: float) -> list[Answer]:
        """One answer a rank. Raises as `execute` does, with the first failure that comes."""
        deadline = time.monotonic() + timeout_s
        answers: dict[int, Answer] = {}
        while len(answers) < self.world_size:
            silent = [rank for rank in range(self.world_size) if rank not in answers]
            ready = wait([self._pipes[rank] for rank in silent], timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                raise MachineError(f"ranks {silent} have not answered within {timeout_s:g} s")
            for rank in (r for r in silent if self._pipes[r] in ready):
                try:
                    answer = msgspec.msgpack.decode(self._pipes[rank].recv_bytes(), type=Answer)
                except (EOFError, OSError):
                    raise MachineError(f"the process of rank {rank} has died") from None
                if answer.failure:
                    raise (DeadlockError if answer.failure.deadlock else MachineError)(answer.failure.reason)
                answers[rank] = answer
        return [answers[rank] for rank in range(self.world_size)]
