"""Patch pipelines (PipeFusion) and displaced patches (DistriFusion): bytes, memory, order and time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import Scenario, simulate
from sim.hardware.collectives import sent_per_rank
from sim.inputs.config import InputError
from sim.program import Collective, Kernel, PointToPoint, Program, Recv, Send

Plain = dict[str, Any]
PIXART: Plain = {"model": "pixart-xl-2", "height": 1024, "width": 1024, "passes_per_step": 1}
FLUX: Plain = {"model": "flux.1-dev", "height": 1024, "width": 1024, "layers": 8}
P, H, L, LATENTS = 4096, 1152, 28, 128 * 128 * 4
"""Tokens, hidden features, layers and numbers of latents of PixArt at 1024 x 1024."""
RESIDENT: Plain = {"kind": "resident"}


def scenario(model: Plain, layout: Plain, policy: Plain = RESIDENT, host: str = "l40x8-pcie", **more: Any) -> Scenario:
    world = 1
    for name, size in layout.items():
        world *= 1 if name in ("patches", "warmup_steps") else size
    workload = {"steps": 4, "parallelism": layout} | model | more
    return Scenario.from_plain({"hardware": host, "world_size": world, "workload": workload, "policy": policy})


def sent(program: Program, step: int) -> list[dict[str, float]]:
    """Bytes that each rank sends in a step, by the name of what sends them."""
    ranks = []
    for rank in program.ranks:
        found: dict[str, float] = {}
        for c in rank.commands():
            if isinstance(c, PointToPoint) and c.step == step:
                found[c.name] = found.get(c.name, 0) + sum(t.bytes for t in c.transfers if isinstance(t, Send))
            elif isinstance(c, Collective) and c.step == step:
                size = sent_per_rank(c.kind, c.bytes, len(c.members(program.world_size)))
                found[c.name] = found.get(c.name, 0) + size
        ranks.append(found)
    return ranks


# ---- bytes ---------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([2, 4, 7]), st.sampled_from([2, 4, 8, 16]), st.integers(0, 2))
def test_stages_send_p_h_a_step_in_patches_or_not(stages: int, patches: int, warmup: int) -> None:
    layout = {"pipeline": stages, "patches": patches, "warmup_steps": warmup}
    program = scenario(PIXART, layout, steps=warmup + 3).program()
    for step in range(warmup + 3):
        ranks = sent(program, step)
        assert [rank.get("stage output", 0) for rank in ranks] == [*[2 * P * H] * (stages - 1), 0]
        last = step == warmup + 2
        assert [rank.get("latents", 0) for rank in ranks] == [*[0] * (stages - 1), 0 if last else 2 * LATENTS]
    calls = [c for c in program.ranks[0].commands() if isinstance(c, PointToPoint) and c.name == "stage output"]
    assert [len(c.transfers) for c in calls] == [1] * (warmup + 3 * patches)


def test_text_goes_with_the_first_patch_or_with_each() -> None:
    layout = {"pipeline": 2, "patches": 4}
    image, text = 2 * 4096 * 3072, 2 * 512 * 3072
    once, each = (sent(scenario(FLUX, layout, patch_text=which).program(), 2)[0] for which in ("first", "each"))
    assert (once["stage output"], each["stage output"]) == (image + text, image + 4 * text)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_displaced_patches_gather_2_p_h_l(n: int) -> None:
    program = scenario(PIXART, {"displaced": n}).program()
    for step in (0, 2):
        assert [rank["kv"] for rank in sent(program, step)] == pytest.approx([2 * 2 * P * H * L * (n - 1) / n] * n)


def test_hybrids_send_what_each_does_of_its_share() -> None:
    program = scenario(PIXART, {"ulysses": 2, "ring": 2, "pipeline": 2, "patches": 2, "cfg": 1}).program()
    warm, steady = sent(program, 0)[0], sent(program, 2)[0]
    share, layers = 2 * P * H / 4, L // 2
    exchanges = share * layers / 2
    for name in ("q", "k", "v", "output"):
        assert warm[name] == steady[name] == exchanges
    assert warm["ring"] == 2 * share * layers  # keys and values of a rank's part, once round
    assert steady["kv"] == 2 * share * layers  # of each patch, gathered: all ranks keep all keys
    assert warm["stage output"] == steady["stage output"] == share


def test_guidance_is_joined_patch_by_patch() -> None:
    program = scenario(PIXART, {"pipeline": 2, "patches": 4, "cfg": 2}, passes_per_step=2).program()
    joined = [c for c in program.ranks[1].commands() if isinstance(c, Collective) and c.name == "guidance"]
    assert [c.bytes for c in joined if c.step == 0] == [2 * 2 * LATENTS]
    assert [c.bytes for c in joined if c.step == 2] == [2 * 2 * LATENTS // 4] * 4
    assert {c.group for c in joined} == {(1, 3)}


# ---- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4])
def test_a_stage_keeps_its_layers_and_keys_and_values_of_all_tokens(n: int) -> None:
    whole = scenario(PIXART, {"pipeline": 1}).program().ranks[0]
    resident = {b.name: b.bytes for b in whole.buffers}["resident"]
    for rank in scenario(PIXART, {"pipeline": n, "patches": n}).program().ranks:
        buffers = {b.name: b.bytes for b in rank.buffers}
        assert buffers["kv_cache"] == 2 * (2 * P * H) * L // n
        assert buffers["resident"] == resident // n
    displaced = {b.name: b.bytes for b in scenario(PIXART, {"displaced": n}).program().ranks[0].buffers}
    assert displaced["kv_cache"] == 2 * (2 * P * H) * L and displaced["resident"] == resident


def test_displaced_patches_of_large_images_do_not_fit_where_a_pipeline_does() -> None:
    """The paper's DistriFusion is out of memory on 48 GB with PixArt at 4096 x 4096 on eight GPUs; PipeFusion has 14 GB."""
    large = PIXART | {"height": 4096, "width": 4096, "batch": 2}
    kept = {
        name: {b.name: b.bytes for b in scenario(large, layout).program().ranks[0].buffers}["kv_cache"]
        for name, layout in (("displaced", {"displaced": 8}), ("pipeline", {"pipeline": 8, "patches": 8}))
    }
    assert kept["displaced"] == 2 * (2 * 65536 * H) * L * 2 > 16e9
    assert kept["pipeline"] == kept["displaced"] // L * 4


