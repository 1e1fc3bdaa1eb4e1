"""Compute fitted to one measured step: exact, for every kernel, on one GPU or as written, and said in results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from small_scenario import SMALL

from sim.analysis.fit_step import factor_of, fit_step, on_one_gpu
from sim.cli import main
from sim.hardware import load_profile
from sim.hardware.profile_parameters import numbers_by_path
from sim.inputs.config import InputError
from sim.program import Kernel
from sim.run import simulate
from sim.scenario import Scenario
from sim.sweeps.job import profile_digest

NAMED: dict[str, Any] = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {"model": "wan2.1-1.3b", "frames": 17, "height": 256, "width": 448, "layers": 4, "steps": 3},
    "policy": {"kind": "yielding", "chunk_bytes": "8 MiB"},
}


def step(scenario: Scenario, profile: Any) -> float:
    return simulate(scenario, profile).metrics["step_time_s"]


def plain(scenario: Any, **changes: Any) -> Scenario:
    return Scenario.from_plain({**scenario, **changes})


@settings(max_examples=12, deadline=None)
@given(st.floats(1.05, 300.0), st.booleans(), st.sampled_from([NAMED, SMALL]))
def test_the_step_is_what_was_measured(longer: float, as_written: bool, data: dict[str, Any]) -> None:
    scenario = plain(data)
    profile = load_profile(scenario.hardware)
    subject = plain(data, policy={"kind": "resident"}) if as_written else on_one_gpu(scenario)
    measured = longer * step(subject, msgspec.structs.replace(profile))
    fitted = fit_step(scenario, profile, measured, as_written)
    assert step(subject, fitted) == pytest.approx(measured, rel=1e-6)
    assert factor_of(fitted) > 1
    # nothing but kernels has changed
    assert msgspec.structs.replace(fitted, compute_factor=msgspec.UNSET) == profile


def test_one_gpu_runs_all_passes_and_the_whole_workload() -> None:
    tensor = plain(NAMED, workload={**NAMED["workload"], "parallelism": "tensor"})
    one = on_one_gpu(tensor)
    whole = plain(NAMED, world_size=1, policy={"kind": "resident"})
    assert one.program() == whole.program()
    assert sum(isinstance(c, Kernel) for c in one.program().ranks[0].commands()) > 0


def test_every_kernel_takes_the_factor_also_those_of_given_seconds() -> None:
    profile = load_profile("h200x2-hostpath")
    fitted = fit_step(plain(NAMED), profile, 10.0)
    for kernel in (Kernel("s", "a", seconds=2e-3), Kernel("s", "b", flops=1e12), Kernel("s", "c", hbm_bytes=1e9)):
        assert fitted.kernel_seconds(kernel) == profile.kernel_seconds(kernel) * factor_of(fitted)


def test_profiles_without_a_factor_are_what_they_were() -> None:
    profile = load_profile("h200x2-hostpath")
    assert factor_of(profile) == 1 and "compute_factor" not in numbers_by_path(profile)
    assert profile_digest(profile) == "00090a108936"
    assert "compute_factor" in numbers_by_path(fit_step(plain(NAMED), profile, 10.0))


def test_a_step_shorter_than_its_launches_is_refused() -> None:
    for as_written, told in ((False, "on one GPU"), (True, "on 2 ranks as written")):
        with pytest.raises(InputError, match=f"--fit-step: is 1 us, but a step {told} takes .* without any compute"):
            fit_step(plain(NAMED), load_profile("h200x2-hostpath"), 1e-6, as_written)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "s.yaml"
    made.write_text(yaml.safe_dump(NAMED))
    return made


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_run_says_the_factor_and_is_the_measured_step_on_one_gpu(file: Path) -> None:
    one = ["--set", "world_size=1", "--set", "policy.kind=resident"]
    alone = json.loads(invoke("run", file, *one, "--fit-step", "250 ms", "--json").stdout)
    assert alone["step_time_s"] == pytest.approx(0.25, rel=1e-6)
    two = json.loads(invoke("run", file, "--fit-step", "250 ms", "--json").stdout)
    assert two["compute_factor"] == pytest.approx(alone["compute_factor"], rel=1e-9)
    assert 0.125 < two["step_time_s"] < 0.25
    said = invoke("run", file, "--fit-step", "250 ms").stdout
    assert f"Isolated kernel times x {two['compute_factor']:.4g} (compute_factor)" in " ".join(said.split())
    assert "compute_factor" not in json.loads(invoke("run", file, "--json").stdout)
    written = json.loads(
        invoke("run", file, "--set", "policy.kind=resident", "--fit-step-as-written", "0.25", "--json").stdout
    )
    assert written["step_time_s"] == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("command", ["explain", "sensitivity"])
def test_other_commands_run_on_the_fitted_profile(file: Path, command: str) -> None:
    file.write_text(yaml.safe_dump({**SMALL, "world_size": 1}))
    done = invoke(command, file, "--json", "--workers", "1", "--fit-step", "1 s")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["compute_factor"] > 1


def test_points_of_a_sweep_are_fitted_and_their_rows_belong_to_the_fit(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    args = ["sweep", file, "--set", "world_size=1,2", "--set", "policy.kind=resident", "--out", out, "--workers", "1"]
    assert invoke(*args, "--fit-step", "250 ms").exit_code == 0
    first = out.read_text()
    assert "0.25" in first or "0.2499999" in first
    assert invoke(*args, "--fit-step", "250 ms").exit_code == 0 and out.read_text() == first
    other = invoke(*args, "--fit-step", "300 ms")
    assert other.exit_code == 2 and "hardware profile" in other.stderr


def test_blocks_that_are_written_out_are_taken_as_they_are_with_a_note(file: Path) -> None:
    file.write_text(yaml.safe_dump(SMALL))
    done = invoke("run", file, "--fit-step", "1 s", "--json")
    assert done.exit_code == 0 and "blocks are taken to be those of one GPU" in done.stderr


WRONG = {
    "no time": (["--fit-step", "soon"], "--fit-step: expected a duration, such as"),
    "nothing": (["--fit-step", "0"], "--fit-step: is 0, expected more than 0"),
    "negative": (["--fit-step-as-written", "-1 s"], "--fit-step-as-written: expected a duration"),
    "too short": (["--fit-step", "1 us"], "--fit-step: is 1 us, but a step on one GPU takes"),
    "both": (["--fit-step", "1", "--fit-step-as-written", "1"], "give one of them"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_times_are_one_line_and_exit_code_2(file: Path, name: str) -> None:
    args, told = WRONG[name]
    done = invoke("run", file, *args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr and done.stderr.count("\n") == 1


def test_videos_on_several_h100_by_the_time_of_one() -> None:
    """xDiT's docs/performance/hunyuanvideo.md, 50 steps and the VAE: 1,904 s on one H100, 925 on two, 514 on four."""
    workload = {"model": "hunyuanvideo", "frames": 129, "height": 720, "width": 1280, "steps": 2}
    scenario = Scenario.from_plain(
        {"hardware": "h100x8-nvlink", "world_size": 4, "workload": workload, "policy": {"kind": "resident"}}
    )
    profile = fit_step(scenario, scenario.profile(), 1904.08 / 50)
    for ranks, measured in ((2, 925.04), (4, 514.08)):
        found = 50 * step(msgspec.structs.replace(scenario, world_size=ranks), profile)
        assert found == pytest.approx(measured, rel=0.08)
