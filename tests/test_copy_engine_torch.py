"""Collectives by copy engines on the torch machine: the bits of NCCL's under every policy, and nothing left behind.

Where there are GPUs it runs on them, otherwise on threads as streams, with gloo for what stays a collective.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import LONG
from copy_engine_programs import Call, engine_program, expected
from tiny_models import tiny

from sim.policies import Policy, build
from sim.program import COLLECTIVES
from sim.scenario import Scenario
from sim.workloads.algorithms import Algorithms
from sim.workloads.block_setup import Parallelism
from sim.workloads.workload import Workload

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import Kind, TorchMachine  # noqa: E402
from calibration.torch_machine.buffer_plan import BufferPlan  # noqa: E402
from calibration.torch_machine.memory import fill, seed  # noqa: E402

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


@pytest.mark.parametrize(
    ("model", "parallelism"),
    [("wan2.1-1.3b", "ulysses"), pytest.param("flux.1-dev", "tensor", marks=pytest.mark.slow)],
)
def test_every_policy_computes_what_resident_does_with_nccl(
    machine: TorchMachine, model: str, parallelism: Parallelism
) -> None:
    workload = tiny(model, parallelism)[0]
    expected = machine.execute(build(workload, policy_of({"kind": "resident"}), 2))
    assert all(r.finite for r in expected.ranks)
    lowered = by_copy_engines(workload)
    assert lowered != workload
    for plain in POLICIES:
        execution = machine.execute(build(lowered, policy_of(plain), 2))
        assert [r.output for r in execution.ranks] == [r.output for r in expected.ranks], plain
        assert all(r.landed for r in execution.ranks), plain


def rounded_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums of bf16 numbers, in float32 and rounded once."""
    x, y = (torch.frombuffer(bytearray(part.tobytes()), dtype=torch.bfloat16) for part in (a, b))
    total: np.ndarray = (x.float() + y.float()).to(torch.bfloat16).view(torch.uint8).numpy()
    return total


def test_three_ranks_move_and_add_what_they_must() -> None:
    """All kinds, of all ranks and of two of them, twice, in an order of places that is not that of ranks."""
    calls = [Call(kind, 998, 70, groups) for kind in COLLECTIVES for groups in (((2, 0, 1),), ((1, 0),))]
    calls += [call._replace(piece_bytes=1000) for call in calls]
    with TorchMachine(3, "cuda" if torch.cuda.device_count() >= 3 else "cpu", timeout_s=100) as machine:
        names = list({call.lowered().buffer: None for call in calls})
        execution = machine.execute(engine_program(3, calls), instrumented=True, keep=names)
        content: dict[str, list[np.ndarray]] = {}
        for call in calls:
            name, room = call.lowered().buffer, call.lowered().buffer_bytes
            for rank in range(3) if name not in content else ():
                memory = torch.empty(room, dtype=torch.uint8, device=machine.kind)
                fill(memory, seed(rank, name))
                content.setdefault(name, []).append(memory.cpu().numpy().copy())
            content[name] = expected(call, content[name], rounded_sum)
    for rank, result in enumerate(execution.ranks):
        assert {name: result.contents[name] for name in names} == {n: content[n][rank].tobytes() for n in names}
    spans = [span for span in execution.timeline.composed if span.rank == 0]
    assert [span.command.name for span in spans] == [c.kind for c in calls if any(0 in group for group in c.groups)]  # type: ignore[union-attr]
    assert all(span.start <= span.ready <= span.end for span in spans)


PARENT = """
from calibration.torch_machine import TorchMachine
from conftest import LONG
from copy_engine_programs import Call, engine_program
if __name__ == "__main__":
    with TorchMachine(2, "cpu", timeout_s=50) as machine:
        print("started", flush=True)
        while True:
            machine.run(engine_program(2, [Call("all_reduce", 1 << 20, 1 << 14, ((0, 1),))] * 8))
"""


def kill_at(moment: float, script: Path) -> None:
    """End all processes of a run by copy engines, `moment` s after its ranks have been started."""
    script.write_text(PARENT)
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent)])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    time.sleep(moment)  # not for the assertion to hold: to be anywhere in a run
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()


def shared_names() -> set[str]:
    """Files in shared memory that libraries of other programs do not make."""
    return {path.name for path in Path("/dev/shm").iterdir() if not path.name.startswith(("sem.", "nccl-"))}


@pytest.mark.slow
def test_nothing_is_left_in_shared_memory_whenever_a_run_is_killed(tmp_path: Path) -> None:
    before, moments = shared_names(), random.Random(20)
    for _ in range(20 if LONG else 3):
        kill_at(moments.uniform(0.0, 1.5), tmp_path / "parent.py")
    assert shared_names() <= before


def test_buffers_of_collectives_lie_in_one_anothers_memory() -> None:
    """Whatever makes the collectives: their copies use each buffer only between its collective's begin and end."""
    workload = tiny("wan2.1-1.3b")[0]
    plans = [
        [BufferPlan(rank).sharing for rank in build(of, policy_of({"kind": "chunked", "chunk_bytes": 5000}), 2).ranks]
        for of in (workload, by_copy_engines(workload))
    ]
    assert len(plans[0][0]) > 1
    assert plans[0] == plans[1]
    program = build(by_copy_engines(workload), policy_of({"kind": "resident"}), 2).ranks[0]
    of_none = msgspec.structs.replace(program, composed=msgspec.UNSET)  # copies that nobody says belong together
    assert BufferPlan(of_none).sharing == []
