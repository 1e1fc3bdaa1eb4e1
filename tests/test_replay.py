"""Recorded programs: the policy that runs them as they were, or changed, and runtimes that are policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from strategies import collective, compute, program, tiny_profile

from sim.inputs.config import InputError
from sim.machine import SimulatedMachine
from sim.policies import describe, variants
from sim.program import Copy, HostWaitEvent, HostWork, Kernel, ProgramError, RankBuilder
from sim.run import simulate
from sim.scenario import Scenario
from sim.workloads.explicit import Layer
from sim.workloads.recorded import GENERATOR
from sim.workloads.tensors import tensors_of

Plain = dict[str, Any]


def copy(layer: int, size: int, **more: Any) -> Plain:
    about = {"op": "copy", "stream": "copy", "kind": "h2d", "bytes": size, "memory": "pinned", "layer": layer}
    return {k: v for k, v in (about | more).items() if v is not None}


def kernel(seconds: float, **more: Any) -> Plain:
    return {"op": "kernel", "stream": "compute", "name": "k", "seconds": seconds} | more


def recorded(folder: Path, *operations: Plain, blocks: list[Plain] | None = None, world: int = 2) -> Plain:
    block = {"repeat": 1, "layer_bytes": 40, "block": [compute(1.0)]}
    document = {"generator": GENERATOR, "source": "t", "world_size": world, "step_s": 1.0, "compute": "compute"}
    file = folder / "p.program.json"
    file.write_text(json.dumps(document | {"blocks": blocks or [block], "operations": operations}))
    return {"hardware": "h200x2-hostpath", "world_size": world, "workload": {"program": str(file), "steps": 2}}


def step(plain: Plain, **policy: Any) -> float:
    scenario = Scenario.from_plain(plain | {"policy": {"kind": "replay"} | policy})
    return float(simulate(scenario, settle=False).metrics["step_time_s"])


def commands(plain: Plain, **policy: Any) -> list[Any]:
    scenario = Scenario.from_plain(plain | {"policy": {"kind": "replay"} | policy})
    return list(scenario.program().ranks[0].commands())


def test_the_work_of_a_host_delays_what_it_issues() -> None:
    rank = RankBuilder()
    rank.record_step("compute")
    rank.host_work("think", 3.0)
    rank.kernel("compute", "k", seconds=1.0)
    rank.record_step("compute")
    timeline = SimulatedMachine(tiny_profile()).run(program(rank))
    (span,) = [s for s in timeline.spans if isinstance(s.command, Kernel)]
    assert (span.start, span.end) == (3.0, 4.0)
    with pytest.raises(ProgramError, match="must be finite and not negative"):
        rank.host_work("think", -1.0)


def test_a_replay_issues_what_was_recorded(tmp_path: Path) -> None:
    plain = recorded(
        tmp_path,
        copy(0, 1000, host_s=0.5),
        {"op": "synchronise", "stream": "copy", "host_s": 0.25},
        kernel(2.0),
        copy(-1, 10, stream="compute", kind="d2h", memory="pageable", staging_s=0.125),
    )
    work = [c.seconds for c in commands(plain) if isinstance(c, HostWork)]
    assert work == [0.5, 0.25, 0.125] * 2
    # the copy is hidden by nothing: the host works, waits for it, works again, and the GPU computes
    assert step(plain) == pytest.approx(0.5 + 0.25 + 2.0 + 0.125, rel=1e-3)


def test_pinned_memory_needs_no_new_pages(tmp_path: Path) -> None:
    plain = recorded(
        tmp_path, kernel(1.0), copy(-1, 10**9, stream="compute", kind="d2h", memory="pageable", staging_s=0.5)
    )
    assert step(plain) == pytest.approx(1.0 + 0.5 + 1 / 14.56, rel=0.01)
    assert step(plain, memory="pinned") == pytest.approx(1.0 + 1 / 55.2, rel=0.01)


def test_copies_of_a_layer_can_be_one_or_chunks(tmp_path: Path) -> None:
    plain = recorded(tmp_path, copy(0, 100), copy(0, 60), copy(1, 40), kernel(1.0))

    def sizes(**policy: Any) -> list[int]:
        return [c.bytes for c in commands(plain, **policy) if isinstance(c, Copy)][:None]

    assert sizes() == [100, 60, 40] * 2
    assert sizes(copies="layer") == [160, 40] * 2
    assert sizes(copies="layer", chunk_bytes=64) == [64, 64, 32, 40] * 2
    assert sum(sizes(chunk_bytes=7)) == 400


def test_copies_yield_to_collectives(tmp_path: Path) -> None:
    exchange = {"op": "collective", "stream": "compute", "kind": "all_to_all", "bytes": 10**9}
    end = {"op": "synchronise", "stream": "compute"}
    plain = recorded(tmp_path, exchange, *[copy(0, 10**8)] * 20, kernel(0.05), end)
    found = {}
    for yielding in (False, True):
        scenario = Scenario.from_plain(plain | {"policy": {"kind": "replay", "yielding": yielding}})
        found[yielding] = simulate(scenario, settle=False).metrics
    assert found[False]["h2d_collective_overlap_s"] > 0.01
    assert found[True]["h2d_collective_overlap_s"] < 0.003 < found[False]["collective_inflation_s"]
    assert found[True]["collective_inflation_s"] < 0.1 * found[False]["collective_inflation_s"]


def test_the_host_need_not_wait(tmp_path: Path) -> None:
    layers = [
        op
        for layer in range(4)
        for op in (copy(layer, 55 * 10**6), {"op": "synchronise", "stream": "copy"}, kernel(1e-3, host_s=5e-4))
    ]
    plain = recorded(tmp_path, *layers)
    waits = [c for c in commands(plain, synchronise=False) if isinstance(c, HostWaitEvent)]
    assert not waits and any(isinstance(c, HostWaitEvent) for c in commands(plain))
    assert step(plain, synchronise=False) < step(plain)


def test_a_group_is_each_rank_s_own(tmp_path: Path) -> None:
    exchange = {
        "op": "collective",
        "stream": "compute",
        "kind": "all_reduce",
        "bytes": 10**6,
        "group": [[0, 1], [2, 3]],
    }
    plain = recorded(tmp_path, exchange, kernel(1.0), world=4) | {"hardware": "h200x4-hostpath"}
    program_ = Scenario.from_plain(plain | {"policy": {"kind": "replay"}}).program()
    groups = [next(c.group for c in rank.commands() if hasattr(c, "group")) for rank in program_.ranks]
    assert groups == [(0, 1), (0, 1), (2, 3), (2, 3)]


def test_only_recorded_programs_are_replayed(tmp_path: Path) -> None:
    explicit = {"layers": 1, "layer_bytes": 10, "block": [compute(1.0), collective(10)]}
    plain = {"hardware": "h200x2-hostpath", "world_size": 2, "workload": explicit, "policy": {"kind": "replay"}}
    with pytest.raises(InputError, match=r"policy\.kind: is replay, which is of recorded programs"):
        Scenario.from_plain(plain)
    others = variants(Scenario.from_plain(plain | {"policy": {"kind": "whole_layer"}}).policy, 2)
    assert not any("replay" in describe(p) or "diffusers" in describe(p) for p in others)


def test_files_that_are_no_recorded_programs_are_refused(tmp_path: Path) -> None:
    plain = recorded(tmp_path, kernel(1.0)) | {"policy": {"kind": "replay"}}
    file = tmp_path / "p.program.json"
    good = json.loads(file.read_text())
    for content, problem in (
        ("{", "is not JSON"),
        ("[]", "is no recorded program"),
        (json.dumps(good | {"operations": [{"op": "kernel", "stream": "compute"}]}), "operations[0]"),
        (json.dumps(good | {"world_size": 4}), "world_size"),
    ):
        file.write_text(content)
        with pytest.raises(InputError) as refused:
            Scenario.from_plain(plain)
        assert problem in str(refused.value) and "workload.program" in str(refused.value) + "workload.program" * (
            problem == "world_size"
        )


def test_a_layer_s_tensors_are_counted() -> None:
    model = {"model": "flux.1-dev", "height": 1024, "width": 1024, "parallelism": "ulysses"}
    plain = {"hardware": "h200x1", "world_size": 1, "workload": model, "policy": {"kind": "diffusers_group_offload"}}
    workload = Scenario.from_plain(plain).workload.resolve(1)
    assert tensors_of(workload.layers[0]) == 32  # as many as the published block has parameters
    assert tensors_of(Layer(10, ())) == 16 and tensors_of(Layer(10, (), tensors=3)) == 3


def group_offload(**policy: Any) -> dict[str, Any]:
    """Figures of four equal layers of 0.55 GB, 10 ms on the link each, that compute for 5 ms."""
    block = {"repeat": 4, "layer_bytes": 553_500_000, "tensors": 4, "block": [compute(5e-3)]}
    work = {"steps": 2, "outside_bytes": 100_000_000, "blocks": [block]}
    plain = {"hardware": "h200x2-hostpath", "world_size": 1, "workload": work}
    scenario = Scenario.from_plain(plain | {"policy": {"kind": "diffusers_group_offload"} | policy})
    return dict(simulate(scenario, settle=False).metrics)


def test_group_offload_waits_for_each_group() -> None:
    block = group_offload(new_pages=False)
    up, down = 0.1 / 7.937, 0.1 / 14.56
    # the first layer's copy is issued after the outside weights are up; 4 x 10 ms of copies, the last kernel after them
    assert block["step_time_s"] == pytest.approx(up + 4 * 10e-3 + 5e-3 + down, rel=0.06)
    assert block["h2d_bytes_per_step"] == 4 * 553_500_000 + 100_000_000
    assert block["block_copy_bytes_per_step"] == 100_000_000
    pages = group_offload()["step_time_s"] - block["step_time_s"]
    assert pages == pytest.approx(0.1 / 1.8, rel=0.01)


def test_leaves_bring_no_outside_weights_but_more_waits() -> None:
    leaf = group_offload(level="leaf")
    assert leaf["block_copy_bytes_per_step"] == 0
    assert leaf["step_time_s"] == pytest.approx(40e-3 + 8 * 0.25e-3 + 2.5e-3, rel=0.1)
    assert leaf["peak_memory_bytes"] < group_offload()["peak_memory_bytes"]


def test_without_a_stream_weights_go_back_too() -> None:
    slow = group_offload(stream=False, new_pages=False)
    each = 0.5535 / 7.937 + 5e-3 + 0.5535 / 14.56
    assert slow["step_time_s"] == pytest.approx(4 * each + 0.1 / 7.937 + 0.1 / 14.56, rel=0.03)
    # pageable or not, they are weights that come: all of them, and as many go back
    assert slow["h2d_bytes_per_step"] == slow["block_copy_bytes_per_step"] == 4 * 553_500_000 + 100_000_000
    assert slow["h2d_busy_s"] == pytest.approx((4 * 0.5535 + 0.1) / 7.937, rel=0.03)
