"""What holds of every run, whatever the workload, the policy and the host."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from max_min import check_max_min
from strategies import (
    Case,
    Plain,
    cases,
    changes,
    chunked,
    collective,
    compute,
    direct_programs,
    gated,
    offloading,
    scaled,
    tiny_profile,
    whole_layer,
    workloads,
)
from timeline_checks import SLACK, TIE, by_command, check_order, streams_of

from sim.fluid import FlowSpec, weighted_max_min
from sim.hardware import Profile, collectives
from sim.machine import SimulatedMachine
from sim.policies import copied_bytes
from sim.program import (
    Collective,
    Copy,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    HostWork,
    Kernel,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import Span, Timeline
from sim.workloads.explicit import Compute

FREE_HOST = {f"host__{command}": 0.0 for command in ("kernel", "copy", "collective", "event", "memop", "wake", "sync")}


@given(cases())
def test_streams_are_fifo_and_waits_end_after_records(case: Case) -> None:
    check_order(case.run().timeline)


@given(st.data(), changes(), st.sampled_from([1, 2, 3]))
def test_streams_of_any_program_are_fifo_and_waits_end_after_records(
    data: st.DataObject, drawn: dict[str, float], ranks: int
) -> None:
    check_order(SimulatedMachine(tiny_profile(ranks, drawn)).run(data.draw(direct_programs(ranks))))


@given(cases())
def test_rates_are_fair_in_every_run(case: Case) -> None:
    solved = 0

    def checked(flows: Sequence[FlowSpec], capacities: Sequence[float]) -> list[float]:
        nonlocal solved
        solved += 1
        rates = weighted_max_min(flows, capacities)
        check_max_min([f._replace(drag=None, slowed_by=()) for f in flows], capacities, rates)
        return rates

    program = case.scenario.program()
    SimulatedMachine(case.profile, checked).run(program)

    def flows(command: object) -> bool:
        if isinstance(command, Kernel):
            return case.profile.kernel_seconds(command) > 0
        return isinstance(command, Copy) or (isinstance(command, Collective) and case.ranks > 1)

    assert bool(solved) == any(flows(c) for rank in program.ranks for c in rank.commands())


def resident_fraction(case: Case) -> float:
    """As it was read: less than 1e-60 is 0."""
    return float(case.scenario.policy.resident_fraction)  # type: ignore[attr-defined]


TINY_FRACTION = Case(
    {"steps": 1, "passes_per_step": 1, "layers": 1, "layer_bytes": 2, "block": [{"compute": {"name": "a", "seconds": 1}}]},
    {"kind": "whole_layer", "resident_fraction": 6e-61, "prefetch_layers": 0},
    2,
)  # fmt: skip


@given(cases(policy=offloading))
@example(TINY_FRACTION)
def test_each_layer_copies_its_bytes_once_in_chunks(case: Case) -> None:
    workload, policy = case.scenario.workload.resolve(case.ranks), case.policy
    kept = resident_fraction(case)
    sizes = [copied_bytes(layer.bytes, kept) for layer in workload.layers]
    passes = workload.steps * workload.passes_per_step
    ahead = policy["prefetch_layers"] if any(sizes) else 0
    count = len(sizes)
    expected = [
        (n // (count * workload.passes_per_step), n % count, offset, min(chunk, size - offset))
        for n in range(passes * count + ahead)
        for size in [sizes[n % count]]
        for chunk in [policy.get("chunk_bytes", size)]
        for offset in range(0, size, chunk or 1)
    ]
    for rank in case.scenario.program().ranks:
        copies = [c for c in rank.commands() if isinstance(c, Copy)]
        assert [(c.step, c.layer, c.offset, c.bytes) for c in copies] == expected


@given(cases(policy=offloading))
@example(TINY_FRACTION)
def test_no_block_starts_before_its_weights_and_no_slot_is_overwritten_in_use(case: Case) -> None:
    timeline = case.run().timeline
    layers = case.scenario.workload.resolve(case.ranks).layers
    reads = [sum(isinstance(op, Compute) for op in layer.block) for layer in layers]
    sizes = [copied_bytes(layer.bytes, resident_fraction(case)) for layer in layers]
    for rank, program in enumerate(timeline.program.ranks):
        copies, kernels = timeline.commands(rank, Copy), timeline.commands(rank, Kernel)
        assert all(sum(name.startswith("slot") for name in c.reads) == (sizes[c.layer] > 0) for _, c in kernels)
        for slot in (b.name for b in program.buffers if b.kind == "slot"):
            arrivals = [(s, c) for s, c in copies if c.buffer == slot]
            uses = [(s, c) for s, c in kernels if slot in c.reads]
            free = 0.0
            while arrivals:
                # one layer's chunks, then the kernels of its block; none for a layer beyond the last step
                _, first = arrivals[0]
                step, layer, size = first.step, first.layer, 0
                assert first.offset == 0
                landed = 0.0
                while size < sizes[layer]:
                    span, chunk = arrivals.pop(0)
                    assert (chunk.step, chunk.layer, chunk.offset) == (step, layer, size)
                    assert span.start >= free
                    size, landed = size + chunk.bytes, max(landed, span.end)
                assert size == sizes[layer]
                if step < case.workload["steps"]:
                    for _ in range(reads[layer]):
                        span, kernel = uses.pop(0)
                        assert (kernel.step, kernel.layer) == (step, layer)
                        assert span.start >= landed
                        free = max(free, span.end)
            assert not uses


@given(cases(policy=gated))
def test_no_chunk_passes_its_gate_while_its_ranks_flag_is_set(case: Case) -> None:
    timeline = case.run().timeline
    for rank in range(case.ranks):
        shut = [(s.end, c.value) for s, c in timeline.commands(rank, WriteFlag) if c.flag == "gate"]
        writes = [w for before, w in itertools.pairwise([(0.0, 0), *shut]) if w[1] != before[1]]  # drain shuts it twice
        closed = [(a, b) for (a, value), (b, _) in itertools.pairwise(writes) if value == 1]
        assert [value for _, value in writes] == [1, 0] * len(closed)
        passed = [s.end for s, c in timeline.commands(rank, WaitFlag) if c.flag == "gate"]
        assert not [p for p in passed for a, b in closed if a < p < b]
        copies = streams_of(timeline.program, rank).get((0, "copy"), [])
        chunks = [i for i, c in enumerate(copies) if isinstance(c, Copy)]
        assert len(passed) == len(chunks)
        drain = case.policy["drain"]
        assert all(isinstance(copies[i - 1 - drain], WaitFlag) for i in chunks)
        # the flag is set throughout every collective
        calls = [(s.start, s.end) for s, _ in timeline.commands(rank, Collective)]
        if chunks:
            assert all(any(a <= start and end <= b for a, b in closed) for start, end in calls)


def beside_collectives(case: Case) -> list[tuple[Span, Span]]:
    """Copies and collectives of one rank that overlap."""
    timeline = case.run().timeline
    return [
        (span, call)
        for rank in range(case.ranks)
        for call, _ in timeline.commands(rank, Collective)
        for span, _ in timeline.commands(rank, Copy)
        if min(call.end, span.end) - max(call.start, span.start) > TIE
    ]


# Ties at no cost aside: a write that takes time, and no kernel that delays one stream's write and not the other's.
_WRITES = {"streams__write_flag": 0.125, "streams__beside_kernel": 0.0}
drained = gated.map(lambda policy: policy | {"drain": True})


@given(cases(policy=drained, **FREE_HOST, **_WRITES, host__queue_depth=1000.0))
def test_with_drain_no_chunk_moves_beside_a_collective(case: Case) -> None:
    assert not beside_collectives(case)


def test_drain_sees_a_chunk_that_has_just_passed_the_gate() -> None:
    # a chunk passes at 6 and says so at 6.5; the gate is shut at 6.05 and `busy` looked at at once
    workload = {"layers": 1, "steps": 2, "layer_bytes": 16, "block": [compute(1.55), collective(32)]}
    policy = {"kind": "yielding", "chunk_bytes": 8, "drain": True}
    assert not beside_collectives(Case(workload, policy, 2, {"streams.write_flag": 0.5}))


@given(cases(policy=offloading.map(lambda policy: policy | {"resident_fraction": 1.0})))
def test_all_resident_is_resident(case: Case) -> None:
    assert case.run().timeline == case._replace(policy={"kind": "resident"}).run().timeline


@given(cases(policy=whole_layer.map(lambda policy: policy | {"issue": "async"})))
def test_one_chunk_a_layer_is_whole_layer(case: Case) -> None:
    policy = {key: value for key, value in case.policy.items() if key != "issue"}
    one_chunk = case._replace(policy=policy | {"kind": "chunked", "chunk_bytes": 1000})
    assert case.run().timeline == one_chunk.run().timeline


@given(cases(policy=gated.map(lambda policy: policy | {"drain": False})))
def test_a_gate_without_collectives_changes_no_copy(case: Case) -> None:
    def quiet(block: list[Plain]) -> list[Plain]:
        return [item for item in block if "compute" in item] or [{"compute": {"name": "k", "seconds": 1}}]

    workload = dict(case.workload)
    if "blocks" in workload:
        workload["blocks"] = [b | {"block": quiet(b["block"])} for b in workload["blocks"]]
    else:
        workload["block"] = quiet(workload["block"])
    free = dict.fromkeys(("streams.wait_flag", "streams.beside_kernel", "host.memop"), 0.0)
    # a wait is a command, so it takes a place in the queue
    case = case._replace(workload=workload, changes=dict(case.changes) | free | {"host.queue_depth": 1000.0})
    policy = {key: value for key, value in case.policy.items() if key != "drain"} | {"kind": "chunked"}
    gated, plain = (
        [(s.command, s.start, s.end) for s in c.run().timeline.spans if isinstance(s.command, Copy | Kernel)]
        for c in (case, case._replace(policy=policy))
    )
    assert gated == plain


# ---- bounds --------------------------------------------------------------------------------------------------------


@given(cases(workload=workloads(min_steps=2), **FREE_HOST))
def test_no_step_is_shorter_than_the_lower_bound(case: Case) -> None:
    figures = case.run().metrics
    assert figures["lower_bound_s"] <= figures["step_time_s"] * SLACK + TIE


def one_at_a_time(timeline: Timeline, profile: Profile) -> float:
    """Seconds that all commands of all ranks take one after the other, host calls included.

    Flows count one by one: while any flow is active, the flows do at least a second of lone work a second.
    """
    host, streams = profile.host, profile.streams
    issue = {"Kernel": "kernel", "Copy": "copy", "Collective": "collective", "WriteFlag": "memop", "WaitFlag": "memop"}
    late = max(
        getattr(profile.collectives, kind).copy_start.value for kind in ("all_to_all", "all_reduce", "all_gather")
    )
    ranks, total = timeline.program.world_size, 0.0
    for rank, program in enumerate(timeline.program.ranks):
        for c in program.commands():
            if isinstance(c, HostWork):
                total += c.seconds
                continue
            if isinstance(c, HostWait | HostAdd | HostAcquire | HostRelease | HostWaitEvent):
                total += getattr(c, "poll", 0.0) + host.wake.value + host.event.value + host.sync.value
                continue
            launches = getattr(c, "launches", 1)
            total += (
                launches * float(getattr(host, issue.get(type(c).__name__, "event")).value)
                + streams.beside_kernel.value
            )
            if isinstance(c, Kernel):
                total += profile.kernel_seconds(c) + launches * streams.launch_delay.value
            elif isinstance(c, Copy):
                spec, costs = profile.copy_flow(c.kind, rank), profile.copy_class(c.kind)
                moving = c.bytes / weighted_max_min([spec], profile.capacities)[0]
                total += max(costs.minimum.value, costs.setup.value + moving) + late
            elif isinstance(c, Collective) and rank == 0 and ranks > 1:
                for phase in collectives.flows(profile, c.kind, c.bytes, range(ranks)):
                    total += phase.latency
                    for spec, part in phase.flows:
                        # while copies are in flight it may cross more of the host
                        routes = [spec.route, *([spec.alternate_route[1]] if spec.alternate_route else [])]
                        flows = [[spec._replace(route=route)] for route in routes]
                        total += part.size / min(weighted_max_min(f, profile.capacities)[0] for f in flows)
            elif isinstance(c, RecordEvent):
                total += streams.event.value
            elif isinstance(c, WaitEvent):
                total += streams.wake.value
            elif isinstance(c, WriteFlag):
                total += streams.write_flag.value
            elif isinstance(c, WaitFlag):
                total += streams.wait_flag.value + streams.flag_wake.value
    return total


@given(cases())
def test_no_run_is_longer_than_its_commands_one_at_a_time(case: Case) -> None:
    result = case.run()
    longest = one_at_a_time(result.timeline, result.profile) * SLACK
    assert result.timeline.spans[-1].end <= longest
    assert sum(result.metrics["step_times_s"]) <= longest


@given(st.data(), changes(), st.sampled_from([1, 2, 3]))
def test_no_program_takes_longer_than_its_commands_one_at_a_time(
    data: st.DataObject, drawn: dict[str, float], ranks: int
) -> None:
    profile = tiny_profile(ranks, drawn)
    timeline = SimulatedMachine(profile).run(data.draw(direct_programs(ranks)))
    assert timeline.spans[-1].end <= one_at_a_time(timeline, profile) * SLACK


# ---- symmetries ----------------------------------------------------------------------------------------------------


@given(cases())
def test_the_same_scenario_gives_the_same_timeline_bit_for_bit(case: Case) -> None:
    first, second = case.run(), case.run()
    assert first.timeline == second.timeline
    assert first.metrics == second.metrics


RUN = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from strategies import Case, compute, collective
case = Case(
    {{"steps": 3, "layers": 3, "layer_bytes": 41, "block": [compute(0.7), collective(48), compute(0.3), collective(9, "all_reduce")]}},
    {{"kind": "yielding", "chunk_bytes": 3, "prefetch_layers": 2, "drain": True}},
    3,
    {{"host": 17.0, "duplex": 11.0, "streams.write_flag": 0.01, "collective.weight": 0.3, "streams.launch_delay": 0.1}},
)
print(hashlib.sha256(repr((case.run().timeline.spans, case.run().metrics)).encode()).hexdigest())
"""


