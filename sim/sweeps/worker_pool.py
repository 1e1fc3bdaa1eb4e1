"""Worker processes that a crash or Ctrl-C does not turn into lost work."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_FAILED_STARTS = 3
"""Consecutive workers that end before they are ready until the pool gives up."""

_COMMAND = (
    "import sys; sys.path[:] = sys.argv[4:]; import typing; sys.path.insert(0, sys.argv[3]); import sim; "
    "del sys.path[0]; from sim.sweeps.worker_pool import spawn_main; spawn_main(int(sys.argv[1]), int(sys.argv[2]))"
)
"""What a worker runs: this package from where this process has it, and all else from where its `sys.path` says."""


class NoWorkersError(BrokenProcessPool):
    """No worker process can be started, so that no call of the pool can be run."""


class _Call(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Workers(Executor):
    """`count` worker processes, as many as there are cores unless given, started as calls come.

    A worker that dies fails the call that it was running, with `BrokenProcessPool`, and no other: another one is
    started. One that dies before it is ready costs nothing, unless several do in a row: then all calls fail with
    `NoWorkersError`. Functions must be importable by name. Workers are fresh interpreters: they import what this
    process would, but nothing from the working directory that `python -m` looks in.

    One thread starts the processes, hands them calls and takes their answers.
    """

    def __init__(self, count: int | None = None) -> None:
        self._count = count or os.cpu_count() or 1
        self._lock = threading.Lock()
        self._calls: deque[_Call] = deque()
        self._alive: list[_Worker] = []
        self._failed_starts = 0
        self._closing = self._stopped = self._wake_pending = False
        self._wake_read, self._wake_write = Pipe(duplex=False)
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a worker. Raises NoWorkersError if there can be no thread to do so."""
        future: Future[T] = Future()
        with self._lock:
            if self._closing:
                raise RuntimeError("the workers have been told to end")
            if self._thread is None:
                thread = threading.Thread(target=self._manage, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise NoWorkersError(_no_workers(str(error))) from None
                self._thread = thread
            self._calls.append(_Call(future, fn, args, kwargs))
        self._wake()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when those that were taken have been run."""
        with self._lock:
            self._closing = True
            for call in tuple(self._calls) if cancel_futures else ():
                call.future.cancel()
        self._wake()
        if wait and self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """End all workers now; calls that have not finished fail."""
        self._stopped = True
        for worker in tuple(self._alive):
            worker.process.kill()
        self.shutdown(cancel_futures=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.stop()

    def _wake(self) -> None:
        with self._lock:
            if not self._wake_pending:
                self._wake_write.send_bytes(b"")
                self._wake_pending = True  # after it: Ctrl-C between the two costs a second wake-up, not the only one

    def _manage(self) -> None:
        # processes inherit this thread's mask: Ctrl-C reaches only the main thread, which stops the workers
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            while not self._stopped:
                self._start()
                self._dispatch()
                if self._closing and not self._calls and all(worker.call is None for worker in self._alive):
                    break
                ready = wait([self._wake_read, *(worker.pipe for worker in self._alive)])
                if self._wake_read in ready:
                    with self._lock:
                        self._wake_read.recv_bytes()
                        self._wake_pending = False
                for worker in [worker for worker in self._alive if worker.pipe in ready]:
                    self._receive(worker)
            self._end(BrokenProcessPool("stopped"))
        except BaseException as error:  # above all a lack of memory: a call that waits for ever would be worse
            self._end(error)

    def _start(self) -> None:
        """Start workers while calls have none to wait for."""
        while len(self._alive) < self._count and len(self._calls) > sum(w.call is None for w in self._alive):
            try:
                self._alive.append(_Worker())
            except OSError as error:
                if self._alive:  # they will do
                    return
                self._failed_start(str(error))

    def _dispatch(self) -> None:
        for worker in tuple(self._alive):
            while worker.ready and worker.call is None and self._calls:
                call = self._calls.popleft()
                if not call.future.set_running_or_notify_cancel():
                    continue
                try:
                    content = pickle.dumps(call[1:])
                except Exception as error:
                    call.future.set_exception(error)
                    continue
                worker.call = call.future
                try:
                    worker.pipe.send_bytes(content)
                except OSError:
                    self._died(worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            content = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._died(worker)
            return
        future, worker.call = worker.call, None
        if future is None:
            worker.ready = True
            worker.errors.close()
            self._failed_starts = 0
            return
        try:
            answered, answer = pickle.loads(content)
        except Exception as error:
            answered, answer = False, error
        if answered:
            future.set_result(answer)
        else:
            future.set_exception(answer)

    def _died(self, worker: _Worker) -> None:
        self._alive.remove(worker)
        why = worker.end()
        if worker.call is not None:
            worker.call.set_exception(BrokenProcessPool(f"a worker process died ({why})"))
        elif not worker.ready:
            self._failed_start(why)

    def _failed_start(self, why: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise NoWorkersError(_no_workers(why))

    def _end(self, error: BaseException) -> None:
        """End all workers, and fail the calls that are left with `error`."""
        with self._lock:
            self._closing = True
            calls, alive = tuple(self._calls), tuple(self._alive)
            self._calls.clear()
            self._alive.clear()
        for worker in alive:
            worker.pipe.close()  # which ends those that wait
            if worker.call is not None or not worker.ready or self._stopped:
                worker.process.kill()
        for worker in alive:
            worker.end()
            if worker.call is not None:
                worker.call.set_exception(error)
        for call in calls:
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)


def _no_workers(why: str) -> str:
    return f"no worker process can be started ({why}): is memory (ulimit -v) limited, or the number of processes?"


class _Worker:
    """A worker process; `call` is what it runs, `ready` says whether it has started. Raises OSError."""

    def __init__(self) -> None:
        self.call: Future[Any] | None = None
        self.ready = False
        self.pipe, theirs = Pipe()
        root = str(Path(__file__).parents[2])
        terminal = os.dup(2) if _is_open(2) else os.open(os.devnull, os.O_WRONLY)
        try:
            handed = (theirs.fileno(), terminal)
            # The traceback of a worker that fails to start is read, not shown. Nothing is written to its standard
            # input, which ends when this process does.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, *map(str, handed), root, *_module_path(root)],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=handed,
            )
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()
            os.close(terminal)
        assert self.process.stderr is not None
        self.errors = self.process.stderr

    def end(self) -> str:
        """Wait for its end; returns how it ended."""
        self.pipe.close()
        said = b"" if self.errors.closed else self.errors.read()
        self.errors.close()
        code = self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        return ": ".join([f"signal {-code}" if code < 0 else f"exit code {code}", *last])


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _module_path(root: str) -> list[str]:
    """Where workers look for modules: as this process does, but for the working directory that `python -m` puts first.

    What `python -m` has from there, this package in the folder `root`, is looked for last.
    """
    try:
        here = Path.cwd()
    except OSError:  # it has been removed
        here = Path(os.sep)
    paths = [str(here / path) for path in sys.path if path]
    if getattr(sys.modules["__main__"], "__spec__", None) is not None and str(here) in paths:
        paths.remove(str(here))
    return paths if root in paths else [*paths, root]


def spawn_main(pipe: int, terminal: int) -> None:
    """What a worker does: run the calls that come through the descriptor `pipe`, one by one, until it is closed."""
    gc.set_threshold(50_000)  # simulations make many objects and few cycles: looking for these took a tenth of the time
    # a call says by itself that the memory was full; `callable` takes what destructors met meanwhile, and no memory
    sys.unraisablehook = callable
    connection = Connection(pipe)
    threading.stack_size(256 * 1024)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.set_inheritable(pipe, False)
    os.dup2(terminal, 2)
    os.close(terminal)
    try:
        connection.send_bytes(b"")
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))
    except EOFError:
        return
    except (OSError, MemoryError):  # nobody listens, or there is no memory to say that there is none
        os._exit(1)


def _end_with_parent() -> None:
    """End this worker in the middle of a call when the process that it works for has ended, however that did."""
    os.read(0, 1)
    os._exit(1)


_MEMORY_FULL = pickle.dumps((False, MemoryError()))


def _answer(content: bytes) -> bytes:
    """(True, result) or (False, exception) of a call, both pickled."""
    try:
        function, args, kwargs = pickle.loads(content)
        return pickle.dumps((True, function(*args, **kwargs)))
    except MemoryError:
        return _MEMORY_FULL
    except BaseException as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        try:
            return pickle.dumps((False, error))
        except Exception:
            return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
