"""Memory that ranks share is used in a certain order: what orders it, what does not, and what never ends."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from interleavings import explore
from program_strategies import HostRing, as_issued, declared, replay, unchecked_calls, unchecked_ranks
from strategies import Case, cases, program

from sim.program import (
    AnyCommand,
    Copy,
    Kernel,
    Program,
    ProgramError,
    RankBuilder,
    RankProgram,
    Recv,
    Send,
    WaitFlag,
    WriteFlag,
)

Build = Callable[[RankBuilder], object]
HALF = 2**31


def put(stream: str = "s", offset: int = 0, name: str = "put") -> Build:
    """Write 8 bytes of shared memory."""
    return lambda r: r.copy(stream, name, 8, f"x{stream}", kind="d2h", other="shared", other_offset=offset)


def get(stream: str = "s", offset: int = 0, name: str = "get") -> Build:
    """Read 8 bytes of shared memory."""
    return lambda r: r.copy(stream, name, 8, f"x{stream}", other="shared", other_offset=offset)


def push(peer: int, stream: str = "s", offset: int = 0) -> Build:
    """Write 8 bytes of a peer's memory."""
    return lambda r: r.copy(stream, "push", 8, f"x{stream}", kind="p2p", other="b", other_offset=offset, peer=peer)


def reads(stream: str = "s") -> Build:
    return lambda r: r.kernel(stream, "reader", seconds=1, reads=("b",))


def writes(stream: str = "s") -> Build:
    return lambda r: r.kernel(stream, "writer", seconds=1, writes=("b",))


def sequence(flag: str = "f") -> Build:
    return lambda r: r.sequence(flag)


def write(value: int = 1, stream: str = "s", flag: str = "f", memory: Any = "host") -> Build:
    return lambda r: r.write_flag(stream, flag, value, memory)


def wait(value: int = 1, stream: str = "s", flag: str = "f", memory: Any = "host", test: Any = "at_least") -> Build:
    return lambda r: r.wait_flag(stream, flag, value, memory, test)


def after(stream: str, other: str) -> Build:
    return lambda r: r.wait(stream, r.record(other))


def reduce(kind: Any = "all_reduce", stream: str = "s", group: Sequence[int] | None = None) -> Build:
    return lambda r: r.collective(stream, "sum", kind, 8, group=group)


def move(*transfers: Send | Recv, stream: str = "s") -> Build:
    return lambda r: r.point_to_point(stream, "p2p", *transfers)


def ranks(*builds: Sequence[Build]) -> Program:
    builders = []
    for commands in builds:
        rank = RankBuilder()
        rank.host_buffer("shared", 32, shared=True)
        rank.buffer("b", 32, "slot")
        for stream in "stu":
            rank.buffer(f"x{stream}", 32, "activations")
        for command in commands:
            command(rank)
        builders.append(rank)
    return program(*builders)


