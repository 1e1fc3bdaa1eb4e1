"""The model's error by kind of host, which comes with the package: as the measured cases make it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import validation
from sim.analysis.model_error import FILE, ModelError, ModelErrors, host_kind, known_errors, model_error
from sim.hardware import load_profile, shipped
from sim.inputs.config import convert
from sim.inputs.units import Number
from sim.inputs.yaml_files import read_yaml
from validation.compare import Compared, compare_all
from validation.datasets import shipped_sets
from validation.model_error import chosen, errors_by_host, made, to_yaml


def test_the_file_names_the_cases_that_there_are() -> None:
    asked = chosen(shipped_sets())
    cases = Counter(host_kind(job.profile, job.case.scenario["world_size"]) for job in asked)
    sets = {job.set for job in asked}
    assert {host: error.cases for host, error in known_errors().items()} == cases
    assert {name for error in known_errors().values() for name in error.sets} == sets


def test_the_file_is_as_it_would_be_made_now() -> None:
    # of the kind with the fewest cases; python -m validation.model_error --check does it for all
    assert made(("h100x1-20261121e", "h200x1-20261121f", "h200x1-20261128l")) == [known_errors()["1 GPU"]]
    assert FILE.read_text(encoding="utf-8") == to_yaml(list(known_errors().values()))


def test_the_module_writes_the_file_and_tells_whether_it_is_todays(tmp_path: Path) -> None:
    file, sets = tmp_path / "errors.yaml", ("h200x1-20261128l",)
    line = [sys.executable, "-m", "validation.model_error", "--file", str(file), "--sets", *sets]
    environment = os.environ | {"PYTHONPATH": str(Path(validation.__file__).parents[1])}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*line, *more], capture_output=True, text=True, env=environment)

    written = run()
    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    assert file.read_text() == to_yaml(made(sets))
    assert (run("--check").returncode, file.stat().st_size) == (0, len(to_yaml(made(sets))))
    file.write_text("other")
    told = run("--check")
    assert (told.returncode, told.stderr) == (1, f"{file}: not as made from the data today\n")
    assert file.read_text() == "other"


def test_errors_are_of_measured_steps_relative_to_predicted_ones() -> None:
    asked = chosen(("h100x1-20261121e",))
    compared = list(compare_all(asked[:1])) * len(asked)

    def off(case: Compared, by: float) -> Compared:
        side = case.measured._replace(step_s=case.predicted.step_s * (1 + by))
        return case._replace(measured=side)

    errors = [0.01 * (-1) ** i * i for i in range(len(asked))]
    [found] = errors_by_host(asked, [off(c, e) for c, e in zip(compared, errors, strict=True)])
    ninth = abs(errors[int(0.9 * len(errors))])
    assert found.deviation == pytest.approx(ninth / 1.6448536, abs=1e-5)
    assert (found.host, found.cases, found.sets) == ("1 GPU", len(asked), ("h100x1-20261121e",))
    assert found.largest == pytest.approx(abs(errors[-1]))


def test_nine_of_ten_errors_lie_within_the_deviation() -> None:
    for error in known_errors().values():
        assert 0 < error.deviation * 1.6448536 <= error.largest < 1


@pytest.mark.parametrize(
    ("name", "ranks", "host"),
    [
        ("h200x2-hostpath", 1, "1 GPU"),
        ("h200x2-hostpath-20261121b", 2, "2 GPUs through host memory"),
        ("h200x2-nvlink-20261121h", 2, "2 GPUs over NVLink"),
        ("h200x4-hostpath-20261121j", 4, "4 GPUs through host memory"),
        ("h200x4-hostpath-20261121j", 3, None),
        ("h100x2-pcie", 2, None),
        ("h100x8-nvlink", 2, None),
        ("h200x2-gen6", 2, None),
        ("rtx5090x2-gen5-x8", 2, None),
    ],
)
def test_it_is_known_where_hosts_of_the_kind_and_the_profile_were_measured(
    name: str, ranks: int, host: str | None
) -> None:
    found = model_error(load_profile(name), ranks)
    assert (found.host if found else None) == host


def test_profiles_say_what_they_rest_on() -> None:
    for name in shipped():
        fingerprint = load_profile(name).fingerprint
        assert "evidence" in fingerprint or {"cpu", "environment"} & {*fingerprint}, name


def test_the_yaml_is_what_is_read(tmp_path: Path) -> None:
    error = ModelError(host="3 GPUs", deviation=Number(0.01), largest=Number(0.02), cases=7, sets=("a", "b"))
    file = tmp_path / "e.yaml"
    file.write_text(to_yaml([error]))
    assert convert(read_yaml(file), ModelErrors, "e").errors == (error,)
