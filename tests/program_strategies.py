"""Hypothesis strategies that make programs: small ones that may be wrong in any way, and whole valid ones."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from sim.program import (
    AnyCommand,
    Buffer,
    Collective,
    Copy,
    HostBuffer,
    HostWaitEvent,
    Kernel,
    PointToPoint,
    RankBuilder,
    RankProgram,
    RecordEvent,
    Recv,
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)

SPANS = ((0, 4), (4, 4), (0, 8), (2, 4))
"""(offset, bytes) of accesses to shared memory of 8 bytes."""

HALF = 2**31


class _Draft:
    """A rank's commands, thread by thread."""

    def __init__(self, rank: int, ranks: int, values: list[int]) -> None:
        self.rank, self.ranks, self.values = rank, ranks, values
        self.written = 0
        self.events = 0
        self.threads: list[list[AnyCommand]] = [[], []]
        self.feeds = {"a": 0, "b": 0, "c": 1}

    def program(self, written: dict[str, list[int]]) -> RankProgram:
        """What was drafted, without waits for what nobody has `written`."""

        def ends(c: AnyCommand) -> bool:
            return not isinstance(c, WaitFlag) or any(c.holds(value) for value in written[c.flag])

        return RankProgram(
            tuple(tuple(filter(ends, t)) for t in self.threads),
            (Buffer("mine", 64, "activations"), *(Buffer(f"x{s}", 64, "slot") for s in "abc"), Buffer("y", 64, "slot")),
            (),
            host_buffers=(HostBuffer("shared", 8, "pinned", True), HostBuffer("pages", 8, "pageable")),
            sequences=(f"f{self.rank}",),
        )


@st.composite
def unchecked_ranks(draw: st.DrawFn) -> tuple[RankProgram, ...]:
    """Two or three ranks that use shared memory and wait for each other anyhow; each collective and transfer has its
    counterparts. What nobody but their rank uses is never used twice at once.

    Every rank writes the flag f0, f1, ... of its number on stream "a".
    """
    ranks = draw(st.sampled_from([2, 2, 3]))
    far = draw(st.sampled_from([False, False, True]))
    values = [1, HALF - 1, HALF, HALF + 5, 2**32 - 1, 0, 3] if far else [1, 2, 3, 4, 5, 6, 7]
    drafts = [_Draft(r, ranks, values) for r in range(ranks)]
    waited = st.sampled_from([*values, HALF + 1, 2**32 - 2] if far else [1, 1, 2, 3])
    communications = draw(st.lists(st.sampled_from(["all", "pair", "p2p", "pass"]), max_size=2))
    calls: list[list[AnyCommand]] = [[] for _ in drafts]
    for number, kind_of_call in enumerate(communications):
        stream = draw(st.sampled_from(["a", "b"]))
        a, b = draw(st.sampled_from([(0, 1), (1, 0), (ranks - 1, 0), (1, ranks - 1)]))
        if a == b:
            a = 0
        match kind_of_call:
            case "all" | "pass":
                kind = "all_reduce" if kind_of_call == "all" else "send_recv"
                for mine in calls:
                    mine.append(Collective(stream, f"call{number}", kind, 8))  # type: ignore[arg-type]
            case "pair":
                for r in (a, b):
                    calls[r].append(Collective(stream, f"call{number}", "all_gather", 8, group=(a, b)))
            case "p2p":
                way = f"p2p{number}"
                calls[a].append(PointToPoint(stream, way, (Send(b, 4, "y"),), communicator=way))
                calls[b].append(PointToPoint(stream, way, (Recv(a, 4, "y", 8),), communicator=way))
    for draft, left in zip(drafts, calls, strict=True):
        for _ in range(draw(st.integers(1, 5))):
            _command(draw, draft, waited, left)
        draft.threads[0] += left if draw(st.sampled_from([True, True, True, False])) else left[::-1]
    written = {f"f{d.rank}": [0, *d.values[: d.written]] for d in drafts}
    return tuple(d.program(written) for d in drafts)


