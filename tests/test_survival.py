"""Long work survives: workers that die, Ctrl-C, and kill -9 at any time, with real processes."""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command, small_files
from sweep_scenario import BASE, MIB

from sim.hardware import load_profile, to_plain
from sim.inputs.atomic_files import append, open_alone, write_atomically
from sim.inputs.config import InputError
from sim.sweeps.axes import parse_axis
from sim.sweeps.grid import points, sweep
from sim.sweeps.results_file import DIED, Point
from sim.sweeps.worker_pool import NoWorkersError, Workers

SMALL = ["--set", "policy.chunk_bytes=256KiB..880KiB:+16KiB"]
"""40 points, quick ones."""


def scenario(folder: Path, layer_mib: int = 4) -> None:
    data = copy.deepcopy(BASE)
    data["workload"] |= {"layer_bytes": layer_mib * MIB}
    (folder / "s.yaml").write_text(yaml.safe_dump(data))


def start(chunkflow: Command, folder: Path, *args: str, **options: Any) -> subprocess.Popen[str]:
    command = [*chunkflow.line, "sweep", "s.yaml", *args, "--no-cache", "--out", "rows.csv"]
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


@pytest.mark.parametrize("count", [None, 1, 3])
def test_there_are_as_many_workers_as_asked_for_or_as_cores(count: int | None) -> None:
    wanted = count or os.cpu_count() or 1
    with Workers(count) as pool:
        calls = [pool.submit(time.sleep, 0.2) for _ in range(2 * wanted)]
        seen = 0
        while not all(call.done() for call in calls):
            seen = max(seen, len(children(os.getpid())))
    assert seen == wanted


def test_workers_that_die_while_they_start_cost_nothing() -> None:
    with Workers(2) as pool:
        calls = [pool.submit(abs, -i) for i in range(6)]
        seen: set[int] = set()
        while len(seen) < 2 and not all(call.done() for call in calls):
            # no more than two: those that replace the first may be there as soon as the second one
            for worker in sorted(set(children(os.getpid())) - seen)[: 2 - len(seen)]:
                os.kill(worker, signal.SIGKILL)
                seen.add(worker)
        failed = [call for call in calls if call.exception()]
        assert len(failed) <= 2 and all(isinstance(call.exception(), BrokenProcessPool) for call in failed)
        assert [call.result() for call in calls if call not in failed] == [
            i for i, call in enumerate(calls) if call not in failed
        ]


