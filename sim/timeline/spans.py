"""Timelines: what ran when on every stream and host thread, in whole seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar, assert_never, get_args

import msgspec

from sim.hardware import Profile
from sim.hardware.host_flows import HostFlows
from sim.hardware.quotient import Quotient
from sim.inputs.notebook_html import html_table
from sim.inputs.units import show_seconds
from sim.program import (
    AnyCommand,
    Buffer,
    BufferKind,
    Collective,
    Command,
    Communication,
    Copy,
    Kernel,
    PointToPoint,
    Program,
    RecordEvent,
)
from sim.timeline.intervals import measure, union

if TYPE_CHECKING:
    import pandas as pd

C = TypeVar("C", bound=Command)


class Span(NamedTuple):
    """One command on its stream, times in s.

    `start` is when the stream got to the command (a collective's peer wait and a wait's blocking lie inside), `ready`
    when its own work began (a collective: all ranks had arrived), `isolated_time` what that work takes uncontended.
    """

    rank: int
    command: AnyCommand
    start: float
    ready: float
    end: float
    isolated_time: float

    @property
    def kind(self) -> str:
        """The command's type, such as "Copy"."""
        return type(self.command).__name__


class HostSpan(NamedTuple):
    """A host thread of a rank that was blocked, times in s.

    It went on because of `event` (it completed), of host thread `by` (it changed a counter or gave a lock back), or of
    a place on `stream`.
    """

    rank: int
    thread: int
    start: float
    end: float
    event: int | None = None
    by: int | None = None
    stream: str = ""


class Repeat(NamedTuple):
    """A part of a run that stands for `copies` more like it: from time `start` to `end`, s.

    In it end the spans from number `spans[0]` up to before `spans[1]`.
    """

    start: float
    end: float
    spans: tuple[int, int]
    copies: int


class _Fields(NamedTuple):
    program: Program
    spans: tuple[Span, ...]
    steps: tuple[tuple[float, ...], ...]
    host: tuple[HostSpan, ...] = ()
    period: int = 1
    repeats: tuple[Repeat, ...] = ()
    """Parts of the simulated run that stood for more like them, in its own times (docs/performance.md)."""
    composed: tuple[Span, ...] = ()
    """Collectives that are made of other commands of the program, in order of their ends (`sim.timeline.composed`)."""
    simulated_steps: tuple[tuple[float, ...], ...] = ()
    """As `steps`, in the times of the simulated run, of the steps that it has; empty where they are the same."""
    quotient: Quotient | None = None
    """Which ranks stand for which: `spans` and `host` then hold those of classes' first ranks only."""