# ---- order and time ------------------------------------------------------------------------------------------------


def test_patches_pass_from_stage_to_stage_while_stages_work() -> None:
    timeline = simulate(scenario(PIXART | {"height": 2048, "width": 2048}, {"pipeline": 2, "patches": 4})).timeline
    kernels = [[(s, c) for s, c in timeline.commands(r, Kernel) if c.step == 2] for r in (0, 1)]
    sends = [s for s, c in timeline.commands(0, PointToPoint) if c.step == 2 and c.name == "stage output"]
    receives = [s for s, c in timeline.commands(1, PointToPoint) if c.step == 2 and c.name == "stage input"]
    assert len(sends) == len(receives) == 4
    starts = [s.start for s, c in kernels[1] if c.layer == 0 and c.name == "norm"]
    assert len(starts) == 4
    for received, start in zip(receives, starts, strict=True):
        assert start >= received.end
    busy = [sum(s.end - s.start for s, _ in of) for of in kernels]
    lasts = max(s.end for of in kernels for s, _ in of) - min(s.start for of in kernels for s, _ in of)
    assert sum(busy) > 1.5 * lasts  # both stages work at once: 8 patches in the time of 5
    for a, b in pairwise(sends):
        assert a.end <= b.start


def test_warm_up_takes_the_stages_one_after_the_other() -> None:
    """T1 / S (w + (S - w) / N): a step of warm-up is as on one GPU, a later one an Nth, where the stages are equal."""
    large: Plain = PIXART | {"height": 4096, "width": 4096, "batch": 2}
    alone = simulate(scenario(large, {"pipeline": 1})).metrics["step_time_s"]
    found = simulate(scenario(large, {"pipeline": 4, "patches": 4, "warmup_steps": 2})).metrics
    assert found["step_times_s"][:2] == pytest.approx([alone] * 2, rel=0.02)
    assert found["step_time_s"] == pytest.approx(alone / 4, rel=0.02)


@settings(max_examples=4, deadline=None)
@given(
    st.sampled_from([{"kind": "whole_layer"}, {"kind": "yielding", "chunk_bytes": "8 MiB"}, {"kind": "chunked", "chunk_bytes": "4 MiB", "prefetch_layers": 2}]),
    st.sampled_from([{"pipeline": 2, "patches": 3}, {"pipeline": 4, "patches": 4}, {"pipeline": 2, "patches": 2, "ulysses": 2}, {"displaced": 2}]),
    st.integers(0, 2),
)  # fmt: skip
def test_stages_prefetch_their_own_layers_for_each_patch(policy: Plain, layout: Plain, warmup: int) -> None:
    offloaded = scenario(PIXART | {"layers": 8}, layout | {"warmup_steps": warmup}, policy, steps=warmup + 3)
    figures = simulate(offloaded).metrics
    plain = simulate(scenario(PIXART | {"layers": 8}, layout | {"warmup_steps": warmup}, steps=warmup + 3)).metrics
    stages, passes = layout.get("pipeline", 1), layout.get("patches", 1)
    weights = sum(layer.bytes for layer in offloaded.workload.resolve(offloaded.world_size).of(0).layers)
    assert figures["h2d_bytes_per_step"] == weights * passes
    assert figures["step_time_s"] >= plain["step_time_s"] * (1 - 1e-9)
    assert weights * stages == pytest.approx(sum(layer.bytes for layer in scenario(PIXART | {"layers": 8}, {"pipeline": 1}).workload.resolve(1).layers))  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ({"pipeline": 1, "patches": 4}, "patches"),
        ({"displaced": 2, "ring": 2}, "displaced"),
        ({"pipeline": 2, "patches": 2, "warmup_steps": -1}, "warmup_steps"),
        ({"pipeline": 2, "patches": 5000}, "patches"),
    ],
)
def test_layouts_that_cannot_be_are_refused(layout: Plain, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        scenario(PIXART, layout)
    assert str(caught.value).startswith("scenario: workload.parallelism")


def test_the_first_stage_receives_latents_of_the_step_before() -> None:
    program = scenario(PIXART, {"pipeline": 2, "patches": 4}, steps=5).program()
    latents = [
        sum(isinstance(t, Recv) for c in program.ranks[0].commands()
            if isinstance(c, PointToPoint) and c.name == "latents" and c.step == step for t in c.transfers)
        for step in range(5)
    ]  # fmt: skip
    assert latents == [1, 0, 4, 4, 4]  # whole after warm-up; then each patch, a step late
