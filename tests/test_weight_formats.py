"""Weights that are stored in less than two bytes a parameter: bytes of layers, copies and traffic."""

from __future__ import annotations

from typing import Any

import pytest

from sim import Scenario, simulate
from sim.inputs.config import InputError
from sim.program.ops import Linear
from sim.workloads.explicit import Compute, Layer, Workload
from sim.workloads.named import Named
from sim.workloads.weight_formats import Weights

WAN = {"model": "wan2.1-1.3b", "frames": 17, "height": 480, "width": 832}
FLUX = {"model": "flux.1-dev", "height": 1024, "width": 1024}
MODELS = {"wan": WAN, "flux": FLUX}


def resolved(model: dict[str, Any], world_size: int = 1, **more: Any) -> Workload:
    return Named(**model, **more).resolve(world_size)


def matrices(layer: Layer) -> list[tuple[int, int]]:
    """(outputs, inputs) of every projection of a layer whose weights are stored as they are computed with."""
    items = [item for item in layer.block if isinstance(item, Compute)]
    linear = [op for item in items for op in item.ops if isinstance(op, Linear)]
    return [(op.weight.rows, op.weight.columns) for op in linear]


def expected_bytes(form: dict[str, Any], outputs: int, inputs: int) -> float:
    """By hand: the parameters, then the scales."""
    match form:
        case {"dtype": "bf16" | "fp16"}:
            return 2 * outputs * inputs
        case {"dtype": "fp8"}:
            return outputs * inputs + 4
        case {"dtype": "int8"}:
            return outputs * inputs + 4 * outputs
        case {"dtype": "int4"}:
            return outputs * inputs / 2 + 2.5 * outputs * (inputs / 128)
        case {"bytes_per_parameter": size}:
            return float(size) * outputs * inputs
    raise AssertionError(form)


FORMS: list[dict[str, Any]] = [
    *({"dtype": name} for name in ("bf16", "fp16", "fp8", "int8", "int4")),
    {"bytes_per_parameter": 0.56},
    {"bytes_per_parameter": 2},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("parallelism", ["ulysses", "tensor"])
def test_layers_have_the_bytes_of_their_matrices_and_scales(model: str, form: dict[str, Any], parallelism: Any) -> None:
    plain = resolved(MODELS[model], 2, parallelism=parallelism)
    stored = resolved(MODELS[model], 2, parallelism=parallelism, weights=Weights(**form))
    for before, after in {(a, b) for a, b in zip(plain.layers, stored.layers, strict=True)}:
        less = sum(2 * n * k - expected_bytes(form, n, k) for n, k in matrices(before))
        assert after.bytes == pytest.approx(before.bytes - less, abs=2 * len(matrices(before)))
        assert after.bytes % 2 == 0
        moved = [sum(int(i.bytes or 0) for i in layer.block if isinstance(i, Compute)) for layer in (before, after)]
        assert moved[0] - moved[1] == before.bytes - after.bytes  # weights are read once, as they are stored
        work = [[i.flops for i in layer.block if isinstance(i, Compute)] for layer in (before, after)]
        assert work[0] == work[1]
        others = [[i for i in layer.block if not isinstance(i, Compute)] for layer in (before, after)]
        assert others[0] == others[1]
    assert stored.activation_bytes == plain.activation_bytes


def scenario(weights: dict[str, Any] | None, hardware: str = "h200x1") -> Scenario:
    workload = WAN | {"frames": 1, "steps": 3, "layers": 6} | ({} if weights is None else {"weights": weights})
    policy = {"kind": "chunked", "chunk_bytes": "16 MiB"}
    return Scenario.from_plain({"hardware": hardware, "world_size": 1, "workload": workload, "policy": policy})


def test_fp8_halves_what_is_copied_and_a_step_that_copies_bind() -> None:
    whole, half = (simulate(scenario(w)).metrics for w in (None, {"dtype": "fp8"}))
    assert half["h2d_bytes_per_step"] == pytest.approx(whole["h2d_bytes_per_step"] / 2, rel=2e-3)
    assert half["step_time_s"] == pytest.approx(whole["step_time_s"] / 2, rel=0.1)
    assert half["peak_memory_bytes"] < whole["peak_memory_bytes"]


def test_weights_of_two_bytes_make_the_program_that_was_made_before_they_could_be_given() -> None:
    assert len({scenario(w).program().hash for w in (None, {"dtype": "bf16"}, {"dtype": "fp16"})}) == 1


def test_kernels_of_quantised_weights_do_not_run_on_gpus_and_say_so_before_anything_starts() -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.torch_machine import unsupported

    assert unsupported(scenario(None).program()) is None
    why = unsupported(scenario({"dtype": "fp8"}).program())
    assert why is not None
    assert "weights of 2 bytes" in why


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({}, "workload.weights: expected exactly one of dtype and bytes_per_parameter"),
        ({"dtype": "fp8", "bytes_per_parameter": 1}, "expected exactly one of dtype and bytes_per_parameter"),
        (
            {"dtype": "fp4"},
            "workload.weights.dtype: is 'fp4'; did you mean 'fp8'? expected one of bf16, fp16, fp8, int8",
        ),
        ({"bytes_per_parameter": 0}, "workload.weights.bytes_per_parameter: is 0, expected 0.1 to 4"),
        ({"bytes_per_parameter": 16}, "workload.weights.bytes_per_parameter: is 16, expected 0.1 to 4"),
        ("fp8", "workload.weights: expected a mapping of keys to values, got text 'fp8'"),
    ],
)
def test_wrong_weights_are_refused(weights: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        scenario(weights)
    assert said in str(error.value)
