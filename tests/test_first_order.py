"""First-order theory: published crossovers, ours from shapes, and contention against the simulator."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.analysis.first_order import (
    H100_PCIE_PEAK,
    PCIE5_X16,
    PUBLISHED,
    Quadratic,
    compute_seconds,
    critical_flops,
    crossover,
    layer_bytes,
    layer_flops,
    layer_time,
    prefetch_seconds,
    step_seconds,
)
from sim.hardware import load_profile
from sim.inputs.units import Bytes, Seconds
from sim.run import simulate
from sim.scenario import Scenario
from sim.workloads.explicit import CollectiveOp, Compute, Layer
from sim.workloads.named import Named

D = 3072
WAN_5B = Named(model="wan2.2-5b", frames=81, height=704, width=1280)
HUNYUAN = Named(model="hunyuanvideo", frames=21, height=720, width=1280)
FLUX = Named(model="flux.1-dev", height=1024, width=1024)


@pytest.mark.parametrize(("model", "claimed"), [("wan2.2-5b", 35.4), ("hunyuanvideo", 19.8), ("flux.1-dev", 7.55)])
def test_published_crossovers_follow_from_the_published_work(model: str, claimed: float) -> None:
    published = PUBLISHED[model]
    target = critical_flops(published.size, H100_PCIE_PEAK, PCIE5_X16)
    assert published.flops.reaches(target) == pytest.approx(claimed, rel=0.005)
    assert published.flops.reaches(target) == pytest.approx(published.crossover, rel=1e-3)


def test_published_work_rebuilt_from_its_formulas() -> None:
    """With what sets it apart from a count of the shapes (docs/first_order.md)."""
    # Wan: all tokens of the video are taken for those of one rank, and 6 of the 12 d^2 of projections are missing
    wan, f = PUBLISHED["wan2.2-5b"].flops, 14_336
    for n in (1, 35, 81):
        tokens = 225 * (n + 3)
        work = 4 * (2 * tokens) ** 2 * D / 2 + tokens * (6 * D * D + 4 * D * f + 4 * 512 * D) + 4 * 512 * D * D
        assert wan.at(n) == pytest.approx(work, rel=1e-12)
    # Hunyuan: as our count, but for 161 text tokens and no modulation
    for n in (1, 21, 81):
        tokens, text = 900 * (n + 3), 161
        work = 24 * (tokens / 2 + text) * D * D + 4 * (tokens + text) ** 2 * D / 2
        assert PUBLISHED["hunyuanvideo"].flops.at(n) == pytest.approx(work, rel=1e-12)
    # FLUX: attention of all heads over the tokens of one rank
    work = 24 * 2560 * D * D + 4 * 2560**2 * D
    assert PUBLISHED["flux.1-dev"].flops.at(8) == 8 * work


def test_crossovers_counted_from_the_shapes() -> None:
    def wan(n: float) -> float:
        local, text, f = 110 * (n + 3), 512, 14_336
        work = local * (12 * D * D + 4 * D * f + 4 * 2 * text * D) + 4 * text * D * D + 4 * (2 * local) ** 2 * D / 2
        return work - critical_flops(layer_bytes(WAN_5B, 2), H100_PCIE_PEAK, PCIE5_X16)

    assert wan(crossover(WAN_5B, "frames", 2)) == pytest.approx(0, abs=1e3)
    assert crossover(WAN_5B, "frames", 2) == pytest.approx(68.7, rel=0.001)
    assert crossover(HUNYUAN, "frames", 2) == pytest.approx(19.65, rel=0.001)
    assert crossover(FLUX, "batch", 2) == pytest.approx(6.73, rel=0.001)
    shorter = Named(model="hunyuanvideo", frames=21, height=720, width=1280, text_tokens=161)
    assert crossover(shorter, "frames", 2) == pytest.approx(PUBLISHED["hunyuanvideo"].crossover, rel=0.001)


@pytest.mark.parametrize(
    ("model", "unknown", "at"), [(WAN_5B, "frames", 81), (HUNYUAN, "frames", 21), (FLUX, "batch", 1)]
)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_work_between_the_fitted_points(
    model: Named, unknown: Literal["frames", "batch"], at: int, world_size: int
) -> None:
    layers = model.resolve(world_size).layers
    counted = sum(float(i.flops or 0) for layer in layers for i in layer.block if isinstance(i, Compute))
    assert layer_flops(model, unknown, world_size).at(at) == pytest.approx(counted / len(layers), rel=1e-9)


def test_padding_does_not_bend_the_work() -> None:
    """15 tokens a latent frame: every other number of frames is padded on two ranks."""
    model = Named(model="wan2.1-1.3b", frames=29, height=48, width=80)
    counted = sum(float(i.flops or 0) for i in model.resolve(2).layers[0].block if isinstance(i, Compute))
    assert layer_flops(model, "frames", 2).at(29) == pytest.approx(counted, rel=1e-9)


@given(st.builds(Quadratic, *[st.floats(0, 1e12)] * 3).filter(lambda q: q.linear + q.square > 1e-3), st.floats(0, 1e6))
def test_reaches_inverts_the_work_function(work: Quadratic, n: float) -> None:
    found = work.reaches(work.at(n))
    assert work.at(found) == pytest.approx(work.at(n), rel=1e-9)
    assert found >= 0


def test_unreachable_work_is_an_error() -> None:
    assert Quadratic(5, 1, 0).reaches(4) == 0
    with pytest.raises(ValueError, match="does not grow"):
        Quadratic(5, 0, 0).reaches(6)


@given(st.floats(1e6, 1e10), st.floats(0.1, 1), st.floats(0.1, 1))
def test_hidden_exactly_from_the_critical_work_on(size: float, eta_comp: float, eta_pref: float) -> None:
    peak, bandwidth = 756e12, 63e9
    critical = critical_flops(size, peak, bandwidth, eta_comp, eta_pref)
    assert compute_seconds(critical, peak, eta_comp) == pytest.approx(prefetch_seconds(size, bandwidth, eta_pref))
    assert critical_flops(size, peak, bandwidth) == pytest.approx(12_000 * size)


PROFILE = load_profile("h200x2-hostpath")


def layer(*items: Compute | CollectiveOp) -> Layer:
    return Layer(0, items)


def kernel(seconds: float) -> Compute:
    return Compute(name="k", seconds=Seconds(seconds))


def test_without_collectives_it_is_the_first_order_model() -> None:
    cap, setup, launch = PROFILE.h2d.cap.value, PROFILE.h2d.setup.value, PROFILE.streams.launch_delay.value
    for size, seconds in ((10**9, 1e-3), (10**6, 1e-1)):
        copy = size / min(cap, min(PROFILE.capacities)) + setup
        time = layer_time(PROFILE, layer(kernel(seconds)), 2, size)
        assert time.total == pytest.approx(max(copy, seconds), abs=2 * launch)
        assert time.exposed == pytest.approx(max(copy - seconds, 0), abs=2 * launch)
        assert time.isolated == seconds


def test_nothing_copied_nothing_lost() -> None:
    block = layer(kernel(1e-3), CollectiveOp(kind="all_to_all", bytes=Bytes(80_000_000)), kernel(1e-3))
    time = layer_time(PROFILE, block, 2, 0)
    assert time.exposed == 0
    assert time.total == time.isolated
    assert time.isolated == pytest.approx(2e-3 + PROFILE.collectives.all_to_all.alone.at(40_000_000), rel=1e-9)


def test_a_copy_that_ends_early_stretches_only_what_it_meets() -> None:
    send = CollectiveOp(kind="all_to_all", bytes=Bytes(80_000_000))
    size = 50_000_000  # ends within the first kernel
    first = layer_time(PROFILE, layer(kernel(5e-3), send), 2, size)
    last = layer_time(PROFILE, layer(send, kernel(5e-3)), 2, size)
    assert first.isolated == last.isolated
    assert first.total == pytest.approx(first.isolated, abs=1e-5)
    assert last.total > last.isolated + 2e-4


CASES: list[tuple[dict[str, Any], str]] = [
    ({"model": "wan2.1-14b", "frames": 17, "height": 240, "width": 832}, "copy-bound"),
    ({"model": "wan2.1-14b", "frames": 37, "height": 480, "width": 832}, "hidden"),
    ({"model": "wan2.2-5b", "frames": 81, "height": 704, "width": 1280}, "hidden"),
    ({"model": "hunyuanvideo", "frames": 21, "height": 720, "width": 1280}, "mixed"),
    ({"model": "flux.1-dev", "height": 1024, "width": 1024, "batch": 2, "parallelism": "tensor"}, "mixed"),
    ({"model": "pixart-xl-2", "height": 1024, "width": 1024}, "hidden"),
]


@pytest.mark.parametrize(("workload", "regime"), CASES)
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_contention_against_the_simulator(workload: dict[str, Any], regime: str, fraction: float) -> None:
    scenario = Scenario.from_plain(
        {
            "hardware": "h200x2-hostpath",
            "world_size": 2,
            "workload": workload | {"layers": 6, "steps": 3},
            "policy": {"kind": "whole_layer", "resident_fraction": fraction},
        }
    )
    simulated = float(simulate(scenario).metrics["step_time_s"])  # type: ignore[arg-type]
    resolved = scenario.workload.resolve(2)
    assert step_seconds(PROFILE, resolved, 2, fraction) == pytest.approx(simulated, rel=0.01)
    if fraction == 0:
        exposed = [layer_time(PROFILE, layer, 2, layer.bytes).exposed > 0 for layer in resolved.layers]
        assert {"copy-bound": all(exposed), "hidden": not any(exposed), "mixed": True}[regime]


def test_a_model_without_contention_is_far_off() -> None:
    """Why the extension is needed: compute hides the copy, but the collectives pay for it."""
    layers = Named(model="wan2.1-14b", frames=37, height=480, width=832).resolve(2).layers
    time = layer_time(PROFILE, layers[0], 2, layers[0].bytes)
    without = max(time.isolated, prefetch_seconds(layers[0].bytes, PROFILE.h2d.cap.value))
    assert time.exposed == 0
    assert time.total > 1.15 * without


# The baseline's medians of each part of a block, s, and the measured whole_layer step of 10 blocks, from
# validation/data/h200x2-hostpath/cases.jsonl.
@pytest.mark.parametrize(
    ("tokens", "qkv", "transposes", "attention", "post", "measured"),
    [
        (1950, 0.5345e-3, (26e-6, 41e-6, 29e-6), 0.2823e-3, 1.3245e-3, 0.135094),
        (7800, 2.0786e-3, (149e-6, 123e-6, 103e-6), 3.9887e-3, 4.9463e-3, 0.230336),
    ],
)
def test_contention_against_measurement(
    tokens: int, qkv: float, transposes: tuple[float, ...], attention: float, post: float, measured: float
) -> None:
    send = CollectiveOp(kind="all_to_all", bytes=Bytes(tokens * 5120 * 2))
    inputs = [item for seconds in transposes for item in (kernel(seconds), send)]
    block = layer(kernel(qkv), *inputs, kernel(attention), send, kernel(post))
    predicted = 10 * layer_time(PROFILE, block, 2, 702_545_920).total
    assert predicted == pytest.approx(measured, rel=0.02)
