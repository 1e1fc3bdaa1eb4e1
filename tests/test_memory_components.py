"""Memory by component, and what ranks pin in the host's memory, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from strategies import Case, cases, collective, compute

import sim
from sim import Scenario, load_profile, simulate
from sim.cli import main

MIB = 2**20
PHASES = {
    "before": [{"repeat": 2, "layer_bytes": 30 * MIB, "memory_bytes": 7 * MIB, "block": [compute(1e-3)]}],
    "after": [{"layer_bytes": 10 * MIB, "block": [compute(1e-3)]}],
}
WORKLOAD: dict[str, Any] = {
    "layers": 4,
    "steps": 3,
    "layer_bytes": 16 * MIB,
    "activation_bytes": 5 * MIB,
    "block": [compute(1e-3), collective(4 * MIB), {"copy": {"kind": "d2h", "bytes": 3 * MIB, "memory": "pinned"}}],
}


def plain(policy: dict[str, Any], hardware: str = "h200x2-hostpath", **more: Any) -> dict[str, Any]:
    return {"hardware": hardware, "world_size": 2, "workload": WORKLOAD | more, "policy": policy}


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def host(tmp_path: Path) -> str:
    """A host with 200 MiB of memory."""
    memory = {"memory": {"value": f"{200 * MIB} B", "source": "by hand"}}
    profile = {"name": "small", "description": "x", "like": "h200x2-hostpath", "host": memory}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(profile))
    return str(tmp_path / "small.yaml")


@given(cases())
@settings(max_examples=settings().max_examples // 6)
def test_components_add_up_to_the_peak(case: Case) -> None:
    figures = simulate(case.scenario, case.profile).metrics
    assert sum(figures["memory_bytes"].values()) == figures["peak_memory_bytes"]
    assert all(size >= 0 for size in figures["memory_bytes"].values())


def test_components_by_hand() -> None:
    resident = simulate(Scenario.from_plain(plain({"kind": "resident"}, **PHASES))).metrics
    # the peak is in a step: 8 MiB of both collective buffers and the 3 MiB that are copied, more than an encoder's 7
    expected = {"resident_weights": 64, "phase_weights": 70, "slots": 0, "activations": 8, "scratch": 0}
    assert resident["memory_bytes"] == {k: v * MIB for k, v in {**expected, "collective_buffers": 8}.items()}
    whole = simulate(Scenario.from_plain(plain({"kind": "whole_layer", "resident_fraction": 0.5}))).metrics
    expected = {"resident_weights": 32, "phase_weights": 0, "slots": 16, "activations": 8, "scratch": 0}
    assert whole["memory_bytes"] == {k: v * MIB for k, v in {**expected, "collective_buffers": 8}.items()}


def test_what_is_pinned_by_hand() -> None:
    def pinned(policy: dict[str, Any], **more: Any) -> int:
        return simulate(Scenario.from_plain(plain(policy, **more))).metrics["pinned_memory_bytes"]

    buffers = pinned({"kind": "resident"})
    assert buffers == 2 * 3 * MIB  # what the blocks copy to
    assert pinned({"kind": "whole_layer"}) - buffers == 2 * 4 * 16 * MIB
    assert pinned({"kind": "whole_layer", "resident_layers": 1}) - buffers == 2 * 3 * 16 * MIB
    assert pinned({"kind": "sharded"}) - buffers == 4 * 16 * MIB
    assert pinned({"kind": "sharded", "store": "device"}) == buffers
    assert pinned({"kind": "whole_layer"}, **PHASES) - buffers == 2 * (4 * 16 + 70) * MIB


def test_the_hosts_memory_limits_a_run_and_a_plan(host: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    bare = {k: v for k, v in plain({"kind": "whole_layer"}, host).items() if k != "workload"}
    block = [compute(1e-3), collective(4 * MIB)]
    file.write_text(yaml.safe_dump(bare | {"workload": WORKLOAD | {"layers": 7, "block": block}}))
    figures = json.loads(invoke("run", file, "--json").stdout)
    assert figures["host_memory_bytes"] == 200 * MIB
    assert figures["pinned_memory_bytes"] == 224 * MIB and figures["fits_host_memory"] is False
    said = invoke("run", file).stdout
    assert "every rank pins 112 MiB: 2 ranks need 224 MiB, which DOES NOT FIT: the host's 200 MiB" in said
    found = json.loads(invoke("plan", file, "--memory", "100MiB", "--json").stdout)
    assert found["host_memory_bytes"] == 200 * MIB
    assert found["best"]["fits_host_memory"] and found["best"]["host_memory_bytes"] <= 200 * MIB
    refused = [p for p in found["evaluated"] if p["fits_host_memory"] is False]
    assert all(p["host_memory_bytes"] > 200 * MIB for p in refused)
    # more of it than the profile says
    more = json.loads(invoke("plan", file, "--memory", "100MiB", "--host-memory", "1GiB", "--json").stdout)
    assert more["host_memory_bytes"] == 2**30 and more["best"]["step_time_s"] <= found["best"]["step_time_s"]
    assert any("ranks need" in sentence for sentence in more["sentences"])


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(plain({"kind": "whole_layer"})))
    figures = json.loads(invoke("run", file, "--json").stdout)
    assert figures["fits_host_memory"] is None and figures["host_memory_bytes"] is None
    assert "how much the host has is not known" in invoke("run", file).stdout
    text = " ".join(sim.plan(Scenario.load(file), memory=60 * MIB).sentences)
    assert "how much the host has is not known (--host-memory)" in text
    assert "which were not measured on this host: give --reserve" in text


def test_another_hosts_memory_is_not_inherited(host: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"name": "other", "description": "x", "like": host}))
    assert load_profile(host).host_memory == 200 * MIB
    assert load_profile(str(tmp_path / "other.yaml")).host_memory is None


def test_what_cuda_takes_is_left_free_where_the_profile_says_it(tmp_path: Path) -> None:
    device = {"overhead": {"value": f"{30 * MIB} B", "source": "by hand"}}
    profile = {"name": "known", "description": "x", "like": "h200x2-hostpath", "device": device}
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(profile))
    bare = plain({"kind": "resident"}, str(tmp_path / "known.yaml"))
    scenario = Scenario.from_plain(bare)
    found = sim.plan(scenario, memory=90 * MIB)
    assert found.reserve_bytes == 30 * MIB and found.memory_limit_bytes == 60 * MIB
    assert found.best is not None and found.best.peak_memory_bytes <= 60 * MIB
    assert sim.plan(scenario, memory=90 * MIB, reserve=0).memory_limit_bytes == 90 * MIB


def test_what_runs_once_has_no_share_of_a_step(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(plain({"kind": "resident"}, **PHASES)))
    lines = [
        line for line in invoke("run", file).stdout.splitlines() if "once a request" in line or "of a step" in line
    ]
    assert len(lines) >= 3 and all("%" not in line for line in lines)
