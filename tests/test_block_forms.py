"""Entries of explicit blocks: collectives of groups and on streams of their own, copies, waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
import yaml
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from shortcut_runs import both_ways, steps_of
from strategies import collective, compute

from sim import Scenario, simulate
from sim.inputs.config import InputError
from sim.machine import SimulatedMachine
from sim.policies import count_commands
from sim.program import Collective, Copy, Kernel, WaitFlag
from sim.run import Result
from sim.shortcuts import run_layers
from sim.timeline import Span
from sim.workloads.layouts import DIMENSIONS, Layout

Plain = dict[str, Any]
RESIDENT: Plain = {"kind": "resident"}
CHUNKED: Plain = {"kind": "chunked", "chunk_bytes": "16 MiB"}


def scenario(block: list[Plain], world_size: int = 4, policy: Plain = RESIDENT, **workload: Any) -> Scenario:
    hardware = {1: "h200x1", 2: "h200x2-hostpath", 4: "h200x4-hostpath", 8: "h200x8-hostpath"}[world_size]
    plain = {"layers": 3, "steps": 3, "layer_bytes": "200 MB", "block": block} | workload
    return Scenario.from_plain({"hardware": hardware, "world_size": world_size, "workload": plain, "policy": policy})


def run(block: list[Plain], world_size: int = 4, policy: Plain = RESIDENT, **workload: Any) -> Result:
    return simulate(scenario(block, world_size, policy, **workload))


def reduced(**more: Any) -> Plain:
    return {"collective": {"kind": "all_reduce", "bytes": "80 MB"} | more}


def copied(kind: str = "d2h", memory: str = "pinned", size: str = "100 MB", **more: Any) -> Plain:
    return {"copy": {"kind": kind, "bytes": size, "memory": memory} | more}


def last(result: Result, kind: type, rank: int = 0) -> list[Span]:
    """Spans of the last step."""
    return [s for s, c in result.timeline.commands(rank, kind) if c.step == 2]


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_pairs_are_faster_than_all_ranks() -> None:
    everyone, pairs, pair = (
        run([compute(1e-3), reduced(**g)]).metrics["step_time_s"]
        for g in ({}, {"group": [[0, 1], [2, 3]]}, {"group": [0, 1]})
    )
    assert pair <= pairs < everyone


def test_a_rank_outside_of_the_group_takes_no_part() -> None:
    result = run([compute(1e-3), reduced(group=[1, 3])])
    members = [c.group for s, c in result.timeline.commands(1, Collective)]
    assert members == [(1, 3)] * 9
    assert not result.timeline.commands(0, Collective)


@pytest.mark.parametrize(
    ("dimension", "groups"),
    [("tensor", [[0, 1], [2, 3]]), ("ulysses", [[0, 2], [1, 3]]), ("cfg", [[0], [1], [2], [3]])],
)
def test_a_dimension_names_its_groups(dimension: str, groups: list[list[int]]) -> None:
    named = scenario([reduced(group=dimension)], parallelism={"tensor": 2, "ulysses": 2}).program()
    assert named.hash == scenario([reduced(group=groups)]).program().hash


def test_the_group_of_all_ranks_is_no_group() -> None:
    plain = scenario([reduced()]).program().hash
    assert scenario([reduced(group=[0, 1, 2, 3])]).program().hash == plain
    assert scenario([reduced(group="ring")], parallelism={"ring": 4}).program().hash == plain
    assert scenario([reduced(group=[3, 2, 1, 0])]).program().hash != plain


@given(st.lists(st.integers(1, 3), min_size=len(DIMENSIONS), max_size=len(DIMENSIONS)))
def test_groups_of_a_layout_are_partitions_along_their_dimension(sizes: list[int]) -> None:
    if sizes[DIMENSIONS.index("displaced")] > 1:  # which neither a ring nor a pipeline goes with
        sizes = [1 if name in ("ring", "pipeline") else size for name, size in zip(DIMENSIONS, sizes, strict=True)]
    layout = Layout(**dict(zip(DIMENSIONS, sizes, strict=True)))
    world = 1
    for name, size in zip(DIMENSIONS, sizes, strict=True):
        groups = layout.groups(name)
        ranks = [rank for group in groups for rank in group]
        world = len(ranks)
        assert sorted(ranks) == list(range(world))
        assert {len(group) for group in groups} == {size}
        for group in groups:
            assert [layout.place(rank, name) for rank in group] == list(range(size))
            for other in DIMENSIONS:
                assert other == name or len({layout.place(rank, other) for rank in group}) == 1
    places = {tuple(layout.place(rank, name) for name in DIMENSIONS) for rank in range(world)}
    assert len(places) == world


# ---- streams --------------------------------------------------------------------------------------------------------


def test_a_collective_on_a_stream_of_its_own_runs_beside_what_follows() -> None:
    alone = run([compute(10e-3), reduced()]).metrics
    behind = run([reduced(), compute(10e-3)]).metrics["step_time_s"]
    beside = run([reduced(stream="comm"), compute(10e-3)]).metrics["step_time_s"]
    assert behind == pytest.approx(alone["step_time_s"], rel=1e-3)
    longer = max(alone["collective_time_s"], 30e-3)
    assert longer < beside < 1.06 * longer < behind


def test_waiting_for_the_stream_puts_the_rest_behind_it() -> None:
    block = [reduced(stream="comm"), compute(1e-3, "beside"), {"wait": "comm"}, compute(1e-3, "behind")]
    result = run(block)
    kernels = {c.name: s for s, c in result.timeline.commands(0, Kernel) if (c.step, c.layer) == (2, 1)}
    (call,) = (s for s, c in result.timeline.commands(0, Collective) if (c.step, c.layer) == (2, 1))
    assert kernels["beside"].start < call.end <= kernels["behind"].start


def test_chunks_keep_clear_of_collectives_on_any_stream() -> None:
    block = [reduced(stream="comm"), collective(4_000_000), compute(1e-3)]
    result = run(block, policy={"kind": "yielding", "chunk_bytes": "4 MiB"})
    waits = {c.flag for _, c in result.timeline.commands(0, WaitFlag)}
    assert waits == {"gate", "gate comm"}
    calls = [s for s, _ in result.timeline.commands(0, Collective)]
    passed = [s.start for s, c in result.timeline.commands(0, Copy)]
    # a chunk in flight is not stopped, and one that had passed the other gate may start as one closes
    assert sum(call.start + 1e-3 < time < call.end for call in calls for time in passed) == 0


@pytest.mark.parametrize("window", ["launch", "kernel"])
def test_host_threads_keep_chunks_clear_of_other_streams(window: str) -> None:
    policy = {"kind": "yielding", "chunk_bytes": "16 MiB", "window": window}
    assert run([reduced(stream="comm"), compute(1e-3)], policy=policy).metrics["h2d_bytes_per_step"] == 600_000_000


# ---- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h2d", "d2h"])
def test_pageable_copies_are_slower_than_pinned_ones_at_the_rates_of_the_profile(kind: str) -> None:
    pinned, pageable = (run([compute(1e-3), copied(kind, memory)], 1) for memory in ("pinned", "pageable"))
    profile = pinned.profile
    rate = getattr(profile.pageable, kind).rate.value
    for result, expected in ((pinned, profile.copy_class(kind).cap.value), (pageable, rate)):
        spans = last(result, Copy)
        assert [s.end - s.start for s in spans] == pytest.approx([100e6 / expected] * 3, rel=0.05)
    assert pageable.metrics["step_time_s"] > 2 * pinned.metrics["step_time_s"]


def test_copies_of_blocks_are_reported_apart_from_prefetches() -> None:
    plain = run([compute(5e-3)], 1, CHUNKED).metrics
    figures = run([compute(5e-3), copied("d2h"), copied("h2d", size="50 MB")], 1, CHUNKED).metrics
    assert figures["h2d_bytes_per_step"] == plain["h2d_bytes_per_step"] == 600_000_000
    assert plain["block_copy_bytes_per_step"] == plain["block_copy_s"] == 0
    assert figures["block_copy_bytes_per_step"] == 3 * 150_000_000
    assert figures["block_copy_s"] >= 3 * (100e6 + 50e6) / 56e9
    resident = run([compute(5e-3), copied("h2d")], 1)
    assert resident.metrics["h2d_bytes_per_step"] == resident.metrics["h2d_busy_s"] == 0
    assert resident.metrics["exposed_prefetch_s"] == 0


def test_waiting_for_a_block_s_own_copy_is_no_wait_for_a_prefetch() -> None:
    figures = run([copied("h2d", stream="swap"), compute(1e-4)], 1).metrics
    assert figures["step_time_s"] > 3 * 100e6 / 56e9
    assert figures["exposed_prefetch_s"] == 0


def test_a_copy_takes_device_memory_while_its_block_runs() -> None:
    without, with_copy = (run([compute(1e-3), *c], 1).metrics for c in ([], [copied("h2d"), compute(1e-3)]))
    assert with_copy["peak_memory_bytes"] - without["peak_memory_bytes"] == 100_000_000


def test_copies_that_name_a_buffer_share_its_memory() -> None:
    apart, shared = (
        run([copied("h2d", **b), compute(1e-3), copied("d2h", **b)], 1).metrics["peak_memory_bytes"]
        for b in ({}, {"buffer": "vae"})
    )
    assert apart - shared == 100_000_000
    large, small = copied("h2d", buffer="vae"), copied("h2d", size="60 MB", buffer="vae")
    for two in ([large, small], [small, large]):  # on either side there is room for the largest, wherever it comes
        assert run([*two, compute(1e-3)], 1).metrics["peak_memory_bytes"] == shared


# ---- limits and faults ----------------------------------------------------------------------------------------------


working = st.sampled_from(
    [
        compute(1e-3),
        reduced(),
        reduced(group=[[0, 1], [2, 3]]),
        reduced(stream="comm", group=[[0, 2], [1, 3]]),
        {"wait": "comm"},
    ]
)
entries = working | st.sampled_from(
    [
        copied("d2h", "pageable", "1 MB"),
        copied("h2d", size="1 MB", stream="comm"),
        copied("h2d", size="1 MB", stream="swap"),
    ]
)
policies = st.sampled_from(
    [
        RESIDENT,
        CHUNKED,
        {"kind": "whole_layer", "quiesce": True},
        {"kind": "yielding", "chunk_bytes": "64 MiB", "drain": True},
        {"kind": "yielding", "chunk_bytes": "64 MiB", "window": "kernel"},
        {"kind": "sharded"},
    ]
)


def blocks(of: st.SearchStrategy[Plain], most: int) -> st.SearchStrategy[list[Plain]]:
    """Blocks of such entries, without waits for what has not been issued."""

    def valid(block: list[Plain]) -> list[Plain]:
        issued = [any(entry.get("collective", entry.get("copy", {})).get("stream") == "comm" for entry in block[:n]) for n in range(len(block))]  # fmt: skip
        return [entry for entry, before in zip(block, issued, strict=True) if before or "wait" not in entry]

    return st.lists(of, min_size=1, max_size=most).map(valid).filter(bool)


@given(blocks(entries, 6), policies)
def test_any_block_runs_and_makes_no_more_commands_than_were_counted(block: list[Plain], policy: Plain) -> None:
    made = scenario(block, policy=policy, steps=1, layers=2)
    commands = sum(1 for rank in made.program().ranks for _ in rank.commands())
    assert commands <= count_commands(made.workload.resolve(4), made.policy, 4)
    figures = simulate(made, settle=False).metrics
    assert figures["lower_bound_s"] <= figures["step_time_s"] * (1 + 1e-9)


@settings(max_examples=12)
@given(blocks(working, 4), policies, st.permutations(range(4)))
def test_layers_with_groups_and_streams_that_repeat_can_be_left_out(
    block: list[Plain], policy: Plain, placement: list[int]
) -> None:
    made = scenario([compute(2e-3), *block], policy=policy, steps=2, layers=40)
    whole, short = both_ways(msgspec.structs.replace(made, placement=tuple(placement)), 12.0)
    assert steps_of(short) == pytest.approx(steps_of(whole), rel=1e-9)
    hypothesis.event(f"left out: {short.repeated_layers > 0}")


def test_layers_with_copies_of_their_own_are_never_left_out() -> None:
    made = scenario([compute(2e-3), copied()], steps=2, layers=40)
    machine = SimulatedMachine(made.profile())
    assert run_layers(machine, made.workload.resolve(4), made.policy, 4, worth=0).repeated_layers == 0


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "block[0]: expected exactly one of compute, collective, copy and wait"),
        (reduced(group=[0, 4]), "block[0].collective.group: has rank 4, but the ranks are 0 to 3"),
        (reduced(group=[[0, 1], [1, 2]]), "block[0].collective.group: has rank 1 twice"),
        (reduced(group=[0, [1, 2]]), "block[0].collective.group: mixes ranks and groups of ranks"),
        (reduced(group=[]), "block[0].collective.group: is empty, expected ranks"),
        (reduced(group=[[0], []]), "block[0].collective.group: is empty, expected ranks"),
        (reduced(group=[-1]), "block[0].collective.group: has -1, expected ranks, from 0 on"),
        (reduced(group="tensor"), "is 'tensor', which needs workload.parallelism, such as {tensor: 4}"),
        (reduced(group="tensors"), "is 'tensors', expected ranks, or one of tensor, ulysses, ring"),
        (reduced(stream="copy"), "block[0].collective.stream: is copy, on which weights are prefetched"),
        ({"wait": "com"}, "block[0].wait: is 'com', on which nothing is issued before: no entry before has a stream"),
        (copied(stream=""), "block[0].copy.stream: is empty, expected a name"),
        (copied(size="0 B"), "block[0].copy.bytes: is 0, at least 1 is needed"),
        (copied(kind="p2p"), "block[0].copy.kind: is 'p2p'; expected one of h2d, d2h"),
        (copied(memory="mapped"), "block[0].copy.memory: is 'mapped'; expected one of pinned, pageable"),
    ],
)
def test_a_wrong_entry_is_refused(entry: Plain, said: str) -> None:
    with pytest.raises(InputError) as error:
        scenario([entry, compute(1e-3)])
    assert f"workload.{said}" in str(error.value) or said in str(error.value)


def test_a_layout_of_other_size_is_refused() -> None:
    with pytest.raises(InputError, match="workload.parallelism: is tensor 2 x ring 3: 6 ranks, but world_size is 4"):
        scenario([compute(1e-3)], parallelism={"tensor": 2, "ring": 3})
    with pytest.raises(InputError, match="workload.parallelism.cfg: is 0, at least 1 is needed"):
        scenario([compute(1e-3)], parallelism={"tensor": 4, "cfg": 0})


def test_entries_that_use_one_buffer_at_once_are_refused_with_the_file(chunkflow: Command, tmp_path: Path) -> None:
    swap = {"kind": "h2d", "bytes": "1 MB", "buffer": "vae", "stream": "swap"}
    block = [{"copy": swap}, {"copy": swap | {"kind": "d2h", "stream": None}}]
    data = {
        "hardware": "h200x1",
        "world_size": 1,
        "workload": {"layers": 1, "layer_bytes": "1 MB", "block": block},
        "policy": {"kind": "resident"},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    for line in (["run", "s.yaml"], ["explain", "s.yaml"]):
        done = chunkflow(*line, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Error: s.yaml: workload: 'd2h' on stream 'compute' uses buffer 'copied vae'")