RACES = [
    pytest.param(
        [[put()], [get()]],
        "'get' of rank 1 on stream 's' reads buffer 'shared', host memory that ranks share, while 'put' of rank 0 on "
        "stream 's' may still be writing it: nothing orders them (a flag in host memory does where it is declared as a "
        "sequence)",
        id="nothing",
    ),
    pytest.param([[get()], [put()]], "'put' of rank 1 on stream 's' writes buffer 'shared'", id="a write after a read"),
    pytest.param([[put(), get()], [get()]], "'put' of rank 0 on stream 's' may still be writing it", id="read since"),
    pytest.param([[put()], [put()]], "'put' of rank 0 on stream 's' may still be writing it", id="two writes"),
    pytest.param([[put("s"), put("t")], []], "'put' of rank 0 on stream 't' writes buffer 'shared'", id="one rank"),
    pytest.param([[put(), write()], [wait(), get()]], "may still be writing it", id="a flag that is not a sequence"),
    pytest.param(
        [[sequence(), put(), write()], [wait(test="equal"), get()]], "may still be writing it", id="a wait for one value"
    ),
    pytest.param(
        [[put(), write(memory="device")], [write(memory="device"), wait(memory="device"), get()]],
        "may still be writing it",
        id="flags of devices",
    ),
    pytest.param(
        [[sequence(), write(), put()], [wait(), get()]], "may still be writing it", id="a value written before the copy"
    ),
    pytest.param([[sequence(), put(), write()], [get(), wait()]], "may still be", id="a wait behind the copy"),
    pytest.param(
        [[sequence(), put("t"), write()], [wait(), get()]], "may still be writing it", id="a copy of another stream"
    ),
    pytest.param(
        [[sequence(), put(), write()], [wait(), get("t")]], "may still be writing it", id="a reader of another stream"
    ),
    pytest.param(
        [[sequence(), put(), write(), put(offset=8), write(2)], [wait(), get(), get(offset=8)]],
        "reads buffer 'shared'",
        id="a value too early",
    ),
    pytest.param(
        [[sequence(), put(), write()], [wait(), get(), put()], [wait(), get()]],
        "'put' of rank 1 on stream 's' may still be writing it",
        id="a writer that a reader does not know",
    ),
    pytest.param([[put(), reduce("send_recv")], [reduce("send_recv")], [reduce("send_recv"), get()]], "may still be", id="the rank before the one before"),
    pytest.param([[put(), reduce(group=(0, 1))], [reduce(group=(0, 1))], [get()]], "may still be", id="a rank outside the group"),
    pytest.param([[move(Send(1, 8, "xs")), put()], [get(), move(Recv(0, 8, "xs"))]], "may still be reading", id="a sender after its receiver"),
    pytest.param([[put("t"), move(Send(1, 8, "xs"))], [move(Recv(0, 8, "xs")), get()]], "may still be writing", id="a send beside the copy"),
    pytest.param([[push(1)], [reads()]], "'reader' of rank 1 on stream 's' reads buffer 'b', memory of rank 1, while 'push' of rank 0", id="a peer's memory"),
    pytest.param([[push(2)], [push(2)], []], "'push' of rank 1 on stream 's' writes buffer 'b', memory of rank 2", id="two peers"),
    pytest.param([[sequence(), write(), push(1)], [wait(), writes()]], "memory of rank 1", id="a peer's memory, too early"),
]  # fmt: skip


@pytest.mark.parametrize(("builds", "message"), RACES)
def test_accesses_in_no_certain_order_are_refused(builds: list[list[Build]], message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        ranks(*builds)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "builds",
    [
        pytest.param([[get()], [get("t")], [get()]], id="readers"),
        pytest.param([[put()], [get(offset=8)], [put(offset=16)]], id="other bytes"),
        pytest.param([[put(), get(), put()], []], id="a stream"),
        pytest.param([[put(), after("t", "s"), get("t")], []], id="an event"),
        pytest.param([[sequence(), put(), write()], [wait(), get()]], id="a sequence"),
        pytest.param([[sequence(), put(), write(), write(2)], [wait(2), get()], [wait(), get()]], id="a later value"),
        pytest.param(
            [[sequence(), put(), write()], [sequence("g"), wait(), write(1, flag="g")], [wait(flag="g"), get()]],
            id="two sequences",
        ),
        pytest.param(
            [[sequence(), put("t"), after("s", "t"), write()], [wait(), after("u", "s"), get("u")]],
            id="events on both sides",
        ),
        pytest.param(
            [[sequence(), put(), lambda r: r.host_wait(r.record("s")), write(stream="t")], [wait(), get()]],
            id="a host thread",
        ),
        *(
            pytest.param([[put(), reduce(kind)], [reduce(kind)], [reduce(kind), get()]], id=kind)
            for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
        ),
        pytest.param([[reduce("send_recv"), get()], [reduce("send_recv")], [put(), reduce("send_recv")]], id="send_recv"),
        *(
            pytest.param([[*before, put(), reduce()], [*before, reduce(), get()]], id=f"a collective after {len(before)}")
            for before in ([reduce()], [reduce(), reduce("all_gather")], [reduce()] * 4)
        ),
        pytest.param(
            [[move(Send(1, 8, "xs")), put(), move(Send(1, 8, "xs"))], [move(Recv(0, 8, "xs")), move(Recv(0, 8, "xs")), get()]],
            id="the second transfer",
        ),
        pytest.param([[put(), reduce(group=(1, 0))], [reduce(group=(1, 0)), get()], [reduce(group=(2,))]], id="a group"),
        pytest.param([[put(), move(Send(1, 8, "xs"))], [move(Recv(0, 8, "xs")), get()]], id="a receiver after its sender"),
        pytest.param(
            [[put(), move(Send(1, 8, "xs"))], [move(Recv(0, 8, "xs"), Send(2, 8, "xs", 8))], [move(Recv(1, 8, "xs")), move(Recv(3, 8, "xs"))], [move(Send(2, 8, "xs"))]],
            id="a chain of transfers",
        ),
        pytest.param([[sequence(), push(1), write()], [wait(), reads(), writes()]], id="a peer's memory"),
        pytest.param([[wait(), push(1)], [sequence(), reads(), write()]], id="a peer's memory, afterwards"),
    ],
)  # fmt: skip
def test_what_something_orders_is_accepted(builds: list[list[Build]]) -> None:
    ranks(*builds)


