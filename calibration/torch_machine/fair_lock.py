"""A lock that goes to the thread that has waited longest."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock that threads get in the order in which they asked for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[int] = deque()

    def acquire(self) -> None:
        """Block the calling thread until it is its turn."""
        me = threading.get_ident()
        with self._changed:
            self._queue.append(me)
            self._changed.wait_for(lambda: self._queue[0] == me)

    @property
    def contenders(self) -> int:
        """Threads that hold the lock or wait for it."""
        return len(self._queue)

    def release(self) -> None:
        """Wake the thread that has waited longest."""
        with self._changed:
            self._queue.popleft()
            self._changed.notify_all()
