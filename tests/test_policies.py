"""What each policy makes of a workload, and when its commands run, with times worked out by hand.

Links move 8 B/s, nothing else costs time; a collective of 32 bytes on 2 ranks sends 16 and takes 2 s alone.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Plain, cases, collective, compute, scenario, tiny_profile

from sim.inputs.config import InputError
from sim.policies import copied_bytes, fields_of
from sim.program import AnyCommand, Collective, Copy, Kernel, Program, RecordEvent, WaitEvent, WaitFlag, WriteFlag
from sim.run import simulate
from sim.timeline import Timeline


@pytest.mark.parametrize(
    ("layer", "fraction", "copied"),
    [
        (100, 0.0, 100),
        (101, 0.0, 100),
        (1, 0.0, 0),
        (100, 1.0, 0),
        (100, 0.25, 74),  # 75, rounded down to 2
        (10, 0.9, 0),  # 1, exactly
        (20, 0.9, 2),  # 2, though 20 * (1 - 0.9) is 1.9999999999999996
        (30, 0.7, 8),  # 9, though 30 * (1 - 0.7) is 9.000000000000002
        (702545920, 0.1, 632291328),
    ],
)
def test_copied_bytes_are_rounded_down_to_two(layer: int, fraction: float, copied: int) -> None:
    assert copied_bytes(layer, fraction) == copied


@given(st.integers(0, 10**10), st.decimals(0, 1, places=3))
def test_copied_bytes_are_exact_for_decimal_fractions(layer: int, fraction: object) -> None:
    exact = layer * (1 - Fraction(str(fraction)))
    copied = copied_bytes(layer, float(str(fraction)))
    assert copied % 2 == 0
    assert 0 <= exact - copied < 2


def program(policy: Plain, workload: Plain | None = None) -> Program:
    return scenario(workload or LAYERS, policy).program()


LAYERS: Plain = {"layers": 2, "steps": 1, "layer_bytes": 100, "block": [compute(1), collective(32)]}
CHUNKS: Plain = {"kind": "chunked", "chunk_bytes": 30}


def commands(policy: Plain, kind: type[AnyCommand]) -> list[AnyCommand]:
    return [c for c in program(policy).ranks[0].commands() if isinstance(c, kind)]


def test_chunks_cover_the_copied_part_and_the_last_is_short() -> None:
    chunks = [c for c in commands(CHUNKS | {"resident_fraction": 0.08}, Copy) if isinstance(c, Copy)]
    assert [(c.layer, c.offset, c.bytes) for c in chunks[:8]] == [
        (layer, offset, size) for layer in (0, 1) for offset, size in ((0, 30), (30, 30), (60, 30), (90, 2))
    ]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_there_is_one_slot_more_than_layers_ahead(ahead: int) -> None:
    rank = program(CHUNKS | {"prefetch_layers": ahead, "resident_fraction": 0.5}).ranks[0]
    sizes = {b.name: (b.bytes, b.kind, b.static) for b in rank.buffers}
    assert sizes.pop("resident") == (100, "weights", True)
    assert sizes.pop("all_to_all_32") == (64, "collective", False)
    assert sizes == {f"slot{i}": (50, "slot", True) for i in range(ahead + 1)}


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "policy",
    [
        {"kind": "whole_layer"},
        CHUNKS,
        CHUNKS | {"kind": "yielding"},
        CHUNKS | {"kind": "yielding", "window": "kernel"},
        CHUNKS | {"kind": "yielding", "window": "launch", "slots": 5},
        {"kind": "sharded"},
    ],
    ids=str,
)
def test_a_policy_says_how_many_slots_its_program_has(policy: Plain, ahead: int) -> None:
    made = scenario(LAYERS, policy | {"prefetch_layers": ahead})
    slots = sum(b.kind == "slot" for b in made.program().ranks[0].buffers)
    assert made.policy.slot_count == slots == policy.get("slots", ahead + 1)


def test_slots_of_an_allocator_come_and_go() -> None:
    rank = program(CHUNKS | {"kind": "yielding", "window": "launch", "slots": 4}).ranks[0]
    assert [b.static for b in rank.buffers if b.kind == "slot"] == [False] * 4


def test_slots_hold_the_largest_layer_and_collective_buffers_their_input_where_it_must_stay() -> None:
    blocks = [
        {"repeat": 1, "layer_bytes": 40, "block": [collective(8), collective(8, "all_reduce")]},
        {"repeat": 1, "layer_bytes": 60, "block": [collective(8, "all_gather"), compute(1)]},
    ]
    rank = program({"kind": "whole_layer"}, {"blocks": blocks, "activation_bytes": 7}).ranks[0]
    assert {b.name: b.bytes for b in rank.buffers} == {
        "resident": 0,
        "slot0": 60,
        "slot1": 60,
        "activations": 7,
        "all_to_all_8": 16,
        "all_reduce_8": 8,
        "all_gather_8": 8,
    }


def test_resident_is_compute_and_collectives_alone() -> None:
    rank = program({"kind": "resident"}).ranks[0]
    kinds = [type(c) for c in rank.commands()]
    assert kinds == [RecordEvent, Kernel, Collective, Kernel, Collective, RecordEvent]
    assert [b.bytes for b in rank.buffers if b.kind == "weights"] == [200]


def test_after_compute_waits_for_all_compute_queued_so_far() -> None:
    issued = list(program({"kind": "whole_layer", "issue": "after_compute", "prefetch_layers": 2}).ranks[0].commands())
    for i, command in enumerate(issued):
        if isinstance(command, Copy):
            before = issued[:i]
            events = {c.event for c in before if isinstance(c, WaitEvent) and c.stream == "copy"}
            work = [c for c in before if c.stream == "compute" and not isinstance(c, WaitEvent)]
            last = work[-1]
            assert isinstance(last, RecordEvent) and last.event in events


def test_the_gate_closes_right_before_a_collective_and_opens_right_after() -> None:
    rank = program({"kind": "yielding", "chunk_bytes": 50, "drain": True}).ranks[0]
    streams = {s: [c for c in rank.commands() if c.stream == s] for s in ("compute", "copy")}
    at = next(i for i, c in enumerate(streams["compute"]) if isinstance(c, Collective))
    close, drained, _, reopen = streams["compute"][at - 2 : at + 2]
    assert (close, drained, reopen) == (
        WriteFlag("compute", "gate", 1),
        WaitFlag("compute", "busy", 0),
        WriteFlag("compute", "gate", 0),
    )
    at = next(i for i, c in enumerate(streams["copy"]) if isinstance(c, Copy))
    gate, busy, _, idle = streams["copy"][at - 2 : at + 2]
    assert (gate, busy, idle) == (
        WaitFlag("copy", "gate", 0),
        WriteFlag("copy", "busy", 1),
        WriteFlag("copy", "busy", 0),
    )


@pytest.mark.parametrize("window", ["launch", "kernel"])
def test_a_published_window_orders_each_collective_after_the_copies_issued_before_it(window: str) -> None:
    made = program({"kind": "yielding", "chunk_bytes": 30, "window": window}).ranks[0]
    model = [c for c in made.threads[0] if c.stream]
    calls = [i for i, c in enumerate(model) if isinstance(c, Collective)]
    assert len(calls) == 2
    for i in calls:
        record, wait = model[i - 2 : i]
        assert isinstance(record, RecordEvent) and record.stream == "copy"
        assert isinstance(wait, WaitEvent) and (wait.stream, wait.event) == ("compute", record.event)


def test_commands_say_what_they_are_and_nothing_more() -> None:
    block = [compute(1), collective(32), {"collective": {"kind": "all_reduce", "bytes": 8, "name": "sum"}}]
    block.append({"compute": {"name": "r", "bytes": 5}})
    made = program({"kind": "resident"}, LAYERS | {"block": block, "layers": 1, "activation_bytes": 7}).ranks[0]
    kernels = [c for c in made.commands() if isinstance(c, Kernel)]
    assert [(k.seconds, k.flops, k.hbm_bytes) for k in kernels] == [(1, 0, 0), (None, 0, 5)]
    assert [c.name for c in made.commands() if isinstance(c, Collective)] == ["all_to_all", "sum"]
    assert [(b.name, b.static) for b in made.buffers] == [("resident", True), ("activations", True), ("all_to_all_32", False), ("all_reduce_8", False)]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ({"kind": "resident"}, "resident"),
        ({"kind": "whole_layer"}, "whole_layer"),
        ({"kind": "whole_layer", "issue": "after_compute"}, "whole_layer+after_compute"),
        (CHUNKS, "chunked"),
        (CHUNKS | {"kind": "yielding"}, "yielding"),
        (CHUNKS | {"kind": "yielding", "drain": True}, "yielding+drain"),
        (CHUNKS | {"kind": "yielding", "window": "launch"}, "yielding+launch"),
    ],
)
def test_a_label_says_what_sets_a_policy_apart(policy: Plain, shown: str) -> None:
    read = scenario(LAYERS, policy).policy
    assert read.label() == shown
    assert fields_of(policy["kind"]) == {"kind", *type(read).__struct_fields__}
    assert hash(read) == hash(scenario(LAYERS, policy).policy), "a policy is frozen"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"drain": True, "window": "launch"}, "drain: needs window: device_gate"),
        ({"slots": 2}, "slots: is for windows launch and kernel"),
        ({"slots": 1, "window": "kernel"}, "more than prefetch_layers"),
        ({"poll": 9e-10, "window": "kernel"}, "expected 0 or at least 1 ns"),
        ({"prefetch_layers": -1}, "prefetch_layers: is -1"),
        ({"resident_fraction": 1.01}, "resident_fraction: is 1.01"),
        ({"chunk_bytes": 0}, "chunk_bytes: is 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(more: Plain, told: str) -> None:
    with pytest.raises(InputError, match=told):
        scenario(LAYERS, {"kind": "yielding", "chunk_bytes": 8} | more)


def test_fields_of_an_unknown_kind_are_none() -> None:
    assert fields_of("nothing") is None and fields_of(None) is None


def test_the_label_says_that_collectives_wait() -> None:
    assert scenario(LAYERS, {"kind": "whole_layer", "quiesce": True}).policy.label() == "whole_layer+quiesce"


@pytest.mark.parametrize("layers", [[2], [-1], [0, 5]])
def test_layers_that_stay_must_be_there(layers: list[int]) -> None:
    with pytest.raises(InputError, match=r"policy.resident_layers: has -?\d, but the workload's layers are 0 to 1"):
        program({"kind": "whole_layer", "resident_layers": layers})


def test_layers_that_stay_are_not_copied_and_take_memory() -> None:
    rank = program(CHUNKS | {"resident_layers": [1]}).ranks[0]
    assert {c.layer for c in rank.commands() if isinstance(c, Copy)} == {0}
    assert [b.bytes for b in rank.buffers if b.kind == "weights"] == [100]


def test_ranks_share_one_program() -> None:
    first, second = program(CHUNKS).ranks
    assert first is second


# ---- times ---------------------------------------------------------------------------------------------------------


def run(policy: Plain, workload: Plain, **changes: float) -> Timeline:
    return simulate(scenario(workload, policy), tiny_profile(2, changes), settle=False).timeline


def intervals(timeline: Timeline, kind: type[AnyCommand]) -> list[tuple[float, float]]:
    return [(s.start, s.end) for s, _ in timeline.commands(0, kind)]


TWO_LAYERS: Plain = {"layers": 2, "steps": 2, "layer_bytes": 16, "block": [compute(3)]}


@pytest.mark.parametrize(
    ("policy", "copies", "kernels", "steps"),
    [
        pytest.param({"kind": "resident"}, [], [(0, 3), (3, 6), (6, 9), (9, 12)], [6, 6], id="resident"),
        pytest.param(
            {"kind": "whole_layer", "prefetch_layers": 0},
            [(0, 2), (5, 7), (10, 12), (15, 17)],
            [(2, 5), (7, 10), (12, 15), (17, 20)],
            [10, 10],
            id="nothing ahead: copies and kernels take turns",
        ),
        pytest.param(
            {"kind": "whole_layer", "prefetch_layers": 1},
            [(0, 2), (2, 4), (5, 7), (8, 10), (11, 13)],  # each slot is free when its layer has ended
            [(2, 5), (5, 8), (8, 11), (11, 14)],
            [8, 6],
            id="one layer ahead",
        ),
        pytest.param(
            {"kind": "chunked", "chunk_bytes": 8, "prefetch_layers": 2},
            [(i, i + 1) for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12)],
            [(2, 5), (5, 8), (8, 11), (11, 14)],
            [8, 6],
            id="two layers ahead, in chunks",
        ),
        pytest.param(
            {"kind": "whole_layer", "prefetch_layers": 1, "resident_fraction": 0.5},
            [(0, 1), (1, 2), (4, 5), (7, 8), (10, 11)],
            [(1, 4), (4, 7), (7, 10), (10, 13)],
            [7, 6],
            id="half resident",
        ),
    ],
)
def test_prefetch(
    policy: Plain, copies: list[tuple[float, float]], kernels: list[tuple[float, float]], steps: list[float]
) -> None:
    timeline = run(policy, TWO_LAYERS)
    assert intervals(timeline, Copy) == copies
    assert intervals(timeline, Kernel) == kernels
    assert timeline.step_times() == steps


def test_a_collective_waits_for_the_layer_in_flight() -> None:
    workload = TWO_LAYERS | {"block": [compute(1), collective(32)]}
    timeline = run({"kind": "whole_layer", "issue": "after_compute", "quiesce": True}, workload)
    # a copy takes 2 s from the start of the layer before, a collective starts when it has ended
    assert intervals(timeline, Copy)[:3] == [(0, 2), (2, 4), (6, 8)]
    assert intervals(timeline, Kernel)[:2] == [(2, 3), (6, 7)]
    assert intervals(timeline, Collective)[:2] == [(4, 6), (8, 10)]


def test_synchronous_steps_start_when_the_gpu_is_done() -> None:
    ahead, level = (
        run({"kind": "resident"}, TWO_LAYERS | {"synchronous": synchronous}, **{"host.kernel": 0.5, "host.wake": 0.25})
        for synchronous in (False, True)
    )
    assert ahead.step_times() == [6.5, 6]
    # each step begins with the thread's waking and the issue of its first kernel
    assert level.step_times() == [6.75, 6.75]


def test_waking_varies_within_its_spread_and_from_rank_to_rank() -> None:
    workload = TWO_LAYERS | {"synchronous": True, "steps": 20, "block": [compute(1)]}
    changes = {"host.wake": 0.5, "host.wake_spread": 0.4}
    made, again = (run({"kind": "resident"}, workload, **changes) for _ in range(2))
    assert made.step_times(0) == again.step_times(0)
    waits = [step - 2 for step in made.step_times(0)]
    assert 0.3 <= min(waits) < 0.4 and 0.6 < max(waits) <= 0.7
    assert made.step_times(0) != made.step_times(1)


@pytest.mark.parametrize("spread", [-0.1, 1.1])
def test_wake_spread_must_be_0_to_1(spread: float) -> None:
    with pytest.raises(InputError, match="wake_spread"):
        tiny_profile(2, {"host.wake_spread": spread})


def test_without_slack_the_copies_set_the_pace() -> None:
    timeline = run({"kind": "whole_layer"}, TWO_LAYERS | {"layer_bytes": 40, "passes_per_step": 2})
    assert intervals(timeline, Copy) == [(i, i + 5) for i in range(0, 45, 5)]
    assert timeline.step_times() == [23, 20]


# One layer of 4 chunks of 0.5 s; the kernel ends at 3.25, while the third chunk of the next layer moves (3 to 3.5).
GATED: Plain = {"layers": 1, "steps": 2, "layer_bytes": 16, "block": [compute(1.25), collective(32), compute(1.25)]}
FOUR_CHUNKS: Plain = {"chunk_bytes": 4, "prefetch_layers": 1}


@pytest.mark.parametrize(
    ("policy", "copies", "calls", "steps"),
    [
        pytest.param(
            # beside the collective the copy has 4 B/s: its last 6 bytes take until 4.75, when 6 of 16 have been sent
            {"kind": "chunked"},
            [(2, 2.5), (2.5, 3), (3, 3.75), (3.75, 4.75), (7.25, 7.75)],
            [(3.25, 6), (8.5, 11.25)],
            [7.25, 5.25],
            id="chunked",
        ),
        pytest.param(
            # the chunk in flight ends at 3.75, when 2 of 16 bytes have been sent; the last waits for the end at 5.5
            {"kind": "yielding"},
            [(2, 2.5), (2.5, 3), (3, 3.75), (5.5, 6), (6.75, 7.25)],
            [(3.25, 5.5), (8, 10.25)],
            [6.75, 4.75],
            id="yielding",
        ),
        pytest.param(
            # the collective waits for the chunk in flight
            {"kind": "yielding", "drain": True},
            [(2, 2.5), (2.5, 3), (3, 3.5), (5.5, 6), (6.75, 7.25)],
            [(3.5, 5.5), (8.25, 10.25)],
            [6.75, 4.75],
            id="yielding with drain",
        ),
        pytest.param(
            # the window is shut when the launch returns, long before the collective runs: as if there were none
            {"kind": "yielding", "window": "launch"},
            [(2, 2.5), (2.5, 3), (3, 3.75), (3.75, 4.75), (7.25, 7.75)],
            [(3.25, 6), (8.5, 11.25)],
            [7.25, 5.25],
            id="launch window",
        ),
        pytest.param(
            # the window opens at the launch, at 2, while a chunk is under way, and shuts with the collective
            {"kind": "yielding", "window": "kernel", "poll": 0},
            [(2, 2.5), (5.25, 5.75), (5.75, 6.25), (6.25, 6.75), (6.75, 7.25)],
            [(3.25, 5.25), (8, 10)],
            [6.5, 4.75],
            id="kernel window",
        ),
        pytest.param(
            # the poller looks at 5.4 and at 10.2
            {"kind": "yielding", "window": "kernel", "poll": 0.6},
            [(2, 2.5), (5.4, 5.9), (5.9, 6.4), (6.4, 6.9), (6.9, 7.4)],
            [(3.25, 5.25), (8.15, 10.15)],
            [6.5, 4.9],
            id="kernel window seen by polling",
        ),
    ],
)
def test_yielding(
    policy: Plain, copies: list[tuple[float, float]], calls: list[tuple[float, float]], steps: list[float]
) -> None:
    timeline = run(policy | FOUR_CHUNKS, GATED)
    assert intervals(timeline, Copy)[4:9] == [pytest.approx(interval) for interval in copies]
    assert intervals(timeline, Collective) == [pytest.approx(interval) for interval in calls]
    assert timeline.step_times() == pytest.approx(steps)


def test_kernels_between_collectives_are_outside_the_gate() -> None:
    block = [compute(0.25), collective(32), compute(0.25), collective(32)]
    timeline = run({"kind": "yielding"} | FOUR_CHUNKS, GATED | {"block": block})
    # a chunk starts beside the kernel at 4.5 and slows the second collective until 5.25
    assert intervals(timeline, Copy)[4:7] == [(2, 2.75), (4.5, 5.25), (7, 7.5)]
    assert intervals(timeline, Collective)[:2] == [(2.25, 4.5), (4.75, 7)]


# ---- layers of which some have nothing to copy ---------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
@pytest.mark.parametrize("block", [[compute(1)], [collective(32)]], ids=["compute", "collective"])
def test_layers_without_copies_keep_the_order(ahead: int, block: list[Plain]) -> None:
    blocks = [{"repeat": 1, "layer_bytes": 16, "block": block}, {"repeat": 3 + ahead, "layer_bytes": 1, "block": block}]
    timeline = run({"kind": "whole_layer", "prefetch_layers": ahead}, {"steps": 4, "blocks": blocks})
    # the copy for layer i + k waits for the end of layer i - 1
    ends = sorted(s.end for kind in (Kernel, Collective) for s, _ in timeline.commands(0, kind))
    per_step = 4 + ahead
    for number, (start, _) in enumerate(intervals(timeline, Copy)):
        before = number * per_step - ahead - 1
        assert start >= (ends[before] if before >= 0 else 0)


@given(cases())
def test_every_policy_does_the_same_work(case) -> None:  # type: ignore[no-untyped-def]
    assume(case.policy["kind"] != "resident")
    work = [
        [c for c in p.ranks[0].commands() if isinstance(c, Kernel | Collective) and c.stream == "compute"]
        for p in (case.scenario.program(), case._replace(policy={"kind": "resident"}).scenario.program())
    ]
    strip = [[(type(c), c.name, c.step, c.layer) for c in w] for w in work]
    assert strip[0] == strip[1]
