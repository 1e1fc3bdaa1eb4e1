"""What a rank's host threads have issued, and which of it surely ends before what.

Every stream has a vector clock, merged by events and by waits of host threads.
"""

from __future__ import annotations

import math

from sim.program.commands import (
    AnyCommand,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    HostWork,
    ProgramError,
    RecordEvent,
    WaitEvent,
)


def _period(poll: float) -> float:
    if not 0.0 <= poll < math.inf:
        raise ProgramError(f"a polling period of {poll} s is not finite and not negative")
    return poll


class IssueOrder:
    """Host threads, streams, events, and what host threads wait for."""

    def __init__(self) -> None:
        self._threads: list[list[AnyCommand]] = [[]]
        self._thread = 0
        self._position: dict[str, int] = {}
        self._owner: dict[str, int] = {}
        self._clock: dict[str, dict[str, int]] = {}
        self._host_clock: list[dict[str, int]] = [{}]
        self._locks_taken: set[tuple[str, int]] = set()
        self._event_clock: list[dict[str, int]] = []
        self._step_events: list[int] = []
        self._request_events: list[int] = []

    def thread(self) -> int:
        """Start a further host thread; later commands are issued by it. Returns its number."""
        self._threads.append([])
        self._host_clock.append({})
        return self.switch(len(self._threads) - 1)

    def switch(self, thread: int) -> int:
        """Let host thread `thread` issue the commands that follow. Returns its number."""
        if not 0 <= thread < len(self._threads):
            raise ProgramError(f"there is no host thread {thread}, only {len(self._threads)}")
        self._thread = thread
        return thread

    def record(self, stream: str) -> int:
        """Record a new event on `stream`; returns its number.

        On a stream that another thread feeds, the event is ordered after what this thread has waited for alone: how
        much of the stream was issued before it is up to the race.
        """
        if self._owner.get(stream) == self._thread:
            clock = self._clock_of(stream) | {stream: self._position[stream]}
        else:
            clock = dict(self._host_clock[self._thread])
        self._event_clock.append(clock)
        event = len(self._event_clock) - 1
        self._issue(RecordEvent(stream, event))
        return event

    def record_step(self, stream: str) -> int:
        """Record an event that bounds a step."""
        event = self.record(stream)
        self._step_events.append(event)
        return event

    def record_request(self, stream: str) -> int:
        """Record an event that bounds a request: one before the first step's, one after the last step's."""
        event = self.record(stream)
        self._request_events.append(event)
        return event

    def wait(self, stream: str, event: int) -> None:
        """Make `stream` wait for `event`, which must have been recorded before."""
        _merge(self._clock_of(stream), self._recorded(event))
        self._issue(WaitEvent(stream, event))

    def host_wait(self, event: int, poll: float = 0.0) -> None:
        """Make the issuing host thread wait for `event`. Everything it issues later is ordered after it."""
        self._returns_after(self._recorded(event))
        self._issue(HostWaitEvent("", event, _period(poll)))

    def host_add(self, counter: str, delta: int) -> None:
        """Add `delta` to a counter of this process."""
        self._issue(HostAdd("", counter, delta))

    def host_wait_counter(
        self, counter: str, *, least: int | None = None, most: int | None = None, poll: float = 0.0
    ) -> None:
        """Make the issuing host thread wait until `least` <= `counter` <= `most`."""
        if least is None and most is None:
            raise ProgramError(f"a wait for counter {counter!r} needs a bound")
        self._issue(HostWait("", counter, least, most, _period(poll)))

    def host_acquire(self, lock: str) -> None:
        """Make the issuing host thread take `lock`."""
        if (lock, self._thread) in self._locks_taken:
            raise ProgramError(f"host thread {self._thread} takes lock {lock!r} twice")
        self._locks_taken.add((lock, self._thread))
        self._issue(HostAcquire("", lock))

    def host_release(self, lock: str) -> None:
        """Make the issuing host thread give `lock` back."""
        if (lock, self._thread) not in self._locks_taken:
            raise ProgramError(f"host thread {self._thread} gives back lock {lock!r}, which it does not hold")
        self._locks_taken.remove((lock, self._thread))
        self._issue(HostRelease("", lock))

    def host_work(self, name: str, seconds: float) -> None:
        """Let the issuing host thread work for `seconds`."""
        if not 0.0 <= seconds < math.inf:
            raise ProgramError(f"host work {name!r} has seconds {seconds}, which must be finite and not negative")
        self._issue(HostWork("", name, seconds))

    def _issue(self, command: AnyCommand) -> None:
        self._threads[self._thread].append(command)
        if command.stream:
            feeds = not isinstance(command, RecordEvent)
            if feeds and self._owner.setdefault(command.stream, self._thread) != self._thread:
                raise ProgramError(
                    f"stream {command.stream!r} is fed by host threads {self._owner[command.stream]} and "
                    f"{self._thread}: the order of its commands would be undefined"
                )
            self._position[command.stream] = self._position.get(command.stream, 0) + 1

    def _clock_of(self, stream: str) -> dict[str, int]:
        """How many commands of each stream surely end before the next one of `stream` starts."""
        return self._clock.setdefault(stream, dict(self._host_clock[self._thread]))

    def _returns_after(self, ended: dict[str, int]) -> None:
        """Order all that the issuing host thread issues from now on after what has `ended`."""
        _merge(self._host_clock[self._thread], ended)
        for stream, clock in self._clock.items():
            if self._owner.get(stream) == self._thread:
                _merge(clock, ended)

    def _recorded(self, event: int) -> dict[str, int]:
        """What surely ends before `event` completes."""
        if not 0 <= event < len(self._event_clock):
            raise ProgramError(f"event {event} is waited for but nobody has recorded it")
        return self._event_clock[event]


def _merge(clock: dict[str, int], other: dict[str, int]) -> None:
    for stream, position in other.items():
        if position > clock.get(stream, 0):
            clock[stream] = position
