"""Computed kernel times: where the command line says so, and how far published steps lie from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from strategies import Plain, collective, compute

from sim import Scenario
from sim.analysis.computed_kernels import LEAST, MOST, computes_kernels
from sim.cli import main
from validation.published import Figure, load_suite

ROOT = Path(__file__).parents[1]
NOTE = "kernel times are computed"
NAMED: Plain = {"model": "wan2.1-1.3b", "frames": 5, "height": 480, "width": 832, "layers": 2, "steps": 2}
GIVEN: Plain = {"layers": 2, "steps": 2, "layer_bytes": 1_000_000, "block": [compute(1e-3)]}
ROOFLINE: Plain = {"compute": {"name": "product", "flops": 1e12, "bytes": 1e6}}


def plain(workload: Plain, hardware: str = "h100x1-20261121e") -> Plain:
    return {"hardware": hardware, "world_size": 1, "workload": workload, "policy": {"kind": "whole_layer"}}


def invoke(command: str, workload: Plain, folder: Path, *options: str) -> Result:
    (folder / "s.yaml").write_text(yaml.safe_dump(plain(workload)))
    done = CliRunner().invoke(main, [command, str(folder / "s.yaml"), "--no-cache", *options])
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize(
    ("workload", "computed"),
    [
        (NAMED, True),
        (GIVEN, False),
        (GIVEN | {"block": [compute(1e-3), ROOFLINE]}, True),
        (GIVEN | {"block": [compute(1e-3), collective(1000)]}, False),
        (GIVEN | {"before": [{"block": [ROOFLINE]}]}, True),
        (GIVEN | {"after": [{"block": [compute(1e-3)]}]}, False),
    ],
)
def test_kernels_are_computed_where_no_time_is_given(workload: Plain, computed: bool) -> None:
    scenario = Scenario.from_plain(plain(workload))
    assert computes_kernels(scenario, scenario.profile()) is computed


@pytest.mark.parametrize("command", ["run", "plan"])
def test_it_is_said_unless_a_measured_step_corrects_them(command: str, tmp_path: Path) -> None:
    said = invoke(command, NAMED, tmp_path).stderr
    assert said.count(NOTE) == 1 and f"{LEAST:g} to {MOST:g} times" in said and "--fit-step" in said
    assert NOTE not in invoke(command, NAMED, tmp_path, "--fit-step", "80ms").stderr
    assert NOTE not in invoke(command, GIVEN, tmp_path).stderr


def test_intervals_say_what_they_rest_on(tmp_path: Path) -> None:
    condition = "if kernels take the times computed for them"

    def words(*args: Any) -> str:
        return " ".join(invoke(*args).stdout.split())

    assert condition in words("run", NAMED, tmp_path, "--interval")
    assert condition not in words("run", NAMED, tmp_path, "--interval", "--fit-step", "80ms")
    assert condition not in words("run", GIVEN, tmp_path, "--interval")
    assert condition in words("plan", NAMED, tmp_path)
    for workload, computed in ((NAMED, True), (GIVEN, False)):
        assert json.loads(invoke("run", workload, tmp_path, "--json").stdout)["kernel_times_computed"] is computed


def test_published_steps_are_bounded_by_the_range_that_is_told() -> None:
    def stated(figure: Figure) -> tuple[float, float]:
        assert figure.least is not None and figure.most is not None
        return (figure.to or figure.published) / figure.least, figure.published / figure.most

    for case in load_suite("computed-kernels").cases:
        assert case.fit == "nothing"
        for run in case.runs:
            for figure in run.figures:
                assert stated(figure) == pytest.approx((MOST, LEAST), rel=0.01), case.name
