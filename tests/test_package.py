"""A plain install has everything, and works from anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command, shared_folder

import sim
from validation.published import load_suite, shipped

ROOT = Path(sim.__file__).parents[1]
PACKAGES = ("sim", "scenarios", "calibration", "validation")
HEAVY = ("simpy", "numpy", "pandas", "plotly", "scipy", "rich", "msgspec", "yaml", "click", "torch")


def files_of(folder: Path) -> set[str]:
    """All files of the project's packages but raw measurements, without what Python leaves behind."""
    found = (f for package in PACKAGES for f in (folder / package).rglob("*") if f.is_file())
    names = (f.relative_to(folder) for f in found if "__pycache__" not in f.parts)
    return {str(n) for n in names if n.parent.parts[:2] != ("validation", "data") or n.match("validation/data/*.yaml")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the project is installed into."""
    target = shared_folder(tmp_path_factory, "installed", install)
    if not list(target.iterdir()):
        pytest.skip("needs setuptools from an index")
    return target


def install(target: Path) -> None:
    """Install from a copy, as building leaves files beside the sources; nothing where there is no setuptools."""
    source = target.with_name("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True)
    if "No matching distribution found for setuptools" not in done.stderr:
        assert done.returncode == 0, done.stderr


def python(program: str, installed: Path, cwd: Path) -> str:
    """What a program prints that finds the installed project only."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_all_but_raw_measurements_is_installed(installed: Path) -> None:
    assert files_of(installed) == files_of(ROOT)
    assert sum(f.stat().st_size for f in installed.rglob("*") if f.is_file()) < 6e6, "a wheel without measurements"
    others = {f.name for f in installed.iterdir()} - {*PACKAGES, "bin"}
    assert all(name.endswith(".dist-info") for name in others), "tests and tools are not installed"


def test_shipped_data_loads_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    program = """
import sim
from validation.published import load_suite, shipped
from sim import hardware; from sim.workloads import named as models
from validation.published import load_suite, shipped as suites
names = hardware.shipped()
loaded = [hardware.load_profile(n).name for n in names], [models.load_model(n).name for n in models.shipped()]
assert loaded == (list(names), list(models.shipped()))
print(sim.__file__, len(names), len(models.shipped()), sum(len(load_suite(n).cases) for n in suites()) > 5)
"""
    shipped = [len(list((ROOT / "scenarios" / kind).glob("*.yaml"))) for kind in ("hardware", "models")]
    expected = [str(installed / "sim" / "__init__.py"), *map(str, shipped), "True"]
    assert python(program, installed, tmp_path).split() == expected


def test_the_installed_command_runs_a_scenario_by_the_name_of_its_host(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "{hardware: h200x2-hostpath, world_size: 1, policy: {kind: chunked, chunk_bytes: 1 MiB}, workload: "
        "{layers: 2, layer_bytes: 4 MiB, block: [{compute: {name: k, seconds: 1 ms}}]}}"
    )
    program = "import sys; from sim.cli import main; sys.argv = ['chunkflow-sim', 'run', 's.yaml', '--json']; main()"
    assert json.loads(python(program, installed, tmp_path))["step_time_s"] == pytest.approx(2e-3, rel=0.1)
    script = installed / "bin" / "chunkflow-sim"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env={"PYTHONPATH": str(installed)})
    assert done.stdout.startswith("chunkflow-sim, version ")


OWN = ("scenarios", "validation", "calibration")
"""Names of packages here that a user's own module may well have."""


def test_modules_of_a_users_own_beside_a_script_hide_no_data(chunkflow: Command, tmp_path: Path) -> None:
    for name in OWN:
        (tmp_path / f"{name}.py").write_text("mine = 1\n")
    program = "import scenarios, sim; from sim.workloads.named import load_model; from sim.sweeps.experiments import load_experiment; "
    program += "from sim.analysis.model_error import known_errors; assert scenarios.mine and known_errors(); "
    program += "print(sim.load_profile('h100x1').name, load_model('flux.1-dev').name, load_experiment('aces').plot)"
    (tmp_path / "script.py").write_text(program)
    line = [sys.executable, "script.py"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=chunkflow.environment, check=False)
    assert (done.stderr, done.stdout) == ("", "h100x1 flux.1-dev bars\n")


@pytest.mark.parametrize("content", ["mine = 1\n", ""])
def test_a_module_that_hides_a_package_is_named(content: str, chunkflow: Command, tmp_path: Path) -> None:
    (tmp_path / "validation.py").write_text(content)
    line = [sys.executable, "-m", "sim", "validate", "--data", "h200x1-20261121f"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=chunkflow.environment, check=False)
    file = tmp_path / "validation.py"
    told = f"Error: {file} hides a package of chunkflow-sim: rename it, or start from another folder\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_importing_loads_nothing_that_is_slow(installed: Path, tmp_path: Path) -> None:
    program = f"import sys, sim; print([n for n in {HEAVY!r} if n in sys.modules])"
    assert python(program, installed, tmp_path) == "[]"
    program = "import sim; print(all(getattr(sim, n).__module__.startswith('sim.') for n in sim.__all__))"
    assert python(program, installed, tmp_path) == "True"


def test_validate_without_measurements_says_where_they_are(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    run = [sys.executable, "-m", "sim", "validate"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the measured data sets come with the source tree" in done.stderr
    published = "from validation.published import *; print(sum(len(load_suite(s).cases) for s in shipped()))"
    assert int(python(published, installed, tmp_path)) == sum(len(load_suite(s).cases) for s in shipped())
