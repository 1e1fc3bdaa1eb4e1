"""One process a rank: started, given work, listened to, and ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

START_S = 300.0
"""How long processes may take to start, s: contexts of several GPUs, NCCL's first connection, a busy host."""

GRACE_S = 0.5
"""After a failure, how long other ranks have to say theirs, s."""

A = TypeVar("A", bound=msgspec.Struct)


class MachineError(RuntimeError):
    """A program or a probe could not be run. The message says which rank failed, and why."""


class Ranks(Generic[A]):
    """Processes that run `serve(rank, world_size, store, *given, pipe)`; `store` is a file that all of them share.

    Each sends an `answer` when it has started and one for each job; `failure` gives the error that one stands for.
    Ctrl-C reaches only this process, which ends them.

    Raises:
        MachineError: they do not start.
    """

    def __init__(
        self,
        world_size: int,
        serve: Callable[..., None],
        given: Sequence[Any],
        answer: type[A],
        failure: Callable[[A], Exception | None],
    ) -> None:
        self._answer = answer
        self._failure = failure
        self._folder = tempfile.TemporaryDirectory(prefix="chunkflow-")
        context = multiprocessing.get_context("spawn")
        store = str(Path(self._folder.name) / "store")
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        try:
            with _apart():
                for rank in range(world_size):
                    mine, theirs = context.Pipe()
                    arguments = (rank, world_size, store, *given, theirs)
                    process = context.Process(target=serve, args=arguments, daemon=True)
                    process.start()
                    theirs.close()
                    self._pipes.append(mine)
                    self._processes.append(process)
            self.first = self._answers(self._pipes, START_S)[0]
        except BaseException:
            self.close(0)
            raise

    def ask(self, jobs: Sequence[msgspec.Struct], timeout_s: float, file: int | None = None) -> list[A]:
        """Give the first ranks a job each, and each of them `file` after it if there is one; their answers.

        Raises:
            MachineError: a process has died, or is silent for `timeout_s`.
            Exception: the first failure that comes.
        """
        pipes = self._pipes[: len(jobs)]
        for rank, (pipe, job) in enumerate(zip(pipes, jobs, strict=True)):
            try:
                pipe.send_bytes(msgspec.msgpack.encode(job))
                if file is not None:
                    send_handle(pipe, file, self._processes[rank].pid)
            except OSError:
                raise self._dead(rank) from None
        return self._answers(pipes, timeout_s)

    def close(self, patience_s: float = 10.0) -> None:
        """End the processes; kill those that take longer than `patience_s`."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=patience_s)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()

    def _answers(self, pipes: Sequence[Any], timeout_s: float) -> list[A]:
        deadline = time.monotonic() + timeout_s
        answers: dict[int, A] = {}
        while len(answers) < len(pipes):
            silent = [rank for rank in range(len(pipes)) if rank not in answers]
            ready = wait([pipes[rank] for rank in silent], timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                raise MachineError(f"ranks {silent} have not answered within {timeout_s:g} s")
            failures: list[Exception] = []
            for rank in (r for r in silent if pipes[r] in ready):
                failures += self._hear(rank, answers)
            if failures:
                raise self._cause(failures, answers)
        return [answers[rank] for rank in range(len(pipes))]

    def _hear(self, rank: int, answers: dict[int, A]) -> list[Exception]:
        """Put what `rank` has to say into `answers`; its failure, if it is one."""
        try:
            answers[rank] = msgspec.msgpack.decode(self._pipes[rank].recv_bytes(), type=self._answer)
        except (EOFError, OSError):
            return [self._dead(rank)]
        failure = self._failure(answers[rank])
        return [failure] if failure else []

    def _cause(self, failures: list[Exception], answers: dict[int, A]) -> Exception:
        """The failure to report. Ranks that fail because another one has are as quick as it: look at all of them.

        A process that was killed explains the rest. Otherwise the first one does, and those of its type add to it: who
        waits for whom.
        """
        deadline = time.monotonic() + GRACE_S
        silent = [rank for rank in range(len(self._pipes)) if rank not in answers]
        while silent and (left := deadline - time.monotonic()) > 0 and not any(map(_killed, self._processes)):
            ready = wait([self._pipes[rank] for rank in silent], timeout=left)
            for rank in [r for r in silent if self._pipes[r] in ready]:
                silent.remove(rank)
                failures += self._hear(rank, answers)
        for rank, process in enumerate(self._processes):
            if _killed(process):
                return self._dead(rank)
        first = failures[0]
        same = dict.fromkeys(str(f) for f in failures if type(f) is type(first))
        return first if len(same) == 1 else type(first)("\n".join(same))

    def _dead(self, rank: int) -> MachineError:
        process = self._processes[rank]
        process.join(timeout=GRACE_S)
        how = f": {signal.Signals(-process.exitcode).name}" if _killed(process) else ""
        return MachineError(f"the process of rank {rank} has died{how}")


def _killed(process: Any) -> bool:
    """Whether a signal has ended it."""
    return process.exitcode is not None and process.exitcode < 0


@contextmanager
def _apart() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, and import nothing from the working directory."""
    path = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    resource_tracker.ensure_running()  # which starts with the first process, and then lets Ctrl-C through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if path is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = path