def test_a_send_and_its_receive_order_only_what_was_before_the_send() -> None:
    # one group a rank: rank 1 has sent before it gets something, and what it sends says nothing of what it gets
    ring = [move(Recv((r - 1) % 3, 8, "xs"), Send((r + 1) % 3, 8, "xs", 8)) for r in range(3)]
    ranks([put(), ring[0]], [ring[1], get()], [ring[2]])
    with pytest.raises(ProgramError, match="may still be writing it"):
        ranks([put(), ring[0]], [ring[1]], [ring[2], get()])


# ---- copies that the driver stages ---------------------------------------------------------------------------------


def test_a_copy_to_pageable_memory_orders_what_its_host_thread_issues_later() -> None:
    def out(memory: Any) -> Build:
        def build(r: RankBuilder) -> None:
            r.host_buffer("page", 32, memory)
            r.copy("s", "out", 8, "b", kind="d2h", other="page")

        return build

    taken = [wait(), push(1)]
    ranks(taken, [sequence(), out("pageable"), write(stream="t")])
    ranks(taken, [sequence(), write(0x7, stream="u", flag="other"), out("pageable"), write(stream="u")])
    with pytest.raises(ProgramError, match="'out' of rank 1 on stream 's' may still be reading it"):
        ranks(taken, [sequence(), out("pinned"), write(stream="t")])
    with pytest.raises(ProgramError, match="'out' of rank 1 on stream 's' may still be reading it"):
        ranks(taken, [sequence(), out("pageable"), RankBuilder.thread, write(stream="t")])


def test_a_copy_from_pageable_memory_returns_before_it_is_complete() -> None:
    ranks([sequence(), put("t"), staged("d2h"), write()], [wait(), get()])
    with pytest.raises(ProgramError, match="'put' of rank 0 on stream 't' may still be writing it"):
        ranks([sequence(), put("t"), staged("h2d"), write()], [wait(), get()])


# ---- events that one thread records on another one's stream ---------------------------------------------------------


def test_an_event_on_the_stream_of_another_thread_says_what_its_thread_has_waited_for() -> None:
    def waited(r: RankBuilder) -> None:
        done = r.record("s")
        r.write_flag("t", "other", 1)  # thread 0 feeds it
        r.thread()
        r.host_wait(done)

    taken = [wait(), get()]
    ranks([sequence(), put(), waited, after("u", "t"), write(stream="u")], taken)
    with pytest.raises(
        ProgramError, match="'put' of rank 0 on stream 's' may still be writing it"
    ):  # of its own stream
        ranks([sequence(), put(), RankBuilder.thread, after("u", "s"), write(stream="u")], taken)
    with pytest.raises(ProgramError, match="'put' of rank 0 on stream 's' may still be writing it"):  # of what follows
        ranks([sequence(), put(), waited, lambda r: r.record("t"), lambda r: r.switch(0), write(stream="t")], taken)


