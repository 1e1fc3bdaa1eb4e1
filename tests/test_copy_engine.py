"""Collectives by copy engines: what they move and add, in what order, what they cost, and how they are asked for."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from copy_engine_programs import MAIN, Call, Memory, engine_program, expected, initial
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import Case, Plain, cases, collective, compute, gated, scenario, tiny_profile, workloads
from timeline_checks import SLACK, check_order

from sim.inputs.config import InputError
from sim.machine import SimulatedMachine
from sim.policies import build
from sim.program import (
    COLLECTIVES,
    Collective,
    Copy,
    HostBuffer,
    Program,
    ProgramError,
    RankBuilder,
    WaitFlag,
    WriteFlag,
)
from sim.run import simulate
from sim.timeline import Timeline
from sim.timeline.critical_path import causes
from sim.workloads.copy_engine import SLOTS

GROUPS = st.sampled_from(
    [
        ((0,),),
        ((0, 1),),
        ((1, 0),),
        ((0, 1, 2),),
        ((2, 0, 3, 1),),
        ((0, 1), (2, 3)),
        ((0, 2), (3, 1)),
        ((4, 2, 0), (1, 3)),
        ((0, 1, 2, 3, 4),),
    ]
)
calls = st.builds(Call, st.sampled_from(COLLECTIVES), st.integers(1, 100), st.sampled_from([2, 5, 8, 16, 1000]), GROUPS)


@given(st.lists(calls, min_size=1, max_size=3), st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_what_nccl_would_leave_is_left_in_whatever_order_streams_run(several: list[Call], order: list[int]) -> None:
    ranks = 5
    program = engine_program(ranks, [call._replace(name=f"call {i}") for i, call in enumerate(several)])
    # calls of one kind and size use the same buffer, one after the other
    contents: list[dict[str, Any]] = [{} for _ in range(ranks)]
    wanted: list[dict[str, Any]] = [{} for _ in range(ranks)]
    for number, call in enumerate(several):
        buffer = call.lowered().buffer
        if buffer not in contents[0]:
            for rank, content in enumerate(initial(call, ranks, number)):
                contents[rank][buffer], wanted[rank][buffer] = content, content.copy()
        after = expected(call, [of[buffer] for of in wanted])
        for rank in range(ranks):
            wanted[rank][buffer] = after[rank]
    memory = Memory(program, contents)
    memory.run(order)
    for rank in range(ranks):
        for buffer, content in wanted[rank].items():
            assert memory.device[rank][buffer].tobytes() == content.tobytes(), (rank, buffer)


@given(calls)
def test_bytes_and_commands_are_those_of_the_closed_forms(call: Call) -> None:
    program = engine_program(5, [call])
    memory = Memory(program, [{} for _ in range(5)])
    memory.run()
    size = call.bytes // 2 * 2
    for group in call.groups:
        count = len(group)
        block = size // 2 // count * 2
        others = (count - 1) * block
        for place, rank in enumerate(group):
            down, up = {
                "all_to_all": (others, others),
                "all_gather": (block * (count > 1), others),
                "reduce_scatter": (others, others),
                "send_recv": (size * (count > 1), size * (count > 1)),
            }.get(call.kind, (0, 0))
            if call.kind == "all_reduce" and count > 1:
                each = -(-(size // 2) // count) * 2
                own = max(min(each, size - each * place), 0)
                # the blocks of others, then the sum of its own; its own block from all others, then their sums
                down, up = size, (count - 1) * own + size - own
            assert (memory.moved["d2h"][rank], memory.moved["h2d"][rank]) == (down, up)
            issued = sum(1 for c in program.ranks[rank].commands()) - 2
            assert issued <= call.lowered().commands


class _Careless(RankBuilder):
    """Leaves out waits of one stream for events of another, `dropped`."""

    dropped: tuple[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.recorded: dict[int, str] = {}

    def record(self, stream: str) -> int:
        event = super().record(stream)
        self.recorded[event] = stream
        return event

    def wait(self, stream: str, event: int) -> None:
        if (stream, self.recorded[event]) != self.dropped:
            super().wait(stream, event)


SUM = Call("all_reduce", 96, 8, ((0, 1, 2),))


@pytest.mark.parametrize(
    ("waiting", "recorded"),
    [
        (f"{MAIN} receive", MAIN),  # landing buffers are filled again once what was there has been added
        (f"{MAIN} receive", f"{MAIN} send"),  # sums come to where the numbers to be added have been sent from
        (f"{MAIN} send", MAIN),  # a sum is sent once it is complete
        (MAIN, f"{MAIN} receive"),  # what has landed is added once it is there
    ],
)
def test_every_event_is_needed(waiting: str, recorded: str) -> None:
    engine_program(3, [SUM, SUM])
    careless = type("Careless", (_Careless,), {"dropped": (waiting, recorded)})
    with pytest.raises(ProgramError, match="no event orders them"):
        engine_program(3, [SUM, SUM], careless)


@pytest.mark.parametrize("kind", COLLECTIVES)
@pytest.mark.parametrize("guard", ["read", "filled"])
def test_the_proof_fails_without_the_guards_of_slots(kind: Any, guard: str) -> None:
    program = engine_program(3, [Call(kind, 3 * 16 * (SLOTS + 2), 16, ((0, 1, 2),))])

    def guarded(command: object) -> bool:
        return isinstance(command, WaitFlag) and command.flag.startswith(guard)

    threads = [tuple(c for c in rank.threads[0] if not guarded(c)) for rank in program.ranks]
    assert all(len(t) < len(r.threads[0]) for t, r in zip(threads, program.ranks, strict=True))
    with pytest.raises(ProgramError, match="buffer 'slots . of .* may still be"):
        Program(tuple(msgspec.structs.replace(r, threads=(t,)) for r, t in zip(program.ranks, threads, strict=True)))


def test_every_wait_for_a_slot_is_needed() -> None:
    """A wait less at any place, and a slot may be overwritten that a peer still reads."""
    call = Call("all_gather", 3 * 16 * (SLOTS + 2), 16, ((0, 1, 2),))
    program = engine_program(3, [call])
    commands = program.ranks[0].threads[0]
    waits = [n for n, c in enumerate(commands) if isinstance(c, WaitFlag) and c.flag.startswith("read")]
    assert len(waits) == 2 * 2  # of two pieces beyond the slots, for two readers
    for left_out in waits:
        without = msgspec.structs.replace(
            program.ranks[0], threads=((*commands[:left_out], *commands[left_out + 1 :]),)
        )
        with pytest.raises(ProgramError, match="buffer 'slots 0 of .* may still be"):
            Program((without, *program.ranks[1:]))


# ---- what it costs, on links of 8 B/s each way ----------------------------------------------------------------------


def _alone(call: Call, ranks: int = 2, **changes: float) -> Timeline:
    profile = tiny_profile(ranks, {key.replace("__", "."): value for key, value in changes.items()})
    return SimulatedMachine(profile).run(engine_program(ranks, [call]))


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("all_to_all", 5.0),  # 32 B in pieces of 8: one piece down, then four up
        ("all_gather", 5.0),
        ("send_recv", 9.0),  # 64 B
        ("reduce_scatter", 5.0),
        # 4 pieces are exchanged and 4 sums shared: the first sum is sent behind the third piece, so that 8 go down in 8 s,
        # and the last comes up 1 s later
        ("all_reduce", 9.0),
    ],
)
def test_pieces_go_up_while_the_next_ones_go_down(kind: Any, seconds: float) -> None:
    timeline = _alone(Call(kind, 64, 8, ((0, 1),)), device__hbm_bandwidth=1e9)
    assert [s.end - s.start for s in timeline.composed] == [pytest.approx(seconds)] * 2


def test_an_all_gather_goes_down_once_for_all_who_read_it() -> None:
    timeline = _alone(Call("all_gather", 96, 8, ((0, 1, 2, 3),)), 4)
    # blocks of 24 B: three pieces go down, and nine of three other ranks come up
    assert [s.end - s.start for s in timeline.composed] == [pytest.approx(10.0)] * 4


def test_a_piece_waits_for_the_whole_copy_that_has_the_engine() -> None:
    workload: Plain = {
        "layers": 1,
        "steps": 2,
        "layer_bytes": 80,
        "collectives": {"algorithm": "copy_engine", "piece_bytes": 8},
        "block": [compute(1.0), collective(32)],
    }
    times = []
    for policy in ({"kind": "resident"}, {"kind": "whole_layer"}, {"kind": "yielding", "chunk_bytes": 8}):
        result = simulate(scenario(workload, policy), tiny_profile(2))
        times.append((result.metrics["step_time_s"], result.metrics["collective_time_s"]))
    # 16 B in two pieces; beside a copy of 10 s that began 1 s before the collective; chunks of 1 s let pieces pass
    resident, whole, yielding = times
    assert resident == pytest.approx((4.0, 3.0))
    assert whole[1] > 3 * resident[1]
    assert yielding[1] <= resident[1] + 1.0


# ---- whole scenarios ------------------------------------------------------------------------------------------------

ALGORITHMS: list[Plain] = [
    {"algorithm": "copy_engine", "piece_bytes": 6},
    {"all_to_all": {"algorithm": "copy_engine", "piece_bytes": 4}, "send_recv": {"algorithm": "copy_engine"}},
    {"default": {"algorithm": "copy_engine", "piece_bytes": 16}, "all_reduce": {"algorithm": "nccl"}},
]


# one rank alone: its own block is a copy within the GPU, and no stream of copies is used
@example(
    Case(
        {"layers": 1, "steps": 1, "layer_bytes": 2, "block": [compute(1.0), collective(2, "all_to_all")]},
        {"kind": "resident"},
        1,
        {},
    ),
    ALGORITHMS[0],
)
@settings(max_examples=settings().max_examples // 2)
@given(cases(), st.sampled_from(ALGORITHMS))
def test_what_holds_of_every_run_holds_with_copy_engines(case: Case, algorithms: Plain) -> None:
    lowered = case._replace(workload=case.workload | {"collectives": algorithms})
    result, plain = lowered.run(), case.run()
    timeline, figures = result.timeline, result.metrics
    check_order(timeline)
    assert figures["lower_bound_s"] <= figures["step_time_s"] * SLACK
    for key in ("h2d_bytes_per_step", "block_copy_bytes_per_step"):
        assert figures[key] == plain.metrics[key]  # type: ignore[literal-required]
    assert (
        sum(causes(timeline, result.profile).values())
        == pytest.approx(timeline.window()[1] - timeline.window()[0], abs=1e-6)
        or len(timeline.shown) > 1
    )
    for rank in range(case.ranks):
        assert _called(timeline, rank) == _called(plain.timeline, rank)
    workload = lowered.scenario.workload.resolve(case.ranks)
    count = lowered.scenario.policy
    assert sum(1 for r in timeline.program.ranks for _ in r.commands()) <= _count(workload, count, case.ranks)


def _called(timeline: Timeline, rank: int) -> list[tuple[Any, ...]]:
    """What a rank's collectives of blocks are, in order."""
    found = timeline.communications(rank)
    return sorted((c.step, c.layer, c.name, c.bytes) for _, c in found if not c.name.startswith("gather"))