def _command(draw: st.DrawFn, draft: _Draft, waited: st.SearchStrategy[int], calls: list[AnyCommand]) -> None:
    kinds = ["host", "host", "peer", "own", "event", "flag", "flag", "wait", "wait", "equal", "call", "page", "foreign"]
    stream = draw(st.sampled_from(["a", "a", "b", "b", "c"]))
    thread = draft.threads[draft.feeds[stream]]
    offset, size = draw(st.sampled_from(SPANS))
    name = f"{stream}{len(thread)}"
    peer = (draft.rank + draw(st.integers(1, draft.ranks - 1))) % draft.ranks
    match draw(st.sampled_from(kinds)):
        case "host":
            kind = draw(st.sampled_from(["h2d", "d2h"]))
            thread.append(Copy(stream, name, size, f"x{stream}", kind, other="shared", other_offset=offset))  # type: ignore[arg-type]
        case "peer":
            thread.append(
                Copy(stream, name, size, f"x{stream}", "p2p", 8, other="mine", other_offset=offset, peer=peer)
            )
        case "own":
            use = draw(st.sampled_from(["reads", "writes"]))
            thread.append(Kernel(stream, name, 1.0, **{use: ("mine",)}))
        case "event":
            other = draw(st.sampled_from([s for s in "abc" if s != stream]))
            on = draft.threads[draft.feeds[other]]
            thread.append(RecordEvent(stream, draft.events))
            on.append(draw(st.sampled_from([WaitEvent(other, draft.events), HostWaitEvent("", draft.events)])))
            draft.events += 1
        case "foreign":
            other = draw(st.sampled_from([s for s in "abc" if draft.feeds[s] != draft.feeds[stream]]))
            thread += [RecordEvent(other, draft.events), WaitEvent(stream, draft.events)]
            draft.events += 1
        case "flag" if draft.written < len(draft.values):
            draft.threads[0].append(WriteFlag("a", f"f{draft.rank}", draft.values[draft.written], "host"))
            draft.written += 1
        case "wait":
            thread.append(WaitFlag(stream, f"f{peer}", draw(waited), "host", "at_least"))
        case "equal":
            thread.append(WaitFlag(stream, f"f{peer}", 0, "host"))
        case "call" if calls:
            draft.threads[0].append(calls.pop(0))
        case "page" if stream != "c":
            kind = draw(st.sampled_from(["h2d", "d2h"]))
            thread.append(Copy(stream, name, size, f"x{stream}", kind, other="pages", other_offset=offset))  # type: ignore[arg-type]


@st.composite
def unchecked_calls(draw: st.DrawFn) -> list[tuple[int, AnyCommand]]:
    """(host thread, command) of one rank in the order in which a builder is called: streams "a" and "b" of thread 0 and
    "c" of thread 1 use the memory that `declare` declares, anyhow. Threads also record events on each other's streams.
    """
    calls: list[tuple[int, AnyCommand]] = []
    events = 0
    for number in range(draw(st.integers(2, 8))):
        stream = draw(st.sampled_from("aabbc"))
        thread = "aabbc".index(stream) // 4
        kinds = ["kernel", "kernel", "pinned", "pages", "pages", "d2d", "record", "record", "foreign"]
        kind = draw(st.sampled_from(kinds + ["wait", "wait", "wait", "host_wait"] * (events > 0)))
        offset, size = draw(st.sampled_from(SPANS))
        buffer, name = draw(st.sampled_from(["x", "x", "y"])), f"{stream}{number}"
        event = draw(st.integers(0, max(events - 1, 0)))
        way = draw(st.sampled_from(["h2d", "d2h"]))
        match kind:
            case "kernel":
                use = draw(st.sampled_from(["reads", "writes"]))
                calls.append((thread, Kernel(stream, name, 1.0, **{use: (buffer,)})))
            case "pinned" | "pages":
                other = draw(st.sampled_from(SPANS))[0] if size == 4 else 0
                calls.append((thread, Copy(stream, name, size, buffer, way, offset, other=kind, other_offset=other)))  # type: ignore[arg-type]
            case "d2d":
                calls.append((thread, Copy(stream, name, 4, "x", "d2d", 0, other="y", other_offset=offset % 4)))
            case "record" | "foreign":
                by = thread if kind == "record" else 1 - thread
                calls.append((by, RecordEvent(stream, events)))
                events += 1
            case "wait":
                calls.append((thread, WaitEvent(stream, event)))
            case "host_wait":
                calls.append((thread, HostWaitEvent("", event)))
    return calls


