"""What a simulated run is in the middle of, relative to the present: two equal states have the same future.

A state is all that decides what comes: where each host thread and stream is in its commands and within the present one,
what is in flight and how much of it is left, flags, engines, and when each scheduled event will happen. Times are
relative to the moment; positions are counted, so that the same layer some layers later compares as equal. Times lie on
a grid on which sums are exact, so that equal states are equal to the last bit, and so are their futures.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple, Protocol

from sim.environment import Environment
from sim.fluid import Fabric
from sim.machine.copies import Copies
from sim.machine.rendezvous import Communications
from sim.machine.state import Flags, Rank
from sim.timeline import HostSpan, Span


class Running(Protocol):
    """A run of a program, as far as its state goes."""

    endless_queues: bool
    env: Environment
    fabric: Fabric
    ranks: list[Rank]
    host_flags: Flags
    copies: Copies
    communications: Communications
    spans: list[Span]
    blocked: list[HostSpan]


class Snapshot(NamedTuple):
    """A state. `ended` counts commands by (rank, stream), `issued` those by (rank, host thread)."""

    time: float
    spans: int
    """Spans so far."""
    blocked: int
    """Host spans so far."""
    ended: dict[tuple[int, str], int]
    issued: dict[tuple[int, int], int]
    discrete: Hashable
    continuous: tuple[float, ...]

    def equals(self, other: Snapshot) -> bool:
        """Whether both are equal, to the last bit; the commands that are still to come are compared separately."""
        return self.discrete == other.discrete and self.continuous == other.continuous


def snapshot(run: Running) -> Snapshot:
    """The state of `run` now."""
    now = run.env.now
    discrete: list[Hashable] = []
    continuous: list[float] = []
    ended: dict[tuple[int, str], int] = {}
    issued: dict[tuple[int, int], int] = {}
    for rank in run.ranks:
        for name, stream in rank.streams.items():
            ended[rank.number, name] = stream.ended
            discrete.append(tuple(_position(stream.process.generator)))
            continuous += [now - time for time in _times(stream.process.generator)]
            let_go = stream.released_by >= stream.ended - 1  # a send that comes next looks at when that was
            discrete.append(let_go)
            continuous += [now - stream.released] * let_go
        if not run.endless_queues:
            _add_hosts(rank, now, issued, discrete, continuous)
        now_moving = [m for m in rank.moving if not m.done[rank.number].triggered]
        moving = tuple((m.kind, len(m.members)) for m in now_moving)
        continuous += [now - m.ready for m in now_moving]
        blocked = rank.attention_end is not None and not rank.attention_end.triggered
        continuous += [now - rank.attention_start] * blocked
        flags, counters = sorted(rank.flags.words.items()), sorted(rank.counters.items())
        discrete.append((moving, blocked, rank.kernels_running, tuple(flags), tuple(counters)))
    discrete.append(tuple(sorted(run.host_flags.words.items())))
    discrete.append(run.copies.state())
    discrete.append(run.communications.state())
    for flow in run.fabric.active:
        discrete.append(flow.number)
        continuous += [run.fabric.left(flow), flow.size, flow.rate, flow.finish - now]
    for at, priority, what in sorted(_scheduled(run), key=lambda entry: entry[:2]):
        discrete.append((priority, type(what).__name__))
        continuous.append(at - now)
    return Snapshot(now, len(run.spans), len(run.blocked), ended, issued, tuple(discrete), tuple(continuous))


def _add_hosts(
    rank: Rank, now: float, issued: dict[tuple[int, int], int], discrete: list[Hashable], continuous: list[float]
) -> None:
    """Add how far the host threads of `rank` have got, and what they have enqueued ahead."""
    for number, thread in enumerate(rank.threads):
        issued[rank.number, number] = thread.issued
        discrete.append(tuple(_position(thread.process.generator)))
        continuous.append(max(thread.clock - now, 0.0))
    for stream in rank.streams.values():
        ahead = [at - now for at, _, _ in stream.commands if at > now]
        discrete.append((stream.launches, len(stream.room), len(ahead)))
        continuous += ahead


def _scheduled(run: Running) -> Iterator[tuple[float, int, Any]]:
    """What is to happen: (time, priority, what). Outdated ends of flows are left out."""
    for at, priority, what in run.env.entries():
        if not run.fabric.is_stale(what):
            yield at, priority, what


def _times(generator: Any) -> Iterator[float]:
    """The times that the span of a stream's present command will tell: when it started, and when it became ready."""
    while generator is not None and hasattr(generator, "gi_frame"):
        if generator.gi_frame is not None:
            variables = generator.gi_frame.f_locals
            yield from (variables[name] for name in ("start", "began", "ready") if name in variables)
        generator = generator.gi_yieldfrom


def _position(generator: Any) -> Iterator[tuple[str, int]]:
    """Where a process is: each function that it is in, and where there."""
    while generator is not None and hasattr(generator, "gi_frame"):
        frame = generator.gi_frame
        yield generator.gi_code.co_name, -1 if frame is None else frame.f_lasti
        generator = generator.gi_yieldfrom