def test_an_event_on_the_stream_of_another_thread_may_come_too_late() -> None:
    def circle(r: RankBuilder) -> None:
        r.wait("u", r.record("t"))
        done = r.record("u")
        r.thread()
        r.wait("t", done)  # if this is issued first, the first event never completes

    with pytest.raises(ProgramError) as caught:
        ranks([sequence(), write(), circle], [])
    first, *said = str(caught.value).split("\n  ")
    assert first == "the program never ends:"
    assert set(said) == {"rank 0 stream 'u' waits for event 0", "rank 0 stream 't' waits for event 1"}


def test_a_host_thread_issues_nothing_before_the_counter_that_it_waits_for_is_there() -> None:
    """What it issues only then cannot come before an event that the other thread has recorded on its stream."""

    def turns(rank: RankBuilder, asked: int) -> None:
        sequence()(rank)
        write()(rank)
        rank.thread()
        rank.kernel("u", "first", seconds=1.0)
        rank.host_wait_counter("asked", least=1)
        rank.switch(0)
        done = rank.record("u")
        rank.wait("t", done)
        begun = rank.record("t")
        rank.host_add("asked", asked)
        rank.switch(1)
        rank.wait("u", begun)  # if this could be issued before `done`, neither stream would go on

    ranks([lambda rank: turns(rank, 1)], [])
    with pytest.raises(ProgramError, match="rank 0 host thread 1 waits for counter 'asked' to be at least 1"):
        ranks([lambda rank: turns(rank, 0)], [])
    with pytest.raises(ProgramError, match="rank 0 stream 'u' waits for event 1"):  # one that shrinks holds nobody

        def shrinks(rank: RankBuilder) -> None:
            rank.host_add("asked", -1)
            turns(rank, 2)

        ranks([shrinks], [])


# ---- a ring of slots in host memory --------------------------------------------------------------------------------


def ring(slots: int = 2, size: int = 7) -> tuple[RankProgram, RankProgram]:
    """7 bytes in pieces of 2, both ways at once."""
    builders = RankBuilder(), RankBuilder()
    for rank in builders:
        rank.buffer("source", size, "activations")
        rank.buffer("target", size, "activations")
    for number, (sender, receiver) in enumerate((builders, builders[::-1])):
        HostRing(sender, receiver, 2, slots, f"ring{number}").send("source", "target", size)
    return builders[0].build(), builders[1].build()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_ring_of_slots_is_in_order(slots: int) -> None:
    Program(ring(slots))


FLAGS = [
    (rank, thread, number)
    for rank, one in enumerate(ring())
    for thread, commands in enumerate(one.threads)
    for number, c in enumerate(commands)
    if isinstance(c, WaitFlag | WriteFlag)
]


def without(rank: RankProgram, at: tuple[int, int]) -> RankProgram:
    threads = [tuple(c for n, c in enumerate(t) if (number, n) != at) for number, t in enumerate(rank.threads)]
    return msgspec.structs.replace(rank, threads=tuple(threads))


@pytest.mark.parametrize(("rank", "thread", "number"), FLAGS)
def test_a_ring_that_lacks_a_wait_is_refused(rank: int, thread: int, number: int) -> None:
    parts = list(ring())
    command = parts[rank].threads[thread][number]
    parts[rank] = without(parts[rank], (thread, number))
    guards = isinstance(command, WaitFlag)
    if guards:
        with pytest.raises(ProgramError, match=r"'ring\d (in|out) \d' of rank"):
            Program(tuple(parts))
    agree(tuple(parts))


def test_a_ring_with_a_slot_less_than_it_waits_for_is_refused() -> None:
    two, three = ring(2), ring(3)
    with pytest.raises(ProgramError, match="buffer 'ring0' has 4 bytes on rank 0 and 6 on rank 1"):
        Program((two[0], three[1]))
    small = msgspec.structs.replace(three[0], host_buffers=two[0].host_buffers)
    other = msgspec.structs.replace(two[1], host_buffers=two[0].host_buffers)
    with pytest.raises(ProgramError, match=r"'ring0 out \d' of rank 0 .* while 'ring0 in \d' of rank 1"):
        Program((small, other))


