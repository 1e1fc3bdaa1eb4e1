"""Small programs of every kind of command, measured and simulated alike: one figure each, the time of a step.

Scenarios do not use all commands. These programs do, isolated and with others in flight, so that each command of a
machine is compared with a measurement. A program has several equal steps; every stream starts a step together and
the step ends with the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from sim.program import Program, RankBuilder, RankProgram, Recv, Send
from sim.program.commands import CollectiveKind, CopyKind, FlagTest, HostMemory

STEPS = 12
KIB, MIB = 2**10, 2**20
LARGE = 512 * MIB
"""More than the caches of a processor or of a GPU hold."""

Body = Callable[["Rank", int], None]
"""Adds a step's commands to a rank, given the number of the step."""


class Rank:
    """A rank's builder with what bodies need: buffers by name, made on first use, and streams that keep to the step."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.builder = RankBuilder()
        self.begun: int | None = None
        self.used: list[str] = []
        self.staged = 0
        """Which part of a large buffer is copied next."""
        self._declared: set[str] = set()

    def on(self, stream: str) -> str:
        """`stream`, which starts with the step."""
        if stream != "compute" and stream not in self.used:
            assert self.begun is not None, "a body adds commands once a step has begun"
            self.builder.wait(stream, self.begun)
            self.used.append(stream)
        return stream

    def device(self, name: str, size: int) -> str:
        """A device buffer."""
        if name not in self._declared:
            self._declared.add(name)
            self.builder.buffer(name, size, "collective", static=True)
        return name

    def host(self, name: str, size: int, memory: HostMemory = "pinned", shared: bool = False) -> str:
        """A host buffer."""
        if name not in self._declared:
            self._declared.add(name)
            self.builder.host_buffer(name, size, memory, shared)
        return name

    def sequence(self, flag: str) -> str:
        """A flag in host memory that only this rank writes."""
        if flag not in self._declared:
            self._declared.add(flag)
            self.builder.sequence(flag)
        return flag


class ProgramCase(msgspec.Struct, frozen=True):
    """A program: its name ("group/..."), its ranks, and what a step of a rank does."""

    name: str
    ranks: int
    body: Body
    lead_s: float = 0.0
    """Length of a kernel that precedes the rest of a step, s: all else is issued while it runs."""

    def build(self, steps: int = STEPS) -> Program:
        """The program. Raises ProgramError where its body breaks a rule of programs."""
        return Program(tuple(_rank(number, self.body, steps, self.lead_s) for number in range(self.ranks)))


def _rank(number: int, body: Body, steps: int, lead_s: float) -> RankProgram:
    rank = Rank(number)
    main = "compute"
    rank.begun = rank.builder.record_step(main)
    for step in range(steps):
        rank.used.clear()
        if lead_s:
            rank.builder.kernel(main, "lead", seconds=lead_s, step=step)
            rank.begun = rank.builder.record(main)
        body(rank, step)
        for stream in rank.used:
            rank.builder.wait(main, rank.builder.record(stream))
        rank.begun = rank.builder.record_step(main)
    return rank.builder.build()


def cases(ranks: int) -> list[ProgramCase]:
    """All programs of up to `ranks` ranks, in the order in which they are measured."""
    found = list(_one())
    if ranks > 1:
        found += _two()
    return found


def _several(*parts: Body) -> Body:
    def body(rank: Rank, step: int) -> None:
        for part in parts:
            part(rank, step)

    return body


def copies(
    stream: str,
    size: int,
    count: int = 1,
    kind: CopyKind = "h2d",
    memory: HostMemory = "pinned",
    between: str = "",
) -> Body:
    """`count` copies back to back, with a flag's write (`between` "write") or an event between them."""

    def body(rank: Rank, step: int) -> None:
        rank.on(stream)
        for i in range(count):
            # two places in turn are enough on one side; what is read is another part each time
            buffer = rank.device(f"{stream} {kind} {i % 2}", size)
            places = max(LARGE // size, 1)
            at = rank.staged % places * size
            rank.staged += places // 61 + 1
            if kind == "d2d":
                other = rank.device(f"{stream} from", places * size)
            else:
                other = rank.host(f"{stream} {memory}", places * size, memory)
            rank.builder.copy(stream, f"{kind} {i}", size, buffer, kind=kind, other=other, other_offset=at)
            if between == "write":
                rank.builder.write_flag(stream, f"{stream} turn", 1)
            elif between == "event":
                rank.builder.record(stream)

    return body


def kernel(seconds: float) -> Body:
    """A kernel that computes nothing for `seconds` on the compute stream."""
    return lambda rank, step: rank.builder.kernel("compute", "spin", seconds=seconds, step=step)


def turns(count: int, test: FlagTest = "at_least") -> Body:
    """Two streams of one rank that let each other continue `count` times, by flags in host memory."""

    def body(rank: Rank, step: int) -> None:
        for stream in ("a", "b"):
            rank.on(stream)
            rank.sequence(f"from {stream}")
        for turn in range(step * count + 1, (step + 1) * count + 1):
            rank.builder.write_flag("a", "from a", turn, "host")
            rank.builder.wait_flag("b", "from a", turn, "host", test)
            rank.builder.write_flag("b", "from b", turn, "host")
            rank.builder.wait_flag("a", "from b", turn, "host", test)

    return body


def through_host(size: int, pieces: int, peer: Callable[[int], int]) -> Body:
    """Each rank sends `size` bytes to `peer(rank)` through shared host memory, by copy engines, in `pieces`.

    A piece goes down as the next one goes up. Two slots a sender; a slot is filled again when the receiver says that
    it has read it.
    """
    piece = size // pieces

    def body(rank: Rank, step: int) -> None:
        me, to = rank.number, peer(rank.number)
        source = next(r for r in range(to + me + 2) if peer(r) == me)
        out, into = rank.device("sent", size), rank.device("received", size)
        slots, theirs = f"slots {me}", f"slots {source}"
        for name in dict.fromkeys((slots, theirs)):
            rank.host(name, 2 * piece, shared=True)
        up, down = rank.on("up"), rank.on("down")
        full, empty = rank.sequence(f"full {me}"), rank.sequence(f"empty {me}")
        for i in range(pieces):
            turn = step * pieces + i + 1
            place = turn % 2
            if turn > 2:
                rank.builder.wait_flag(up, f"empty {to}", turn - 2, "host", "at_least")
            at = {"offset": i * piece, "other_offset": place * piece}
            rank.builder.copy(up, f"out {i}", piece, out, kind="d2h", other=slots, **at)
            rank.builder.write_flag(up, full, turn, "host")
            rank.builder.wait_flag(down, f"full {source}", turn, "host", "at_least")
            rank.builder.copy(down, f"in {i}", piece, into, kind="h2d", other=theirs, **at)
            rank.builder.write_flag(down, empty, turn, "host")

    return body


def collective(kind: CollectiveKind, size: int, count: int = 1) -> Body:
    """`count` collectives back to back on the compute stream."""

    def body(rank: Rank, step: int) -> None:
        whole = rank.device(f"{kind} {size}", 2 * size)
        for i in range(count):
            rank.builder.collective("compute", f"{kind} {i}", kind, size, writes=(whole,), step=step)

    return body


def exchange(size: int, count: int = 1, direction: str = "both", stream: str = "compute") -> Body:
    """`count` sends to the other one of two ranks, and receives from it in the same groups, or one direction only."""

    def body(rank: Rank, step: int) -> None:
        rank.on(stream)
        peer = 1 - rank.number
        out, into = rank.device(f"out {stream} {size}", size), rank.device(f"in {stream} {size}", size)
        send, receive = Send(peer, size, out), Recv(peer, size, into)
        for i in range(count):
            if direction == "both":
                rank.builder.point_to_point(stream, f"exchange {i}", send, receive, step=step)
            else:
                rank.builder.point_to_point(stream, f"send {i}", send if rank.number == 0 else receive, step=step)

    return body


def _only(number: int, part: Body) -> Body:
    """`part` on one rank only."""

    def body(rank: Rank, step: int) -> None:
        if rank.number == number:
            part(rank, step)

    return body


def peer_copies(size: int, count: int = 1) -> Body:
    """`count` copies from each of two ranks into the other one's memory; a collective must order the next step's."""

    def body(rank: Rank, step: int) -> None:
        peer = 1 - rank.number
        out, _ = rank.device("from", size), rank.device("peer's", size)
        stream = rank.on("p2p")
        for i in range(count):
            rank.builder.copy(stream, f"p2p {i}", size, out, kind="p2p", other="peer's", peer=peer)

    return body


def _one() -> Iterator[ProgramCase]:
    """Programs of one rank."""
    case = partial(ProgramCase, ranks=1)
    big, small = 64 * MIB, 4 * MIB
    kinds: tuple[CopyKind, ...] = ("h2d", "d2h", "d2d")
    for kind in kinds:
        for size, count in ((64 * KIB, 64), (MIB, 32), (4 * big, 2)):
            yield case(f"copy/{kind}/{size}x{count}", body=copies("a", size, count, kind), lead_s=1e-3)
    yield case("copy/h2d+d2h", body=_several(copies("a", big, 4), copies("b", big, 4, "d2h")))
    yield case("copy/h2d+d2h/chunks", body=_several(copies("a", small, 32), copies("b", small, 32, "d2h")))
    yield case("copy/h2d+d2d", body=_several(copies("a", big, 2), copies("b", big, 8, "d2d")))
    for between in ("", "event", "write"):
        parts = copies("a", small, 16, between=between), copies("b", small, 8, between=between)
        yield case(f"engine/trains/{between or 'nothing'}", body=_several(*parts))
    yield case("engine/3 streams", body=_several(*(copies(name, big) for name in "abc")))
    yield case("engine/long and short", body=_several(copies("a", 4 * big), copies("b", 64 * KIB, 8, between="write")))
    for kind in ("h2d", "d2h"):
        for size in (256 * KIB, small, big):
            yield case(f"pageable/{kind}/{size}", body=copies("a", size, 4, kind, "pageable"))
    yield case(
        "pageable/h2d beside pinned",
        body=_several(copies("b", 4 * big), copies("a", 4 * MIB, 2, "h2d", "pageable")),
    )
    yield case(
        "pageable/d2h beside pinned h2d",
        body=_several(copies("b", 4 * big), copies("a", 4 * MIB, 2, "d2h", "pageable")),
    )
    yield case("flags/turns", body=turns(20), lead_s=1e-3)
    yield case("flags/turns beside a kernel", body=_several(kernel(400e-6), turns(20)), lead_s=1e-3)
    yield case("flags/turns beside copies", body=_several(copies("c", small, 8), turns(20)), lead_s=1e-3)
    for pieces in (1, 4, 16):
        yield case(f"through host/{pieces}", body=through_host(big, pieces, lambda rank: rank))
    yield case(
        "through host/16 beside a kernel",
        body=_several(kernel(4e-3), through_host(big, 16, lambda rank: rank)),
    )
    yield case(
        "kernel beside copies",
        body=_several(kernel(2e-3), copies("a", small, 24), copies("b", small, 24, "d2h")),
    )


def _two() -> Iterator[ProgramCase]:
    """Programs of two ranks."""
    case = partial(ProgramCase, ranks=2)
    big, small = 64 * MIB, 4 * MIB

    def swap(rank: int) -> int:
        return 1 - rank

    def with_copies(part: Body, count: int, kind: CopyKind = "h2d") -> Body:
        return _several(copies("a", small, count, kind), part)

    for size, count in ((64 * KIB, 16), (MIB, 16), (16 * MIB, 4), (big, 1)):
        yield case(f"p2p/exchange/{size}x{count}", body=exchange(size, count), lead_s=3e-3)
    yield case("p2p/one way", body=exchange(16 * MIB, 4, direction="one"), lead_s=1e-3)
    four = exchange(16 * MIB, 4)
    yield case("p2p/exchange beside h2d", body=with_copies(four, 24))
    yield case("p2p/exchange beside h2d of rank 1", body=_several(_only(1, copies("a", small, 24)), four))
    yield case("p2p/exchange beside d2h", body=with_copies(four, 16, "d2h"))
    yield case("collective/all_to_all beside h2d", body=with_copies(collective("all_to_all", 32 * MIB, 4), 24))
    yield case("collective/all_reduce beside d2h", body=with_copies(collective("all_reduce", 32 * MIB, 4), 16, "d2h"))
    yield case("collective/send_recv", body=collective("send_recv", 16 * MIB, 4))
    yield case("copy/h2d+d2h/both", body=_several(copies("a", big, 4), copies("b", big, 4, "d2h")))
    yield case("pageable/h2d/both", body=copies("a", 16 * MIB, 2, "h2d", "pageable"))
    for pieces in (1, 4, 16):
        yield case(f"through host/both/{pieces}", body=through_host(big, pieces, swap))
    yield case("through host/both/16 beside h2d", body=_several(through_host(big, 16, swap), copies("a", small, 16)))
    yield case("through host/both/16 beside a kernel", body=_several(kernel(4e-3), through_host(big, 16, swap)))
    for size, count in ((MIB, 16), (big, 2)):
        yield case(
            f"peer copies/{size}x{count}",
            body=_several(peer_copies(size, count), collective("all_reduce", 64)),
            lead_s=1e-3,
        )
