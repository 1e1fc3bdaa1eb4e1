"""Layouts, groups, copies of blocks and phases on the torch machine: four ranks on gloo, and what the simulator says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from strategies import compute
from tiny_models import tiny

from sim import Scenario
from sim.policies import Resident, build
from sim.program import Collective, Copy, PointToPoint, Program
from sim.workloads.layouts import Layout
from sim.workloads.stages import divided
from sim.workloads.workload import Workload

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import TorchMachine  # noqa: E402


@pytest.fixture(scope="module")
def machine() -> Iterator[TorchMachine]:
    with TorchMachine(4, "cpu", timeout_s=120) as made:
        yield made


def divided_among(model: str, sizes: dict[str, int]) -> Workload:
    """A tiny `model` divided among four ranks."""
    return divided(*tiny(model, Layout(**sizes), 4))


def assert_runs(machine: TorchMachine, program: Program) -> None:
    """It runs to finite numbers, and does all that the program says."""
    done = machine.execute(program, instrumented=True)
    assert all(rank.finite and rank.landed for rank in done.ranks)
    for number, rank in enumerate(program.ranks):
        kinds = (Collective, PointToPoint, Copy)
        expected = [c.name for c in rank.commands() if isinstance(c, kinds)]
        found = [s.command.name for s in done.timeline.of(number) if isinstance(s.command, kinds)]
        assert sorted(found) == sorted(expected)


pytestmark = pytest.mark.slow
LAYOUTS: list[dict[str, int]] = [
    {"tensor": 2, "ulysses": 2},
    {"ulysses": 2, "ring": 2},
    {"ring": 4},
    {"pipeline": 2, "cfg": 2},
    {"data": 2, "tensor": 2},
]


CASES = [("wan2.1-1.3b", sizes) for sizes in LAYOUTS] + [
    ("flux.1-dev", {"pipeline": 2, "ring": 2}),
    ("hunyuanvideo", {"ulysses": 2, "ring": 2}),
]


@pytest.mark.parametrize(("model", "sizes"), CASES, ids=str)
def test_layouts_of_four_run_on_gloo(machine: TorchMachine, model: str, sizes: dict[str, int]) -> None:
    assert_runs(machine, build(divided_among(model, sizes), Resident(), 4))


POLICIES: list[dict[str, Any]] = [
    {"kind": "resident"},
    {"kind": "whole_layer", "quiesce": True},
    {"kind": "yielding", "chunk_bytes": "8 KiB", "drain": True},
    {"kind": "yielding", "chunk_bytes": "8 KiB", "window": "kernel"},
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: str(p.get("window", p["kind"])))
def test_entries_of_blocks_and_phases_run_on_gloo(machine: TorchMachine, policy: dict[str, Any]) -> None:
    reduced = {"collective": {"kind": "all_reduce", "bytes": 1024, "group": [[0, 1], [3, 2]], "stream": "comm"}}
    copies = [
        {"copy": {"kind": "h2d", "bytes": 4096, "stream": "swap", "memory": "pageable"}},
        {"copy": {"kind": "d2h", "bytes": 4096}},
    ]
    items = [compute(1e-4), reduced, *copies, compute(1e-4), {"wait": "comm"}, compute(1e-4)]
    phase = [{"repeat": 2, "layer_bytes": 20_000, "memory_bytes": 64, "block": items}]
    workload = {"layers": 2, "steps": 2, "layer_bytes": 30_000, "block": items, "before": phase, "after": phase}
    plain = {"hardware": "h200x4-hostpath", "world_size": 4, "workload": workload, "policy": policy}
    assert_runs(machine, Scenario.from_plain(plain).program())
