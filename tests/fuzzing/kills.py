"""Real sweeps, killed at random and resumed: in the end the same bytes as one that was left alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import sim
from fuzzing.changes import to_yaml
from fuzzing.judge import Found
from fuzzing.scenarios import SMALL
from sim.scenario import read_plain
from sim.sweeps.axes import parse_axes
from sim.sweeps.grid import points, sweep

SECONDS = 120
"""How long a sweep that is left alone may take."""
AXES = [
    ["--set", "policy.chunk_bytes=256KiB..8MiB:+256KiB", "--set", "policy.kind=chunked,yielding"],
    ["--set", "policy.kind=chunked,yielding,sharded", "--set", "policy.resident_fraction=0..0.95:+0.05"],
    ["--set", "workload.steps=2..12:+1", "--set", "policy.prefetch_layers=0,1,2,3"],
]


def killed(random: Random, folder: Path) -> Found:
    """Start a sweep, end it (or a worker of it) once or a few times at random, let it finish, compare."""
    folder.mkdir()
    folder.joinpath("s.yaml").write_bytes(to_yaml(SMALL))
    axes = random.choice(AXES)
    want = undisturbed(tuple(axes), folder)
    faults: list[str] = []
    for _ in range(random.randint(1, 4)):
        running = start(folder, axes)
        goal, deadline = random.randint(0, want.count(b"\n")), time.monotonic() + SECONDS
        while running.poll() is None and rows(folder).count(b"\n") < goal and time.monotonic() < deadline:
            time.sleep(0.005)
        while running.poll() is None and time.monotonic() < deadline and not loaded(running):
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.4 if goal == 0 else 0.02))
        disturb(random, running)
        try:
            _, error = running.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            faults.append(f"did not end within {SECONDS} s of being disturbed")
            with contextlib.suppress(OSError):
                os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
            break
        if b"Traceback" in error:
            faults.append(f"a traceback: {error[-400:]!r}")
        if running.returncode not in (0, 1, 130, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM):
            faults.append(f"exit code {running.returncode}: {error[-400:]!r}")
    last = start(folder, axes)
    try:
        _, error = last.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(last.pid, signal.SIGKILL)
        last.communicate()
        return Found("endless", [*faults, "the last run did not end"])
    if last.returncode:
        faults.append(f"the last run ended with {last.returncode}: {error[-400:]!r}")
    if rows(folder) != want:
        faults.append("the rows have other bytes than those of a sweep that was left alone")
    if left := [
        f.name for f in folder.iterdir() if f.name not in ("s.yaml", "rows.csv") and not f.name.startswith(".rows.csv.")
    ]:
        faults.append(f"left behind: {left}")
    return Found(str(last.returncode), faults)


def start(folder: Path, axes: list[str]) -> subprocess.Popen[bytes]:
    """The sweep, in a process group of its own."""
    root = str(Path(sim.__file__).parents[1])
    line = [sys.executable, "-m", "sim", "sweep", "s.yaml", *axes, "--out", "rows.csv", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": root, "PYTHONSAFEPATH": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=folder, env=environment, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


def disturb(random: Random, running: subprocess.Popen[bytes]) -> None:
    """Kill all of it, the parent or a worker, or press Ctrl-C."""
    with contextlib.suppress(OSError):
        how = random.choice(("group", "parent", "worker", "interrupt"))
        if how == "group":
            os.killpg(running.pid, signal.SIGKILL)
        elif how == "parent":
            running.kill()
        elif how == "interrupt":
            os.killpg(running.pid, signal.SIGINT)
        else:
            workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            threads = Path(f"/proc/{running.pid}/task").iterdir()
            workers += [pid for t in threads for pid in (t / "children").read_text().split()]
            if workers:
                os.kill(int(random.choice(workers)), signal.SIGKILL)


def loaded(running: subprocess.Popen[bytes]) -> bool:
    """Whether it runs code of ours: before, Python itself shows a traceback on Ctrl-C."""
    with contextlib.suppress(OSError):
        return "msgspec" in Path(f"/proc/{running.pid}/maps").read_text()
    return False


def rows(folder: Path) -> bytes:
    file = folder / "rows.csv"
    return file.read_bytes() if file.exists() else b""


_WANTED: dict[tuple[str, ...], bytes] = {}


def undisturbed(axes: tuple[str, ...], folder: Path) -> bytes:
    """The rows of a sweep in this process."""
    if axes not in _WANTED:
        here = folder.with_name("alone")
        here.mkdir()
        made = points(read_plain(folder / "s.yaml"), parse_axes(axes[1::2]), "s.yaml")
        sweep(made, output=here / "rows.csv")
        _WANTED[axes] = rows(here)
    return _WANTED[axes]
