"""Trains of copies: nothing but the time that a simulation takes shows whether copies were made in one go."""

from __future__ import annotations

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import Case, cases, direct_programs, program, tiny_profile, workloads
from strategies import changes as host_changes

from sim.hardware import Profile
from sim.machine import Marked, SimulatedMachine
from sim.program import Collective, Copy, Kernel, Program, RankBuilder

small_chunks = st.fixed_dictionaries(
    {"kind": st.just("chunked"), "chunk_bytes": st.integers(1, 4), "prefetch_layers": st.integers(0, 2)}
) | st.fixed_dictionaries(
    {"kind": st.just("yielding"), "chunk_bytes": st.integers(1, 4), "drain": st.booleans()}
    | {"prefetch_layers": st.integers(0, 2), "resident_fraction": st.sampled_from([0.0, 0.3])}
)


def both(what: Program, profile: Profile, endless: bool = False) -> tuple[Marked, Marked]:
    """A run step by step and one with trains, with states whenever a kernel or collective of rank 0 has ended."""
    marks = [c for c in what.ranks[0].commands() if isinstance(c, Kernel | Collective)]
    steps, trains = (
        SimulatedMachine(profile, trains=trains).run_marked(what, marks, endless_queues=endless)
        for trains in (False, True)
    )
    assert steps.in_trains == 0
    return steps, trains


def assert_same(steps: Marked, trains: Marked) -> None:
    """To the last bit."""
    assert trains.timeline.spans == steps.timeline.spans
    assert trains.timeline.host == steps.timeline.host
    assert trains.timeline.steps == steps.timeline.steps
    assert trains.states == steps.states
    assert trains.issued == steps.issued


@given(
    cases(workloads(st.integers(8, 60)), small_chunks),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([0.125, 0.25, 0.3]),
    st.booleans(),
)
def test_trains_change_nothing(case: Case, ranks: int, setup: float, endless: bool) -> None:
    case = case._replace(ranks=ranks, changes={**case.changes, "h2d.setup": setup})
    steps, trains = both(case.scenario.program(), case.profile, endless)
    event(f"trains: {trains.in_trains > 0}, ranks: {case.ranks}")
    assert_same(steps, trains)


@given(direct_programs(1), host_changes())
def test_trains_change_nothing_of_programs_that_no_policy_makes(drawn: Program, changed: dict[str, float]) -> None:
    assert_same(*both(drawn, tiny_profile(1, changed)))


def one_rank(*, kernel: float = 0.0, count: int = 10, gated: bool = False) -> Program:
    """Copies of 1 s each; a kernel of `kernel` s beside them."""
    rank = RankBuilder()
    rank.record_step("compute")
    if kernel:
        rank.kernel("compute", "k", seconds=kernel, step=0)
    rank.record_step("compute")
    for number in range(count):
        if gated:
            rank.wait_flag("copy", "gate", 0)
        name = f"b{number}"
        rank.copy("copy", name, 8, rank.buffer(name, 8, "weights"), step=0)
    return program(rank)


def test_copies_that_nothing_disturbs_are_one_train() -> None:
    steps, trains = both(one_rank(), tiny_profile(1, {"h2d.setup": 0.25}))
    assert trains.in_trains == 9  # the last one is made step by step
    assert [s.end for s in trains.timeline.spans if isinstance(s.command, Copy)] == [1.25 * n for n in range(1, 11)]
    assert_same(steps, trains)


@pytest.mark.parametrize("changes", [{}, {"streams.launch_delay": 1.5}, {"streams.beside_kernel": 0.125}])
@pytest.mark.parametrize("gated", [False, True])
def test_a_train_is_cut_where_a_kernel_ends(changes: dict[str, float], gated: bool) -> None:
    """The kernel is slowed by copies and not by gaps, and copies lose time beside it: it ends during a copy."""
    what = one_rank(kernel=4.6, gated=gated)
    steps, trains = both(what, tiny_profile(1, {"h2d.setup": 0.25, "streams.wait_flag": 0.125, **changes}))
    assert 5 <= trains.in_trains < 9
    assert_same(steps, trains)


