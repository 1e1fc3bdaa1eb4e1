"""How named models are divided: bytes that each layout sends, work and weights of a rank, steps, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import Scenario, simulate
from sim.hardware.collectives import sent_per_rank
from sim.inputs.config import InputError
from sim.policies import count_commands
from sim.program import Collective, Kernel, PointToPoint, Program, RankProgram, Recv, Send
from sim.timeline.metrics import Metrics
from sim.workloads.block_items import Compute
from sim.workloads.layouts import Layout
from sim.workloads.named import Named, load_model

Plain = dict[str, Any]
PIXART: Plain = {"model": "pixart-xl-2", "height": 1024, "width": 1024}
WAN: Plain = {"model": "wan2.1-1.3b", "frames": 33, "height": 480, "width": 832}
FLUX: Plain = {"model": "flux.1-dev", "height": 1024, "width": 1024, "layers": 8}
HUNYUAN: Plain = {"model": "hunyuanvideo", "frames": 17, "height": 480, "width": 832, "layers": 6}
HOSTS = {2: "h200x2-hostpath", 4: "h200x4-hostpath", 8: "h200x8-hostpath"}
RESIDENT: Plain = {"kind": "resident"}


def scenario(model: Plain, parallelism: Any, world_size: int, policy: Plain = RESIDENT, **more: Any) -> Scenario:
    hardware = next(name for gpus, name in HOSTS.items() if gpus >= world_size)
    if parallelism in ("ring", "pipeline", "cfg", "data"):
        parallelism = {parallelism: world_size}
    workload = {"steps": 2, "parallelism": parallelism} | model | more
    return Scenario.from_plain({"hardware": hardware, "world_size": world_size, "workload": workload, "policy": policy})


def run(model: Plain, parallelism: Any, world_size: int, policy: Plain = RESIDENT, **more: Any) -> Metrics:
    return simulate(scenario(model, parallelism, world_size, policy, **more)).metrics


def sent(rank: RankProgram, world_size: int) -> dict[str, float]:
    """Bytes that a rank sends in the first step, by the kind of what sends them."""
    found: dict[str, float] = {}
    for command in rank.commands():
        if isinstance(command, Collective) and command.step == 0:
            size = sent_per_rank(command.kind, command.bytes, len(command.members(world_size)))
            found[command.name] = found.get(command.name, 0.0) + size
        elif isinstance(command, PointToPoint) and command.step == 0:
            for t in command.transfers:
                if isinstance(t, Send):
                    found[command.name] = found.get(command.name, 0.0) + t.bytes
    return found


# ---- what is sent: xDiT's table of traffic a step, p tokens, h hidden, L layers, N ranks -----------------------------

P, H, L = 4096, 1152, 28
"""Of PixArt at 1024 x 1024."""
ACTIVATIONS = 2 * P * H
"""p h numbers of bf16, B."""


def of_all(program: Program) -> list[float]:
    """Bytes that each rank sends for its layers, guidance and latents left out."""
    ranks = [sent(rank, program.world_size) for rank in program.ranks]
    return [sum(size for name, size in rank.items() if name not in ("guidance", "latents")) for rank in ranks]


@pytest.mark.parametrize("n", [2, 4, 8])
def test_ulysses_sends_4_p_h_l_over_n(n: int) -> None:
    program = scenario(PIXART, "ulysses", n, passes_per_step=1).program()
    assert of_all(program) == pytest.approx([4 * ACTIVATIONS * L / n * (n - 1) / n] * n)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_ring_sends_2_p_h_l(n: int) -> None:
    program = scenario(PIXART, "ring", n, passes_per_step=1).program()
    assert of_all(program) == pytest.approx([2 * ACTIVATIONS * L * (n - 1) / n] * n)


def test_text_of_a_joint_attention_does_not_go_round() -> None:
    program = scenario(FLUX, "ring", 4).program()  # 4,096 image tokens and 512 of text, on each rank
    assert of_all(program) == pytest.approx([2 * 2 * 4096 * 3072 * 8 * 3 / 4] * 4)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_tensor_parallel_sends_4_p_h_l(n: int) -> None:
    # two all-reduces a layer, as the table counts: PixArt's cross-attention is whole on every rank
    program = scenario(PIXART, "tensor", n, passes_per_step=1).program()
    assert of_all(program) == pytest.approx([4 * ACTIVATIONS * L * (n - 1) / n] * n)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_pipeline_sends_p_h_and_receives_p_h(n: int) -> None:
    program = scenario(PIXART, "pipeline", n, passes_per_step=1).program()
    assert of_all(program) == [*[ACTIVATIONS] * (n - 1), 0]
    received = [
        sum(t.bytes for c in rank.commands() if isinstance(c, PointToPoint) and c.name == "stage input" and c.step == 0
            for t in c.transfers if isinstance(t, Recv))
        for rank in program.ranks
    ]  # fmt: skip
    assert received == [0, *[ACTIVATIONS] * (n - 1)]
    latents = [sent(rank, n).get("latents", 0) for rank in program.ranks]
    assert latents == [*[0] * (n - 1), 2 * 128 * 128 * 4]


@pytest.mark.parametrize(("u", "r"), [(2, 2), (4, 2), (2, 4)])
def test_ulysses_and_ring_together_send_what_each_does_of_its_share(u: int, r: int) -> None:
    n = u * r
    program = scenario(PIXART, {"ulysses": u, "ring": r}, n, passes_per_step=1).program()
    expected = 4 * ACTIVATIONS * L / n * (u - 1) / u + 2 * ACTIVATIONS * L / n * (r - 1)
    assert of_all(program) == pytest.approx([expected] * n)
    assert {c.group for c in program.ranks[3].commands() if isinstance(c, Collective)} == {
        tuple(range(3 // u * u, 3 // u * u + u))
    }


def test_guidance_in_parallel_sends_predictions_once_a_step() -> None:
    program = scenario(PIXART, {"cfg": 2, "data": 2}, 4).program()
    for rank in program.ranks:
        assert sent(rank, 4) == {"guidance": 2 * 128 * 128 * 4}
    assert {c.group for c in program.ranks[2].commands() if isinstance(c, Collective)} == {(2, 3)}
    assert not sent(scenario(PIXART, "data", 4).program().ranks[0], 4)


def test_an_exchange_of_pairs_is_faster_than_one_of_all() -> None:
    within = run(WAN, {"ulysses": 2, "data": 2}, 4, layers=4)["collective_time_s"]
    assert within < 2 * run(WAN, "ulysses", 4, layers=4)["collective_time_s"]


# ---- what a rank has -------------------------------------------------------------------------------------------------


def attended(model: Plain, parallelism: Any, world_size: int) -> float:
    """FLOP of all ranks in what every layout divides: attention and FFN."""
    workload = Named(**model, **({"parallelism": parallelism} if parallelism else {})).resolve(world_size)
    names = ("attention", "ffn_up", "ffn_down", "qkv")
    total = 0.0
    for rank in range(world_size):
        own = workload.of(rank)
        items = (i for layer in own.layers for i in layer.block if isinstance(i, Compute) and i.name in names)
        total += own.passes_per_step * sum(float(i.flops or 0) for i in items)
    return total


SIZES = st.sampled_from([1, 2])
LAYOUTS = st.fixed_dictionaries(dict.fromkeys(("tensor", "ulysses", "ring", "pipeline", "cfg", "data"), SIZES))


@settings(max_examples=25)
@given(LAYOUTS)
def test_ranks_together_do_the_work_of_one(sizes: dict[str, int]) -> None:
    world = 1
    for size in sizes.values():
        world *= size
    alone = attended(PIXART | {"layers": 3}, None, 1)
    assert attended(PIXART | {"layers": 3}, Layout(**sizes), world) == pytest.approx(alone * sizes["data"])


@settings(max_examples=15)
@given(LAYOUTS, st.sampled_from([RESIDENT, {"kind": "chunked", "chunk_bytes": "16 MiB"}, {"kind": "yielding", "chunk_bytes": "16 MiB"}]))  # fmt: skip
def test_every_layout_runs(sizes: dict[str, int], policy: Plain) -> None:
    world = 1
    for size in sizes.values():
        world *= size
    if world > 8:
        return
    made = scenario(PIXART, sizes, world, policy, layers=3)
    program = made.program()
    commands = sum(1 for rank in program.ranks for _ in rank.commands())
    assert commands <= count_commands(made.workload.resolve(world), made.policy, world)
    figures = simulate(made, settle=False).metrics
    assert figures["lower_bound_s"] <= figures["step_time_s"] * (1 + 1e-9)


@pytest.mark.parametrize("model", [FLUX, HUNYUAN], ids=["flux", "hunyuan"])
@pytest.mark.parametrize("parallelism", [{"ring": 2, "ulysses": 2}, {"tensor": 2, "ring": 2}, {"pipeline": 4}])
def test_joint_blocks_run_under_every_layout(model: Plain, parallelism: Plain) -> None:
    assert run(model, parallelism, 4)["step_time_s"] > 0


def test_one_dimension_is_what_its_name_meant_before() -> None:
    for name in ("ulysses", "tensor"):
        short, long = (scenario(WAN, p, 4, layers=3).program().hash for p in (name, {name: 4, "data": 1}))
        assert short == long
    assert (
        scenario(WAN, "ulysses", 1, layers=3).program().hash == scenario(WAN, {"ring": 1}, 1, layers=3).program().hash
    )


def test_a_pipeline_of_four_copies_a_quarter_a_rank_and_stages_differ_by_one_block() -> None:
    policy = {"kind": "whole_layer"}
    whole = run(WAN, "data", 1, policy)["h2d_bytes_per_step"]
    workload = scenario(WAN, "pipeline", 4, policy).workload.resolve(4)
    counts = [len(workload.of(rank).layers) for rank in range(4)]
    assert counts == [8, 8, 7, 7]
    assert run(WAN, "pipeline", 4, policy)["h2d_bytes_per_step"] == pytest.approx(whole * 8 / 30)
    memory = [run(WAN, "pipeline", n)["peak_memory_bytes"] for n in (1, 2)]
    assert memory[1] < 0.6 * memory[0]


def test_stages_of_a_pipeline_run_one_after_the_other_and_passes_beside_each_other() -> None:
    one = run(WAN, "data", 1, passes_per_step=1)["step_time_s"]
    two, both = (run(WAN, "pipeline", 2, passes_per_step=passes)["step_time_s"] for passes in (1, 2))
    assert one < two < 1.05 * one
    assert 1.45 * one < both < 1.6 * one  # of two passes, the second starts when the first has left the first stage


def test_offload_of_a_pipeline_costs_little_once_each_stage_prefetches_its_own_first_block() -> None:
    # vLLM-Omni pull request 6456: Wan A14B on H800, 1 GPU +0.3 %; a pipeline of two +5 %, as no stage prefetched its
    # first block, and nothing once each does
    model = {"model": "wan2.2-14b", "frames": 45, "height": 480, "width": 832}

    def costs(world_size: int, **policy: Any) -> float:
        resident, offloaded = (
            run(model, "pipeline", world_size, p)["step_time_s"] for p in (RESIDENT, {"kind": "whole_layer"} | policy)
        )
        return offloaded / resident - 1

    assert costs(1) == pytest.approx(0.003, abs=0.005)
    assert costs(2) == pytest.approx(0.0, abs=0.01)
    assert costs(2, wrap_around=False) == pytest.approx(0.05, abs=0.03)


def test_replicas_run_as_one_does_alone_on_a_host_that_lets_them() -> None:
    alone, beside = (run(WAN, "data", n, layers=4)["step_time_s"] for n in (1, 2))
    assert beside == pytest.approx(alone, rel=1e-3)
    batch = run(WAN, "data", 2, layers=4, batch=2)["step_time_s"]
    assert batch > 1.8 * beside  # each replica has its own batch


def test_guidance_on_two_ranks_halves_the_passes() -> None:
    both = run(WAN, "data", 1, layers=4)["step_time_s"]
    assert run(WAN, "cfg", 2, layers=4)["step_time_s"] == pytest.approx(both / 2, rel=0.01)


def test_a_ring_sends_while_attention_runs_and_attention_waits_for_what_it_reads() -> None:
    timeline = simulate(scenario(WAN, "ring", 4, layers=2)).timeline
    spans = [s for s, c in timeline.commands(0, Kernel) if (c.step, c.layer) == (1, 1) and c.name == "attention"]
    sends = [s for s, c in timeline.commands(0, PointToPoint) if (c.step, c.layer) == (1, 1)]
    assert (len(spans), len(sends)) == (8, 6)  # of two passes
    for attention, send, following in zip(spans[:3], sends[:3], spans[1:4], strict=True):
        assert send.start < attention.end
        assert send.end <= following.start


def test_three_and_six_ranks_and_tokens_that_do_not_divide() -> None:
    square = {"model": "hunyuanvideo", "frames": 17, "height": 960, "width": 960, "layers": 2}
    for world in (3, 6):
        program = Scenario.from_plain(
            {"hardware": "h200x8-hostpath", "world_size": world, "workload": square, "policy": RESIDENT}
        ).program()
        assert program.world_size == world
    assert run(PIXART, {"ring": 3}, 3, layers=2)["step_time_s"] > 0  # 4,096 tokens, 16 heads


@pytest.mark.parametrize(
    ("model", "parallelism", "world_size", "said"),
    [
        (PIXART, "ulysses", 3, "16 attention heads, which cannot be divided evenly: xDiT, SGLang and vLLM give each rank"),
        (PIXART, {"tensor": 4, "ulysses": 8}, 32, "workload.parallelism: tensor 4 x ulysses 8: pixart-xl-2 has 16"),
        (PIXART, {"tensor": 2, "ring": 2}, 2, "workload.parallelism: is tensor 2 x ring 2: 4 ranks, but world_size is 2"),
        (PIXART, {"cfg": 4}, 4, "workload.parallelism: cfg 4: a step of pixart-xl-2 has 2 passes to divide"),
        (FLUX, {"cfg": 2}, 2, "workload.parallelism: cfg 2: a step of flux.1-dev has 1 pass to divide"),
        (PIXART | {"layers": 2}, {"pipeline": 4}, 4, "2 layers are fewer than stages"),
        (PIXART, {"tensor": 0}, 1, "workload.parallelism.tensor: is 0, at least 1 is needed"),
        (PIXART, {"expert": 2}, 2, "workload.parallelism.expert: unknown key"),
        (PIXART, "ring", 2, "workload.parallelism: expected one of ulysses, tensor or a mapping of keys to values"),
    ],
)  # fmt: skip
def test_layouts_that_cannot_be_are_refused_with_the_reason(
    model: Plain, parallelism: Any, world_size: int, said: str
) -> None:
    with pytest.raises(InputError) as error:
        Scenario.from_plain(
            {"hardware": "h200x8-hostpath", "world_size": world_size, "policy": RESIDENT}
            | {"workload": model | {"parallelism": parallelism}}
        )
    assert said in str(error.value)


def test_a_sharded_policy_has_no_pipeline() -> None:
    with pytest.raises(InputError, match="policy.kind: is sharded, which gathers weights over all ranks"):
        scenario(PIXART, "pipeline", 2, {"kind": "sharded"})


def test_models_say_how_many_numbers_a_latent_has() -> None:
    assert [load_model(name).vae.channels for name in ("pixart-xl-2", "wan2.2-5b", "flux.1-dev")] == [4, 48, 16]