# ---- the protocol of sequences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value", "holds"),
    [
        (0, 0, True),
        (1, 0, True),
        (0, 1, False),
        (HALF - 1, 0, True),
        (HALF, 0, False),
        (HALF, 1, True),
        (HALF + 1, 1, False),
        (2**32 - 1, 0, False),
        (0, 2**32 - 1, True),
        (HALF - 2, 2**32 - 1, True),
        (HALF - 1, 2**32 - 1, False),
        (0, HALF, False),
        (0, HALF + 1, True),
    ],
)
def test_at_least_is_cyclic(word: int, value: int, holds: bool) -> None:
    assert WaitFlag("s", "f", value, test="at_least").holds(word) == holds
    # CUDA's words: the difference as a signed number of 32 bits
    difference = (word - value) % 2**32
    assert holds == ((difference - 2**32 if difference >= HALF else difference) >= 0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_at_least_does_not_depend_on_where_the_count_begins(word: int, value: int, more: int) -> None:
    def holds(word: int, value: int) -> bool:
        return WaitFlag("s", "f", value % 2**32, test="at_least").holds(word % 2**32)

    assert holds(word, value) == holds(word + more, value + more)
    assert holds(word, value) or holds(value, word)
    assert not WaitFlag("s", "f", value).holds(word) or word == value


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ([sequence(), sequence()], "sequence 'f' is declared twice"),
        ([sequence(), write(2), write(2)], "sequence 'f' becomes 2 after 2, which is not ahead of it"),
        ([sequence(), write(2), write(1)], "sequence 'f' becomes 1 after 2, which is not ahead of it"),
        ([sequence(), write(0)], "sequence 'f' becomes 0 after 0, which is not ahead of it"),
        ([sequence(), write(HALF)], "sequence 'f' becomes 2147483648 after 0, which is not ahead of it"),
        ([sequence(), write(2**32 - 1)], "sequence 'f' becomes 4294967295 after 0, which is not ahead of it"),
        ([sequence(), write(1), write(2, "t")], "sequence 'f' is written by streams 's' and 't'"),
        ([write(5), sequence()], "flag 'f' is written before it is declared as a sequence"),
        ([write(2**32)], "flag 'f' is given 4294967296, which is not an unsigned 32-bit number"),
        ([wait(-1)], "flag 'f' is given -1, which is not an unsigned 32-bit number"),
        ([wait(1)], "rank 0 stream 's' waits for host flag 'f' to be at least 1, which nobody writes"),
        ([write(3), wait(2, test="equal")], "rank 0 stream 's' waits for host flag 'f' to be 2, which nobody writes"),
        ([write(), wait(2)], "rank 0 stream 's' waits for host flag 'f' to be at least 2, which nobody writes"),
        ([write(memory="device"), wait()], "host flag 'f' to be at least 1, which nobody writes"),
    ],
)
def test_what_breaks_the_protocol_of_a_sequence_is_refused(build: list[Build], message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        ranks(build)
    assert message in str(caught.value)


def test_a_sequence_has_one_writer_among_ranks() -> None:
    with pytest.raises(ProgramError, match="flag 'f' is a sequence of rank 0, but rank 1 writes it"):
        ranks([sequence(), write()], [write(2)])
    with pytest.raises(ProgramError, match="flag 'f' is a sequence of rank 0 and of rank 1"):
        ranks([sequence(), write()], [sequence()])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((("s", 2), ("s", 1)), "sequence 'f' becomes 1 after 2, which is not ahead of it"),
        ((("s", 1), ("t", 2)), "sequence 'f' is written by streams 's' and 't'"),
    ],
)
def test_a_program_that_no_builder_made_keeps_to_the_protocol(values: Any, message: str) -> None:
    thread = tuple(WriteFlag(stream, "f", value, "host") for stream, value in values)
    with pytest.raises(ProgramError, match=message):
        Program((RankProgram((thread,), (), (), sequences=("f",)),))


