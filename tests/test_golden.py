"""`run --json` gives what tests/golden holds, on a host that no fit changes.

`pytest tests/test_golden.py --update-golden` writes the files anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from conftest import Command

from sim.analysis.computed_kernels import remark
from sim.policies import kinds
from sim.policies.yielding import Yielding
from sim.program import CollectiveKind
from sim.scenario import Scenario

FOLDER = Path(__file__).parent / "golden"
SCENARIOS = sorted(f for f in FOLDER.glob("*.yaml") if f.name != "host.yaml")


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_run_gives_the_golden_figures(file: Path, chunkflow: Command, request: pytest.FixtureRequest) -> None:
    done = chunkflow("run", file, "--json")
    computed = json.loads(done.stdout)["kernel_times_computed"]
    assert (done.returncode, done.stderr) == (0, f"note: {remark()}\n" * computed)
    golden = file.with_suffix(".json")
    if request.config.getoption("--update-golden"):
        golden.write_text(done.stdout)
    assert_close(json.loads(done.stdout), json.loads(golden.read_text()), file.stem)


def assert_close(found: Any, golden: Any, path: str) -> None:
    """Equal in shape and text, and to 1e-9 in numbers (to 1e-15 s where what is left is rounding)."""
    if isinstance(golden, dict):
        assert found.keys() == golden.keys(), path
        for key, value in golden.items():
            assert_close(found[key], value, f"{path}.{key}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), path
        for i, value in enumerate(golden):
            assert_close(found[i], value, f"{path}[{i}]")
    elif isinstance(golden, int | float):
        assert found == pytest.approx(golden, rel=1e-9, abs=1e-15), path
    else:
        assert found == golden, path


def test_the_golden_scenarios_cover_every_policy_and_feature() -> None:
    scenarios = {f.stem: Scenario.load(f) for f in SCENARIOS}
    assert {f.stem for f in FOLDER.glob("*.json")} == set(scenarios)
    policies = [s.policy for s in scenarios.values()]
    assert {type(p) for p in policies} == set(kinds().values())
    assert {p.window for p in policies if isinstance(p, Yielding)} == {"device_gate", "launch", "kernel"}
    assert {p.label() for p in policies} >= {"whole_layer", "whole_layer+after_compute", "yielding+drain"}
    text = "\n".join(yaml.safe_dump(yaml.safe_load(f.read_text())) for f in SCENARIOS)
    for wanted in (*get_args(CollectiveKind), "passes_per_step", "repeat", "flops", "model", "activation_bytes"):
        assert wanted in text, f"no golden scenario has {wanted}"
