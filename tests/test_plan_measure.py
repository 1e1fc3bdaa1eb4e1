"""`plan --measure`: the best schedules run on this machine, and the regret of the plan's choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from strategies import collective

torch = pytest.importorskip("torch", reason="needs torch to run schedules")

PLAIN: dict[str, Any] = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "layers": 3,
        "steps": 3,
        "layer_bytes": 400_000,
        "block": [{"compute": {"name": "a", "seconds": 1e-3}}, collective(4096)],
    },
    "policy": {"kind": "resident"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "s.yaml"
    made.write_text(yaml.safe_dump(PLAIN))
    return made


@pytest.mark.slow
def test_the_best_three_and_the_runner_up_are_measured(file: Path, tmp_path: Path, chunkflow: Command) -> None:
    out = tmp_path / "set"
    options = ["--memory", "1MB", "--workers", "1", "--device", "cpu", "--measure", "3", "--measure-out", str(out)]
    done = chunkflow("plan", str(file), *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    steps = [point["measured_step_time_s"] for point in found["measured"]]
    assert 3 <= len(steps) <= 4 and all(steps)
    assert found["measured"][0]["policy"] == found["best"]["policy"]
    assert found["regret"] == pytest.approx(steps[0] / min(steps) - 1)
    kinds = [json.loads(line)["scenario"]["policy"]["kind"] for line in (out / "cases.jsonl").read_text().splitlines()]
    assert kinds[0] == kinds[-1] == "resident" and len(kinds) == len(steps) + 2
    assert found["runner_up"]["policy"] in [point["policy"] for point in found["measured"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without GPUs")
def test_a_machine_without_gpus_is_refused_before_any_work(file: Path, chunkflow: Command) -> None:
    done = chunkflow("plan", str(file), "--measure", "3")
    assert done.returncode == 1 and done.stdout == ""
    assert "--measure: 2 ranks need as many GPUs, there are 0; --device cpu only tries the procedure" in done.stderr
    lone = chunkflow("plan", str(file), "--device", "cpu")
    assert lone.returncode == 2 and "--measure-out and --device are for --measure" in lone.stderr
