"""A lock that goes to who has waited longest."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock that threads get in the order of their asking."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[int] = deque()

    def acquire(self) -> None:
        """Hold the calling thread until it is its turn."""
        me = threading.get_ident()
        with self._changed:
            self._queue.append(me)
            self._changed.wait_for(lambda: self._queue[0] == me)

    def release(self) -> None:
        """Let the next one go on."""
        with self._changed:
            self._queue.popleft()
            self._changed.notify_all()
