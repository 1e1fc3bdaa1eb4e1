"""The same scenario gives the same timeline: in every process, whatever the hash seed, and in every Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
SCENARIOS = sorted(f.name for f in GOLDEN.glob("*.yaml") if f.name != "host.yaml")


@pytest.mark.parametrize("name", SCENARIOS)
def test_traces_are_the_same_bytes_whatever_the_hash_seed(name: str, chunkflow: Command, tmp_path: Path) -> None:
    written = set()
    for seed in ("0", "1", "4294967295"):
        trace = tmp_path / f"{seed}.json"
        environment = chunkflow.environment | {"PYTHONHASHSEED": seed}
        done = chunkflow("run", GOLDEN / name, "--json", "--trace", trace, env=environment)
        assert done.returncode == 0
        written.add((done.stdout, trace.read_bytes()))
    assert len(written) == 1


TIMES = """
import json, sys
from sim import Scenario, simulate
runs = [simulate(Scenario.load(file)) for file in sys.argv[1:]]
print(json.dumps([[time for span in run.timeline.spans for time in span[2:]] for run in runs]))
"""


def times(python: Path | str) -> list[list[float]]:
    """All times of the golden scenarios, as `python` simulates them."""
    command = [str(python), "-c", TIMES, *(str(GOLDEN / name) for name in SCENARIOS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: list[list[float]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_times_are_the_same_to_a_nanosecond_in_every_python(version: str) -> None:
    python = ROOT / f".venv-{version}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python.relative_to(ROOT)}: make test-long makes it where python{version} is installed")
    for here, there in zip(times(sys.executable), times(python), strict=True):
        assert there == pytest.approx(here, rel=0, abs=1e-9)