def counts(*values: int) -> list[Build]:
    """Write `values`, each when rank 1 has seen the one before."""
    found: list[Build] = [sequence()]
    for number, value in enumerate(values):
        found += [wait(number, flag="seen"), write(value)]
    return found


def sees(*values: int) -> list[Build]:
    found: list[Build] = [sequence("seen")]
    for number, value in enumerate(values):
        found += [wait(value), write(number + 1, flag="seen")]
    return found


AROUND = (HALF - 1, 2**32 - 2, 1, 2, HALF)


def test_a_count_that_goes_around_orders() -> None:
    ranks([*counts(*AROUND), wait(len(AROUND), flag="seen"), get()], [*sees(*AROUND[:-1]), wait(HALF), put(), write(len(AROUND), flag="seen")])  # fmt: skip
    with pytest.raises(ProgramError, match="may still be writing it"):
        ranks([*counts(*AROUND), get()], [*sees(*AROUND[:-1]), put(), wait(HALF), write(len(AROUND), flag="seen")])


@pytest.mark.parametrize(
    ("values", "waited", "missed"),
    [
        # nobody says when the wait is over: the count may have become what is not at least `waited`
        ((1, HALF - 1), 1, None),
        ((1, HALF), 1, None),
        ((1, HALF, HALF + 1), 1, HALF + 1),
        ((1, HALF, HALF + 1), 2, None),
        ((1, HALF, HALF + 1, HALF + 2), 2, HALF + 2),
        ((1,), HALF + 1, 1),
        ((1,), HALF + 2, None),
        ((1, 2, HALF), HALF + 2, 2),
        ((HALF - 1, HALF + 7, 2**32 - 2), HALF - 1, None),
        ((HALF - 1, HALF + 7, 2**32 - 1), HALF - 1, 2**32 - 1),
        ((HALF - 1, HALF + 7, 3), HALF, 3),
        # even where a still later value would do
        ((HALF - 1, 2**32 - 2, 5), 2**32 - 1, HALF - 1),
    ],
)
def test_a_count_that_runs_half_of_all_values_ahead_of_a_wait_is_refused(
    values: tuple[int, ...], waited: int, missed: int | None
) -> None:
    writer, waiter = [sequence(), *map(write, values)], [wait(waited)]
    parts = tuple(_unchecked(build) for build in (writer, waiter))
    agree(parts)
    if missed is None:
        Program(parts)
    else:
        said = f"rank 1 stream 's' waits for host flag 'f' to be at least {waited}, but it may have become {missed} by"
        with pytest.raises(ProgramError, match=said):
            Program(parts)


def _unchecked(build: Sequence[Build]) -> RankProgram:
    rank = RankBuilder()
    for command in build:
        command(rank)
    return rank.build()


# ---- what never ends -----------------------------------------------------------------------------------------------


def host_wait(stream: str) -> Build:
    return lambda r: r.host_wait(r.record(stream))


def staged(kind: Any, stream: str = "t") -> Build:
    def build(r: RankBuilder) -> None:
        r.host_buffer("page", 32, "pageable")
        r.copy(stream, "staged", 8, "xt", kind=kind, other="page")

    return build


