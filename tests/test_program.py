"""Building programs: what is refused and why, orders that are proved, and the hash."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import direct_programs, program

from sim.program import (
    Buffer,
    Collective,
    Copy,
    Kernel,
    Program,
    ProgramError,
    RankBuilder,
    RankProgram,
    RecordEvent,
    instrument,
)
from sim.program.ops import Matrix


def built(*build: Callable[[RankBuilder], object]) -> RankBuilder:
    rank = RankBuilder()
    rank.buffer("w", 100, "weights")
    for action in build:
        action(rank)
    return rank


def copies(rank: RankBuilder) -> None:
    rank.copy("copy", "chunk", 10, "w")


def reads(rank: RankBuilder) -> None:
    rank.kernel("compute", "gemm", seconds=1, reads=("w",))


def writes(rank: RankBuilder) -> None:
    rank.kernel("compute", "norm", seconds=1, writes=("w",))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ([lambda r: r.wait("s", 0)], "event 0 is waited for but nobody has recorded it"),
        ([lambda r: r.record("s"), lambda r: r.wait("s", 1)], "event 1 is waited for but nobody has recorded it"),
        ([lambda r: r.wait("s", -1)], "event -1 is waited for but nobody has recorded it"),
        ([lambda r: r.host_wait(3)], "event 3 is waited for but nobody has recorded it"),
        ([lambda r: r.buffer("w", 1, "slot")], "buffer 'w' is declared twice"),
        ([lambda r: r.buffer("v", -1, "slot")], "buffer 'v' has negative size -1"),
        (
            [lambda r: r.kernel("s", "k", seconds=-1.0)],
            "kernel 'k' has seconds -1.0, which must be finite and not negative",
        ),
        ([lambda r: r.kernel("s", "k")], "kernel 'k' needs seconds, or flops or hbm_bytes"),
        ([lambda r: r.kernel("s", "k", seconds=1, launches=0)], "kernel 'k' stands for 0 launches"),
        ([lambda r: r.copy("s", "c", 0, "w")], "copy 'c' moves 0 bytes, at least 1 is needed"),
        ([lambda r: r.copy("s", "c", -4, "w")], "copy 'c' moves -4 bytes, at least 1 is needed"),
        ([lambda r: r.copy("s", "c", 1, "v")], "'c' on stream 's' uses buffer 'v', which is not declared"),
        ([lambda r: r.copy("s", "c", 50, "w", offset=51)], "copy 'c' reaches byte 101 of buffer 'w', which has 100"),
        ([lambda r: r.copy("s", "c", 50, "w", offset=-1)], "copy 'c' reaches byte 49 of buffer 'w'"),
        ([lambda r: r.collective("s", "x", "all_to_all", 0)], "collective 'x' has 0 bytes, at least 1 is needed"),
        (
            [lambda r: r.collective("s", "x", "broadcast", 1)],  # type: ignore[arg-type]
            "collective 'x' is a 'broadcast', expected one of all_to_all, all_reduce, all_gather",
        ),
        ([lambda r: r.kernel("s", "k", seconds=1, reads=("v",))], "'k' on stream 's' uses buffer 'v', which is not"),
        ([lambda r: r.collective("s", "x", "all_reduce", 1, writes=("v",))], "'x' on stream 's' uses buffer 'v'"),
        ([lambda r: r.wait_flag("s", "gate", 1), RankBuilder.build], "stream 's' waits for flag 'gate' to be 1, which"),
        (
            [lambda r: r.kernel("s", "k", seconds=1), RankBuilder.thread, lambda r: r.kernel("s", "k", seconds=1)],
            "stream 's' is fed by host threads 0 and 1: the order of its commands would be undefined",
        ),
        ([lambda r: r.host_wait_counter("n")], "a wait for counter 'n' needs a bound"),
        (
            [lambda r: r.host_wait_counter("n", least=1, poll=-1.0)],
            "a polling period of -1.0 s is not finite and not neg",
        ),
        ([lambda r: r.host_wait_counter("n", least=1, poll=math.inf)], "a polling period of inf s is not finite"),
        ([lambda r: r.host_release("l")], "host thread 0 gives back lock 'l', which it does not hold"),
        ([lambda r: r.host_acquire("l"), lambda r: r.host_acquire("l")], "host thread 0 takes lock 'l' twice"),
        (
            [lambda r: r.host_acquire("l"), RankBuilder.thread, lambda r: r.host_release("l")],
            "host thread 1 gives back lock 'l', which it does not hold",
        ),
        ([lambda r: r.host_acquire("l"), RankBuilder.build], "lock 'l' is never given back"),
        # an event that another thread records on a stream orders nothing of what that stream was given
        (
            [copies, RankBuilder.thread, lambda r: r.wait("compute", r.record("copy")), reads],
            "'gemm' on stream 'compute' uses buffer 'w' while 'chunk' on stream 'copy' may still be writing it",
        ),
        (
            [
                RankBuilder.thread,
                copies,
                lambda r: r.switch(0),
                lambda r: r.wait("compute", r.record("copy")),
                reads,
            ],
            "'gemm' on stream 'compute' uses buffer 'w' while 'chunk' on stream 'copy' may still be writing it",
        ),
        # accesses that no event orders
        (
            [copies, reads],
            "'gemm' on stream 'compute' uses buffer 'w' while 'chunk' on stream 'copy' may still be writ",
        ),
        (
            [copies, writes],
            "'norm' on stream 'compute' uses buffer 'w' while 'chunk' on stream 'copy' may still be wri",
        ),
        (
            [reads, copies],
            "'chunk' on stream 'copy' overwrites buffer 'w' while 'gemm' on stream 'compute' may still be",
        ),
        (
            [writes, copies],
            "'chunk' on stream 'copy' uses buffer 'w' while 'norm' on stream 'compute' may still be writ",
        ),
        # an event recorded before the access does not order it
        ([lambda r: r.record("copy"), copies, lambda r: r.wait("compute", 0), reads], "may still be writing it"),
        (
            [copies, lambda r: r.record("copy"), copies, lambda r: r.wait("compute", 0), reads],
            "may still be writing it",
        ),
        # nor does one that another stream waits for
        ([copies, lambda r: r.record("copy"), lambda r: r.wait("other", 0), reads], "may still be writing it"),
        # each reader counts
        (
            [
                reads,
                lambda r: r.record("compute"),
                lambda r: r.kernel("other", "late", seconds=1, reads=("w",)),
                lambda r: r.wait("copy", 0),
                copies,
            ],
            "while 'late' on stream 'other' may still be reading it",
        ),
    ],
)
def test_what_no_machine_could_run_is_refused(build: list[Callable[[RankBuilder], object]], message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        built(*build)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param([copies, lambda r: r.wait("compute", r.record("copy")), reads], id="an event"),
        pytest.param([reads, lambda r: r.wait("copy", r.record("compute")), copies], id="an event, write after read"),
        pytest.param([copies, copies], id="stream order"),
        pytest.param(
            [copies, lambda r: r.wait("mid", r.record("copy")), lambda r: r.wait("compute", r.record("mid")), reads],
            id="events through a third stream",
        ),
        pytest.param([copies, lambda r: r.host_wait(r.record("copy")), reads], id="the host"),
        pytest.param(
            [copies, lambda r: r.host_wait(r.record("copy")), lambda r: r.wait("compute", r.record("new")), reads],
            id="the host, then a stream first used later",
        ),
        pytest.param([reads, lambda r: r.kernel("other", "k", seconds=1, reads=("w",))], id="two readers"),
    ],
)
def test_what_something_orders_is_accepted(build: list[Callable[[RankBuilder], object]]) -> None:
    built(*build).build()


def test_a_host_wait_orders_its_own_thread_alone() -> None:
    with pytest.raises(ProgramError, match="may still be writing it"):
        built(copies, lambda r: r.host_wait(r.record("copy")), RankBuilder.thread, reads)


@pytest.mark.parametrize(("feeds", "waits"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_host_wait_orders_the_streams_that_its_thread_feeds_alone(feeds: int, waits: int) -> None:
    """Also those that have commands already; streams of threads with smaller and larger numbers are not ordered."""

    def build(rank: RankBuilder) -> None:
        rank.thread()
        rank.switch(feeds)
        rank.kernel("compute", "first", seconds=1)
        copies(rank)
        done = rank.record("copy")
        rank.switch(waits)
        rank.host_wait(done)
        rank.switch(feeds)
        reads(rank)

    if feeds == waits:
        built(build).build()
    else:
        with pytest.raises(ProgramError, match="may still be writing it"):
            built(build)


@pytest.mark.parametrize(
    "work", [{"seconds": math.nan}, {"seconds": math.inf}, {"flops": -1.0, "hbm_bytes": 1.0}, {"flops": math.nan}]
)
def test_a_kernel_that_takes_no_finite_time_is_refused(work: dict[str, float]) -> None:
    with pytest.raises(ProgramError, match="kernel 'k'"):
        built(lambda r: r.kernel("s", "k", **({"hbm_bytes": 1.0} | work)))  # type: ignore[arg-type]


def call(kind: str, size: int) -> RankBuilder:
    rank = RankBuilder()
    rank.collective("s", "x", "all_to_all", 8)
    rank.collective("s", "y", kind, size)  # type: ignore[arg-type]
    return rank


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([], "a program needs at least one rank"),
        (
            [call("all_reduce", 8), call("all_reduce", 16)],
            "collective 1 differs between ranks: rank 0 calls all_reduce of 8 bytes, rank 1 calls all_reduce of 16",
        ),
        (
            [call("all_reduce", 8), call("all_reduce", 8), call("all_gather", 8)],
            "collective 1 differs between ranks: rank 0 calls all_reduce of 8 bytes, rank 2 calls all_gather of 8",
        ),
        ([call("all_reduce", 8), RankBuilder()], "rank 0 calls 2 collectives, rank 1 calls 0"),
    ],
)
def test_ranks_must_call_the_same_collectives(ranks: list[RankBuilder], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        program(*ranks)


# ---- identity ------------------------------------------------------------------------------------------------------

SMALL = """
from sim.program import Program, RankBuilder
rank = RankBuilder()
rank.buffer("slot", 64, "slot")
rank.record_step("compute")
rank.wait_flag("copy", "gate", 0)
rank.copy("copy", "chunk", 64, "slot", step=0, layer=0)
rank.wait("compute", rank.record("copy"))
rank.kernel("compute", "gemm", seconds=0.5, reads=("slot",), step=0, layer=0)
rank.write_flag("compute", "gate", 1)
rank.collective("compute", "a2a", "all_to_all", 128, step=0, layer=0)
rank.write_flag("compute", "gate", 0)
rank.host_wait(rank.record_step("compute"))
small = Program((rank.build(),) * 2)
"""
SMALL_HASH = "a96918188d5498b7cde1218f2d53aad4ccfe04d492b700d292cc4e1ce48c0810"


def small() -> Program:
    namespace: dict[str, Program] = {}
    exec(SMALL, namespace)
    return namespace["small"]


def test_the_hash_of_a_program_is_stable() -> None:
    assert small().hash == SMALL_HASH


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_the_hash_is_the_same_in_every_process(seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL + "print(small.hash)"],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == SMALL_HASH


def test_the_hash_does_not_depend_on_whether_ranks_share_an_object() -> None:
    shared = small()
    apart = Program(tuple(msgspec.convert(msgspec.to_builtins(r), RankProgram) for r in shared.ranks))
    assert apart.ranks[0] is not apart.ranks[1]
    assert apart == shared
    assert apart.hash == shared.hash


@given(direct_programs(1), st.data())
def test_the_hash_tells_any_two_programs_apart(one: Program, data: st.DataObject) -> None:
    (rank,) = one.ranks
    thread = rank.threads[0]
    at = data.draw(st.integers(0, len(thread) - 1))
    shorter = Program((msgspec.structs.replace(rank, threads=(thread[:at] + thread[at + 1 :], *rank.threads[1:])),))
    assert shorter.hash != one.hash
    assert Program((rank, rank)).hash != one.hash


@given(direct_programs(2))
def test_programs_survive_json(one: Program) -> None:
    again = msgspec.json.decode(msgspec.json.encode(one), type=Program)
    assert again == one
    assert again.hash == one.hash


@given(direct_programs(2))
def test_instrumenting_adds_an_event_around_each_copy_and_nothing_else(one: Program) -> None:
    for before, after in zip(one.ranks, instrument(one, (Copy,)).program.ranks, strict=True):
        assert (before.buffers, before.step_events) == (after.buffers, after.step_events)
        known = {c.event for c in before.commands() if isinstance(c, RecordEvent)}
        for old, new in zip(before.threads, after.threads, strict=True):
            assert [c for c in new if not (isinstance(c, RecordEvent) and c.event not in known)] == list(old)
            for i, command in enumerate(new):
                if isinstance(command, Copy):
                    around = (new[i - 1], new[i + 1])
                    assert all(isinstance(c, RecordEvent) and c.stream == command.stream for c in around)
        events = [c.event for c in after.commands() if isinstance(c, RecordEvent)]
        assert len(events) == len(set(events)) == len(known) + 2 * sum(isinstance(c, Copy) for c in before.commands())


def test_streams_are_listed_in_order_of_first_use() -> None:
    assert small().ranks[0].streams == ("compute", "copy")
    assert [type(c) for c in small().ranks[0].commands()].count(Kernel) == 1


def test_what_a_builder_is_not_told_is_as_the_commands_say() -> None:
    builder = RankBuilder()
    builder.buffer("b", 64, "collective")
    builder.record_step("s")
    builder.kernel("s", "work", seconds=1)
    builder.copy("c", "chunk", 8, builder.buffer("slot", 8, "slot"))
    builder.collective("s", "sum", "all_reduce", 64, writes=("b",))
    builder.record_step("s")
    rank = builder.build()
    [_, *commands, _] = rank.commands()
    assert commands == [
        Kernel("s", "work", 1),
        Copy("c", "chunk", 8, "slot"),
        Collective("s", "sum", "all_reduce", 64, writes=("b",)),
    ]
    assert rank.buffers == (Buffer("b", 64, "collective"), Buffer("slot", 8, "slot"))


@given(st.data())
def test_a_part_of_a_matrix_has_the_elements_of_its_rows_and_columns(data: st.DataObject) -> None:
    def below(most: int) -> int:
        return data.draw(st.integers(0, most - 1))

    def elements(m: Matrix) -> list[list[int]]:
        return [[m.offset + i * m.stride + j for j in range(m.columns)] for i in range(m.rows)]

    rows, columns = 1 + below(6), 1 + below(6)
    whole = Matrix("w", below(50), rows, columns, columns + below(5), per_rank=3, samples=(2, 1000))
    row, column = below(rows), below(columns)
    height, width = 1 + below(rows - row), 1 + below(columns - column)
    part = whole.part(row, height, column, width)
    assert elements(part) == [line[column : column + width] for line in elements(whole)[row : row + height]]
    rest = whole.part(row, column=column)
    assert elements(rest) == [line[column:] for line in elements(whole)[row:]]
    assert whole.part() == whole
    assert (part.buffer, part.per_rank, part.batch, part.step) == ("w", 3, 2, 1000)
    assert (part.elements, rest.elements) == (2 * height * width, 2 * (rows - row) * (columns - column))


def test_rows_of_samples_are_joined_where_a_sample_follows_the_other() -> None:
    one = Matrix("w", 0, 4, 8, 10)
    assert (one.batch, one.step, one.joined) == (1, 0, True)
    for step, joined in ((39, False), (40, True), (41, False)):
        assert msgspec.structs.replace(one, samples=(2, step)).joined is joined
    assert msgspec.structs.replace(one, rows=1, samples=(2, 77)).joined, "one row a sample is a matrix of that stride"
