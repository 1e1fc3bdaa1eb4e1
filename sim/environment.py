"""Simulated time: SimPy's environment, in which what happens at the present instant costs no place in the heap.

The order of all that happens is SimPy's: by time, by priority, and at equal ones by when it was scheduled. What is
scheduled for the present instant waits in a queue beside the heap, a process that waits for a time needs no event, and
what is to be done when all else of an instant is done (`at_end_of_instant`) is called from `step`.

Times may be kept on a grid (`on_grid`): sums and differences of such times are exact, so that what happens does not
depend on when it happens, to the last bit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from heapq import heappop, heappush
from itertools import repeat
from typing import Any

import simpy
from simpy.core import EmptySchedule, StopSimulation
from simpy.events import NORMAL, URGENT, Event, EventPriority

Action = Callable[[], object]

Wait = Event | float | None
"""What a process waits for: an event; a time in s, not before now; None for whoever calls it."""

_FIRST = EventPriority(-1)


class Process:
    """A generator that waits for what it yields (`Wait`). It starts as SimPy's processes do, once `env` gets to it.

    An exception in it ends the run: nobody waits for a process, so that none is there to handle it.

    >>> env = Environment()
    >>> def wake(seconds):
    ...     yield env.now + seconds
    ...     print("woken at", env.now)
    >>> started = [Process(env, wake(seconds)) for seconds in (2.0, 1.0)]
    >>> env.run()
    woken at 1.0
    woken at 2.0
    """

    __slots__ = ("_env", "generator", "send")

    def __init__(self, env: Environment, generator: Generator[Wait, Any, Any]) -> None:
        self._env = env
        self.generator = generator
        self.send = generator.send
        env.call_at(env.now, self, URGENT)

    def __call__(self, _: object = None) -> None:
        """Go on to what the generator waits for next. To be called by what it waits for, and once."""
        with suppress(StopIteration):
            self.wait_for(self.send(None))

    def wait_for(self, wait: Wait) -> None:
        """Be called when `wait` is over. Raises StopIteration if the generator has ended."""
        while isinstance(wait, Event):
            if wait.callbacks is not None:
                wait.callbacks.append(self)
                return
            wait = self.send(None)  # it has happened
        if wait is not None:
            self._env.call_at(wait, self)


class Environment(simpy.Environment):
    """A SimPy environment that can also schedule at an absolute time, so that no rounding creeps into finish times."""

    now: float = 0.0
    """Present time, s: as SimPy's property, which takes a call to read."""

    def __init__(self, longest: float = 0.0) -> None:
        super().__init__(self.now)
        self.longest = 2.0 ** math.ceil(math.log2(longest)) if longest > 0 else 0.0
        """Up to this time, at least `longest` s, the grid is exact: it is 2 ** -53 of it. 0: there is no grid."""
        self.rounding = self.longest / 2
        """What rounds a duration to the grid, where it is added and taken off again, s."""
        self._queue: list[Any] = []
        """Heap of (time, priority, number, event or action)."""
        self._present: deque[tuple[float, int, int, Event | Action]] = deque()
        """As `_queue`, what is scheduled for now with normal priority, in order."""
        self._end_of_instant: deque[Action] = deque()

    def on_grid(self, seconds: float) -> float:
        """The duration nearest to `seconds` (0 or more) that lies on the grid of times."""
        return (seconds + self.rounding) - self.rounding

    def entries(self) -> Iterator[tuple[float, int, Event | Action]]:
        """What is scheduled, in no order: (time, priority, event or action)."""
        return ((at, int(priority), what) for at, priority, _, what in (*self._queue, *self._present))

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        """Schedule `event` in `delay` seconds."""
        if delay == 0 and priority == NORMAL:
            self._present.append((self.now, 1, next(self._eid), event))
        else:
            heappush(self._queue, (self.now + delay, priority, next(self._eid), event))

    def call_at(self, time: float, action: Action, priority: int = NORMAL) -> None:
        """Call `action` at absolute `time` (seconds, not before now)."""
        heappush(self._queue, (time, priority, next(self._eid), action))

    def call_soon(self, action: Action) -> None:
        """Call `action` now, after all that is scheduled for now already."""
        self._present.append((self.now, 1, next(self._eid), action))

    def at_end_of_instant(self, action: Action) -> None:
        """Call `action` now, after all that is and will be scheduled for now."""
        self._end_of_instant.append(action)

    def at(self, time: float) -> Event:
        """An event that happens at absolute `time` (seconds, not before now)."""
        event = Event(self)
        event._ok = True
        event._value = None
        heappush(self._queue, (time, 1, next(self._eid), event))
        return event

    def peek(self) -> float:
        """When something is to be done next, s; infinity where nothing is."""
        return self.now if self._present or self._end_of_instant else super().peek()

    def free_until(self, unneeded: Callable[[Any], bool]) -> float:
        """Up to when nothing is to be done, s; now where something is.

        What is `unneeded` is dropped where it comes first, and later than now.
        """
        if self._present or self._end_of_instant:
            return self.now
        queue = self._queue
        while queue and queue[0][0] > self.now and unneeded(queue[0][3]):
            heappop(queue)
        return float(queue[0][0]) if queue else math.inf

    def step(self) -> None:
        """Do what is to be done next. Raises `simpy.core.EmptySchedule` where nothing is."""
        self._steps(1)

    def run(self, until: float | Event | None = None) -> Any:
        """Do all that is to be done, or what is to be done until a time or event, as SimPy does."""
        if until is not None:
            return super().run(until)
        with suppress(EmptySchedule):
            self._steps(None)
        return None

    def _steps(self, count: int | None) -> None:
        """`count` steps, or all there are, in one loop: most of what a simulation costs passes through it."""
        queue, present, end, numbers = self._queue, self._present, self._end_of_instant, self._eid
        what: Any
        for _ in repeat(None) if count is None else repeat(None, count):
            if present and not (queue and queue[0] < present[0]):
                what = present.popleft()[3]
            elif queue and not (end and queue[0][0] > self.now):
                time, _, _, what = heappop(queue)
                self._now = self.now = time
            elif end:
                what = end.popleft()
            else:
                raise EmptySchedule
            if type(what) is Process:  # as its __call__, for what most processes wait for
                try:
                    wait = what.send(None)
                    if type(wait) is float:
                        heappush(queue, (wait, 1, next(numbers), what))
                    else:
                        what.wait_for(wait)
                except StopIteration:
                    pass
            elif isinstance(what, Event):
                self._happen(what)
            else:
                what()

    def _happen(self, event: Event) -> None:
        """Call those who wait for `event`, as SimPy does."""
        callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
        for number, callback in enumerate(callbacks, 1):
            try:
                callback(event)
            except StopSimulation:  # `run` ends here; those left are called when it goes on
                event.callbacks = callbacks[number:]
                self.schedule(event, _FIRST)
                raise
        if not event.ok and not event.defused:
            raise event.value  # type: ignore[misc]