@pytest.mark.parametrize(
    ("builds", "lines"),
    [
        pytest.param(
            [[sequence(), wait(flag="g"), write()], [sequence("g"), wait(), write(flag="g")]],
            [
                "rank 0 stream 's' waits for host flag 'g' of rank 1 to be at least 1",
                "rank 1 stream 's' waits for host flag 'f' of rank 0 to be at least 1",
            ],
            id="flags",
        ),
        pytest.param(
            [[sequence(), wait(flag="g", stream="t"), after("s", "t"), write()], [sequence("g"), reduce(stream="u"), after("s", "u"), wait(), write(flag="g")], ],
            ["rank 0 stream 't' waits for host flag 'g' of rank 1", "rank 0 stream 's' waits for event 0", "rank 1 stream 's' waits for host flag 'f' of rank 0"],
            id="events",
        ),
        pytest.param(
            [[sequence(), wait(), host_wait("s"), write()], []],
            ["rank 0 host thread 0 waits for event 0", "rank 0 stream 's' waits for host flag 'f' of rank 0"],
            id="a host thread",
        ),
        pytest.param(
            [[sequence(), wait(stream="t"), staged("d2h"), write()], []],
            ["rank 0 host thread 0 waits for copy 'staged' of pageable memory on stream 't'", "rank 0 stream 't' waits"],
            id="a copy to pageable memory",
        ),
        pytest.param(
            # the driver may stage all of it before, but nobody can rely on that
            [[sequence(), wait(stream="t"), staged("h2d"), write()], []],
            ["rank 0 host thread 0 waits for copy 'staged' of pageable memory on stream 't'", "rank 0 stream 't' waits"],
            id="a copy from pageable memory",
        ),
        pytest.param(
            [[sequence(), wait(flag="g"), reduce(), write()], [sequence("g"), reduce(), wait(), write(flag="g")], [reduce()]],
            ["rank 0 stream 's' waits for host flag 'g' of rank 1", "rank 1 stream 's' waits for ranks [0] to arrive at all_reduce 'sum'", "rank 2 stream 's' waits for ranks [0] to arrive"],
            id="a collective",
        ),
        pytest.param(
            [[sequence(), wait(flag="g"), move(Send(1, 8, "xs"))], [sequence("g"), move(Recv(0, 8, "xs")), write(flag="g")]],
            ["rank 0 stream 's' waits for host flag 'g' of rank 1", "rank 1 stream 's' waits for ranks [0] to post their side of 'p2p'"],
            id="a transfer",
        ),
    ],
)  # fmt: skip
def test_a_program_that_never_ends_says_who_waits_for_whom(builds: list[list[Build]], lines: list[str]) -> None:
    if len(builds) == 2 and any(c.__qualname__.startswith("reduce") for c in builds[1]):
        builds = [[reduce(stream="u"), *builds[0]], builds[1]]
    with pytest.raises(ProgramError) as caught:
        ranks(*builds)
    first, *said = str(caught.value).split("\n  ")
    assert first == "the program never ends:"
    assert len(said) == len(lines)
    for line in lines:
        assert any(found.startswith(line) for found in said)


# ---- against all interleavings -------------------------------------------------------------------------------------


def agree(parts: tuple[RankProgram, ...]) -> str:
    """Check `Program` against all interleavings; what it says."""
    relied, awaited = (explore(parts, eager=eager, shared_only=True) for eager in (True, False))
    try:
        Program(parts)
    except ProgramError as error:
        message = str(error)
    else:
        assert relied.conflict is None
        assert not awaited.stuck
        return "accepted"
    if "may still be" in message:
        assert relied.conflict or not relied.complete, message
        return "race"
    if "never ends" in message or "nobody writes" in message or "may have become" in message:
        assert awaited.stuck or not awaited.complete or passes_twice(parts), message
        return "deadlock"
    # NCCL's rule: no interleaving of whole commands shows what kernels hold
    assert "different order" in message or "differs between ranks" in message
    return "rendezvous"


def passes_twice(parts: tuple[RankProgram, ...]) -> bool:
    """Whether a count runs so far ahead that a wait that missed its value could end later on."""
    commands = [c for part in parts for c in part.commands()]
    for wait_ in (c for c in commands if isinstance(c, WaitFlag)):
        values = [0, *(c.value for c in commands if isinstance(c, WriteFlag) and c.flag == wait_.flag)]
        if re.search("1.*0.*1", "".join("01"[wait_.holds(value)] for value in values)):
            return True
    return False


@given(unchecked_ranks())
def test_a_program_is_accepted_exactly_if_no_interleaving_goes_wrong(parts: tuple[RankProgram, ...]) -> None:
    event(agree(parts))


@given(unchecked_calls())
def test_a_rank_is_accepted_exactly_if_no_interleaving_uses_memory_twice(calls: list[tuple[int, AnyCommand]]) -> None:
    found = explore((as_issued(calls),), eager=True)
    try:
        assert replay(declared(), calls) == as_issued(calls)
    except ProgramError as error:
        assert "may still be" in str(error)
        assert found.conflict or not found.complete, error
    else:
        assert found.conflict is None