def declared() -> RankBuilder:
    """A builder with two host threads and the memory that `unchecked_calls` use."""
    rank = RankBuilder()
    rank.thread()
    for name in "xy":
        rank.buffer(name, 8, "slot")
    rank.host_buffer("pinned", 8)
    rank.host_buffer("pages", 8, "pageable")
    return rank


def replay(rank: RankBuilder, calls: list[tuple[int, AnyCommand]]) -> RankProgram:
    """What the builder makes of `calls`: kernels, copies, events and waits for them."""
    for thread, c in calls:
        rank.switch(thread)
        match c:
            case Kernel():
                rank.kernel(c.stream, c.name, seconds=c.seconds, reads=c.reads, writes=c.writes)
            case Copy(other=str() as other):
                where = {"offset": c.offset, "other": other, "other_offset": c.other_start}
                rank.copy(c.stream, c.name, c.bytes, c.buffer, kind=c.kind, **where)  # type: ignore[arg-type]
            case RecordEvent():
                rank.record(c.stream)
            case WaitEvent():
                rank.wait(c.stream, c.event)
            case HostWaitEvent():
                rank.host_wait(c.event)
    return rank.build()


def as_issued(calls: list[tuple[int, AnyCommand]]) -> RankProgram:
    """The rank that `calls` make, unchecked."""
    threads = tuple(tuple(c for thread, c in calls if thread == number) for number in range(2))
    return msgspec.structs.replace(declared().build(), threads=threads)


class HostRing:
    """Pieces of a message through slots of shared host memory, as a copy engine sends: stream "send" of `sender` fills a
    slot once it is free, stream "receive" of `receiver` empties it once it is full.

    How many slots have been filled and freed is what two sequences say, each written by its own side.
    """

    def __init__(
        self, sender: RankBuilder, receiver: RankBuilder, slot_bytes: int, slots: int = 2, name: str = "ring"
    ) -> None:
        self.sender, self.receiver, self.slot_bytes, self.slots, self.name = sender, receiver, slot_bytes, slots, name
        self.sent = self.received = 0
        for rank in (sender, receiver):
            rank.host_buffer(name, slot_bytes * slots, shared=True)
        self.filled, self.freed = sender.sequence(f"{name}.filled"), receiver.sequence(f"{name}.freed")

    def send(self, source: str, target: str, size: int) -> None:
        """Move `size` bytes from the beginning of the sender's `source` to that of the receiver's `target`."""
        for offset, piece in self.pieces(size):
            self.fill(source, offset, piece)
            self.empty(target, offset, piece)

    def pieces(self, size: int) -> list[tuple[int, int]]:
        """(offset, bytes) of the pieces of `size` bytes."""
        return [(offset, min(self.slot_bytes, size - offset)) for offset in range(0, size, self.slot_bytes)]

    def fill(self, source: str, offset: int, size: int) -> None:
        """Copy bytes of `source` to the next slot, once the receiver has freed it."""
        if self.sent >= self.slots:
            self.sender.wait_flag("send", self.freed, self.sent - self.slots + 1, "host", "at_least")
        self.sender.copy(
            "send",
            f"{self.name} out {self.sent}",
            size,
            source,
            kind="d2h",
            offset=offset,
            other=self.name,
            other_offset=self.sent % self.slots * self.slot_bytes,
        )
        self.sent += 1
        self.sender.write_flag("send", self.filled, self.sent, "host")

    def empty(self, target: str, offset: int, size: int) -> None:
        """Copy the slot that was filled first to `target`, and free it."""
        self.receiver.wait_flag("receive", self.filled, self.received + 1, "host", "at_least")
        self.receiver.copy(
            "receive",
            f"{self.name} in {self.received}",
            size,
            target,
            offset=offset,
            other=self.name,
            other_offset=self.received % self.slots * self.slot_bytes,
        )
        self.received += 1
        self.receiver.write_flag("receive", self.freed, self.received, "host")
