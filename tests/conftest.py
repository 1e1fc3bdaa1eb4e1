"""Hypothesis profiles (chosen by HYPOTHESIS_PROFILE), and the command line in a process of its own."""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

import sim

# No test reads or fills the cache of whoever runs it; what checks the simulation runs without one (`--no-cache`), or
# with one that is empty at first.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="chunkflow-sim-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("mutation", settings.get_profile("ci"), max_examples=25)
settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # tests that run in the background of a shell: what they start would ignore Ctrl-C too
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONG = settings().max_examples > 100
"""Whether there is time for what takes minutes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes tests/golden anew; look at the difference before you keep it."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden instead of comparing")


class Command(Protocol):
    """Runs the installed command `chunkflow-sim` in a process of its own."""

    environment: dict[str, str]
    line: list[str]

    def __call__(self, *args: str | Path, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it with `args`; `options` are those of `subprocess.run`."""


class _Command:
    def __init__(self) -> None:
        script = Path(sys.executable).with_name("chunkflow-sim")
        self.line = [str(script)] if script.exists() else [sys.executable, "-m", "sim.cli"]
        # of the tree that is tested, wherever the script was installed from
        self.environment = os.environ | {"PYTHONPATH": str(Path(sim.__file__).parents[1])}

    def __call__(self, *args: str | Path, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        given = {"capture_output": True, "text": True, "cwd": cwd, "env": self.environment}
        return subprocess.run([*self.line, *map(str, args)], **(given | options))


@pytest.fixture(scope="session")
def chunkflow() -> Command:
    """The command line."""
    return _Command()


class Golden(Protocol):
    """Compares a text with the golden one of this name."""

    def __call__(self, name: str, found: str) -> None:
        """Fail unless `found` is what tests/golden/printed has, to 1e-9 in numbers."""


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares with tests/golden/printed; writes it where pytest was started with --update-golden."""

    def check(name: str, found: str) -> None:
        found = re.sub(r"[ \t]+$", "", found, flags=re.MULTILINE)
        file = Path(__file__).parent / "golden" / "printed" / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            file.write_text(found)
        expected = file.read_text()
        assert _NUMBER.sub("#", found) == _NUMBER.sub("#", expected)
        # the last digit that is shown may differ from one processor to another
        for one, other in zip(_NUMBER.findall(found), _NUMBER.findall(expected), strict=True):
            assert one == other or float(one) == pytest.approx(float(other), rel=1e-9, abs=1e-12)

    return check


def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, filled by `make` once a session, whatever the number of pytest's workers."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            folder.mkdir()
            make(folder)
            lock.write("made")
    return folder


def small_files() -> None:
    """No file of this process may grow beyond 1 KB, as if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