def _count(workload: Any, policy: Any, ranks: int) -> int:
    from sim.policies import count_commands

    return count_commands(workload, policy, ranks)


@settings(max_examples=settings().max_examples // 3)
@given(cases(policy=gated))
def test_no_chunk_passes_its_gate_during_a_collective(case: Case) -> None:
    timeline = case._replace(workload=case.workload | {"collectives": ALGORITHMS[0]}).run().timeline
    for rank in range(case.ranks):
        passed = [s.end for s, c in timeline.commands(rank, WaitFlag) if c.flag == "gate"]
        shut = [s for s in timeline.composed if s.rank == rank]
        written = [(s.end, c.value) for s, c in timeline.commands(rank, WriteFlag) if c.flag == "gate"]
        for span in shut if passed else ():
            before = [time for time, value in written if value == 1 and time <= span.start]
            assert before, "the gate is shut before its first copy"
            assert not [time for time in passed if max(before) < time < span.end and time > span.start]


@settings(max_examples=settings().max_examples // 2)
@given(workloads(), st.integers(1, 4))
def test_nccl_where_it_is_said_is_the_same_program(workload: Plain, ranks: int) -> None:
    policy = {"kind": "yielding", "chunk_bytes": 8}
    plain = scenario(workload, policy, ranks).program()
    for said in ({"algorithm": "nccl"}, {"default": {"algorithm": "nccl"}}, {"all_reduce": {}}):
        assert scenario(workload | {"collectives": said}, policy, ranks).program().hash == plain.hash


def _blocks(**entries: Plain) -> Plain:
    block = [compute(1.0)] + [
        {"collective": {"kind": "all_to_all", "bytes": 64, "name": name} | more} for name, more in entries.items()
    ]
    return {"layers": 1, "steps": 1, "layer_bytes": 2, "block": block}


def _lowered(workload: Plain) -> dict[str, int]:
    """Bytes of the largest piece of each collective that copy engines run, by name."""
    rank = scenario(workload, {"kind": "resident"}).program().ranks[0]
    pieces = [c for c in rank.commands() if isinstance(c, Copy) and c.kind == "d2h"]
    return {name: max(c.bytes for c in of) for name, of in itertools.groupby(pieces, lambda c: c.name.split()[0])}


def test_algorithms_are_chosen_by_entry_name_kind_and_default() -> None:
    by = {"algorithm": "copy_engine"}
    workload = _blocks(q={}, k={"algorithm": "nccl"}, v=by | {"piece_bytes": 4})
    assert _lowered(workload) == {"v": 4}
    assert _lowered(workload | {"collectives": by}) == {"q": 32, "v": 4}
    assert _lowered(workload | {"collectives": {"default": by, "q": {"algorithm": "nccl"}}}) == {"v": 4}
    assert _lowered(workload | {"collectives": {"all_to_all": by | {"piece_bytes": 8}, "default": {}}}) == {
        "q": 8,
        "v": 4,
    }
    assert _lowered(workload | {"collectives": {"q": by | {"piece_bytes": "16 B"}}}) == {"q": 16, "v": 4}


@pytest.mark.parametrize(
    ("collectives", "path", "problem"),
    [
        ({"algorithm": "rings"}, "algorithm", "rings"),
        ({"qq": {"algorithm": "copy_engine"}}, "qq", "expected one of default, all_to_all"),
        ({"algorithm": "copy_engine", "piece_bytes": 1}, "piece_bytes", "at least 2 is needed"),
        ({"piece_bytes": 4}, "piece_bytes", "is for algorithm: copy_engine"),
        ({"q": {"algorithm": "copy_engine", "pieces": 4}}, "q.pieces", "piece_bytes"),
        ({"q": 3}, "q", "expected"),
        ({"algorithm": "copy_engine", "q": {}}, "q", "expected"),
    ],
)
def test_wrong_algorithms_are_named(collectives: Plain, path: str, problem: str) -> None:
    with pytest.raises(InputError) as raised:
        scenario(_blocks(q={}) | {"collectives": collectives}, {"kind": "resident"})
    fault = raised.value.faults[0]
    assert fault.path == f"workload.collectives.{path}"
    assert problem in fault.problem


def test_a_rank_alone_in_its_group_takes_no_part() -> None:
    for by in ({}, {"collectives": {"algorithm": "copy_engine"}}):
        alone = _blocks(q={"group": [[0], [1]]}, k={"group": [[0]]}, v={"group": [[1, 0]]}) | by
        rank = scenario(alone, {"kind": "resident"}).program().ranks[0]
        calls = [c.name for c in rank.commands() if isinstance(c, Collective)]
        assert [*calls, *(whole.call.name for whole in rank.composed_collectives)] == ["v"]
        assert not by or not calls


def test_pieces_that_are_too_many_are_refused_before_they_are_counted_one_by_one() -> None:
    many = _blocks(q={"bytes": "1 TB"}) | {"collectives": {"algorithm": "copy_engine", "piece_bytes": 2}}
    with pytest.raises(InputError, match="larger chunks or pieces"):
        scenario(many, {"kind": "resident"})


@pytest.mark.parametrize("stream", ["compute send", "a b receive"])
def test_streams_of_copies_are_taken(stream: str) -> None:
    with pytest.raises(InputError, match="a name for copies of collectives"):
        scenario(_blocks(q={"stream": stream}), {"kind": "resident"})


def test_a_model_names_its_collectives() -> None:
    model: Plain = {"model": "wan2.1-1.3b", "frames": 5, "height": 64, "width": 64, "layers": 1, "steps": 1}
    whole = scenario(model | {"collectives": {"algorithm": "copy_engine"}}, {"kind": "resident"})
    some = scenario(model | {"collectives": {"q": {"algorithm": "copy_engine"}}}, {"kind": "resident"})
    names = [{w.call.name for w in s.program().ranks[0].composed_collectives} for s in (whole, some)]
    assert names[1] == {"q"}
    assert {"q", "k", "v"} < names[0]


def test_shared_slots_are_pinned_host_memory_and_what_is_added_lands_in_two_buffers() -> None:
    workload = _blocks(q={}) | {"collectives": {"algorithm": "copy_engine", "piece_bytes": 8}}
    reduced = {**workload, "block": [compute(1.0), collective(64, "all_reduce")]}
    for plain, landing in ((workload, 0), (reduced, 2 * 8)):
        of = scenario(plain, {"kind": "resident"})
        rank = build(of.workload.resolve(2), of.policy, 2).ranks[0]
        slots = [b for b in rank.host_memory.values() if isinstance(b, HostBuffer)]
        assert [(b.bytes, b.shared, b.memory) for b in slots] == [(SLOTS * 8, True, "pinned")] * 2
        assert sum(b.bytes for b in rank.buffers if b.name.startswith("landing")) == landing
        with_nccl = simulate(scenario({**plain, "collectives": {}}, {"kind": "resident"}), tiny_profile(2))
        engines = simulate(of, tiny_profile(2))
        assert engines.metrics["peak_memory_bytes"] == with_nccl.metrics["peak_memory_bytes"] + landing
