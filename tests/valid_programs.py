"""Whole valid programs of all commands: what is drawn is emitted for all ranks in one order in which everything ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st
from program_strategies import HostRing

from sim.program import COLLECTIVES, Program, RankBuilder, Recv, Send

KINDS = (
    *("kernel", "kernel", "h2d", "d2h", "pinned", "pageable", "d2d", "produce", "slot", "push", "collective"),
    *("collective", "transfer", "transfer", "ring", "gate", "host_gate", "event", "event", "host_wait"),
    *("counter", "lock", "foreign"),
)
STREAMS = {"s0": 0, "s1": 0, "send": 0, "receive": 0, "t0": 1}
"""Host thread of each stream. "send" and "receive" are for copies to and from other ranks."""


class Act(NamedTuple):
    """What some of the ranks do next; the fields that its kind does not need say nothing."""

    kind: str
    who: tuple[int, ...]
    """Ranks that begin."""
    shift: int
    """Their peer is so much further on."""
    stream: str
    other: str
    size: int
    seconds: float
    launches: int
    collective: str
    way: str


def _acts(ranks: int, alike: bool, seconds: st.SearchStrategy[float]) -> st.SearchStrategy[Act]:
    everyone = tuple(range(ranks))
    some = st.lists(st.sampled_from(everyone), min_size=1, unique=True).map(sorted).map(tuple)
    streams = st.sampled_from(["s0", "s0", "s1", "t0"])
    return st.builds(
        Act,
        st.sampled_from(KINDS),
        st.just(everyone) if alike else some,
        st.integers(1, max(ranks - 1, 1)),
        streams,
        streams,
        st.sampled_from([1, 5, 8, 20]),
        seconds,
        st.sampled_from([1, 1, 4]),
        st.sampled_from(COLLECTIVES),
        st.sampled_from(["h2d", "d2h"]),
    )


class _Emitter:
    """Builders of all ranks, and what they have in common."""

    def __init__(self, ranks: int) -> None:
        self.ranks = [RankBuilder() for _ in range(ranks)]
        self.count = 0
        self.rings: dict[tuple[int, int], HostRing] = {}
        self.pushed: dict[tuple[int, int], int] = {}
        for rank in self.ranks:
            rank.thread()
            rank.switch(0)
            rank.record_step("s0")

    def on(self, rank: int, stream: str) -> RankBuilder:
        """The builder of a rank; the thread of `stream` is the one that issues."""
        builder = self.ranks[rank]
        builder.switch(STREAMS[stream])
        return builder

    def emit(self, act: Act) -> None:
        self.count += 1
        getattr(self, act.kind)(act, f"{act.kind}{self.count}")

    def peers(self, act: Act) -> list[tuple[int, int]]:
        """(rank, peer) of all that have a peer."""
        found = [(r, (r + act.shift) % len(self.ranks)) for r in act.who]
        return [(a, b) for a, b in found if a != b]

    def follow(self, rank: int, stream: str, other: str) -> None:
        """Let `stream` wait for what `other` has been given."""
        event = self.on(rank, other).record(other)
        self.on(rank, stream).wait(stream, event)

    # ---- one rank by itself ----------------------------------------------------------------------------------------

    def kernel(self, act: Act, name: str) -> None:
        for r in act.who:
            self.on(r, act.stream).kernel(act.stream, name, seconds=act.seconds, launches=act.launches)

    def h2d(self, act: Act, name: str) -> None:
        for r in act.who:
            rank = self.on(r, act.stream)
            rank.copy(act.stream, name, act.size, rank.buffer(name, act.size, "weights"))

    def d2h(self, act: Act, name: str) -> None:
        for r in act.who:
            rank = self.on(r, act.stream)
            rank.copy(act.stream, name, act.size, rank.buffer(name, act.size, "activations"), kind="d2h")

    def pinned(self, act: Act, name: str, memory: Any = "pinned") -> None:
        for r in act.who:
            rank = self.on(r, act.stream)
            rank.buffer(name, act.size, "activations")
            rank.host_buffer(f"{name}.host", act.size, memory)
            rank.copy(act.stream, name, act.size, name, kind=act.way, other=f"{name}.host")  # type: ignore[arg-type]

    def pageable(self, act: Act, name: str) -> None:
        self.pinned(act, name, "pageable")

    def d2d(self, act: Act, name: str) -> None:
        for r in act.who:
            rank = self.on(r, act.stream)
            rank.buffer(name, act.size, "activations")
            rank.buffer(f"{name}.to", act.size, "activations")
            rank.copy(act.stream, name, act.size, f"{name}.to", kind="d2d", other=name)

    def produce(self, act: Act, name: str) -> None:
        """A kernel on one stream makes what a copy on another one takes to the host."""
        for r in act.who:
            rank = self.on(r, act.stream)
            rank.buffer(name, act.size, "activations")
            rank.kernel(act.stream, f"{name} kernel", seconds=act.seconds, writes=(name,))
            self.follow(r, act.other, act.stream)
            self.on(r, act.other).copy(act.other, f"{name} copy", act.size, name, kind="d2h")

    def slot(self, act: Act, name: str) -> None:
        """A slot is filled and used twice."""
        for r in act.who:
            self.on(r, act.stream).buffer(name, act.size, "slot")
            for use in range(2):
                self.on(r, act.stream).copy(act.stream, f"{name} copy {use}", act.size, name)
                self.follow(r, act.other, act.stream)
                self.on(r, act.other).kernel(act.other, f"{name} kernel {use}", seconds=act.seconds, reads=(name,))
                self.follow(r, act.stream, act.other)

    def gate(self, act: Act, name: str) -> None:
        for r in act.who:
            self.on(r, act.stream).write_flag(act.stream, name, 1)
            self.on(r, act.other).wait_flag(act.other, name, 1, test="at_least" if act.launches > 1 else "equal")

    def event(self, act: Act, name: str) -> None:
        for r in act.who:
            self.follow(r, act.other, act.stream)

    def foreign(self, act: Act, name: str) -> None:
        """A thread records an event on the other one's stream, while that waits; nobody waits for the event."""
        for r in act.who:
            self.ranks[r].switch(1 - STREAMS[act.stream])
            self.ranks[r].record(act.stream)
            self.ranks[r].host_add(name, 1)
            self.on(r, act.stream).host_wait_counter(name, least=1)

    def host_wait(self, act: Act, name: str) -> None:
        for r in act.who:
            event = self.on(r, act.stream).record(act.stream)
            self.on(r, act.other).host_wait(event, poll=act.seconds if act.launches > 1 else 0.0)

    def counter(self, act: Act, name: str) -> None:
        for r in act.who:
            self.on(r, act.stream).host_add(name, 1)
            self.on(r, act.other).host_wait_counter(name, least=1, poll=act.seconds if act.launches > 1 else 0.0)

    def lock(self, act: Act, name: str) -> None:
        """Who has the lock does nothing for which it could have to wait: threads get it in any order."""
        for stream in (act.stream, act.other):
            for r in act.who:
                rank = self.on(r, stream)
                rank.host_acquire("lock")
                rank.host_add(name, 1)
                rank.host_release("lock")
                rank.kernel(stream, f"{name} {stream}", seconds=act.seconds)

    # ---- several ranks ---------------------------------------------------------------------------------------------

    def collective(self, act: Act, name: str) -> None:
        """All ranks, or those of a group, or pairs that are so far apart as `shift` says."""
        ranks = len(self.ranks)
        groups: list[tuple[int, ...] | None] = [act.who if len(act.who) < ranks else None]
        if act.launches > 1 and ranks == 2 * act.shift and len(act.who) == ranks:
            groups = [(r, r + act.shift) for r in range(act.shift)]
        # a communicator's stream is always the same one
        stream = "s1" if act.way == "h2d" else "s0"
        for group in groups:
            for r in range(ranks) if group is None else group:
                self.on(r, stream).collective(
                    stream, name, act.collective, act.size, group=group, communicator=f"of {stream}"  # type: ignore[arg-type]
                )  # fmt: skip

    def transfer(self, act: Act, name: str) -> None:
        """Every rank's sends and receives are one group."""
        transfers: dict[int, list[Send | Recv]] = {}
        for a, b in self.peers(act):
            transfers.setdefault(a, []).append(Send(b, act.size, f"{name}.out"))
            transfers.setdefault(b, []).append(Recv(a, act.size, f"{name}.in"))
        stream = "s1" if act.way == "h2d" else "s0"
        for r, mine in transfers.items():
            rank = self.on(r, stream)
            for side in ("out", "in"):
                rank.buffer(f"{name}.{side}", act.size, "activations")
            mine.sort(key=lambda t: isinstance(t, Send))
            rank.point_to_point(stream, name, *mine)

    def push(self, act: Act, name: str) -> None:
        """Ranks write their peer's memory, and say so by a flag."""
        pairs = self.peers(act)
        for a, b in pairs:
            self.ranks[a].buffer(f"{name}.out", act.size, "activations")
            self.ranks[b].buffer(f"{name}.in", act.size, "activations")
            if (a, b) not in self.pushed:
                self.pushed[a, b] = 0
                self.ranks[a].sequence(f"pushed {a} {b}")
        for a, b in pairs:
            self.pushed[a, b] += 1
            rank = self.on(a, "send")
            rank.copy("send", name, act.size, f"{name}.out", kind="p2p", other=f"{name}.in", peer=b)
            rank.write_flag("send", f"pushed {a} {b}", self.pushed[a, b], "host")
        for a, b in pairs:
            rank = self.on(b, "receive")
            rank.wait_flag("receive", f"pushed {a} {b}", self.pushed[a, b], "host", "at_least")
            rank.kernel("receive", f"{name} kernel", seconds=act.seconds, reads=(f"{name}.in",))

    def ring(self, act: Act, name: str) -> None:
        """Ranks send to their peer through slots of shared host memory."""
        pairs = self.peers(act)
        for a, b in pairs:
            self.ranks[a].buffer(f"{name}.out", act.size, "activations")
            self.ranks[b].buffer(f"{name}.in", act.size, "activations")
            self.on(a, "send")
            self.on(b, "receive")
            if (a, b) not in self.rings:
                self.rings[a, b] = HostRing(self.ranks[a], self.ranks[b], 4, name=f"ring {a} {b}")
        for pieces in zip(*(self.rings[pair].pieces(act.size) for pair in pairs), strict=True):
            for pair, piece in zip(pairs, pieces, strict=True):
                self.rings[pair].fill(f"{name}.out", *piece)
            for pair, piece in zip(pairs, pieces, strict=True):
                self.rings[pair].empty(f"{name}.in", *piece)

    def host_gate(self, act: Act, name: str) -> None:
        """A flag in host memory that is not a sequence holds a peer."""
        for a, _ in self.peers(act):
            self.on(a, act.stream).write_flag(act.stream, f"{name} {a}", 1, "host")
        for a, b in self.peers(act):
            self.on(b, act.other).wait_flag(act.other, f"{name} {a}", 1, "host")


