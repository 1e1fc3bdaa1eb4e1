"""Measuring into data sets, on a CPU, and predictions of what was measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from measured_case import SCENARIO, as_measured

import sim
from sim.datasets.cases import CASES, HOST, load_cases, references
from sim.hardware import load_profile
from sim.inputs.config import InputError
from sim.program import Kernel
from sim.run import simulate
from sim.scenario import Scenario
from validation.predict import KernelTimes, kernel_times, predict, with_kernel_times


def test_baselines_are_repeated_between_the_cases() -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.measure import plan

    other = {**SCENARIO, "world_size": 1}
    chunked = [{**SCENARIO, "policy": {"kind": "chunked", "chunk_bytes": n}} for n in range(1, 8)]
    kinds = [
        m.scenario["policy"]["kind"][0] for m in plan([*chunked, {**other, "policy": {"kind": "resident"}}, other])
    ]
    assert "".join(kinds) == "rcccccrccrrwr"
    assert [m.number for m in plan(chunked)] == list(range(10))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sim.cli", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_measure_writes_a_data_set_and_continues_it(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    file, out = tmp_path / "s.yaml", tmp_path / "set"
    file.write_text(yaml.safe_dump(SCENARIO))
    command = ["measure", str(file), "--set", "policy.kind=whole_layer,chunked", "--set", "policy.chunk_bytes=64 KiB"]
    command += ["--out", str(out), "--device", "cpu", "--runs", "1"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "whole_layer" in done.stdout
    cases = load_cases(out)
    assert [c.scenario["policy"]["kind"] for c in cases] == ["resident", "whole_layer", "chunked", "resident"]
    assert {c.output for c in cases} == {cases[0].output}
    for case in cases:
        assert case.program == case.load_scenario().program().hash
        assert len(case.step_times_s[0]) == 2
        assert len(case.step_times_s[0][0]) == 3
        assert case.step_time_s > 12e-3
        assert case.simulated_memory_bytes == simulate(case.load_scenario()).metrics["peak_memory_bytes"]
        names = [op.name for op in case.operations if op.kind == "Kernel"]
        assert names == ["a", "b", "a"] * 2
        copies = [op for op in case.operations if op.kind == "Copy"]
        assert bool(copies) == (case.scenario["policy"]["kind"] != "resident")
    host = json.loads((out / HOST).read_text())
    assert {"fingerprint", "date", "command", "environment"} <= host.keys()

    lines = (out / CASES).read_bytes().splitlines(keepends=True)
    (out / CASES).write_bytes(b"".join(lines[:3]) + lines[3][:40])  # killed while the last case was written
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert (out / CASES).read_bytes().splitlines(keepends=True)[:3] == lines[:3]
    assert len(load_cases(out)) == 4

    other = run("measure", str(file), "--out", str(out), "--device", "cpu")
    assert other.returncode == 2
    assert f"{out / CASES}" in other.stderr
    assert "another case" in other.stderr


@pytest.mark.slow
def test_a_failed_case_is_written_and_the_others_still_run(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    good, bad, out = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "set"
    plain = {**SCENARIO, "world_size": 1}
    good.write_text(yaml.safe_dump(plain))
    bad.write_text(yaml.safe_dump({**plain, "workload": {**SCENARIO["workload"], "layer_bytes": 10**16}}))
    done = run("measure", str(bad), str(good), "--out", str(out), "--device", "cpu", "--runs", "1")
    assert done.returncode == 1
    assert "3 of 6 cases failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert ["can't allocate memory" in c.error for c in load_cases(out)] == [True] * 3 + [False] * 3


@pytest.mark.slow
def test_a_batch_of_a_model_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    file, out = tmp_path / "s.yaml", tmp_path / "set"
    model = {"model": "pixart-xl-2", "height": 64, "width": 64, "layers": 1, "text_tokens": 8, "batch": 2, "steps": 2}
    file.write_text(yaml.safe_dump({**SCENARIO, "workload": model, "policy": {"kind": "sharded"}}))
    done = run("measure", str(file), "--out", str(out), "--device", "cpu", "--runs", "1")
    assert done.returncode == 0, done.stderr
    cases = load_cases(out)
    assert len({c.output for c in cases}) == 1 and len(cases) == 3


def test_unmeasurable_scenarios_are_refused_before_any_run(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    good, bad, out = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "set"
    good.write_text(yaml.safe_dump(SCENARIO))
    flops = [{"compute": {"name": "b", "seconds": 1}}, {"compute": {"name": "mm", "flops": 1e9}}]
    bad.write_text(yaml.safe_dump({**SCENARIO, "workload": {**SCENARIO["workload"], "block": flops}}))
    done = run("measure", str(good), str(bad), "--out", str(out), "--device", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    [told] = done.stderr.splitlines()
    assert told.startswith(f"Error: {bad}: workload: cannot be measured: kernel 'mm' gives FLOP and bytes but not what")
    bad.write_text(yaml.safe_dump({**SCENARIO, "workload": {**SCENARIO["workload"], "steps": 1}}))
    done = run("measure", str(good), str(bad), "--out", str(out), "--device", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {bad}: workload.steps: is 1, expected at least 2: a run's first does not count\n"
    assert not out.exists()


def interrupted(arguments: list[str], rows: Path, least: int, cwd: Path) -> str:
    """What a run says that Ctrl-C in a terminal has ended when its file had `least` lines."""
    command = [sys.executable, "-m", "sim.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(sim.__file__).parents[1]), "PYTHONSAFEPATH": "1"}
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )
    while running.poll() is None and (rows.read_bytes().count(b"\n") if rows.exists() else 0) < least:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    out, error = running.communicate()
    assert (running.returncode, out) == (1, "")
    return error


@pytest.mark.slow
def test_an_interrupted_measurement_resumes(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCENARIO))
    (tmp_path / "struct.py").write_text("raise SystemExit('imported from the working directory')")
    axes = ["--set", "policy.kind=chunked", "--set", "policy.chunk_bytes=64KiB..164KiB:+1KiB"]
    command = ["measure", "s.yaml", *axes, "--out", "set", "--device", "cpu", "--runs", "1"]
    told = "Error: stopped: set holds the cases that have finished; run the same command again to resume\n"
    for least in (1, 3):
        assert interrupted(command, tmp_path / "set" / CASES, least, tmp_path) == told
        assert least <= len(load_cases(tmp_path / "set")) < 100


@pytest.mark.slow
def test_an_interrupted_calibration_resumes_and_warns_that_cpu_times_mean_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    pytest.importorskip("scipy", reason="the calibrate extra is not installed")
    command = ["calibrate", "--out", str(tmp_path), "--name", "here", "--quick", "--gpus", "1", "--device", "cpu"]
    told = f"Error: stopped: {tmp_path} holds the probes that have finished; run the same command again to resume\n"
    assert interrupted(command, tmp_path / "raw.jsonl", 3, tmp_path) == told
    done = run(*command)
    assert done.returncode == 0, done.stderr
    words = "here is a stand-in: CPU threads were measured in place of GPUs, its times mean nothing."
    assert words in done.stderr
    assert words in run(*command, "--fit-only").stderr


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{}\n", "schema: is missing"),
        (b"\xff\n", "is not a text file"),
        (b'{"schema": 2, "number": 0, "scenario": {}, "program": "", "date": ""}\n', "schema: is 2, expected 1"),
    ],
)
def test_wrong_data_sets_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / CASES).write_bytes(content)
    with pytest.raises(InputError, match=f"line 1: {problem}"):
        load_cases(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load_cases(tmp_path / "nowhere")


def test_predictions_take_kernel_times_from_the_baseline() -> None:
    """Played through with the simulated machine as the host, whose events cost 2.8 us each."""
    policies = [{"kind": "resident"}, {"kind": "whole_layer"}, {"kind": "yielding", "chunk_bytes": 65536}]
    cases = [as_measured(i, {**SCENARIO, "policy": p}) for i, p in enumerate(policies)]
    found = references(cases)
    assert [[c.number for c in group] for group in found.values()] == [[0]]
    times, others = kernel_times(cases[:1], load_profile("h200x2-hostpath"))
    assert others == pytest.approx(times)
    assert set(times) == {(layer, *which) for layer in (0, 1) for which in (("a", 0), ("a", 1), ("b", 0))}
    for (_, name, number), expected in zip(sorted(times), [2e-3, 3e-3, 1e-3] * 2, strict=True):
        assert times[0, name, number] == pytest.approx(expected, abs=4e-6)
    profile = load_profile("h200x2-hostpath")
    for case in cases:
        assert predict(case, cases[:1], profile).error == pytest.approx(0, abs=2e-3)


def test_measured_kernel_times_replace_those_of_the_same_kernels() -> None:
    program = Scenario.from_plain({**SCENARIO, "workload": {**SCENARIO["workload"], "passes_per_step": 2}}).program()
    times = {(layer, n, i): layer + len(n) + i / 8 for layer in (0, 1) for n, i in (("a", 0), ("b", 0), ("a", 1))}
    slower = {key: 2 * seconds for key, seconds in times.items()}
    ranks = with_kernel_times(program, KernelTimes(times, slower)).ranks
    timed, other = ([c for c in rank.commands() if isinstance(c, Kernel)] for rank in ranks)
    assert [c.seconds for c in timed[:6]] == [1, 1, 1.125, 2, 2, 2.125]
    assert [c.seconds for c in other] == [2 * (c.seconds or 0) for c in timed]
    assert [c.seconds for c in timed] == [c.seconds for c in timed[:6]] * (len(timed) // 6)
