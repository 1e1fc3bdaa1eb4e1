"""What a request does once, before and after its steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import compute

from sim import Scenario, simulate
from sim.inputs.config import InputError
from sim.policies import count_commands
from sim.program import Kernel
from sim.timeline.metrics import Metrics, metrics
from validation.predict import KernelTimes, with_kernel_times

Plain = dict[str, Any]
RESIDENT: Plain = {"kind": "resident"}
WHOLE: Plain = {"kind": "whole_layer"}
PCIE = 55.4e9
"""About what the host's pinned copies move, B/s."""


def scenario(policy: Plain = RESIDENT, hardware: str = "h200x1", **workload: Any) -> Scenario:
    plain = {"layers": 4, "steps": 3, "layer_bytes": "10 MB", "block": [compute(5e-3)]} | workload
    return Scenario.from_plain({"hardware": hardware, "world_size": 1, "workload": plain, "policy": policy})


def run(policy: Plain = RESIDENT, hardware: str = "h200x1", **workload: Any) -> Metrics:
    return simulate(scenario(policy, hardware, **workload)).metrics


def copy(kind: str, size: str, **more: Any) -> Plain:
    return {"copy": {"kind": kind, "bytes": size} | more}


def test_a_request_is_what_runs_once_and_its_steps() -> None:
    plain = run()
    figures = run(before=[{"block": [compute(0.1)]}], after=[{"repeat": 3, "block": [compute(0.02)]}])
    assert figures["before_s"] == pytest.approx(0.1, rel=1e-3)
    assert figures["after_s"] == pytest.approx(0.06, rel=1e-3)
    assert figures["request_time_s"] == pytest.approx(0.16 + 3 * 0.02, rel=1e-3)
    assert figures["step_time_s"] == pytest.approx(plain["step_time_s"], rel=1e-6)
    assert plain["before_s"] == plain["after_s"] == 0
    assert plain["request_time_s"] == pytest.approx(sum(plain["step_times_s"]))


def test_a_request_has_the_steps_that_were_asked_for_also_where_more_are_simulated() -> None:
    made = scenario(WHOLE, steps=6, before=[{"block": [compute(0.1)]}])
    timeline = simulate(made).timeline
    figures = metrics(timeline, made.profile(), steps=2)
    assert figures["request_time_s"] == pytest.approx(figures["before_s"] + sum(figures["step_times_s"][:2]))


def test_encoders_that_are_loaded_layer_by_layer_take_what_was_reported() -> None:
    # CLIP and T5 once a request on an H100: 24 ms with their weights resident, 196 ms loaded (sglang PR 25517)
    block = [copy("h2d", "385.9 MB"), compute(1e-3, launches=12)]
    figures = run(hardware="h100x1", before=[{"repeat": 24, "block": block}])
    assert figures["before_s"] == pytest.approx(0.196, rel=0.05)
    assert figures["block_copy_bytes_per_step"] == 0


def test_the_policy_brings_the_weights_of_what_runs_once() -> None:
    encoder = {"repeat": 24, "layer_bytes": "400 MB", "block": [compute(1e-3)]}
    resident, loaded = (run(policy, before=[encoder]) for policy in (RESIDENT, WHOLE))
    assert resident["before_s"] == pytest.approx(24e-3, rel=1e-2)
    assert loaded["before_s"] == pytest.approx(24 * 400e6 / PCIE, rel=0.03)
    assert resident["peak_memory_bytes"] == 24 * 400_000_000 + 40_000_000
    assert loaded["peak_memory_bytes"] == 2 * 400_000_000
    assert loaded["h2d_bytes_per_step"] == 40_000_000
    # the request after it begins with the encoder: its first layer is there already, as the last step's prefetch
    steps = run(WHOLE, before=[encoder], after=[encoder])
    assert steps["after_s"] == pytest.approx(loaded["before_s"], rel=0.05)


def test_a_component_that_is_swapped_takes_the_host_s_rates_and_memory_while_it_is_there() -> None:
    def swapped(memory: str) -> Plain:
        vae = {"buffer": "vae", "memory": memory}
        entries = [copy("h2d", "10.4 GB", **vae), compute(0.5), copy("d2h", "10.4 GB", **vae)]
        return {"memory_bytes": "3 GB", "block": entries}

    pinned, pageable = (run(after=[swapped(memory)]) for memory in ("pinned", "pageable"))
    assert pinned["after_s"] == pytest.approx(0.5 + 2 * 10.4e9 / PCIE, rel=0.03)
    slow = 10.4e9 / 7.937e9 + 10.4e9 / 14.56e9  # the rates that the profile gives, H2D and D2H
    assert pageable["after_s"] == pytest.approx(0.5 + slow, rel=0.03)
    assert pinned["peak_memory_bytes"] == 40_000_000 + 10_400_000_000 + 3_000_000_000