def test_the_timeline_is_the_same_in_every_process() -> None:
    tests = os.path.dirname(__file__)  # noqa: PTH120
    digests = {
        subprocess.run(
            [sys.executable, "-c", RUN.format(tests=tests)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(digests) == 1


ONLY_A_COLLECTIVE = Case(
    {"steps": 1, "layers": 1, "layer_bytes": 1, "block": [collective(2)]}, {"kind": "resident"}, 2, {"streams.event": 0.001}
)  # fmt: skip


@given(cases(), st.sampled_from([0.25, 8.0]))
@example(ONLY_A_COLLECTIVE, 0.25)
def test_scaling_every_time_and_inversely_every_rate_scales_the_timeline(case: Case, factor: float) -> None:
    # by powers of two, so that no rounding differs; times lie on a grid that follows from how long a run lasts, and of
    # a program without kernels and copies that is taken to be 1 s, however fast the machine is
    program, profile = case.scenario.program(), case.profile
    machine = SimulatedMachine(profile)
    lasts = machine.estimated_length(program)
    fast = machine.run(program)
    slow = SimulatedMachine(scaled(profile, factor)).run(scaled(program, factor), lasts * factor)
    assert [s[2:] for s in slow.spans] == [tuple(t * factor for t in s[2:]) for s in fast.spans]
    assert slow.steps == tuple(tuple(t * factor for t in steps) for steps in fast.steps)


# Conditions on the state at one instant turn a difference in the last bit into a visible one.
_CONTINUOUS = {"streams__wake": 0.0, "streams__beside_kernel": 0.0, "all_reduce__copy_start": 0.0}


@given(st.data(), changes(**_CONTINUOUS), st.sampled_from([2, 3, 4]))
def test_permuting_ranks_permutes_timelines(data: st.DataObject, drawn: dict[str, float], ranks: int) -> None:
    # all GPUs of the tiny profile are alike, so every permutation is an automorphism
    program = data.draw(direct_programs(ranks))
    order = data.draw(st.permutations(range(ranks)))
    machine = SimulatedMachine(tiny_profile(ranks, drawn))
    straight = machine.run(program)
    permuted = machine.run(msgspec.structs.replace(program, ranks=tuple(program.ranks[i] for i in order)))
    for new, old in enumerate(order):
        there, here = by_command(permuted, new), by_command(straight, old)
        assert there.keys() == here.keys()
        for command, span in here.items():
            assert there[command][2:] == pytest.approx(span[2:], rel=1e-9, abs=1e-9)
        assert permuted.steps[new] == pytest.approx(straight.steps[old], rel=1e-9, abs=1e-9)


@given(cases(policy=chunked | whole_layer | st.just({"kind": "resident"}), **_CONTINUOUS))
def test_ranks_that_do_the_same_on_like_gpus_take_the_same_time(case: Case) -> None:
    timeline = case.run().timeline
    for rank in range(1, case.ranks):
        assert timeline.steps[rank] == pytest.approx(timeline.steps[0], rel=1e-9, abs=1e-9)
