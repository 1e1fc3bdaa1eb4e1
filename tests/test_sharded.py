"""Sharded schedules: what each rank copies, what is gathered, and when, with times worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Plain, collective, compute, scenario, tiny_profile

from sim.policies import copied_bytes
from sim.policies.sharded import pieces
from sim.program import Collective, Copy, Kernel, ProgramError, RankBuilder
from sim.run import Result, simulate

LAYERS: Plain = {"layers": 2, "steps": 2, "layer_bytes": 32, "block": [compute(1)]}


def run(policy: Plain, ranks: int = 2, workload: Plain = LAYERS, changes: dict[str, float] | None = None) -> Result:
    return simulate(scenario(workload, {"kind": "sharded"} | policy, ranks), tiny_profile(ranks, changes))


@given(st.integers(0, 500).map(lambda n: 2 * n), st.none() | st.integers(2, 60), st.integers(1, 5))
def test_pieces_cover_the_layer_and_ranks_share_them_evenly(copied: int, chunk: int | None, ranks: int) -> None:
    found = list(pieces(copied, chunk, ranks))
    at = 0
    for piece in found:
        assert piece.offset == at
        assert piece.bytes % (2 * ranks) == 0
        assert chunk is None or piece.bytes // ranks <= max(chunk, 2)
        at += piece.bytes
    assert copied <= at < copied + 2 * ranks
    assert chunk is not None or len(found) <= 1


@given(
    st.integers(1, 300), st.floats(0, 1).map(lambda r: round(r, 6)), st.none() | st.integers(2, 40), st.integers(1, 4)
)
def test_ranks_together_copy_every_byte_once(size: int, fraction: float, chunk: int | None, ranks: int) -> None:
    workload = {"layers": 3, "steps": 1, "layer_bytes": size, "block": [compute(1)]}
    policy = {"kind": "sharded", "chunk_bytes": chunk, "resident_fraction": fraction}
    program = scenario(workload, policy, ranks).program()
    copied = copied_bytes(size, fraction)
    for layer in range(3):
        spans = sorted(
            (c.offset, c.offset + c.bytes)
            for rank in program.ranks
            for c in rank.commands()
            if isinstance(c, Copy) and c.layer == layer and c.step == 0
        )
        assert [b for _, b in spans] == [a for a, _ in spans][1:] + ([copied] if spans else [])
        assert not spans or spans[0][0] == 0
    gathered = [{c.bytes: c.start for c in r.commands() if isinstance(c, Collective)} for r in program.ranks]
    assert all(g == gathered[0] for g in gathered)
    for rank in program.ranks:
        slots = [b.bytes for b in rank.buffers if b.kind == "slot"]
        assert all(copied <= size < copied + 2 * ranks for size in slots)


def test_a_layer_is_there_when_its_last_piece_is_gathered() -> None:
    # 16 B of 32 are copied in 2 s, the all_gather sends 16 B in 2 s; the next copy goes on beside it
    timeline = run({}).timeline
    copies = [(s.start, s.end) for s, c in timeline.commands(0, Copy)]
    gathers = [(s.start, s.end) for s, c in timeline.commands(0, Collective)]
    kernels = [s.start for s, _ in timeline.commands(0, Kernel)]
    assert copies[0] == (0, 2)
    # the second layer's copy shares the link into each GPU with the first one's gather: 4 B/s each
    assert gathers[0] == (2, 6)
    assert copies[1] == (2, 6)
    assert gathers[1] == (6, 9)  # from 7, when the first slot is free, beside the third layer's copy
    assert kernels[:2] == [6, 9]


def test_pieces_are_gathered_while_the_next_is_copied() -> None:
    whole, chunked = (run({"prefetch_layers": 0} | more).timeline for more in ({}, {"chunk_bytes": 8}))
    # whole: 2 s + 2 s; chunked: 1 s alone, 2 s together, 1 s alone
    assert [s.start for s, _ in whole.commands(0, Kernel)][:2] == [4, 9]
    assert [s.start for s, _ in chunked.commands(0, Kernel)][:2] == [4, 9]
    free = {"host": 1000.0, "down": 1000.0, "up": 1000.0}
    fast = run({"prefetch_layers": 0, "chunk_bytes": 8}, changes=free).timeline
    assert [s.start for s, _ in fast.commands(0, Kernel)][:2] == [3, 7]


def test_parts_on_the_device_are_gathered_without_copies() -> None:
    result = run({"store": "device"})
    assert result.metrics["h2d_bytes_per_step"] == 0
    assert not list(result.timeline.commands(0, Copy))
    assert [s.start for s, _ in result.timeline.commands(0, Kernel)][:2] == [2, 4]
    sizes = {b.name: b.bytes for b in result.timeline.program.ranks[0].buffers}
    assert sizes == {"resident": 0, "slot0": 32, "slot1": 32, "shards": 32}


MET = {"all_to_all.beside.all_gather": 0.5, "all_gather.beside.all_to_all": 0.25, "device.beside_collective": 1.5}
"""What collectives do to those of another stream, and to kernels."""


def test_gathers_slow_the_blocks_collectives_and_kernels_and_are_slowed() -> None:
    workload = LAYERS | {"block": [compute(1), collective(32)]}
    timeline = run({"store": "device"}, workload=workload, changes=MET).timeline
    calls = timeline.commands(0, Collective)
    gathers = [(s.start, s.end) for s, c in calls if c.kind == "all_gather"]
    exchanges = [(s.start, s.end) for s, c in calls if c.kind == "all_to_all"]
    kernels = [(s.start, s.end) for s, _ in timeline.commands(0, Kernel)]
    # nothing is slowed by the first gather; the first kernel by the second one, all of which but 4 B is there at 3.5:
    # these take 2 s beside the all_to_all, which moves 8 B of its 16 meanwhile, and the rest in a second
    assert gathers[:2] == [(0, 2), (2, 5.5)]
    assert kernels[0] == (2, 3.5)
    assert exchanges[0] == (3.5, 6.5)
    # then the first slot is free, and all goes on alike
    assert gathers[2:] == [(6.5, 10), (11, 14.5), (15.5, 19)]
    assert kernels[1:] == [(6.5, 8), (11, 12.5), (15.5, 17)]
    assert exchanges[1:] == [(8, 11), (12.5, 15.5), (17, 20)]


def test_gathers_slow_kernels_also_where_blocks_have_no_collectives() -> None:
    timeline = run({"store": "device"}, changes=MET).timeline
    # each kernel beside the gather of the next layer, 2 s long, which waits for the slot that the kernel before leaves
    assert [(s.start, s.end) for s, _ in timeline.commands(0, Kernel)] == [(2, 3.5), (4, 5.5), (6, 7.5), (8, 9.5)]
    assert [(s.start, s.end) for s, _ in timeline.commands(0, Collective)] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


def test_one_rank_copies_everything_and_gathers_nothing() -> None:
    alone, chunked = (
        simulate(scenario(LAYERS, {"kind": kind, "chunk_bytes": 8}, 1), tiny_profile(1)).metrics
        for kind in ("sharded", "chunked")
    )
    assert alone == chunked


def test_gathers_count_as_waiting_for_prefetch() -> None:
    figures = run({}).metrics
    assert figures["exposed_prefetch_s"] == pytest.approx(figures["step_time_s"] - 2)
    assert figures["lower_bound_s"] <= figures["step_time_s"]


def test_a_piece_may_be_copied_while_another_is_gathered_but_not_the_same() -> None:
    def build(offset: int) -> Any:
        rank = RankBuilder()
        rank.buffer("slot", 16, "slot")
        rank.copy("copy", "a", 8, "slot")
        rank.wait("gather", rank.record("copy"))
        rank.collective("gather", "g", "all_gather", 8, writes=("slot",), offset=0)
        rank.copy("copy", "b", 8, "slot", offset=offset)

    build(8)
    with pytest.raises(ProgramError, match="'b' on stream 'copy' uses buffer 'slot' while 'g' on stream 'gather'"):
        build(7)


def test_a_kernel_needs_every_piece() -> None:
    rank = RankBuilder()
    rank.buffer("slot", 16, "slot")
    rank.copy("one", "a", 8, "slot")
    rank.copy("two", "b", 8, "slot", offset=8)
    rank.wait("compute", rank.record("two"))
    with pytest.raises(ProgramError, match="while 'a' on stream 'one'"):
        rank.kernel("compute", "k", seconds=1, reads=("slot",))


def test_a_piece_is_not_overwritten_while_a_kernel_reads_the_slot() -> None:
    rank = RankBuilder()
    rank.buffer("slot", 16, "slot")
    rank.kernel("compute", "k", seconds=1, reads=("slot",))
    free = rank.record("compute")
    rank.wait("one", free)
    rank.copy("one", "a", 8, "slot")
    with pytest.raises(ProgramError, match="'b' on stream 'two' overwrites buffer 'slot' while 'k'"):
        rank.copy("two", "b", 8, "slot", offset=8)


def test_blocks_with_collectives_of_their_own() -> None:
    workload = LAYERS | {"block": [compute(1), collective(32)]}
    for store in ("host", "device"):
        figures = run({"store": store, "chunk_bytes": 6}, 3, workload).metrics
        assert figures["lower_bound_s"] <= figures["step_time_s"]
