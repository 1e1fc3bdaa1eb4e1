"""Long work survives: workers that die, Ctrl-C, and kill -9 at any time, with real processes."""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from test_cli import small_files
from test_sweep import BASE, MIB

from sim.config import InputError
from sim.hardware import load_profile, to_plain
from sim.ledger import DIED, Point
from sim.output import append, open_alone, write_atomically
from sim.sweep import parse_axis, points, sweep
from sim.workers import Workers

SMALL = ["--set", "policy.chunk_bytes=256KiB..880KiB:+16KiB"]
"""40 points, quick ones."""


def scenario(folder: Path, layer_mib: int = 4) -> None:
    data = copy.deepcopy(BASE)
    data["workload"] |= {"layer_bytes": layer_mib * MIB}
    (folder / "s.yaml").write_text(yaml.safe_dump(data))


def start(chunkflow: Command, folder: Path, *args: str, **options: Any) -> subprocess.Popen[str]:
    # where the tests run in the background it is ignored, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [*chunkflow.line, "sweep", "s.yaml", *args, "--out", "rows.csv"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=chunkflow.environment, start_new_session=True, **pipes | options)


def rows(folder: Path) -> list[str]:
    """The whole lines of the file, its header among them."""
    file = folder / "rows.csv"
    return file.read_text().split("\n")[:-1] if file.exists() else []


def until(running: subprocess.Popen[str], ready: Callable[[], object]) -> None:
    while running.poll() is None and not ready():
        time.sleep(0.002)


def children(process: int) -> list[int]:
    """Worker processes: the resource tracker beside them ends by itself."""
    found = Path(f"/proc/{process}/task").glob("*/children")
    every = [int(child) for file in found for child in file.read_text().split()]
    return [c for c in every if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]


def uninterrupted(folder: Path, axis: str) -> bytes:
    data = yaml.safe_load((folder / "s.yaml").read_text())
    sweep(points(data, dict([parse_axis(axis)])), output=folder / "uninterrupted.csv")
    return (folder / "uninterrupted.csv").read_bytes()


def test_a_worker_that_dies_fails_its_own_call_and_is_replaced() -> None:
    with Workers(2) as pool:
        first = pool.submit(os.getpid).result()
        calls = [pool.submit(os._exit, 1) if i % 3 == 1 else pool.submit(os.getpid) for i in range(9)]
        assert [isinstance(c.exception(), BrokenProcessPool) for c in calls] == [i % 3 == 1 for i in range(9)]
        assert first != os.getpid() and os.getpid() not in {c.result() for c in calls if not c.exception()}


class Deadly(Workers):
    """Workers that die at the points of which `at` is a part of the data."""

    def __init__(self, at: str) -> None:
        super().__init__(2)
        self.at = at
        self.runs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        self.runs += 1
        return super().submit(os.abort) if self.at in str(args) else super().submit(fn, *args)


def test_a_point_whose_worker_dies_is_reported_and_tried_again(tmp_path: Path) -> None:
    chosen: list[Point] = points(BASE, {"policy.chunk_bytes": ["1 MiB", "2 MiB", "3 MiB", "4 MiB"]})
    file = tmp_path / "rows.csv"
    whole = sweep(chosen)
    with Deadly("3 MiB") as pool:
        found = sweep(chosen, pool, file)
    assert [r.error for r in found] == ["", "", DIED, ""]
    assert [r for r in found if not r.error] == [r for r in whole if r.values["policy.chunk_bytes"] != "3 MiB"]
    assert [line.endswith(f',"{DIED}"') for line in sorted(rows(tmp_path)[1:], key=lambda r: r.split(",")[1])] == [
        False,
        False,
        True,
        False,
    ]
    with Deadly("nowhere") as pool:
        assert sweep(chosen, pool, file) == whole
    assert pool.runs == 1


def test_a_full_disk_ends_the_sweep_and_keeps_its_rows(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path)
    running = start(chunkflow, tmp_path, *SMALL, "--workers", "1", preexec_fn=small_files)
    out, error = running.communicate()
    assert (running.returncode, out) == (1, "")
    assert error == "Error: rows.csv: cannot be written: File too large\n"
    before = rows(tmp_path)
    assert 1 < len(before) < 41
    assert chunkflow("sweep", "s.yaml", *SMALL, "--out", "rows.csv", cwd=tmp_path).returncode == 0
    assert rows(tmp_path)[: len(before)] == before
    assert (tmp_path / "rows.csv").read_bytes() == uninterrupted(tmp_path, SMALL[1])


def test_a_profile_that_vanishes_fails_its_points_and_no_others(tmp_path: Path) -> None:
    plain = yaml.safe_dump(to_plain(load_profile("h200x2-hostpath")))
    for name in ("stays", "goes"):
        (tmp_path / f"{name}.yaml").write_text(plain)
    chosen = points(BASE, {"hardware": [str(tmp_path / f"{name}.yaml") for name in ("goes", "stays")]})
    (tmp_path / "goes.yaml").unlink()
    gone, there = sweep(chosen)
    assert "is no hardware profile" in gone.error and not there.error