def test_memory_of_before_is_gone_after() -> None:
    phase = {"memory_bytes": "2 GB", "block": [copy("h2d", "1 GB"), compute(0.01)]}
    phases: list[Plain] = [{"before": [phase]}, {"before": [phase], "after": [phase]}]
    phases += [{"before": [phase] * 2, "after": [phase] * 3}, {"after": [phase | {"repeat": 2}, phase]}]
    for some in phases:
        timeline = simulate(scenario(**some)).timeline
        begins, *_, ends = timeline.steps[0]
        levels = timeline.memory(0)
        assert max(level for _, level in levels) == 3_040_000_000, some
        assert {level for time, level in levels if begins < time < ends} <= {40_000_000}, some
        assert [level for time, level in levels if time <= begins][-1] == 40_000_000, some


@pytest.mark.parametrize("streams", [("side", None), (None, "side", None), ("side", "other")])
def test_memory_is_taken_once_where_kernels_run_on_several_streams(streams: tuple[str | None, ...]) -> None:
    block = [compute(0.1, **({} if stream is None else {"stream": stream})) for stream in streams]
    plain, figures = run(), run(after=[{"block": block, "memory_bytes": "1 GB", "repeat": 2}])
    assert figures["peak_memory_bytes"] == plain["peak_memory_bytes"] + 10**9


def test_what_ranks_do_together_may_be_done_once() -> None:
    reduced = {"collective": {"kind": "all_reduce", "bytes": "80 MB", "group": [0, 1]}}
    plain = {"layers": 2, "steps": 2, "layer_bytes": "10 MB", "block": [compute(5e-3)], "after": [{"block": [reduced]}]}
    made = Scenario.from_plain(
        {"hardware": "h200x2-hostpath", "world_size": 2, "workload": plain, "policy": {"kind": "sharded"}}
    )
    assert simulate(made).metrics["after_s"] > 1e-3


phases = st.lists(
    st.fixed_dictionaries(
        {"block": st.just([copy("h2d", "1 MB", stream="load"), compute(1e-3), copy("d2h", "1 MB", memory="pageable")])},
        optional={"repeat": st.integers(1, 3), "layer_bytes": st.just("2 MB"), "memory_bytes": st.just("1 MB")},
    ),
    max_size=2,
)
kinds = st.sampled_from(
    [
        RESIDENT,
        WHOLE | {"prefetch_layers": 3, "issue": "after_compute"},
        {"kind": "chunked", "chunk_bytes": "512 KiB", "prefetch_layers": 0},
        {"kind": "yielding", "chunk_bytes": "1 MiB", "drain": True},
        {"kind": "yielding", "chunk_bytes": "1 MiB", "window": "launch", "slots": 4},
        {"kind": "sharded"},
    ]
)


@settings(max_examples=30)
@given(phases, phases, kinds, st.booleans())
def test_all_policies_run_all_phases(before: list[Plain], after: list[Plain], policy: Plain, waits: bool) -> None:
    made = scenario(policy, before=before, after=after, synchronous=waits)
    program = made.program()
    assert sum(1 for _ in program.ranks[0].commands()) <= count_commands(made.workload.resolve(1), made.policy, 1)
    result = simulate(made)
    ends = [s.end for s, c in result.timeline.commands(0, Kernel) if c.step == -1]
    figures = result.metrics
    assert figures["before_s"] + figures["after_s"] >= 1e-3 * len(ends) * (1 - 1e-9)
    assert figures["lower_bound_s"] <= figures["step_time_s"] * (1 + 1e-9)


def test_kernels_that_run_once_keep_their_times_where_steps_were_measured() -> None:
    program = scenario(before=[{"block": [compute(0.1, "t5")]}]).program()
    measured = {(layer, "k", 0): 7e-3 for layer in range(4)}
    timed = with_kernel_times(program, KernelTimes(measured, measured)).ranks[0]
    assert {(c.name, c.seconds) for c in timed.commands() if isinstance(c, Kernel)} == {("t5", 0.1), ("k", 7e-3)}


def test_a_program_without_phases_has_the_hash_that_it_had() -> None:
    assert scenario(before=[], after=[]).program().hash == scenario().program().hash


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ({}, "workload.before[0].block: is missing"),
        ({"block": []}, "workload.before[0].block: is empty"),
        ({"block": [compute(1e-3)], "repeat": 0}, "workload.before[0].repeat: is 0, at least 1 is needed"),
        (
            {"block": [{"collective": {"kind": "all_reduce", "bytes": 8, "group": [0, 1]}}]},
            "workload.before[0].block[0].collective.group: has rank 1, but the ranks are 0 to 0",
        ),
        ({"block": [compute(1e-3)], "repeat": 20_000}, "workload: has 20004 layers, at most 10000 are simulated"),
    ],
)
def test_wrong_phases_are_refused(phase: Plain, said: str) -> None:
    with pytest.raises(InputError) as error:
        scenario(before=[phase])
    assert said in str(error.value)


def test_the_command_line_prints_the_request(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    plain = {"layers": 2, "steps": 2, "layer_bytes": 0, "block": [compute(5e-3)], "before": [{"block": [compute(0.1)]}]}
    file.write_text(yaml.safe_dump({"hardware": "h200x1", "world_size": 1, "workload": plain, "policy": RESIDENT}))
    command = [sys.executable, "-m", "sim", "run", str(file), "--no-cache"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "before the steps" in table
    assert "after the steps" in table
    figures = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert figures["request_time_s"] == pytest.approx(0.1 + 0.02, rel=1e-2)