def emitted(acts: Sequence[Act], ranks: int, placement: tuple[int, ...] = ()) -> Program:
    """The program of `acts`: a step of each rank."""
    emitter = _Emitter(ranks)
    for act in acts:
        emitter.emit(act)
    for r in range(ranks):
        emitter.on(r, "s0").record_step("s0")
    return Program(tuple(rank.build() for rank in emitter.ranks), placement)


_seconds = st.sampled_from([0.0, 0.25, 1.0, 1.0, 2.0]) | st.floats(1e-3, 5.0)


@st.composite
def programs(draw: st.DrawFn, ranks: int | None = None, *, alike: bool = False, placed: bool = False) -> Program:
    """Programs of one to four ranks with all commands, which end whatever the times are.

    With `alike` all ranks do the same, each with peers and groups as far from itself; with `placed` they sit anywhere.
    """
    count = draw(st.sampled_from([2, 1, 2, 3, 4])) if ranks is None else ranks
    acts = draw(st.lists(_acts(count, alike, _seconds), min_size=1, max_size=8))
    placement = tuple(draw(st.permutations(range(count)))) if placed else ()
    return emitted(acts, count, placement)


def placed_on(program: Program, gpus: Sequence[int]) -> Program:
    """The program with its ranks on `gpus`."""
    return msgspec.structs.replace(program, placement=tuple(gpus))