def test_a_worker_that_is_killed_costs_its_point_alone(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 20)
    running = start(chunkflow, tmp_path, "--set", "policy.chunk_bytes=48KiB..76KiB:+2KiB", "--workers", "2")
    until(running, lambda: len(rows(tmp_path)) > 1)
    os.kill(children(running.pid)[0], signal.SIGKILL)
    out, error = running.communicate()
    assert (running.returncode, error) == (1, "Error: 1 of 15 points failed\n")
    assert out.count("failed: ") == out.count(DIED) == 1
    done = chunkflow(
        "sweep", "s.yaml", "--set", "policy.chunk_bytes=48KiB..76KiB:+2KiB", "--out", "rows.csv", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "rows.csv").read_bytes() == uninterrupted(tmp_path, "policy.chunk_bytes=48KiB..76KiB:+2KiB")


@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "parent alone"])
def test_ctrl_c_stops_at_once_and_says_where_the_rows_are(everyone: bool, chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 20)
    running = start(chunkflow, tmp_path, "--set", "policy.chunk_bytes=16KiB..76KiB:+16", "--workers", "2")
    until(running, lambda: len(rows(tmp_path)) > 2)
    workers = children(running.pid)
    (os.killpg if everyone else os.kill)(running.pid, signal.SIGINT)
    out, error = running.communicate()
    told = "Error: stopped: rows.csv holds the points that have finished, the same command goes on from there\n"
    assert (running.returncode, out, error) == (1, "", told)
    assert 3 <= len(rows(tmp_path)) < 3842
    assert len(workers) == 2 and not any(Path(f"/proc/{w}").exists() for w in workers)


def test_workers_end_when_the_process_they_work_for_is_killed(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 20)
    axis = ["--set", "policy.chunk_bytes=16KiB..76KiB:+16", "--workers", "2"]
    running = start(chunkflow, tmp_path, *axis, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(running, lambda: len(rows(tmp_path)) > 2)
    workers = children(running.pid)
    assert len(workers) == 2
    running.kill()
    running.wait()
    while any(Path(f"/proc/{w}").exists() for w in workers):  # else the guard against endless tests ends it
        time.sleep(0.01)


def test_a_sweep_killed_at_random_loses_and_repeats_nothing(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path)
    axis = ["--set", "policy.chunk_bytes=64KiB..8048KiB:+16KiB"]
    times, held = random.Random(5), 1
    for _ in range(5):
        running = start(chunkflow, tmp_path, *axis, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = min(held + times.randint(1, 80), 501)
        until(running, lambda goal=goal: len(rows(tmp_path)) >= goal)  # type: ignore[misc]
        time.sleep(times.uniform(0, 0.02))
        os.killpg(running.pid, signal.SIGKILL)
        assert running.wait() in (-signal.SIGKILL, 0), "it may have ended before it was killed"
        identities = [line.split(",")[0] for line in rows(tmp_path)]
        assert len(identities) == len(set(identities)) >= goal
        held = len(identities)
    before = rows(tmp_path)
    done = chunkflow("sweep", "s.yaml", *axis, "--out", "rows.csv", cwd=tmp_path, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(before) <= set(rows(tmp_path))
    assert len(rows(tmp_path)) == 1 + 500
    assert (tmp_path / "rows.csv").read_bytes() == uninterrupted(tmp_path, axis[1])


def test_the_file_of_a_sweep_that_runs_is_nobody_elses(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 20)
    axis = ["--set", "policy.chunk_bytes=16KiB..76KiB:+16", "--workers", "1"]
    running = start(chunkflow, tmp_path, *axis, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(running, lambda: len(rows(tmp_path)) > 2)
    os.killpg(running.pid, signal.SIGSTOP)  # however slow the others are, it has not ended
    told = "Error: rows.csv: another run is writing to it: wait until it has ended, or give another --out\n"
    for _ in range(2):  # the one that gives up does not let go of what it has not held
        second = chunkflow("sweep", "s.yaml", *axis, "--out", "rows.csv", cwd=tmp_path)
        assert (second.returncode, second.stdout, second.stderr) == (2, "", told)
    running.kill()
    running.wait()
    before = rows(tmp_path)
    # the workers of what was killed may live a moment longer, but hold nothing
    third = start(chunkflow, tmp_path, *axis)
    until(third, lambda: len(rows(tmp_path)) > len(before))
    assert third.poll() is None and rows(tmp_path)[: len(before)] == before
    third.kill()
    third.communicate()


def test_runs_one_after_the_other_hold_what_the_last_one_left(tmp_path: Path) -> None:
    """A run that ends may put a new file in the place of the one that another run waits for."""
    file = tmp_path / "rows.csv"
    with open_alone(file) as first:
        with pytest.raises(InputError, match=r"rows\.csv: another run is writing to it"):
            open_alone(file)
        write_atomically(file, "a\n")
        with open_alone(file) as second:
            append(second, b"b\n")
        append(first, b"c\n")
    assert file.read_text() == "a\nb\n"


def test_a_file_replaced_while_it_is_opened_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.csv"
    flock, times = fcntl.flock, [0]

    def replaced(out: Any, how: int) -> None:
        flock(out, how)
        times[0] += 1
        if times[0] == 1:
            write_atomically(file, "a\n")
        elif times[0] == 2:
            file.unlink()

    monkeypatch.setattr(fcntl, "flock", replaced)
    with open_alone(file) as out:
        append(out, b"b\n")
    assert (times, file.read_text()) == ([3], "b\n")


@pytest.mark.parametrize(("number", "goes_on"), [(errno.ENOSYS, True), (errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks_still_takes_rows(
    number: int, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(out: Any, how: int) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    if goes_on:
        open_alone(tmp_path / "rows.csv").close()
    else:
        with pytest.raises(OSError, match=r"rows\.csv"):
            open_alone(tmp_path / "rows.csv")
