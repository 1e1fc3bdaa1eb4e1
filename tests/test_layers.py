"""Which module may import which: the contracts of pyproject.toml hold, and notice what breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim", "calibration", "validation", "scenarios")
LINT = Path(sys.executable).parent / "lint-imports"

pytestmark = pytest.mark.skipif(not LINT.exists(), reason="import-linter is not installed")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages' modules and of the contracts."""
    copied = tmp_path_factory.mktemp("layers")
    shutil.copy(ROOT / "pyproject.toml", copied)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copied / package, ignore=shutil.ignore_patterns("data", "*.yaml", "*.pyc"))
    return copied


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([LINT, "--no-cache"], cwd=tree, env=environment, capture_output=True, text=True, timeout=300)


def test_every_contract_is_kept(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("sim/inputs/units.py", "from sim import scenario"),
        ("sim/run.py", "from sim.report import theme"),
        ("sim/timeline/metrics.py", "import validation.datasets"),
        ("sim/report/theme.py", "def later():\n    from calibration.fitting import FitError\n"),
        ("sim/program/ops.py", "import torch"),
        ("calibration/fit.py", "import validation.compare"),
        ("validation/step_statistics.py", "from calibration import probes"),
        ("validation/error_statistics.py", "from validation import bounds"),
    ],
)
def test_an_import_that_points_up_is_noticed(tree: Path, file: str, line: str) -> None:
    before = (tree / file).read_text()
    try:
        (tree / file).write_text(f"{before}\n{line}\n")
        done = lint(tree)
    finally:
        (tree / file).write_text(before)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout
