"""A Dask cluster as an executor: points run on the workers of other machines."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from sim.sweeps.job import code_digest
from sim.sweeps.worker_pool import NoWorkersError

P = ParamSpec("P")
T = TypeVar("T")

LOOK_S = 2.0
"""How long nothing may end before the cluster is asked whether it has workers."""
_ADDRESS = re.compile(r"(?:(?:tcp|tls|ws|wss|ucx)://)?(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}")


def is_address(text: str) -> bool:
    """Whether this may be a scheduler's address: HOST:PORT, with a protocol of Dask in front or not."""
    return _ADDRESS.fullmatch(text) is not None


class _Call:
    """A call that was submitted; `alone` once nothing else runs beside it."""

    def __init__(self, run: Callable[[Executor], Future[Any]]) -> None:
        self.run = run
        self.future: Future[Any] = Future()
        self.alone = False


class Cluster(Executor):
    """The workers of the Dask cluster whose scheduler is at `address` (HOST:PORT, or tls://HOST:PORT).

    A worker that dies is no harm: Dask runs its calls again, elsewhere. Dask gives a call up when more workers than its
    `allowed-failures` have died while they held it. That may not be the call's fault, as a worker holds several. So
    what was given up runs once more when all else has ended, and nothing else beside it; if its workers die then too,
    it fails with `BrokenProcessPool`.

    All calls fail with `NoWorkersError` when the scheduler has gone, or no worker has been there for `patience_s`.

    Raises:
        OSError: no scheduler answers.
        NoWorkersError: there are no workers, or they have other code than this process.
    """

    def __init__(self, address: str, patience_s: float = 60.0) -> None:
        from distributed import Client

        for name in ("tornado.application", *logging.root.manager.loggerDict):
            if name.startswith(("distributed", "tornado")):  # what matters is said by what is raised here
                logging.getLogger(name).setLevel(logging.CRITICAL)
        self.address = address
        self._patience_s = patience_s
        self._lock = threading.RLock()  # who waits for a call may submit the next one when it ends
        self._running: dict[_Call, Future[Any]] = {}
        self._suspects: deque[_Call] = deque()
        self._held: deque[_Call] = deque()
        self._alone = False
        self._gone: NoWorkersError | None = None
        self._ended: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        try:
            self._client = Client(address, set_as_default=False)
        except OSError as error:
            raise OSError(f"no Dask scheduler answers at {address}: {error}") from None
        try:
            self._check_workers()
        except BaseException:
            self._client.close()
            raise
        self._executor = self._client.get_executor(pure=False)
        self._thread = threading.Thread(target=self._manage, daemon=True)
        self._thread.start()

    def _check_workers(self) -> None:
        """Raise `NoWorkersError` unless there are workers, all with the code of this process."""
        codes = self._client.run(code_digest, on_error="return")
        if not codes:
            raise NoWorkersError(f"the Dask cluster at {self.address} has no workers: start some with `dask worker`")
        others = {worker: code for worker, code in codes.items() if code != code_digest()}
        if others:
            worker, code = min(others.items())
            why = f"cannot load it ({code})" if isinstance(code, Exception) else "has another version or other policies"
            raise NoWorkersError(
                f"{len(others)} of the {len(codes)} workers at {self.address} do not have this code of chunkflow-sim: "
                f"{worker} {why}: install the same on all, and start them again"
            )

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a worker. Raises NoWorkersError where the cluster has gone."""
        call = _Call(lambda executor: executor.submit(fn, *args, **kwargs))
        with self._lock:
            if self._gone is not None:
                raise self._gone
            if self._alone:
                self._held.append(call)
            else:
                self._start(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, which goes on; calls that have not finished are cancelled, unless they are waited for."""
        if wait and not cancel_futures:
            with self._lock:
                calls = [*self._running, *self._suspects, *self._held]
            for call in calls:
                with suppress(Exception, CancelledError):
                    call.future.exception()
        self._ended.put(None)
        if self._thread is not None:
            self._thread.join()
        self._executor.shutdown(wait=False)
        self._client.close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _start(self, call: _Call) -> None:
        if self._client.status != "running":
            raise self._lost()
        try:
            running = call.run(self._executor)
        except Exception as error:  # it cannot be pickled
            _answer(call, error)
            return
        self._running[call] = running
        running.add_done_callback(lambda _: self._ended.put(call))

    def _manage(self) -> None:
        """Take the calls that have ended, until there are no more; see to it that none waits for ever."""
        without_workers_s = 0.0
        try:
            while True:
                try:
                    if (call := self._ended.get(timeout=LOOK_S)) is None:
                        return
                except Empty:
                    without_workers_s = 0.0 if self._client.nthreads() else without_workers_s + LOOK_S
                    if without_workers_s >= self._patience_s and self._running:
                        raise NoWorkersError(f"the Dask cluster at {self.address} has lost its workers") from None
                    continue
                with self._lock:
                    self._finish(call)
                    self._go_on()
        except NoWorkersError as error:
            self._give_up(error)
        except BaseException as error:  # a call that waits for ever would be worse
            self._give_up(self._lost(error))

    def _finish(self, call: _Call) -> None:
        """Hand on what became of a call. Raises CancelledError where Dask has dropped it, as the scheduler has gone."""
        from distributed import KilledWorker

        ended = self._running[call]
        error = ended.exception()
        del self._running[call]
        self._alone = False
        if isinstance(error, KilledWorker):
            if not call.alone:
                self._suspects.append(call)
                return
            error = BrokenProcessPool(f"its workers died ({error.last_worker.address} was the last)")
        _answer(call, error, ended.result() if error is None else None)

    def _go_on(self) -> None:
        """Start what was held back, or, where nothing is left to run, a call that may kill its worker."""
        while self._held:
            self._start(self._held[0])  # which may raise: the call is then still among those that wait
            self._held.popleft()
        if not self._running and self._suspects:
            self._alone = self._suspects[0].alone = True
            self._start(self._suspects[0])
            self._suspects.popleft()

    def _give_up(self, error: NoWorkersError) -> None:
        with self._lock:
            self._gone = error
            calls = [*self._running, *self._suspects, *self._held]
        for call in calls:
            _answer(call, error)

    def _lost(self, error: BaseException | None = None) -> NoWorkersError:
        why = f" ({error})" if str(error or "") else ""
        return NoWorkersError(f"the Dask scheduler at {self.address} has gone{why}")


def _answer(call: _Call, error: BaseException | None, result: object = None) -> None:
    """Say what became of a call, unless nobody waits for it any more."""
    if not call.future.set_running_or_notify_cancel():
        return
    if error is not None:
        call.future.set_exception(error)
    else:
        call.future.set_result(result)
