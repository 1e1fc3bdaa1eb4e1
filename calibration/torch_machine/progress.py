"""Where a run is that does not end: what host threads and streams wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import length_hint

from calibration.torch_machine.device import Call, Device, Event
from sim.program import (
    AnyCommand,
    Collective,
    HostAcquire,
    HostWait,
    HostWaitEvent,
    PointToPoint,
    RankProgram,
    RecordEvent,
    Send,
    WaitEvent,
    WaitFlag,
)


class Progress:
    """How far each host thread of a rank has come. `events` are the rank's.

    Nothing is written down while commands are issued, which would take time: an iterator knows how much it has left.
    """

    def __init__(self, device: Device, program: RankProgram, world_size: int, events: Mapping[int, Event]) -> None:
        self._device = device
        self._program = program
        self._world_size = world_size
        self._events = events
        self._left: dict[int, Iterator[Call]] = {}

    def follow(self, thread: int, calls: Sequence[Call]) -> Iterator[Call]:
        """The calls of host thread `thread`, one after the other."""
        self._left[thread] = iter(calls)
        return self._left[thread]

    def blocked(self) -> str:
        """What host threads and streams wait for, as far as events and flags show."""
        issued: dict[str, list[AnyCommand]] = {}
        lines = []
        for number, commands in enumerate(self._program.threads):
            done = len(commands) - length_hint(self._left[number]) if number in self._left else 0
            for command in commands[:done]:
                if command.stream:
                    issued.setdefault(command.stream, []).append(command)
            if done and (what := self._host(commands[done - 1])):
                lines.append(f"host thread {number} waits for {what}")
        for name, enqueued in issued.items():
            if not self._device.stream(name).idle():
                lines.append(self._stream(name, enqueued))
        return "; ".join(lines) or "all commands have ended, it waits for the other ranks"

    def _stream(self, name: str, commands: Sequence[AnyCommand]) -> str:
        """What blocks a stream. It is among the commands after the last event that has completed."""
        first, until = 0, len(commands)
        for number, command in enumerate(commands):
            if isinstance(command, RecordEvent):
                if not self._events[command.event].done():
                    until = number
                    break
                first = number + 1
        waits = [w for c in commands[first:until] if (w := self._awaited(c))]
        if not waits and first < until:
            waits = [str(getattr(commands[first], "name", "") or type(commands[first]).__name__) + " to end"]
        text = f"stream {name!r}"
        if until < len(commands):
            text += f" has not reached event {getattr(commands[until], 'event', '')}"
        if waits:
            text += (", it waits for " if until < len(commands) else " waits for ") + ", or later for ".join(waits[:3])
        return text

    def _host(self, command: AnyCommand) -> str:
        if isinstance(command, HostWaitEvent) and not self._events[command.event].done():
            return f"event {command.event}"
        if isinstance(command, HostWait):
            return f"counter {command.counter!r}"
        if isinstance(command, HostAcquire):
            return f"lock {command.lock!r}"
        return ""

    def _awaited(self, command: AnyCommand) -> str:
        """What a command waits for that may never come; nothing if it has come."""
        if isinstance(command, WaitEvent) and not self._events[command.event].done():
            return f"event {command.event}"
        if isinstance(command, WaitFlag):
            now = self._device.flag_now(command.flag, "host" if command.on_host else "device")
            if now is not None and command.holds(now):
                return ""
            least = "at least " if command.test == "at_least" else ""
            known = "" if now is None else f" (it is {now})"
            return f"{'host ' if command.on_host else ''}flag {command.flag!r} to be {least}{command.value}{known}"
        if isinstance(command, Collective):
            ranks = list(command.members(self._world_size))
            return f"{command.kind} {command.name!r} of ranks {ranks}" if len(ranks) > 1 else ""
        if isinstance(command, PointToPoint):
            directions = [f"{'to' if isinstance(t, Send) else 'from'} rank {t.peer}" for t in command.transfers]
            return f"{command.name!r} {' and '.join(dict.fromkeys(directions))}"
        return ""
