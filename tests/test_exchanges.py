"""All-to-alls in phases, values first, and shares of tokens: bytes by level, order, memory, and equal results."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import Scenario, simulate
from sim.inputs.config import InputError
from sim.program import Collective, Kernel, Program
from sim.workloads.exchanges import VMajor

Plain = dict[str, Any]
RESIDENT: Plain = {"kind": "resident"}
HOST = "aurora-12tiles"


def written_out(world: int, size: int, levels: list[int], **more: Any) -> Program:
    block = [{"collective": {"kind": "all_to_all", "bytes": size, "levels": levels, **more}}]
    workload = {"layers": 1, "steps": 1, "layer_bytes": 1024, "block": block}
    plain = {"hardware": HOST, "world_size": world, "workload": workload, "policy": RESIDENT}
    return Scenario.from_plain(plain).program()


def flux(world: int, exchange: Plain, **more: Any) -> Scenario:
    workload: Plain = {
        "model": "flux.1-dev",
        "height": 1024,
        "width": 1024,
        "layers": 2,
        "steps": 2,
        "divide_text": True,
    }
    plain = {
        "hardware": HOST,
        "world_size": world,
        "policy": RESIDENT,
        "workload": workload | {"exchange": exchange} | more,
    }
    return Scenario.from_plain(plain)


# ---- phases --------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(12, [2]), (12, [2, 3]), (12, [3]), (12, [2, 6]), (8, [2, 2]), (8, [4]), (6, [3])]),
    st.integers(1, 9),
)
def test_each_byte_crosses_each_level_once(world: tuple[int, list[int]], blocks: int) -> None:
    """Of levels n_1, n_2, ... a rank sends (n_i - 1) / n_i of its buffer among those that differ at level i only."""
    ranks, levels = world
    size = 2 * ranks * blocks
    rest = ranks // math.prod(levels)
    sizes = [n for n in (*levels, rest) if n > 1]
    program = written_out(ranks, size, levels)
    across: dict[tuple[int, int], float] = {}
    for number, rank in enumerate(program.ranks):
        calls = [c for c in rank.commands() if isinstance(c, Collective)]
        assert [len(c.members(ranks)) for c in calls] == sizes
        apart = 1
        for call, n in zip(calls, sizes, strict=True):
            members = call.members(ranks)
            assert number in members and members == tuple(members[0] + i * apart for i in range(n))
            for other in members:
                if other != number:
                    across[number, other] = across.get((number, other), 0.0) + call.bytes / n
            apart *= n
    for number in range(ranks):
        sent = sum(bytes_ for (a, _), bytes_ in across.items() if a == number)
        assert sent == pytest.approx(size * sum((n - 1) / n for n in sizes))
    # what leaves a domain of the first level is what a flat exchange sends out of it
    n = sizes[0]
    for first in range(0, ranks, n):
        inside = range(first, first + n)
        out = sum(b for (a, c), b in across.items() if a in inside and c not in inside)
        beyond = ranks // n
        assert out == pytest.approx(n * size * sum((m - 1) / m for m in sizes[1:]))
        if len(sizes) == 2:
            assert out == pytest.approx(n * size * (ranks - n) / ranks) and beyond == sizes[1]


def test_levels_that_ranks_do_not_fill_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"workload.block\[0\].collective.levels: are \[5\]: groups of 5 do not fill 12"
    ):
        written_out(12, 120, [5])
    with pytest.raises(InputError, match="levels"):
        written_out(12, 120, [2], kind="all_gather")
    with pytest.raises(InputError, match=r"workload.exchange.levels: are \[5\]"):
        flux(12, {"levels": [5]})
    with pytest.raises(InputError, match="workload.exchange.v_major.first: is 2"):
        flux(12, {"v_major": {"first": 2}})


def test_phases_are_as_much_faster_as_published_on_one_node() -> None:
    """CoCoDiff on 12 ranks: two phases about 2.2 x, with values first about 1.3 x more; 64 to 96 % is exchanges."""
    flat, phases, first = (
        simulate(flux(12, exchange, height=1536, width=1536)).metrics
        for exchange in ({}, {"levels": [2]}, {"levels": [2], "v_first": True})
    )
    assert flat["step_time_s"] / phases["step_time_s"] == pytest.approx(2.2, rel=0.2)
    assert phases["step_time_s"] / first["step_time_s"] == pytest.approx(1.3, rel=0.1)
    assert 0.64 < flat["collective_time_s"] / flat["step_time_s"] < 0.96


# ---- values first --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["flux.1-dev", "pixart-xl-2", "qwen-image"])
def test_values_are_exchanged_beside_what_computes_queries_and_keys(model: str) -> None:
    scenario = flux(4, {"v_first": True}, model=model, divide_text=False, passes_per_step=1)
    timeline = simulate(scenario).timeline
    plain = flux(4, {}, model=model, divide_text=False, passes_per_step=1)
    values = [s for s, c in timeline.commands(0, Collective) if c.stream == "values" and c.step == 1]
    assert len(values) == 2
    kernels = [(s, c) for s, c in timeline.commands(0, Kernel) if c.step == 1]
    for span in values:
        beside = [c.name for s, c in kernels if s.start < span.end and s.end > span.start]
        assert beside and not {"attention", "v"} & set(beside)
        after = min(s.start for s, c in kernels if c.name == "attention" and s.start > span.start)
        assert after >= span.end
    work = [
        [(c.flops, c.hbm_bytes) for c in p.ranks[0].commands() if isinstance(c, Kernel)]
        for p in (scenario.program(), plain.program())
    ]
    assert sum(f for f, _ in work[0]) == pytest.approx(sum(f for f, _ in work[1]))
    layers = [s.workload.resolve(4).layers for s in (scenario, plain)]
    assert [layer.bytes for layer in layers[0]] == [layer.bytes for layer in layers[1]]


# ---- shares of tokens ----------------------------------------------------------------------------------------------


def test_the_share_falls_over_the_steps_with_warm_up_and_refresh() -> None:
    major = VMajor(warmup_steps=2, refresh_every=4)
    shares = [major.share(step, 11) for step in range(11)]
    assert shares == pytest.approx([1, 1, 0.8, 0.7, 0.6, 1, 0.4, 0.3, 0.2, 1, 0])


def test_only_a_share_of_queries_keys_and_values_crosses_beyond_the_first_level() -> None:
    program = flux(12, {"levels": [2], "v_major": {"first": 1, "last": 0.5}}, steps=6).program()

    def bytes_of(step: int, name: str) -> int:
        return sum(
            c.bytes
            for c in program.ranks[0].commands()
            if isinstance(c, Collective) and c.step == step and c.name == name
        )

    for name in ("q", "k", "v"):
        assert bytes_of(5, f"{name} level 0") == bytes_of(0, f"{name} level 0") == bytes_of(0, f"{name} level 1")
        for step in range(1, 6):
            share = 1 - 0.5 * step / 5
            assert bytes_of(step, f"{name} level 1") == pytest.approx(share * bytes_of(0, f"{name} level 1"), rel=0.01)
    assert bytes_of(5, "output level 1") == bytes_of(0, "output level 1")
    assert bytes_of(0, "chosen tokens") == 0 < bytes_of(5, "chosen tokens") < bytes_of(1, "chosen tokens")


def test_what_is_kept_of_the_step_before_takes_memory() -> None:
    figures = [simulate(flux(12, exchange, steps=4)).metrics for exchange in ({}, {"v_major": {}})]
    rows = -(-4096 // 12) + -(-512 // 12)
    assert figures[1]["peak_memory_bytes"] - figures[0]["peak_memory_bytes"] == pytest.approx(
        4 * 2 * rows * 3072 * 2, rel=0.02
    )


@pytest.mark.slow
def test_what_is_kept_of_the_step_before_may_not_fit() -> None:
    fits = [
        simulate(flux(12, exchange, batch=88, layers=57)).metrics["fits_memory"] for exchange in ({}, {"v_major": {}})
    ]
    assert fits == [True, False]


def test_figures_of_steps_with_different_shares_are_means_over_all() -> None:
    figures = simulate(flux(12, {"v_major": {}}, steps=6)).metrics
    times = figures["step_times_s"]
    assert len(times) == 6 and times[1] > times[4]
    assert figures["request_time_s"] == pytest.approx(sum(times))


# ---- heads that do not divide ---------------------------------------------------------------------------------------


def sd35(world: int, **more: Any) -> Scenario:
    workload: Plain = {
        "model": "sd3.5-large",
        "height": 768,
        "width": 768,
        "layers": 1,
        "steps": 1,
        "passes_per_step": 1,
    }
    workload |= {"divide_text": True, "pad_heads": True}
    plain = {"hardware": HOST, "world_size": world, "policy": RESIDENT, "workload": workload | more}
    return Scenario.from_plain(plain)


@pytest.mark.parametrize(("world", "heads"), [(2, 19), (4, 10), (6, 7), (12, 4)])
def test_padded_heads_are_sent_and_attended_to(world: int, heads: int) -> None:
    """Of 38 heads each of n ranks has 38 / n, rounded up: 26 % more than its share on 12."""
    program = sd35(world).program()
    rows = 48 * 48 // world + -(-333 // world)
    exchanges = [c for c in program.ranks[0].commands() if isinstance(c, Collective)]
    assert [c.bytes for c in exchanges] == [world * rows * heads * 64 * 2] * 4
    [attention] = [c for c in program.ranks[0].commands() if isinstance(c, Kernel) and c.name == "attention"]
    assert attention.flops == 4 * (world * rows) ** 2 * heads * 64
    projections = [c.flops for c in program.ranks[0].commands() if isinstance(c, Kernel) and c.name == "qkv"]
    assert sum(projections) == 6 * rows * 2432 * 2432  # weights are as they are


def test_heads_that_divide_are_not_padded() -> None:
    plain, padded = (sd35(2, pad_heads=pad).program() for pad in (False, True))
    assert plain == padded


def test_a_padded_exchange_goes_in_phases_with_values_first() -> None:
    program = sd35(12, exchange={"levels": [2, 6], "v_first": True}).program()
    sizes = {c.bytes for c in program.ranks[0].commands() if isinstance(c, Collective)}
    assert sizes == {12 * (48 * 48 // 12 + 28) * 4 * 64 * 2}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"pad_heads": False}, "pad_heads pads them"),
        ({"parallelism": {"ulysses": 4, "pipeline": 3, "patches": 2}}, "is stale: expected false"),
        ({"model": "hunyuanvideo", "frames": 5, "divide_text": False}, "packed: expected false"),
    ],
)
def test_padding_has_limits(more: Plain, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sd35(12, **more)
