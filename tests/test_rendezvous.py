"""Where ranks meet: collectives of groups, sends and receives, and the orders in which they never would."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import program

from sim.program import COLLECTIVES, Program, ProgramError, RankBuilder, RankProgram, Recv, Send

Build = Callable[[RankBuilder], object]


def call(
    name: str = "sum",
    size: int = 8,
    group: Sequence[int] | None = None,
    stream: str = "s",
    kind: str = "all_reduce",
    communicator: str | None = None,
) -> Build:
    return lambda r: r.collective(stream, name, kind, size, group=group, communicator=communicator)  # type: ignore[arg-type]


def move(*transfers: Send | Recv, stream: str = "s", name: str = "p2p", communicator: str | None = None) -> Build:
    return lambda r: r.point_to_point(stream, name, *transfers, communicator=communicator)


def after(stream: str, other: str) -> Build:
    """`stream` waits for all that `other` has been given."""
    return lambda r: r.wait(stream, r.record(other))


def new_thread(rank: RankBuilder) -> object:
    return rank.thread()


def ranks(*builds: Sequence[Build]) -> Program:
    builders = []
    for commands in builds:
        rank = RankBuilder()
        rank.buffer("b", 64, "activations")
        for command in commands:
            command(rank)
        builders.append(rank)
    return program(*builders)


FIRST, LAST, ALL = (0, 1), (1, 2), None


@pytest.mark.parametrize(
    ("builds", "message"),
    [
        pytest.param(
            [[call(group=FIRST), call(group=FIRST)], [call(group=FIRST)], []],
            "rank 0 calls 2 collectives of group [0, 1], rank 1 calls 1, on communicator 's'",
            id="a call too few in a group",
        ),
        pytest.param(
            [[call(group=FIRST)], [], []], "rank 0 calls 1 collectives of group [0, 1], rank 1 calls 0", id="none"
        ),
        pytest.param(
            [[], [call(group=FIRST)]], "rank 0 calls 0 collectives of group [0, 1], rank 1 calls 1", id="none of the first"
        ),
        pytest.param(
            [[call(group=FIRST)], [call(group=FIRST, kind="all_gather")]],
            "collective 0 of group [0, 1] differs between ranks: rank 0 calls all_reduce of 8 bytes, rank 1 calls "
            "all_gather of 8 bytes, on communicator 's'",
            id="another kind",
        ),
        pytest.param(
            [[call(group=(1, 0)), call(size=4)], [call(group=(1, 0)), call(size=5)]],
            "collective 0 differs between ranks: rank 0 calls all_reduce of 4 bytes, rank 1 calls all_reduce of 5 bytes",
            id="another size",
        ),
        pytest.param(
            [[call(group=FIRST)], [call(group=FIRST)], [call(group=FIRST)]],
            "rank 2 calls a collective of group [0, 1], in which it is not",
            id="a rank that is not in the group",
        ),
        pytest.param(
            [[call(group=(0, 2))], [call(group=(0, 2))]],
            "rank 1 calls a collective of group [0, 2], in which it is not",
            id="a rank that is not in a group with one that is not there",
        ),
        pytest.param(
            [[call(group=(0, 2))], []],
            "there is a collective of group [0, 2], but the program has 2 ranks",
            id="a member that is not there",
        ),
        pytest.param(
            [[call(group=(0, 1))], [call(group=(1, 0))]],
            "rank 0 calls 1 collectives of group [0, 1], rank 1 calls 0",
            id="members in another order are another group",
        ),
        pytest.param(
            [[call(stream="s")], [call(stream="t")]],
            "rank 0 calls 1 collectives, rank 1 calls 0, on communicator 's'",
            id="a stream's name is its communicator's",
        ),
        pytest.param(
            [[call(communicator="tp")], [call(communicator="sp")]],
            "rank 0 calls 1 collectives, rank 1 calls 0, on communicator 'tp'",
            id="another communicator",
        ),
        # ---- sends and receives
        pytest.param(
            [[move(Send(1, 8, "b"))], []],
            "rank 0 sends 1 times to rank 1 on communicator 's', which has 0 calls to receive",
            id="a send without a receive",
        ),
        pytest.param(
            [[], [move(Recv(0, 8, "b"), Recv(0, 8, "b", 8))]],
            "rank 1 receives 2 times from rank 0 on communicator 's', which has 0 calls to send",
            id="receives without sends",
        ),
        pytest.param(
            [[move(Send(1, 8, "b"), name="out")], [move(Recv(0, 9, "b"), name="in")]],
            "'out' of rank 0 sends 8 bytes to rank 1, 'in' there is to receive 9",
            id="another size of a receive",
        ),
        pytest.param(
            [[move(Send(1, 8, "b"), Send(1, 4, "b"))], [move(Recv(0, 4, "b"), Recv(0, 8, "b", 8))]],
            "'p2p' of rank 0 sends 8 bytes to rank 1, 'p2p' there is to receive 4",
            id="sizes in another order",
        ),
        pytest.param([[move(Send(0, 8, "b"))]], "'p2p' of rank 0 sends to or from rank 0, which is no peer", id="itself"),
        pytest.param(
            [[move(Recv(2, 8, "b"))], []],
            "'p2p' of rank 0 receives to or from rank 2, which is no peer",
            id="a peer that is not there",
        ),
        pytest.param([[move(Send(-1, 8, "b"))], []], "rank -1, which is no peer", id="a peer below 0"),
        pytest.param(
            [[move(Send(1, 8, "b"))], [move(Recv(2, 8, "b"))], [move(Recv(0, 8, "b"))]],
            "rank 0 sends 1 times to rank 1 on communicator 's', which has 0 calls to receive",
            id="a receive from another rank",
        ),
        pytest.param(
            [[move(Send(1, 8, "b"))], [move(Recv(0, 8, "b"), communicator="other")]],
            "rank 0 sends 1 times to rank 1 on communicator 's', which has 0 calls to receive",
            id="a receive on another communicator",
        ),
        pytest.param(
            [[move(Recv(1, 8, "b")), move(Send(1, 8, "b", 8))], [move(Recv(0, 8, "b")), move(Send(0, 8, "b", 8))]],
            "the program never ends:\n"
            "  rank 0 stream 's' waits for ranks [1] to post their side of 'p2p'\n"
            "  rank 1 stream 's' waits for ranks [0] to post their side of 'p2p'",
            id="both receive before they send",
        ),
        pytest.param(
            [[move(Send(1, 8, "b")), move(Recv(1, 8, "b", 8))], [move(Send(0, 8, "b")), move(Recv(0, 8, "b", 8))]],
            "rank 0 stream 's' waits for ranks [1] to post their side of 'p2p'",
            id="both send before they receive",
        ),
        pytest.param(
            [[call(), move(Send(1, 8, "b"), communicator="p")], [move(Recv(0, 8, "b"), communicator="p"), call()]],
            "the program never ends:\n"
            "  rank 0 stream 's' waits for ranks [1] to arrive at all_reduce 'sum'\n"
            "  rank 1 stream 's' waits for ranks [0] to post their side of 'p2p'",
            id="a collective before a send, after its receive",
        ),
    ],
)  # fmt: skip
def test_ranks_that_would_not_meet_are_refused(builds: list[list[Build]], message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        ranks(*builds)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (call(group=()), "collective 'sum' is of group [], expected ranks, each once"),
        (call(group=(0, 0)), "collective 'sum' is of group [0, 0], expected ranks, each once"),
        (call(group=(0, -1)), "collective 'sum' is of group [0, -1], expected ranks, each once"),
        (move(), "'p2p' has no send and no receive"),
        (move(Send(1, 0, "b")), "'p2p' moves 0 bytes, at least 1 is needed"),
        (move(Send(1, 8, "c")), "'p2p' on stream 's' uses buffer 'c', which is not declared"),
        (move(Recv(1, 60, "b", 8)), "'p2p' reaches byte 68 of buffer 'b', which has 64"),
        (move(Send(1, 8, "b"), Recv(1, 8, "b", 7)), "'p2p' receives into bytes of buffer 'b' that it uses otherwise"),
        (move(Recv(1, 8, "b"), Recv(2, 8, "b", 7)), "'p2p' receives into bytes of buffer 'b' that it uses otherwise"),
    ],
)
def test_what_cannot_be_a_rendezvous_is_refused(build: Build, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        ranks([build])
    assert message in str(caught.value)


def test_sends_of_a_group_may_read_the_same_bytes() -> None:
    ranks(
        [move(Send(1, 8, "b"), Send(2, 8, "b"), Recv(1, 8, "b", 8))],
        [move(Recv(0, 8, "b"), Send(0, 8, "b", 8))],
        [move(Recv(0, 8, "b"))],
    )


def test_a_group_of_sends_and_receives_meets_in_any_order_of_its_transfers() -> None:
    ranks(*([move(Recv(1 - rank, 8, "b"), Send(1 - rank, 8, "b", 8))] for rank in (0, 1)))
    ranks(*([move(Send(1 - rank, 8, "b", 8), Recv(1 - rank, 8, "b"))] for rank in (0, 1)))


# ---- several streams of one communicator ---------------------------------------------------------------------------


@pytest.mark.parametrize("second", [call("b", stream="t", communicator="c"), move(Send(0, 8, "b"), stream="t", communicator="c")])  # fmt: skip
@pytest.mark.parametrize("between", [[], [after("s", "t")], [new_thread]])
def test_streams_of_a_communicator_need_an_event_between_them(second: Build, between: list[Build]) -> None:
    with pytest.raises(ProgramError, match="follows another one of communicator 'c' on stream 's': no event orders"):
        ranks([call("a", communicator="c"), *between, second])


def test_an_event_orders_streams_of_a_communicator() -> None:
    one = [call("a", communicator="c"), after("t", "s"), call("b", stream="t", communicator="c")]
    ranks(one, one)
    host = [call("a", communicator="c"), lambda r: r.host_wait(r.record("s")), call("b", stream="t", communicator="c")]
    ranks(host, one)


def test_two_threads_may_not_feed_a_communicator_even_where_an_event_orders_them() -> None:
    with pytest.raises(ProgramError, match="'b' on stream 't' follows another one of communicator 'c'"):
        ranks([call("a", communicator="c"), new_thread, after("t", "s"), call("b", stream="t", communicator="c")])


def test_a_group_has_communicators_of_its_own() -> None:
    one = [call("a", communicator="c"), call("b", group=FIRST, stream="t", communicator="c")]
    ranks(one, one)


# ---- circles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("builds", "said"),
    [
        pytest.param(
            [[call("a", stream="s"), call("b", stream="t")], [call("b", stream="t"), call("a", stream="s")]],
            {
                "rank 0 issues 'a' of all ranks on communicator 's' before 'b' of all ranks on communicator 't'",
                "rank 1 issues 'b' of all ranks on communicator 't' before 'a' of all ranks on communicator 's'",
            },
            id="two communicators of all ranks",
        ),
        pytest.param(
            [[call("a", group=FIRST), call("b", stream="t")], [call("b", stream="t"), call("a", group=FIRST)], [call("b", stream="t")]],
            {
                "rank 0 issues 'a' of group [0, 1] on communicator 's' before 'b' of all ranks on communicator 't'",
                "rank 1 issues 'b' of all ranks on communicator 't' before 'a' of group [0, 1] on communicator 's'",
            },
            id="a group and all ranks",
        ),
        pytest.param(
            [
                [call("a", group=(0, 1)), call("c", group=(2, 0), stream="t")],
                [call("b", group=(1, 2)), call("a", group=(0, 1))],
                [call("c", group=(2, 0), stream="t"), call("b", group=(1, 2))],
            ],
            {
                "rank 0 issues 'a' of group [0, 1] on communicator 's' before 'c' of group [2, 0] on communicator 't'",
                "rank 1 issues 'b' of group [1, 2] on communicator 's' before 'a' of group [0, 1] on communicator 's'",
                "rank 2 issues 'c' of group [2, 0] on communicator 't' before 'b' of group [1, 2] on communicator 's'",
            },
            id="three groups of three ranks",
        ),
        pytest.param(
            # the circle is among the second calls; the first ones are as they should be
            [
                [call("x"), call("a", group=FIRST), call("b", stream="t"), call("y")],
                [call("x"), call("b", stream="t"), call("a", group=FIRST), call("y")],
            ],
            {
                "rank 0 issues 'a' of group [0, 1] on communicator 's' before 'b' of all ranks on communicator 't'",
                "rank 1 issues 'b' of all ranks on communicator 't' before 'a' of group [0, 1] on communicator 's'",
            },
            id="amid others",
        ),
    ],
)  # fmt: skip
def test_collectives_in_a_circle_are_refused(builds: list[list[Build]], said: set[str]) -> None:
    with pytest.raises(ProgramError) as caught:
        ranks(*builds)
    what, _, circle = str(caught.value).partition(": ")
    assert what == "ranks issue collectives in different order and may deadlock"
    assert set(circle.split(", rank ")) == {
        line if circle.startswith(line) else line.removeprefix("rank ") for line in said
    }


def test_an_event_across_threads_counts_into_a_circle() -> None:
    # each rank orders both by an event: rank 0 a before b, rank 1 b before a
    def of(first: str, then: str) -> list[Build]:
        return [call(first, stream=first), new_thread, after(then, first), call(then, stream=then)]

    ranks(of("a", "b"), of("a", "b"))
    with pytest.raises(ProgramError) as caught:
        ranks(of("a", "b"), of("b", "a"))
    assert "rank 0 stream 'a' waits for ranks [1] to arrive at all_reduce 'a'" in str(caught.value)
    assert "rank 1 stream 'b' waits for ranks [0] to arrive at all_reduce 'b'" in str(caught.value)


@pytest.mark.parametrize(
    "builds",
    [
        pytest.param([[call("a", group=(0,))], [call("b", group=(1,))]], id="groups of one"),
        pytest.param(
            [[call(group=(0, 1)), call(group=(0, 2), stream="t")], [call(group=(0, 1)), call(group=(1, 3), stream="t")], [call(group=(2, 3)), call(group=(0, 2), stream="t")], [call(group=(2, 3)), call(group=(1, 3), stream="t")]],
            id="rows and columns of a grid",
        ),
        pytest.param(
            [[call("a", group=(0, 1)), call("b", group=(0, 2))], [call("a", group=(0, 1)), call("c", group=(1, 2))], [call("b", group=(0, 2)), call("c", group=(1, 2))]],
            id="three groups in one order",
        ),
        pytest.param(
            [[call("a", group=(0, 1)), call()], [call("a", group=(0, 1)), call()], [call(), call("b", group=(2,))]],
            id="groups that share no rank",
        ),
        pytest.param([[call("a"), call("b", stream="t")], [call("a"), new_thread, call("b", stream="t")]], id="two threads"),
    ],
)  # fmt: skip
def test_what_no_circle_is_is_accepted(builds: list[list[Build]]) -> None:
    ranks(*builds)


groups = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True).map(tuple)
calls = st.tuples(groups, st.sampled_from(COLLECTIVES), st.sampled_from(["x", "y"]), st.sampled_from([4, 8]))


def of_rank(rank: int, called: list[tuple[tuple[int, ...], str, str, int]]) -> RankProgram:
    builder = RankBuilder()
    for group, kind, name, size in called:
        if rank in group:
            # a stream for each group, so that nothing but the order of issue orders them
            call(name, size, group, f"{name}{group}", kind)(builder)
    return builder.build()


@given(st.lists(calls, max_size=10))
def test_ranks_that_issue_in_one_order_of_all_meet(called: list[tuple[tuple[int, ...], str, str, int]]) -> None:
    Program(tuple(of_rank(rank, called) for rank in range(4)))


@given(st.lists(calls, min_size=1, max_size=10), st.data())
def test_a_call_that_one_rank_leaves_out_is_missed(
    called: list[tuple[tuple[int, ...], str, str, int]], data: st.DataObject
) -> None:
    left = data.draw(st.sampled_from([c for c in called if len(c[0]) > 1] or [((0, 1), "all_gather", "x", 4)]))
    called = [*called, left]
    last = len(called) - 1
    rank = data.draw(st.sampled_from(left[0]))
    parts = [of_rank(r, called[:last] if r == rank else called) for r in range(4)]
    with pytest.raises(ProgramError, match=rf"collectives of group \[{', '.join(map(str, left[0]))}\]"):
        Program(tuple(parts))


def test_ranks_of_one_object_are_checked_like_ranks_of_their_own() -> None:
    rank = RankBuilder()
    call(group=(0, 1))(rank)
    one = rank.build()
    Program((one, one))
    with pytest.raises(ProgramError, match="rank 2 calls a collective of group"):
        Program((one,) * 3)
    with pytest.raises(ProgramError, match="rank 2 calls a collective of group"):
        Program(tuple(msgspec.convert(msgspec.to_builtins(one), RankProgram) for _ in range(3)))