class Timeline(_Fields):
    """All spans of a run in order of their ends, and per rank the steps + 1 times (s) that bound its steps.

    `period` says in how many steps they repeat (`sim.timeline.settling`): 1 where each takes as long as the one before,
    0 where they do not repeat.
    """

    def __getstate__(self) -> None:
        """What `_by_rank` holds is not worth sending to another process."""

    @cached_property
    def _by_rank(self) -> dict[int, dict[type[AnyCommand], list[Span]]]:
        """Spans by rank and type of command: figures look at them many times."""
        found: dict[int, dict[type[AnyCommand], list[Span]]] = {}
        for span in self.spans:
            kinds = found.get(span.rank)
            if kinds is None:
                kinds = found[span.rank] = {}
            kind = type(span.command)
            same = kinds.get(kind)
            if same is None:
                same = kinds[kind] = []
            same.append(span)
        return found

    def __repr__(self) -> str:
        return f"<{self._about()}>"

    def _about(self) -> str:
        steps, end = len(self.steps[0]) - 1 if self.steps else 0, self.spans[-1].end if self.spans else 0.0
        return f"Timeline: {len(self.steps)} ranks, {steps} steps, {len(self.spans)} spans, {show_seconds(end)}"

    def _repr_html_(self) -> str:
        found: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
        for span in self.spans:
            found.setdefault((span.rank, span.command.stream, span.kind), []).append((span.ready, span.end))
        rows = [(*key, len(of), show_seconds(measure(union(of)))) for key, of in sorted(found.items())]
        return html_table(self._about(), ("rank", "stream", "command", "spans", "busy"), rows)

    def flows_on(self, profile: Profile) -> HostFlows:
        """The flows of its ranks on the host that it ran on."""
        return self.quotient or HostFlows(profile, self.program.gpus)

    @property
    def simulated_ranks(self) -> Sequence[int]:
        """The ranks whose spans it holds."""
        return range(self.program.world_size) if self.quotient is None else self.quotient.representatives

    def simulated_as(self, rank: int) -> int:
        """The rank whose spans stand for those of `rank`."""
        return rank if self.quotient is None else self.quotient.representatives[self.quotient.class_of[rank]]

    def of(self, rank: int) -> list[Span]:
        """Spans of `rank`, in order of their ends."""
        return [s for s in self.spans if s.rank == rank]

    def drawn(self, rank: int) -> list[Span]:
        """Spans of `rank` as they are drawn: with collectives that are made of others on their own streams."""
        return [*self.of(rank), *(s for s in self.composed if s.rank == rank)]

    def commands(self, rank: int, kind: type[C]) -> list[tuple[Span, C]]:
        """Spans of `rank` with their commands, for one type of command."""
        found = [same for of, same in self._by_rank.get(rank, {}).items() if issubclass(of, kind)]
        if len(found) > 1:  # in the order of all spans
            found = [[s for s in self.spans if s.rank == rank and isinstance(s.command, kind)]]
        return [(s, s.command) for same in found for s in same]  # type: ignore[misc]

    def communications(self, rank: int) -> list[tuple[Span, Communication]]:
        """Spans of what `rank` meets others at, in order of their ends: collectives, sends and receives.

        Collectives that are made of other commands are among them.
        """
        made = [(s, s.command) for s in self.composed if s.rank == rank and isinstance(s.command, Collective)]
        kinds = [found for found in (self.commands(rank, Collective), self.commands(rank, PointToPoint), made) if found]
        if len(kinds) < 2:
            return list(kinds[0]) if kinds else []
        if not made:
            return [(s, s.command) for s in self.spans if s.rank == rank and isinstance(s.command, Communication)]
        return sorted((pair for found in kinds for pair in found), key=lambda pair: pair[0].end)

    def step_times(self, rank: int = 0) -> list[float]:
        """Duration of each step, s."""
        times = self.steps[rank]
        return [b - a for a, b in pairwise(times)]

    def once(self, rank: int = 0) -> tuple[float, float]:
        """How long what runs once a request takes, before the first step and after the last one, s."""
        bounds = self.program.ranks[rank].request_events
        if bounds is msgspec.UNSET:
            return 0.0, 0.0
        times = {
            span.command.event: span.end
            for span in self.spans
            if span.rank == rank and isinstance(span.command, RecordEvent) and span.command.event in bounds
        }
        begun, ended = (times[event] for event in bounds)
        return self.steps[rank][0] - begun, ended - self.steps[rank][-1]

    @property
    def shown(self) -> range:
        """The steps that figures are of, as means: the last period, or the later half of a run that has not settled."""
        count = len(self.steps[0]) - 1
        return range(count - min(self.period or (count + 1) // 2, max(count - 1, 1)), count)

    def window(self, rank: int = 0) -> tuple[float, float]:
        """When the first of the steps `shown` starts on `rank`, and when the last one ends, s."""
        return self.steps[rank][self.shown.start], self.steps[rank][self.shown.stop]

    @property
    def simulated_shown(self) -> range:
        """The numbers that the steps `shown` have in the simulated run."""
        left_out = len(self.steps[0]) - len(self.simulated_steps[0]) if self.simulated_steps else 0
        return range(self.shown.start - left_out, self.shown.stop - left_out)

    def simulated_window(self, rank: int = 0) -> tuple[float, float]:
        """As `window`, in the times of the spans that were simulated."""
        times, shown = (self.simulated_steps or self.steps)[rank], self.simulated_shown
        return times[shown.start], times[shown.stop]

    def to_frame(self) -> pd.DataFrame:
        """One row a span: rank, stream, kind, name, step, layer, bytes, start_s, ready_s, end_s, alone_s.

        Those of composed collectives come last.
        """
        import pandas as pd

        rows = [
            (
                s.rank,
                s.command.stream,
                s.kind,
                getattr(s.command, "name", ""),
                getattr(s.command, "step", -1),
                getattr(s.command, "layer", -1),
                getattr(s.command, "bytes", 0),
                s.start,
                s.ready,
                s.end,
                s.isolated_time,
            )
            for s in (*self.spans, *self.composed)
        ]
        columns = ["rank", "stream", "kind", "name", "step", "layer", "bytes", "start_s", "ready_s", "end_s", "alone_s"]
        return pd.DataFrame(rows, columns=columns)

    def memory(self, rank: int = 0) -> list[tuple[float, int]]:
        """Live device memory of `rank` as a step function: (time in s, bytes from then on), from time 0.

        Static buffers are live throughout; another buffer from the start of the first write after its last use to
        the end of its last access. A write that begins while another access is in flight is no new life.
        """
        return self._levels(rank, self._live(rank))

    def peak_memory(self, rank: int = 0) -> dict[BufferKind, int]:
        """What is live of `rank` at the first moment of its peak, B by kind of buffer; together they are the peak."""
        live = self._live(rank)
        peak = max(self._levels(rank, live), key=lambda point: point[1])[0]
        found = dict.fromkeys(get_args(BufferKind), 0)
        for buffer in self.program.ranks[rank].buffers:
            found[buffer.kind] += buffer.bytes if buffer.static else 0
        for buffer, start, end in live:
            found[buffer.kind] += buffer.bytes if start <= peak < end else 0
        return found

    def _levels(self, rank: int, live: Sequence[tuple[Buffer, float, float]]) -> list[tuple[float, int]]:
        changes: dict[float, int] = {0.0: sum(b.bytes for b in self.program.ranks[rank].buffers if b.static)}
        for buffer, start, end in live:
            changes[start] = changes.get(start, 0) + buffer.bytes
            changes[end] = changes.get(end, 0) - buffer.bytes
        level, steps = 0, []
        for time in sorted(changes):
            level += changes[time]
            steps.append((time, level))
        return steps

    def _live(self, rank: int) -> list[tuple[Buffer, float, float]]:
        """When buffers that are not static are live, s."""
        buffers = {b.name: b for b in self.program.ranks[rank].buffers if not b.static}
        open_: dict[str, tuple[float, float, bool]] = {}
        live: list[tuple[Buffer, float, float]] = []
        # commands of most types use no buffer: the order among equals is that of all spans
        users = [s for s in self.of(rank) if isinstance(s.command, Kernel | Copy | Communication)] if buffers else []
        for span in sorted(users, key=lambda s: s.ready):
            for name, writes in accesses(span.command):
                if name not in buffers:
                    continue
                used = not writes or buffers[name].kind == "collective"
                now = open_.get(name)
                if now is None or (writes and now[2] and span.ready >= now[1]):
                    if now:
                        live.append((buffers[name], now[0], now[1]))
                    open_[name] = (span.ready, span.end, used)
                else:
                    open_[name] = (now[0], max(now[1], span.end), now[2] or used)
        return [*live, *((buffers[name], start, end) for name, (start, end, _) in open_.items())]


def accesses(command: AnyCommand) -> Iterable[tuple[str, bool]]:
    """(buffer name, whether it is written) for each device buffer of its own rank that a command uses."""
    if isinstance(command, Copy):
        match command.kind:
            case "h2d":
                yield command.buffer, True
            case "d2h" | "p2p":
                yield command.buffer, False
            case "d2d":
                yield command.buffer, True
                if command.other is not msgspec.UNSET:
                    yield command.other, False
            case _:
                assert_never(command.kind)
    elif isinstance(command, Kernel | Communication):
        for name in command.reads:
            yield name, False
        for name in command.writes:
            yield name, True
