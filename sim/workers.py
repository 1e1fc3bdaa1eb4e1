"""Worker processes that a crash or Ctrl-C does not turn into lost work."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers(ThreadPoolExecutor):
    """`count` worker processes, each a pool of its own with a thread that waits for it.

    A worker that dies fails the call that it was running, with `BrokenProcessPool`, and no other: its thread starts a
    new one. In one pool of several processes, a single death fails every call that is waiting. Processes are spawned,
    so that nothing of this process can differ between platforms.
    """

    def __init__(self, count: int | None = None) -> None:
        # processes inherit the threads' mask: Ctrl-C reaches this process alone, which stops its workers
        super().__init__(
            count or os.cpu_count(), initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, {signal.SIGINT})
        )
        self._own = threading.local()
        self._stopped = threading.Event()
        self._alive: dict[int, ProcessPoolExecutor] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a worker."""
        return super().submit(self._run, fn, *args, **kwargs)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.stop()
        self.shutdown()
        for pool in self._alive.values():
            pool.shutdown()

    def stop(self) -> None:
        """End all workers now; calls that have not finished fail."""
        self._stopped.set()
        self.shutdown(wait=False, cancel_futures=True)
        for process in list(self._alive):
            os.kill(process, signal.SIGKILL)

    def _run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if getattr(self._own, "pool", None) is None:
            self._own.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)
            self._own.process = self._own.pool.submit(os.getpid).result()
            self._alive[self._own.process] = self._own.pool
        try:
            if self._stopped.is_set():  # stop() may have come too early to see this worker
                raise BrokenProcessPool("stopped")
            return self._own.pool.submit(fn, *args, **kwargs).result()  # type: ignore[no-any-return]
        except BrokenProcessPool:
            self._alive.pop(self._own.process, None)
            self._own.pool.shutdown()  # its threads would otherwise close what Python's own end still writes to
            self._own.pool = None
            raise


def _begin() -> None:
    """Make this worker end when the process that it works for has been killed: its queue would keep it waiting."""
    gc.set_threshold(50_000)  # simulations make many objects and few cycles: looking for these took a tenth of the time

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
