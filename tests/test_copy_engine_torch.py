"""Collectives by copy engines on the torch machine: the bits of NCCL's under every policy, and nothing left behind.

Where there are GPUs it runs on them, otherwise on threads as streams, with gloo for what stays a collective.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tiny_models import tiny

from sim.policies import Policy, build
from sim.scenario import Scenario
from sim.workloads.algorithms import Algorithms
from sim.workloads.workload import Workload

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import Kind, TorchMachine  # noqa: E402

KIND: Kind = "cuda" if torch.cuda.device_count() >= 2 else "cpu"

POLICIES: list[dict[str, Any]] = [
    {"kind": "resident"},
    {"kind": "whole_layer", "issue": "after_compute", "resident_fraction": 0.37},
    {"kind": "chunked", "chunk_bytes": "7001 B", "resident_fraction": 0.123, "prefetch_layers": 2},
    {"kind": "yielding", "chunk_bytes": "5 KiB"},
    {"kind": "yielding", "chunk_bytes": "5 KiB", "drain": True, "resident_fraction": 0.9},
    {"kind": "yielding", "chunk_bytes": "16 KiB", "window": "launch", "resident_layers": [1]},
    {"kind": "yielding", "chunk_bytes": "16 KiB", "window": "kernel", "resident_fraction": 0.5},
    {"kind": "sharded", "chunk_bytes": "3001 B", "resident_fraction": 0.123},
]


@pytest.fixture(scope="module")
def machine() -> Iterator[TorchMachine]:
    with TorchMachine(2, KIND, timeout_s=300) as made:
        yield made


def policy_of(plain: dict[str, Any]) -> Policy:
    workload = {"layers": 3, "layer_bytes": 2, "block": [{"compute": {"name": "a", "seconds": 1}}]}
    data = {"hardware": "h200x2-hostpath", "world_size": 2, "workload": workload, "policy": plain}
    return Scenario.from_plain(data).policy


def by_copy_engines(workload: Workload, piece: int = 500) -> Workload:
    return Algorithms({"algorithm": "copy_engine", "piece_bytes": piece}).applied(workload, 2)


@pytest.mark.parametrize("parallelism", ["ulysses", "tensor"])
def test_every_policy_computes_what_resident_does_with_nccl(machine: TorchMachine, parallelism: str) -> None:
    workload = tiny("wan2.1-1.3b", parallelism)[0]  # type: ignore[arg-type]
    expected = machine.execute(build(workload, policy_of({"kind": "resident"}), 2))
    assert all(r.finite for r in expected.ranks)
    lowered = by_copy_engines(workload)
    assert lowered != workload
    for plain in POLICIES:
        execution = machine.execute(build(lowered, policy_of(plain), 2))
        assert [r.output for r in execution.ranks] == [r.output for r in expected.ranks], plain
        assert all(r.landed for r in execution.ranks), plain
