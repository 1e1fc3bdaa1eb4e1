"""Named models: weights and work against published figures and closed forms, collectives, errors."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from sim.hardware import load_profile
from sim.inputs.config import InputError
from sim.program import Kernel
from sim.program.ops import WEIGHTS, AnyOperation, Attention, Gate, Linear, Matrix, Normalise, Permute
from sim.run import simulate
from sim.scenario import Scenario
from sim.workloads.block_setup import Block, Setup
from sim.workloads.explicit import CollectiveOp, Compute, Layer, collective_buffer
from sim.workloads.model_blocks import block
from sim.workloads.named import Named, block_bytes, load_model, parameters, shipped

# Parameters of the released transformers (safetensors metadata, or the total size of their index in fp32), and MB per
# block in bf16 as listed for the models; neither is read from our data files.
PUBLISHED = {
    "wan2.1-14b": (57_153_966_336 // 4, (702.8,)),
    "wan2.2-14b": (57_153_966_336 // 4, (702.8,)),
    "wan2.1-1.3b": (1_418_996_800, (92.8,)),
    "wan2.2-5b": (4_999_787_712, (327.2,)),
    "hunyuanvideo": (12_821_012_544, (679.5, 283.1)),
    "flux.1-dev": (11_901_408_320, (679.5, 283.1)),
    "qwen-image": (20_430_401_088, (679.7,)),
    "sd3.5-large": (8_100_000_000, (425.8,)),  # rounded, from the announcement
    "cogvideox-5b": (5_570_283_072, (264.0,)),
    "pixart-xl-2": (610_856_096, (42.5,)),
    "flux.2-dev": (32_223_281_152, (2 * 981.467648, 2 * 490.733824)),  # a public count of its shapes
    "hunyuanvideo-1.5": (8_326_608_160, (302.1,)),  # catalogues of models; a block by diffusers' code
    "ltx-video": (2_000_000_000, (2 * 67.155968,)),  # by its name; a block by diffusers' code
    "sd3-medium": (2_085_000_000, (170.0,)),  # 4.17 GB of fp16 weights; a block by diffusers' code
    "hunyuandit": (1_500_000_000, (68.2, 76.1)),  # rounded, from the announcement; blocks by diffusers' code
}
ROUNDED = {"sd3.5-large": 0.01, "sd3-medium": 0.001, "hunyuandit": 0.001, "ltx-video": 0.05}
"""How far the counts may be from published ones that are rounded."""


def named(model: str, **fields: Any) -> Named:
    """A small run of `model`."""
    video = load_model(model).vae.temporal > 1
    size = {"frames": 17, "height": 384, "width": 640} if video else {"height": 512, "width": 512}
    return msgspec.convert({"model": model} | size | fields, Named)


def computes(layer: Layer) -> list[Compute]:
    return [i for i in layer.block if isinstance(i, Compute)]


def collectives(layer: Layer) -> list[CollectiveOp]:
    return [i for i in layer.block if isinstance(i, CollectiveOp)]


def flops(layer: Layer, *names: str) -> float:
    return sum(float(i.flops or 0) for i in computes(layer) if not names or i.name in names)


def small_bytes(layer: Layer) -> int:
    return sum(int(i.bytes or 0) for i in computes(layer) if i.flops is None)


def scenario(workload: dict[str, Any], world_size: int = 2) -> Scenario:
    plain = {
        "hardware": "h200x2-hostpath",
        "world_size": world_size,
        "workload": workload,
        "policy": {"kind": "whole_layer"},
    }
    return Scenario.from_plain(plain, "case.yaml")


@pytest.mark.parametrize("name", shipped())
def test_parameters_are_the_published_ones(name: str) -> None:
    total, blocks = PUBLISHED[name]
    model = load_model(name)
    assert parameters(model) == pytest.approx(total, rel=ROUNDED.get(name, 1e-9))
    assert model.parameters.published == total
    sizes = [size / 1e6 for size in block_bytes(model)[: len(blocks)]]
    assert sizes == pytest.approx(blocks, rel=0.005)


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("wan2.1-14b", {"frames": 81, "height": 480, "width": 832}, 21 * 1560),
        ("wan2.2-14b", {"frames": 93, "height": 720, "width": 1280}, 86_400),
        ("wan2.2-5b", {"frames": 81, "height": 704, "width": 1280}, 220 * 84),
        ("hunyuanvideo", {"frames": 21, "height": 720, "width": 1280}, 900 * 24),
        ("cogvideox-5b", {"frames": 49, "height": 480, "width": 720}, 17_550),
        ("flux.1-dev", {"height": 2048, "width": 2048}, 16_384),
        ("sd3.5-large", {"height": 1024, "width": 1024}, 4096),
        ("pixart-xl-2", {"height": 1024, "width": 1024}, 4096),
        ("flux.2-dev", {"height": 1024, "width": 1024}, 4096),
        ("hunyuanvideo-1.5", {"frames": 121, "height": 720, "width": 1280}, 31 * 45 * 80),
        ("sd3-medium", {"height": 1024, "width": 1024}, 4096),
        ("hunyuandit", {"height": 1024, "width": 1024}, 4096),
        ("ltx-video", {"frames": 161, "height": 512, "width": 704}, 21 * 16 * 22),
    ],
)
def test_tokens(model: str, size: dict[str, int], tokens: int) -> None:
    assert named(model, **({"frames": None} | size)).tokens(load_model(model)) == tokens


def test_work_of_a_wan_block_is_the_closed_form() -> None:
    run = named("wan2.1-14b", frames=37, height=480, width=832, cross_attention_collectives=0, batch=3)
    layer = run.resolve(2).layers[0]
    tokens, local, text, d, f = 15_600, 7800, 512, 5120, 13_824
    assert flops(layer, "qkv") == 3 * 6 * local * d * d
    assert flops(layer, "attention") == 3 * 4 * tokens**2 * d / 2
    assert flops(layer, "cross_qkv") == 3 * (2 * local + 4 * text) * d * d
    assert flops(layer, "cross_attention") == 3 * 4 * local * text * d
    assert flops(layer, "out", "cross_out") == 3 * 4 * local * d * d
    assert flops(layer, "ffn_up", "ffn_down") == 3 * 4 * local * d * f
    matrices = (12 * local + 4 * text) * d * d + 4 * local * d * f
    assert flops(layer) == 3 * (matrices + 2 * tokens**2 * d + 4 * local * text * d)


def test_small_kernels_read_and_write_each_operand_once() -> None:
    def moved(parallelism: str) -> dict[str, int]:
        run = named("wan2.1-14b", frames=37, height=480, width=832, parallelism=parallelism)
        layer = msgspec.structs.replace(run, cross_attention_collectives=0).resolve(2).layers[0]
        return {i.name: int(i.bytes or 0) for i in computes(layer) if i.flops is None}

    rows, text = 7800 * 5120 * 2, 512 * 5120 * 2
    assert moved("ulysses") == {
        "norm": 2 * rows,
        "qk_norm": 4 * rows,
        "rope": 4 * rows,
        "transpose": 2 * rows,
        "residual_norm": 4 * rows,
        "cross_qk_norm": 2 * (rows + text),
        "activation": 2 * 7800 * 13_824 * 2,
        "residual": 3 * rows,
    }
    whole = moved("tensor")  # all tokens, half of the heads and of the FFN
    assert whole["norm"] == 2 * 2 * rows
    assert whole["qk_norm"] == whole["rope"] == 4 * rows
    assert whole["activation"] == 2 * 7800 * 13_824 * 2


def test_work_of_hunyuan_blocks_is_the_closed_form() -> None:
    workload = named("hunyuanvideo", frames=21, height=720, width=1280).resolve(2)
    image, local, text, d = 21_600, 10_800, 256, 3072
    projections, attention = 24 * (local + text) * d * d, 2 * (image + text) ** 2 * d
    for layer, vectors in ((workload.layers[0], 12), (workload.layers[-1], 3)):
        assert flops(layer, "modulation") == 2 * vectors * d * d
        assert flops(layer) == projections + attention + 2 * vectors * d * d


def test_text_of_flux_is_exchanged_from_every_rank() -> None:
    layer = named("flux.1-dev", height=1024, width=1024, batch=8).resolve(2).layers[0]
    assert [(c.name, c.bytes) for c in collectives(layer)] == [
        (name, 8 * (2048 + 512) * 3072 * 2) for name in ("q", "k", "v", "output")
    ]
    assert flops(layer, "attention") == 8 * 4 * 5120**2 * 3072 / 2


def test_all_to_alls_of_wan_are_those_of_the_traces() -> None:
    aces = named("wan2.2-14b", frames=93, height=720, width=1280).resolve(4).layers[0]
    assert [c.kind for c in collectives(aces)] == ["all_to_all"] * 8
    assert sorted(c.bytes for c in collectives(aces)) == [5_242_880] * 2 + [221_184_000] * 6
    for size, expected in (((37, 480, 832), 79_872_000), ((17, 240, 832), 19_968_000)):
        run = named("wan2.1-14b", frames=size[0], height=size[1], width=size[2], cross_attention_collectives=0)
        assert [c.bytes for c in collectives(run.resolve(2).layers[0])] == [expected] * 4


def test_hunyuan_packs_its_queries_keys_and_values() -> None:
    for layer in named("hunyuanvideo", frames=21, height=720, width=1280).resolve(2).layers:
        assert [(c.kind, c.bytes) for c in collectives(layer)] == [
            ("all_to_all", 3 * 10_800 * 3072 * 2),
            ("all_gather", 256 * 3072 * 2),
            ("all_to_all", 10_800 * 3072 * 2),
        ]


@pytest.mark.parametrize("name", shipped())
def test_all_collectives_are_apart(name: str) -> None:
    """Between two all-to-alls there are transposes, and they cost what they move."""
    for layer in named(name).resolve(2).layers:
        previous: Compute | CollectiveOp | None = None
        for item in layer.block:
            if isinstance(item, CollectiveOp) and item.kind == "all_to_all":
                assert isinstance(previous, Compute) and previous.name == "transpose"
                assert int(previous.bytes or 0) >= 2 * item.bytes
            previous = item


@pytest.mark.parametrize(
    ("model", "counts"),
    [("wan2.1-1.3b", [3]), ("flux.1-dev", [2, 1]), ("cogvideox-5b", [2]), ("sd3.5-large", [2, 2])],
)
def test_tensor_parallel_reduces_whole_activations(model: str, counts: list[int]) -> None:
    whole = named(model).resolve(1)
    halves = named(model, parallelism="tensor").resolve(2)
    hidden = load_model(model).transformer.hidden
    seen = []
    for one, half in zip(whole.layers, halves.layers, strict=True):
        reduced = collectives(half)
        assert {c.kind for c in reduced} == {"all_reduce"}
        assert all(c.bytes % (hidden * 2) == 0 and c.bytes <= max(i.bytes or 0 for i in computes(one)) for c in reduced)
        assert flops(half) - flops(half, "modulation") == (flops(one) - flops(one, "modulation")) / 2
        assert flops(half, "modulation") == flops(one, "modulation")
        seen.append(len(reduced))
    assert list(dict.fromkeys(seen)) == list(dict.fromkeys(counts))


def test_tensor_parallel_divides_the_matrices_only() -> None:
    whole = named("flux.1-dev").resolve(1).layers
    halves = named("flux.1-dev", parallelism="tensor").resolve(2).layers
    d = 3072
    for i, modulation in ((0, 12 * d * d + 12 * d), (-1, 3 * d * d + 3 * d)):
        replicated = 2 * modulation
        half = (whole[i].bytes - replicated) / 2 + replicated
        assert halves[i].bytes == pytest.approx(half, rel=1e-3)
        assert halves[i].bytes > half  # norms and the biases of reduced projections are not divided


@pytest.mark.parametrize("name", shipped())
def test_ulysses_divides_the_tokens_and_keeps_the_weights(name: str) -> None:
    one, two = named(name).resolve(1), named(name).resolve(2)
    for whole, half in zip(one.layers, two.layers, strict=True):
        assert half.bytes == whole.bytes
        assert collectives(whole) == []
        assert "transpose" not in {i.name for i in computes(whole)}
        assert flops(whole, "qkv", "qkv_mlp") / 2 <= flops(half, "qkv", "qkv_mlp") < flops(whole, "qkv", "qkv_mlp")


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("parallelism", ["ulysses", "tensor"])
def test_a_batch_multiplies_work_traffic_and_activations(name: str, parallelism: str) -> None:
    one, three = (named(name, batch=b, parallelism=parallelism).resolve(2) for b in (1, 3))
    assert three.activation_bytes == 3 * one.activation_bytes > 0
    for single, triple in zip(one.layers, three.layers, strict=True):
        assert triple.bytes == single.bytes
        assert flops(triple) == 3 * flops(single)
        assert small_bytes(triple) == 3 * small_bytes(single)
        assert [c.bytes for c in collectives(triple)] == [3 * c.bytes for c in collectives(single)]


def work(op: AnyOperation) -> tuple[int, int]:
    """(FLOP, bytes moved) of an operation that reads each operand once and writes each result once, vectors apart."""
    if isinstance(op, Linear):
        return 2 * op.x.elements * op.y.columns, 2 * (op.x.elements + op.weight.elements + op.y.elements)
    if isinstance(op, Attention):
        flops = 4 * op.q.batch * op.q.rows * op.k.rows * op.q.columns
        return flops, 2 * (op.q.elements + op.k.elements + op.v.elements + op.y.elements)
    if isinstance(op, Normalise):
        written = [m for m in (op.residual and op.x, op.y) if m]
        return 0, 2 * sum(m.elements for m in (op.x, op.residual, *written) if m)
    if isinstance(op, Permute):
        assert op.x.elements == op.y.elements == math.prod(op.shape)
        return 0, 2 * (op.x.elements + op.y.elements)
    if isinstance(op, Gate):
        return 0, 2 * (2 * op.x.elements + op.by.elements)
    return 0, 2 * 2 * op.x.elements


def extent(matrix: Matrix, ranks: int) -> int:
    """Bytes of its buffer up to the end of a matrix."""
    last = (matrix.batch - 1) * matrix.step + (matrix.rows - 1) * matrix.stride + matrix.columns
    return 2 * (matrix.offset + (ranks - 1) * matrix.per_rank + last)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("parallelism", ["ulysses", "tensor"])
def test_operations_account_for_all_buffers_flops_and_launches(name: str, parallelism: str, batch: int) -> None:
    workload = named(name, batch=batch, parallelism=parallelism).resolve(2)
    for layer in set(workload.layers):
        buffers = {WEIGHTS: layer.bytes, "activations": workload.activation_bytes}
        for c in collectives(layer):
            apart = 2 if c.kind == "all_to_all" else 1
            buffers[collective_buffer(c.kind, int(c.bytes))] = apart * int(c.bytes)
        read_or_written = {m.buffer for item in computes(layer) for op in item.ops for m in op.operands()}
        if any(item.name in ("skip", "skip_join") for item in computes(layer)):
            buffers["skips"] = workload.skip_bytes
        assert read_or_written == buffers.keys()
        for item in computes(layer):
            assert item.launches == len(item.ops)
            flops, moved = (sum(part) for part in zip(*map(work, item.ops), strict=True))
            assert (float(item.flops or 0), item.bytes) == (flops, moved), item.name
            for matrix in (m for op in item.ops for m in op.operands()):
                assert 0 < extent(matrix, 2) <= buffers[matrix.buffer], (item.name, matrix)


def test_tokens_that_do_not_divide_are_padded() -> None:
    layer = named("wan2.1-1.3b", frames=1, height=48, width=80).resolve(2).layers[0]  # 15 tokens
    assert [c.bytes for c in collectives(layer)][:4] == [8 * 1536 * 2] * 4


def test_fewer_layers_keep_the_mix_of_kinds() -> None:
    assert len(named("hunyuanvideo").resolve(2).layers) == 60
    few = named("hunyuanvideo", layers=6).resolve(2).layers
    assert [round(layer.bytes / 1e6) for layer in few] == [680, 680, 283, 283, 283, 283]


def test_passes_are_the_models_unless_given() -> None:
    assert named("wan2.2-5b").resolve(1).passes_per_step == 2
    assert named("flux.1-dev").resolve(1).passes_per_step == 1
    assert named("wan2.2-5b", passes_per_step=1).resolve(1).passes_per_step == 1


def test_two_experts_one_at_a_time() -> None:
    assert load_model("wan2.2-14b").experts == 2
    run = named("wan2.2-14b")
    assert run.resolve(2) == msgspec.structs.replace(run, model="wan2.1-14b").resolve(2)


WAN = {"model": "wan2.2-14b", "frames": 81, "height": 480, "width": 832, "parallelism": "ulysses", "steps": 4}


@pytest.mark.parametrize(
    ("change", "world_size", "path", "words"),
    [
        ({"model": "wan2.2-15b"}, 2, "workload.model", "did you mean 'wan2.2-5b' or 'wan2.2-14b'?"),
        ({"model": "flux"}, 2, "workload.model", "did you mean 'flux.2-dev' or 'flux.1-dev'"),
        ({"frames": 80}, 2, "workload.frames", "such as 77 or 81"),
        ({"frames": 0}, 2, "workload.frames", "is 0, at least 1 is needed"),
        ({"frames": "many"}, 2, "workload.frames", "expected"),
        ({"height": 481}, 2, "workload.height", "multiples of 16, such as 480"),
        ({"model": "wan2.2-5b", "height": 720}, 2, "workload.height", "multiples of 32, such as 704"),
        ({"width": 8}, 2, "workload.width", "multiples of 16, such as 16"),
        ({"batch": 0}, 2, "workload.batch", "at least 1"),
        ({"layers": 41}, 2, "workload.layers", "has 40"),
        ({}, 3, "workload.parallelism", "ulysses over world_size 3: wan2.2-14b has 40 attention heads"),
        ({"parallelism": "tensor"}, 16, "workload.parallelism", "40 attention heads"),
        ({"frame": 81}, 2, "workload.frame", "did you mean 'frames'"),
        ({"cross_attention_collectives": 3}, 2, "workload.cross_attention_collectives", "3"),
        ({"model": "flux.1-dev"}, 2, "workload.frames", "makes images: expected 1"),
    ],
)
def test_errors_name_the_key(change: dict[str, Any], world_size: int, path: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        scenario(WAN | change, world_size)
    assert caught.value.source == "case.yaml"
    assert caught.value.path == path
    assert words in str(caught.value)


def test_all_numbers_that_do_not_fit_a_model_are_told_at_once() -> None:
    for change, keys in (
        ({"frames": 80, "height": 481, "layers": 41}, {"frames", "height", "layers"}),
        (
            {"frames": 80, "layers": 41, "parallelism": {"pipeline": 2, "patches": 4}},
            {"frames", "layers"},
        ),
        ({"frames": 0, "batch": 0, "model": "wan"}, {"frames", "batch", "model"}),
    ):
        with pytest.raises(InputError) as caught:
            scenario(WAN | change, 2)
        assert {path for path, _ in caught.value.faults} == {f"workload.{key}" for key in keys}


def test_missing_frames_and_height() -> None:
    for key, words in (("frames", "makes videos"), ("height", "is missing")):
        with pytest.raises(InputError, match=f"workload.{key}: .*{words}"):
            scenario({k: v for k, v in WAN.items() if k != key})


def test_images_have_no_cross_attention_to_exchange() -> None:
    with pytest.raises(InputError, match=r"workload\.cross_attention_collectives: flux\.1-dev has no cross-attention"):
        scenario({"model": "flux.1-dev", "height": 512, "width": 512, "cross_attention_collectives": 4})


def test_an_explicit_workload_is_still_one() -> None:
    block = [{"compute": {"name": "a", "seconds": 1}}]
    assert scenario({"layers": 2, "layer_bytes": 8, "block": block}).program().world_size == 2
    with pytest.raises(InputError, match=r"case.yaml: workload\.blok: unknown key; did you mean 'block'"):
        scenario({"layers": 2, "layer_bytes": 8, "blok": block})


def test_a_named_scenario_runs() -> None:
    result = simulate(scenario(WAN | {"layers": 2, "frames": 17}))
    model = load_model("wan2.2-14b")
    assert result.metrics["h2d_bytes_per_step"] == 2 * 2 * block_bytes(model)[0]  # two layers, two passes
    assert float(result.metrics["step_time_s"]) >= float(result.metrics["lower_bound_s"])  # type: ignore[arg-type]


def test_attention_has_an_efficiency_of_its_own() -> None:
    profile = load_profile("h200x2-hostpath")
    rate = float(profile.device.peak_flops.value)
    work = Kernel("compute", "x", flops=rate)
    assert profile.kernel_seconds(work) == pytest.approx(1 / profile.device.compute_efficiency.value)
    attention = msgspec.structs.replace(work, attention=True)
    assert profile.kernel_seconds(attention) == pytest.approx(1 / 0.63)
    device = msgspec.structs.replace(profile.device, attention_efficiency=None)
    same = msgspec.structs.replace(profile, device=device)
    assert same.kernel_seconds(attention) == same.kernel_seconds(work)


# Median durations of the baselines of validation/data/h200x2-hostpath/cases.jsonl, s: tokens a rank by 4, then 1.
@pytest.mark.parametrize(
    ("size", "measured"),
    [
        ((37, 480, 832), {"qkv": 2.0786e-3, "attention": 3.9887e-3, "post": 4.9463e-3}),
        ((17, 240, 832), {"qkv": 0.5345e-3, "attention": 0.2823e-3, "post": 1.3245e-3}),
    ],
)
def test_roofline_against_a_measured_block(size: tuple[int, int, int], measured: dict[str, float]) -> None:
    profile = load_profile("h200x2-hostpath")
    run = named("wan2.1-14b", frames=size[0], height=size[1], width=size[2], cross_attention_collectives=0)
    seconds = dict.fromkeys(measured, 0.0)
    part = "qkv"
    for item in computes(run.resolve(2).layers[0]):
        if item.name == "transpose":
            continue
        part = "attention" if item.name == "attention" else "post" if part == "attention" else part
        seconds[part] += profile.kernel_seconds(
            Kernel("", "", flops=float(item.flops or 0), hbm_bytes=float(item.bytes or 0), attention=item.attention)
        )
    for name, expected in measured.items():
        assert seconds[name] == pytest.approx(expected, rel=0.20)
    assert sum(seconds.values()) == pytest.approx(sum(measured.values()), rel=0.10)
    assert sum(seconds.values()) < sum(measured.values())  # fused kernels are counted: a floor of an eager block


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sim.cli", *arguments], capture_output=True, text=True, check=False)


def test_command_line() -> None:
    listed = cli("models")
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in shipped())
    assert "19 + 38" in listed.stdout and "679.7 / 283.2 MB" in listed.stdout
    assert json.loads(cli("models", "--json").stdout) == list(shipped())
    shown = cli("models", "wan2.2-14b")
    assert re.search(r"patch +\[1, 2, 2\] ", shown.stdout) and re.search(r"qk_norm +true ", shown.stdout)
    assert "transformer.hidden" in shown.stdout and "5120" in shown.stdout and "blocks[0].repeat" in shown.stdout
    assert json.loads(cli("models", "wan2.2-14b", "--json").stdout)["experts"] == 2
    wrong = cli("models", "wan2.2")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Error: wan2.2: 'wan2.2' is not a known model; did you mean ") and wrong.stdout == ""


def test_starting_the_command_line_loads_no_models() -> None:
    code = "import sys, sim.cli; print([m for m in ('sim.workloads.named', 'numpy', 'pandas', 'msgspec') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- modulation ----------------------------------------------------------------------------------------------------

ROWS = 96
"""64 image tokens and 32 of text."""


def modulated(model: str, kind: str) -> Block:
    """One block of `model` on one rank."""
    shapes = load_model(model)
    setup = Setup(shapes, "ulysses", 1, 1, 64, 32, shapes.ulysses.cross_attention)
    return block(setup, next(shape for shape in shapes.blocks if shape.kind == kind))


MODULATED = [
    ("flux.1-dev", "double", 12),
    ("flux.1-dev", "single", 3),
    ("hunyuanvideo", "double", 12),
    ("qwen-image", "double", 12),
    ("sd3.5-large", "double", 12),
    ("cogvideox-5b", "joint", 6),  # of its 12; norms and gates of one stream of rows need no more
]


@pytest.mark.parametrize(("model", "kind", "live"), MODULATED)
def test_norms_and_gates_read_what_the_modulation_gives(model: str, kind: str, live: int) -> None:
    found, shapes = modulated(model, kind), load_model(model).transformer
    items = computes(found.layer)
    given = [op.y for i in items if i.name == "modulation" for op in i.ops if isinstance(op, Linear)]
    norms = [op for i in items for op in i.ops if isinstance(op, Normalise)]
    read = [v for op in norms for v in (op.gate, op.scale, op.shift) if v is not None]
    modulating = [v for v in read if v.buffer != WEIGHTS]
    assert modulating, "some are of the block's own weights, the others of the modulation"
    assert len(set(read)) == len(read), "each reads one of its own"
    places = [(y.buffer, y.offset + i * shapes.hidden) for y in given for i in range(y.columns // shapes.hidden)]
    assert [(v.buffer, v.offset) for v in modulating] == places[: len(modulating)]


@pytest.mark.parametrize(("model", "kind", "live"), MODULATED)
def test_modulation_is_kept_beside_the_activations_until_it_is_read(model: str, kind: str, live: int) -> None:
    shapes = load_model(model).transformer
    d = shapes.hidden
    # x and its norm; q, k and v and attention's output, or with the hidden layer of the FFN beside q, k and v alone
    wide = 3 * d + (shapes.ffn if kind == "single" else d)
    assert modulated(model, kind).activations == ROWS * (2 * d + wide) + live * d + shapes.modulation


def moved(op: Permute) -> list[int]:
    """Which element of x each element of y is, both row by row."""
    steps = [math.prod(op.shape[axis + 1 :]) for axis in range(len(op.shape))]
    places = itertools.product(*(range(op.shape[axis]) for axis in op.order))
    return [sum(i * steps[axis] for i, axis in zip(place, op.order, strict=True)) for place in places]


@pytest.mark.parametrize("name", ["hunyuanvideo", "wan2.2-5b"])
def test_each_sample_of_a_batch_is_moved_as_the_only_one(name: str) -> None:
    """Elements of a sample land in the order in which they land without others."""
    shapes, batch = load_model(name), 7

    def moves(samples: int, kind: str) -> list[Permute]:
        setup = Setup(shapes, "ulysses", 2, samples, 4, 2, shapes.ulysses.cross_attention)
        items = computes(block(setup, next(s for s in shapes.blocks if s.kind == kind)).layer)
        return [op for item in items for op in item.ops if isinstance(op, Permute)]

    for kind in dict.fromkeys(s.kind for s in shapes.blocks):
        one, several = moves(1, kind), moves(batch, kind)
        assert len(one) == len(several) > 0
        for alone, together in zip(one, several, strict=True):
            inner = math.prod(together.shape[together.shape.index(batch) + 1 :])
            order, found = moved(alone), moved(together)
            for sample in (0, batch - 1):
                # numbers within a sample: the batch's axis taken out
                assert order == [
                    e // (inner * batch) * inner + e % inner for e in found if e // inner % batch == sample
                ]
