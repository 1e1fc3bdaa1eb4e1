"""Memory that programs declare and copies use: what is refused and why, and what host threads and events order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from strategies import program, tiny_profile

from sim.machine import SimulatedMachine
from sim.program import ProgramError, RankBuilder, Recv, Send

Build = Callable[[RankBuilder], object]


def copy(kind: str = "h2d", other: str | None = None, stream: str = "s", buffer: str = "x", **more: Any) -> Build:
    return lambda r: r.copy(stream, "c", more.pop("bytes", 8), buffer, kind=kind, other=other, **more)  # type: ignore[arg-type]


def built(*build: Build) -> RankBuilder:
    rank = RankBuilder()
    rank.buffer("x", 16, "slot")
    rank.buffer("y", 16, "slot")
    rank.host_buffer("pinned", 16)
    rank.host_buffer("pages", 16, "pageable")
    for action in build:
        action(rank)
    return rank


def new_thread(rank: RankBuilder) -> object:
    return rank.thread()


def kernel(stream: str, **use: tuple[str, ...]) -> Build:
    return lambda r: r.kernel(stream, "k", seconds=1, **use)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (copy("d2d"), "copy 'c' is d2d: it needs a source and no peer"),
        (copy("d2d", "y", peer=1), "copy 'c' is d2d: it needs a source and no peer"),
        (copy("p2p", "y"), "copy 'c' is p2p: it needs a peer and its buffer"),
        (copy("p2p", peer=1), "copy 'c' is p2p: it needs a peer and its buffer"),
        (copy("h2d", "pinned", peer=1), "copy 'c' is h2d: it needs no peer"),
        (copy("d2h", peer=1), "copy 'c' is d2h: it needs no peer"),
        (copy("h2d", "y"), "copy 'c' is h2d, but 'y' is not a declared host buffer"),
        (copy("d2h", "z"), "copy 'c' is d2h, but 'z' is not a declared host buffer"),
        (copy("d2d", "pinned"), "'c' uses 'pinned' as memory of its GPU, but it is a host buffer"),
        (copy("h2d", buffer="pinned"), "'c' uses 'pinned' as memory of its GPU, but it is a host buffer"),
        (copy("p2p", "x", buffer="pages", peer=1), "'c' uses 'pages' as memory of its GPU, but it is a host buffer"),
        (kernel("s", reads=("pinned",)), "'k' uses 'pinned' as memory of its GPU, but it is a host buffer"),
        (kernel("s", writes=("pages",)), "'k' uses 'pages' as memory of its GPU, but it is a host buffer"),
        (lambda r: r.collective("s", "a", "all_reduce", 8, writes=("pinned",)), "'a' uses 'pinned' as memory of its GPU"),
        (lambda r: r.point_to_point("s", "p", Send(1, 8, "pinned")), "'p' uses 'pinned' as memory of its GPU"),
        (lambda r: r.point_to_point("s", "p", Recv(1, 8, "pinned")), "'p' uses 'pinned' as memory of its GPU"),
        (copy("d2d", "x", offset=0, other_offset=7), "copy 'c' reads and writes the same bytes of buffer 'x'"),
        (copy("h2d", "pinned", other_offset=9), "copy 'c' reaches byte 17 of buffer 'pinned', which has 16"),
        (copy("d2d", "y", other_offset=9), "copy 'c' reaches byte 17 of buffer 'y', which has 16"),
        (copy("d2h", "pages", offset=9), "copy 'c' reaches byte 17 of buffer 'x', which has 16"),
        (lambda r: r.host_buffer("x", 8), "buffer 'x' is declared twice"),
        (lambda r: r.host_buffer("z", 8, "pageable", shared=True), "host buffer 'z' is shared: it must be pinned, not pag"),
        (lambda r: r.switch(1), "there is no host thread 1, only 1"),
        (lambda r: r.switch(-1), "there is no host thread -1, only 1"),
        # what an all_to_all leaves lies behind what it takes
        (
            lambda r: r.collective("s", "a", "all_to_all", 8, writes=("x",), offset=1),
            "collective 'a' reaches byte 17 of buffer 'x', which has 16",
        ),
    ],
)  # fmt: skip
def test_memory_that_cannot_be_used_so_is_refused(build: Build, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        built(build)
    assert message in str(caught.value)


def test_halves_of_a_buffer_may_be_copied_to_each_other() -> None:
    built(copy("d2d", "x", other_offset=8), copy("h2d", "pinned", offset=8, other_offset=8))


@pytest.mark.parametrize("kind", ["all_to_all", "send_recv"])
def test_the_output_of_an_exchange_is_still_written(kind: Any) -> None:
    def exchange(r: RankBuilder) -> object:
        return r.collective("s", "a", kind, 4, writes=("x",), offset=0)

    built(exchange, copy(stream="t", offset=8))
    with pytest.raises(ProgramError, match="'c' on stream 't' uses buffer 'x' while 'a' on stream 's' may still be"):
        built(exchange, copy(stream="t", offset=4))


def record_wait(stream: str, other: str) -> Build:
    return lambda r: r.wait(stream, r.record(other))


RACE = "may still be (writing|reading) it: no event orders them"


@pytest.mark.parametrize(
    ("build", "ordered"),
    [
        # a copy to pageable memory returns when it is complete
        ([copy("d2h", "pages"), kernel("t", writes=("x",))], True),
        ([copy("d2h", "pinned"), kernel("t", writes=("x",))], False),
        ([copy("d2h", "pages"), copy("h2d", "pages", "t", "y")], True),
        ([copy("d2h", "pages"), new_thread, copy("h2d", "pages", "t", "y")], False),
        # the stream that it was recorded on first counts like others
        ([lambda r: r.record("t"), copy("d2h", "pages"), copy("d2h", "pages", "t", "y")], True),
        # the host thread stages at the call, whatever its stream waits for
        ([copy("d2h", "pages"), new_thread, record_wait("t", "s"), copy("h2d", "pages", "t", "y")], False),
        ([copy("d2h", "pages"), lambda r: r.record("s"), new_thread, lambda r: r.host_wait(0), copy("h2d", "pages", "t", "y")], True),
        # and has done when the call returns, but has not filled the buffer
        ([copy("h2d", "pages"), copy("d2h", "pages", "t", "y")], True),
        ([copy("h2d", "pages"), kernel("t", reads=("x",))], False),
        ([copy("h2d", "pages"), new_thread, copy("d2h", "pages", "t", "y")], False),
        ([copy("h2d", "pages"), lambda r: r.record("u"), new_thread, lambda r: r.wait("t", 0), copy("d2h", "pages", "t", "y")], True),
        ([copy("h2d", "pinned"), copy("d2h", "pinned", "t", "y")], False),
        # an event of another thread says what that has waited for
        ([copy(), lambda r: r.host_wait(r.record("s")), lambda r: r.record("t"), new_thread, kernel("t", reads=("x",))], False),
        ([copy(), new_thread, kernel("t"), lambda r: r.switch(0), lambda r: r.host_wait(r.record("s")), lambda r: r.record("t"), kernel("u", reads=("x",))], True),
        ([copy(), new_thread, kernel("t"), lambda r: r.switch(0), lambda r: r.host_wait(r.record("s")), record_wait("v", "t"), new_thread, record_wait("w", "v"), kernel("w", reads=("x",))], False),
        ([copy(), new_thread, kernel("t"), lambda r: r.switch(0), lambda r: r.host_wait(r.record("s")), lambda r: r.record("t"), lambda r: r.switch(1), lambda r: r.wait("w", 1), kernel("w", reads=("x",))], True),
    ],
)  # fmt: skip
def test_what_host_threads_order(build: list[Build], ordered: bool) -> None:
    if ordered:
        built(*build).build()
    else:
        with pytest.raises(ProgramError, match=RACE):
            built(*build)


# ---- memory of several ranks ---------------------------------------------------------------------------------------


def sharing(size: int = 8, shared: bool = True) -> RankBuilder:
    rank = RankBuilder()
    rank.buffer("x", 8, "slot")
    rank.host_buffer("common", size, shared=shared)
    rank.copy("s", "c", 4, "x", other="common")
    return rank


def pushing(peer: int, buffer: str = "x", offset: int = 0) -> RankBuilder:
    rank = RankBuilder()
    rank.buffer("x", 8, "slot")
    rank.copy("s", "push", 4, "x", kind="p2p", peer=peer, other=buffer, other_offset=offset)
    return rank


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([sharing(), sharing(9)], "shared host buffer 'common' has 8 bytes on rank 0 and 9 on rank 1"),
        ([sharing(), sharing(shared=False)], "host buffer 'common' is shared on rank 0 but not on rank 1"),
        ([sharing(shared=False), sharing()], "host buffer 'common' is shared on rank 1 but not on rank 0"),
        ([pushing(0)], "copy 'push' of rank 0 goes to rank 0, which is not a peer"),
        ([pushing(1)], "copy 'push' of rank 0 goes to rank 1, which is not a peer"),
        ([pushing(-1)], "copy 'push' of rank 0 goes to rank -1, which is not a peer"),
        ([pushing(1, "z"), sharing()], "copy 'push' of rank 0 writes buffer 'z', which rank 1 has not"),
        ([pushing(1, "common"), sharing()], "copy 'push' of rank 0 writes buffer 'common', which rank 1 has not"),
        ([pushing(1, offset=5), sharing()], "copy 'push' of rank 0 reaches byte 9 of buffer 'x' of rank 1, which has 8"),
        ([pushing(1, offset=-1), sharing()], "copy 'push' of rank 0 starts at byte -1 of buffer 'x' of rank 1"),
    ],
)  # fmt: skip
def test_memory_that_ranks_do_not_agree_on_is_refused(ranks: list[RankBuilder], message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        program(*ranks)
    assert message in str(caught.value)


def test_each_rank_may_have_memory_of_one_name_for_itself() -> None:
    program(sharing(shared=False), sharing(9, shared=False))


def test_a_peers_memory_is_not_staged_whatever_its_name() -> None:
    """Rank 0 has pageable memory of the name that rank 1's buffer has."""

    def seconds(name: str) -> float:
        rank, peer = RankBuilder(), RankBuilder()
        rank.buffer("x", 64, "slot")
        peer.buffer("target", 64, "slot")
        rank.host_buffer(name, 64, "pageable")
        rank.copy("s", "push", 64, "x", kind="p2p", peer=1, other="target")
        return SimulatedMachine(tiny_profile(2)).run(program(rank, peer)).spans[-1].end

    assert seconds("target") == seconds("other") == 64 / 8