def test_copies_that_a_full_queue_holds_back_make_no_train() -> None:
    steps, trains = both(one_rank(), tiny_profile(1, {"h2d.setup": 0.25, "host.queue_depth": 2.0}))
    assert trains.in_trains < 3
    assert_same(steps, trains)


def test_a_train_ends_where_the_gate_will_have_closed() -> None:
    """Another stream closes the gate at 3.3 s, in the middle of a copy, and opens it at 7.3 s."""
    rank = RankBuilder()
    rank.record_step("compute")
    rank.kernel("compute", "k", seconds=3.3, step=0)
    rank.write_flag("compute", "gate", 1)
    rank.kernel("compute", "k", seconds=4.0, step=0)
    rank.write_flag("compute", "gate", 0)
    rank.record_step("compute")
    for number in range(8):
        rank.wait_flag("copy", "gate", 0)
        name = f"b{number}"
        rank.copy("copy", name, 8, rank.buffer(name, 8, "weights"), step=0)
    steps, trains = both(program(rank), tiny_profile(1, {"h2d.setup": 0.125}))
    ends = [s.end for s in trains.timeline.spans if isinstance(s.command, Copy)]
    assert ends == pytest.approx([1.125, 2.25, 3.375, *(7.3 + 1.125 * n for n in range(1, 6))])
    assert trains.in_trains > 2
    assert_same(steps, trains)


def test_who_waits_for_an_event_or_a_flag_goes_on_when_the_copy_ahead_of_it_has_ended() -> None:
    """Another stream waits for what the copy stream records or writes between its copies, and does nothing else."""
    rank = RankBuilder()
    rank.record_step("compute")
    for number in range(9):
        name = f"b{number}"
        rank.copy("copy", name, 8, rank.buffer(name, 8, "weights"), step=0)
        if number == 3:
            event = rank.record("copy")
        if number == 6:
            rank.write_flag("copy", "there", 1)
    rank.wait("compute", event)
    rank.wait_flag("compute", "there", 1)
    rank.record_step("compute")
    steps, trains = both(program(rank), tiny_profile(1, {"h2d.setup": 0.25}))
    assert trains.in_trains >= 5
    assert trains.timeline.steps == ((0.0, 8.75),)
    assert_same(steps, trains)


def test_copies_that_are_issued_late_wait_for_their_host_thread() -> None:
    steps, trains = both(one_rank(), tiny_profile(1, {"h2d.setup": 0.125, "host.copy": 2.0}))
    assert trains.in_trains == 0
    assert_same(steps, trains)
    steps, trains = both(one_rank(), tiny_profile(1, {"h2d.setup": 0.125, "host.copy": 1.0}))
    assert_same(steps, trains)


def test_a_flow_that_ends_with_a_gap_cuts_the_train() -> None:
    """The kernel ends exactly when the third copy is about to move, and then when it has moved."""
    for seconds in (2.5 + 0.25, 3.75):
        steps, trains = both(one_rank(kernel=seconds), tiny_profile(1, {"h2d.setup": 0.25}))
        assert trains.in_trains < 9
        assert_same(steps, trains)


def test_isolated_times_are_those_of_each_copy() -> None:
    """The first copy turns the engine to its stream, which takes it longer."""
    rank = RankBuilder()
    rank.record_step("compute")
    for stream, count in (("other", 2), ("copy", 6)):
        for number in range(count):
            name = f"{stream}{number}"
            rank.copy(stream, name, 8, rank.buffer(name, 8, "weights"), step=0)
    rank.record_step("compute")
    steps, trains = both(program(rank), tiny_profile(1, {"h2d.setup": 0.25, "h2d.switch": 0.5}))
    assert trains.in_trains > 0
    assert_same(steps, trains)