def one(*commands: AnyCommand, **more: Any) -> RankProgram:
    return RankProgram((commands,), (), (), **more)


@pytest.mark.parametrize(
    ("parts", "conflict", "stuck"),
    [
        ((one(Kernel("s", "a", 1, writes=("x",)), Kernel("t", "b", 1, reads=("x",))),), True, False),
        ((one(Kernel("s", "a", 1, reads=("x",)), Kernel("t", "b", 1, reads=("x",))),), False, False),
        ((one(Kernel("s", "a", 1, writes=("x",)), Kernel("s", "b", 1, reads=("x",))),), False, False),
        ((one(Copy("s", "a", 4, "x"), Copy("t", "b", 4, "x", offset=4)),), False, False),
        ((one(Copy("s", "a", 5, "x"), Copy("t", "b", 4, "x", offset=4)),), True, False),
        ((one(WaitFlag("s", "f", 1, "host", "at_least"), sequences=("f",)),), False, True),
        ((one(WriteFlag("s", "f", 1, "host"), WaitFlag("t", "f", 1, "host", "at_least"), sequences=("f",)),), False, False),
        ((one(WaitFlag("s", "f", 1, "host", "at_least")),), False, False),
    ],
)  # fmt: skip
def test_the_oracle_finds_what_a_look_shows(parts: tuple[RankProgram, ...], conflict: bool, stuck: bool) -> None:
    found = explore(parts, eager=True)
    assert (found.conflict is not None, found.stuck) == (conflict, stuck)


# ---- what the proof costs ------------------------------------------------------------------------------------------


def lines_of_the_proof(parts: tuple[RankProgram, ...]) -> int:
    """Lines of the proof's modules that checking `parts` runs."""
    count = 0

    def line(frame: FrameType, what: str, _: object) -> object:
        nonlocal count
        count += what == "line"
        return line

    def enter(frame: FrameType, what: str, _: object) -> object:
        name = frame.f_code.co_filename
        return line if name.endswith(("ordering.py", "sequences.py", "shared_memory.py")) else None

    before = sys.gettrace()
    sys.settrace(enter)  # type: ignore[arg-type]
    try:
        Program(parts)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("slots", [2, 8])
def test_the_work_of_the_proof_grows_as_the_program_does(slots: int) -> None:
    few, many = (lines_of_the_proof(ring(slots, size)) for size in (200, 2000))
    assert few < many < 11 * few


@pytest.mark.parametrize("long", [8, 2**40])
def test_many_pieces_of_one_memory_cost_as_they_are_many(long: int) -> None:
    """Ranks read pieces of what one has written, all of it once or more."""

    def parts(pieces: int) -> tuple[RankProgram, ...]:
        ranks = RankBuilder(), RankBuilder(), RankBuilder()
        for number, rank in enumerate(ranks):
            rank.host_buffer("shared", 8 * pieces + long, shared=True)
            rank.buffer("x", 8 * pieces + long, "slot")
            if number == 0:
                rank.copy("s", "all", 8 * pieces + long, "x", kind="d2h", other="shared")
            rank.collective("s", "ready", "all_reduce", 8)
            for piece in range(2 * pieces):
                rank.copy("s", "read", 8, "x", other="shared", other_offset=8 * (piece % pieces))
            rank.collective("s", "done", "all_reduce", 8)
            if number == 1:
                rank.copy("s", "all", 8 * pieces + long, "x", kind="d2h", other="shared")
        return tuple(rank.build() for rank in ranks)

    few, many = (lines_of_the_proof(parts(pieces)) for pieces in (100, 1000))
    assert few < many < 11 * few


@given(cases())
def test_what_policies_make_needs_no_proof(case: Case) -> None:
    parts = case.scenario.program().ranks
    commands = sum(len(thread) for thread in parts[0].threads)
    assert lines_of_the_proof(parts) < 10 * commands + 100