def test_workers_that_never_start_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = points(BASE, {"world_size": [1, 2]})
    (tmp_path / "python").write_text("#!/bin/sh\necho 'ImportError: nothing' >&2\nexit 7\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with Workers(2) as pool:
        with pytest.raises(NoWorkersError, match=r"can be started \(exit code 7: ImportError: nothing\): is memory"):
            sweep(chosen, pool, tmp_path / "rows.csv")
        with pytest.raises(RuntimeError, match="told to end"):
            pool.submit(abs, 1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    with Workers(2) as pool, pytest.raises(NoWorkersError, match="No such file"):
        sweep(chosen, pool, tmp_path / "rows.csv")
    assert len(rows(tmp_path)) == 1, "no row says that its point failed"


def test_a_call_that_cannot_be_pickled_fails_by_itself() -> None:
    with Workers(1) as pool:
        there, back, wrong, fine = (
            pool.submit(abs, threading.Lock()),  # type: ignore[arg-type]
            pool.submit(threading.Lock),
            pool.submit(int, "x"),
            pool.submit(abs, -1),
        )
        assert isinstance(there.exception(), TypeError) and "TypeError" in repr(back.exception())
        assert isinstance(wrong.exception(), ValueError) and fine.result() == 1


def test_a_worker_that_dies_while_it_is_sent_its_call_fails_that_call_alone() -> None:
    with Workers(1) as pool:
        worker = pool.submit(os.getpid).result()
        os.kill(worker, signal.SIGSTOP)
        call = pool.submit(len, bytes(2**24))  # more than a pipe holds
        while not call.running():
            time.sleep(0.002)
        os.kill(worker, signal.SIGKILL)
        assert isinstance(call.exception(), BrokenProcessPool) and "(signal 9)" in str(call.exception())
        assert pool.submit(abs, -1).result() == 1


def test_workers_that_are_closed_end_what_they_were_given_and_take_no_more() -> None:
    pool = Workers(2)
    calls = [pool.submit(abs, -i) for i in range(20)]
    pool.shutdown()
    assert [call.result() for call in calls] == list(range(20)) and children(os.getpid()) == []
    with pytest.raises(RuntimeError, match="told to end"):
        pool.submit(abs, 1)
    Workers(2).shutdown()


class Deadly(Workers):
    """Workers that die at the points with chunks of `at` bytes."""

    def __init__(self, at: int) -> None:
        super().__init__(2)
        self.at = at
        self.runs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        self.runs += 1
        dies = args[0].scenario.policy.chunk_bytes == self.at
        return super().submit(os.abort) if dies else super().submit(fn, *args)


def test_a_point_whose_worker_dies_is_reported_and_tried_again(tmp_path: Path) -> None:
    chosen: list[Point] = points(BASE, {"policy.chunk_bytes": ["1 MiB", "2 MiB", "3 MiB", "4 MiB"]})
    file = tmp_path / "rows.csv"
    whole = sweep(chosen)
    with Deadly(3 * MIB) as pool:
        found = sweep(chosen, pool, file)
    assert [r.error for r in found] == ["", "", DIED, ""]
    assert [r for r in found if not r.error] == [r for r in whole if r.values["policy.chunk_bytes"] != "3 MiB"]
    assert [
        line.endswith(f',environment,"{DIED}"') for line in sorted(rows(tmp_path)[1:], key=lambda r: r.split(",")[1])
    ] == [
        False,
        False,
        True,
        False,
    ]
    with Deadly(0) as pool:
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


def test_files_that_change_or_vanish_during_a_sweep_change_no_row(tmp_path: Path) -> None:
    plain: Any = to_plain(load_profile("h200x2-hostpath"))
    for name in ("base", "stays"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(plain | {"name": name}))
    (tmp_path / "host.yaml").write_text(yaml.safe_dump({"like": "base.yaml", "name": "host"}))
    hosts = [str(tmp_path / f"{name}.yaml") for name in ("host", "stays")]
    chosen = points(BASE, {"policy.chunk_bytes": ["1 MiB", "2 MiB"], "hardware": hosts})
    before = sweep(chosen)

    def change(done: int) -> None:
        if done == 1:
            plain["h2d"]["cap"]["value"] /= 2
            (tmp_path / "base.yaml").write_text(yaml.safe_dump(plain | {"name": "base"}))
            (tmp_path / "stays.yaml").unlink()

    with Workers(1) as pool:
        assert sweep(chosen, pool, tmp_path / "rows.csv", change) == before
    (tmp_path / "stays.yaml").write_text(yaml.safe_dump(plain | {"name": "stays"}))
    changed = points(BASE, {"policy.chunk_bytes": ["1 MiB", "2 MiB"], "hardware": hosts})
    assert [row.error for row in sweep(changed)] == [""] * 4
    assert sweep(changed) != before
    with pytest.raises(InputError, match="4 of its 4 rows were made with another hardware profile"):
        sweep(changed, output=tmp_path / "rows.csv")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_starts_costs_one_point_at_most(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path)
    running = start(chunkflow, tmp_path, *SMALL, "--workers", "2")
    until(running, lambda: children(running.pid))
    os.kill(children(running.pid)[0], signal.SIGKILL)
    out, error = running.communicate()
    assert (running.returncode, error) in [(0, ""), (1, "Error: 1 of 40 points failed\n")]
    assert len(rows(tmp_path)) == 41 and out.count("failed: ") == running.returncode
    again = chunkflow("sweep", "s.yaml", *SMALL, "--out", "rows.csv", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert (tmp_path / "rows.csv").read_bytes() == uninterrupted(tmp_path, SMALL[1])


def small_memory(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.mark.parametrize("size", [60, 100])
def test_a_small_address_space_ends_with_rows_or_a_message(size: int, chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 700)
    axis = ["--set", "policy.chunk_bytes=16KiB,64MiB", "--workers", "2"]
    running = start(chunkflow, tmp_path, *axis, preexec_fn=lambda: small_memory(size * MIB))
    _, error = running.communicate()
    assert (running.returncode, error.startswith("Error: "), error.count("\n")) == (1, True, 1)
    assert len(rows(tmp_path)) == 3 or "memory" in error or "thread" in error
    assert not [line for line in rows(tmp_path) if ",scenario," in line]


@pytest.mark.parametrize("line", ["script", "module"])
def test_workers_import_nothing_from_the_working_directory(line: str, chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path)
    module, said = line == "module", "open('executed', 'a').write(__name__)"
    names = ["struct", "pickle"] if module else ["struct", "pickle", "sim", "yaml", "simpy", "msgspec", "scenarios"]
    for name in names:
        text = f"{said}\n"
        if module:  # the process that the user starts so looks there first
            real = Path(os.__file__).with_name(f"{name}.py")
            text = f"if b'spawn_main' in open('/proc/self/cmdline', 'rb').read():\n    {said}\nexec(open({str(real)!r}).read())\n"
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "sim.cli"] if module else chunkflow.line
    command = [*command, "sweep", "s.yaml", *SMALL, "--out", "rows.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=chunkflow.environment, capture_output=True, text=True, check=False)
    assert not (tmp_path / "executed").exists()
    assert (done.returncode, done.stderr, len(rows(tmp_path))) == (0, "", 41)


def test_ctrl_c_while_workers_start_shows_no_traceback(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 20)
    running = start(chunkflow, tmp_path, "--set", "policy.chunk_bytes=16KiB..76KiB:+1KiB", "--workers", "2")
    until(running, lambda: children(running.pid))
    os.killpg(running.pid, signal.SIGINT)
    out, error = running.communicate()
    assert (running.returncode, out) == (1, "")
    assert error.startswith("Error: stopped") and error.count("\n") == 1


def test_ctrl_c_before_anything_runs_shows_no_traceback(chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 20)
    running = start(chunkflow, tmp_path, "--set", "policy.chunk_bytes=16KiB..76KiB:+1KiB", "--workers", "2")
    until(running, lambda: "msgspec" in Path(f"/proc/{running.pid}/maps").read_text())
    os.killpg(running.pid, signal.SIGINT)
    out, error = running.communicate()
    assert (running.returncode in (1, 130), out) == (True, "")
    assert "Traceback" not in error and error.count("\n") <= 2


@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "parent alone"])
def test_ctrl_c_stops_at_once_and_says_where_the_rows_are(everyone: bool, chunkflow: Command, tmp_path: Path) -> None:
    scenario(tmp_path, 20)
    running = start(chunkflow, tmp_path, "--set", "policy.chunk_bytes=16KiB..76KiB:+16", "--workers", "2")
    until(running, lambda: len(rows(tmp_path)) > 2)
    workers = children(running.pid)
    (os.killpg if everyone else os.kill)(running.pid, signal.SIGINT)
    out, error = running.communicate()
    told = "Error: stopped: rows.csv holds the points that have finished; run the same command again to resume\n"
    assert (running.returncode, out, error) == (1, "", told)
    assert 3 <= len(rows(tmp_path)) < 3842
    assert len(workers) == 2 and not any(Path(f"/proc/{w}").exists() for w in workers)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_file_of_a_running_sweep_is_locked(chunkflow: Command, tmp_path: Path) -> None:
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
