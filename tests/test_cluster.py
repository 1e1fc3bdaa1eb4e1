"""Sweeps on a Dask cluster: a real scheduler and real workers, some of which are killed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from sweep_scenario import BASE

from sim.policies import registry
from sim.sweeps.cluster import is_address
from sim.sweeps.results_file import DIED

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs the package distributed, of the extra cluster"
)

DEADLY = '''
"""Chunks, of which one size ends the process that schedules them."""

import os
import signal

from sim.policies import register
from sim.policies.chunked import Chunked


@register
class Deadly(Chunked, frozen=True, tag="deadly"):
    fatal_bytes: int = 0

    def schedule(self, workload, world_size, rank):
        if self.chunk_bytes == self.fatal_bytes:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().schedule(workload, world_size, rank)
'''
SIZES = range(2**18, 2**20, 2**14)
"""Chunk sizes of 48 quick points."""
AXIS = ["--set", f"policy.chunk_bytes={','.join(map(str, SIZES))}", "--no-cache"]


class Cluster:
    """A scheduler and workers, each in a process group of its own, all on 127.0.0.1."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.about = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", self.about)
        until(lambda: self.about.exists() and self.about.read_text().endswith("}"), self.scheduler)
        self.address = json.loads(self.about.read_text())["address"]
        self.started = [self.scheduler]

    def _start(self, what: str, *options: str | Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *map(str, options)]
        with (self.folder / f"{what}.log").open("a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def start_workers(self, count: int) -> None:
        """Start so many, and wait until the scheduler has them."""
        from distributed import Client

        for _ in range(count):
            place = ["--host", "127.0.0.1", "--scheduler-file", self.about, "--local-directory", self.folder]
            self.started.append(self._start("worker", *place, "--nthreads", "1"))
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=120)

    def pids(self) -> list[int]:
        """Of the processes that run points now: not those of their nannies."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            return list(client.run(os.getpid).values())

    def stop(self) -> None:
        """End all of it."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(ready: Callable[[], object], running: subprocess.Popen[Any]) -> None:
    while running.poll() is None and not ready():
        time.sleep(0.005)
    assert running.poll() is None


def scenario(folder: Path, fatal: int = 0) -> None:
    data = BASE | {"policy": {"kind": "deadly", "chunk_bytes": 2**20, "fatal_bytes": fatal}}
    (folder / "s.yaml").write_text(yaml.safe_dump(data))


def rows(folder: Path) -> list[str]:
    file = folder / "rows.csv"
    return file.read_text().split("\n")[:-1] if file.exists() else []


@pytest.fixture(scope="module")
def environment(chunkflow: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of commands and workers that know the deadly policy."""
    file = tmp_path_factory.mktemp("policies") / "deadly.py"
    file.write_text(DEADLY)
    return chunkflow.environment | {registry.FILES: str(file)}


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers, which their nannies start again when they die."""
    # Dask gives up all that a worker held when it died, not only after four workers, which take seconds to start again
    environment = environment | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    made = Cluster(tmp_path_factory.mktemp("cluster"), environment)
    try:
        made.start_workers(2)
        yield made
    finally:
        made.stop()


@needs_dask
@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_row(
    chunkflow: Command, cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    scenario(tmp_path)
    command = [*chunkflow.line, "sweep", "s.yaml", *AXIS, "--dask", cluster.address, "--out", "rows.csv"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    victim = cluster.pids()[0]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
    until(lambda: len(rows(tmp_path)) > 3, running)
    os.kill(victim, signal.SIGKILL)
    out, error = running.communicate()
    assert (running.returncode, error) == (0, "") and out.count(" yes") == len(SIZES)
    assert victim not in cluster.pids()
    here = chunkflow("sweep", "s.yaml", *AXIS, "--out", "here.csv", cwd=tmp_path, env=environment)
    assert (here.returncode, here.stdout) == (0, out)
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


@needs_dask
@pytest.mark.slow
def test_a_point_that_kills_its_workers_costs_its_own_row(
    chunkflow: Command, cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    scenario(tmp_path, fatal=SIZES[20])
    how = {"cwd": tmp_path, "env": environment}
    far = chunkflow("sweep", "s.yaml", *AXIS, "--dask", cluster.address, "--out", "rows.csv", **how)
    here = chunkflow("sweep", "s.yaml", *AXIS, "--workers", "2", "--out", "here.csv", **how)
    assert (far.returncode, far.stderr) == (1, "Error: 1 of 48 points failed\n")
    assert (far.stdout, far.stderr) == (here.stdout, here.stderr)
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert [line.split(",")[1] for line in rows(tmp_path) if DIED in line] == [str(SIZES[20])]


@needs_dask
@pytest.mark.slow
def test_an_experiment_runs_there_too(
    chunkflow: Command, cluster: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    axes = {"world_size": [1, 2]}
    plain = {"title": "t", "about": "a", "x": "world_size", "plot": "bars", "scenario": BASE, "axes": axes}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(plain))
    ways = (["--dask", cluster.address], ["--workers", "1"])
    done = [chunkflow("experiment", "e.yaml", "--no-cache", *way, cwd=tmp_path, env=environment) for way in ways]
    assert [(run.returncode, run.stderr, run.stdout) for run in done] == [(0, "", done[0].stdout)] * 2


@needs_dask
@pytest.mark.slow
def test_workers_with_other_code_are_refused(chunkflow: Command, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE))
    done = chunkflow(
        "sweep", "s.yaml", "--set", "world_size=1,2", "--dask", cluster.address, "--out", "rows.csv", cwd=tmp_path
    )
    told = f"Error: 2 of the 2 workers at {cluster.address} do not have this code of chunkflow-sim: tcp://127.0.0.1:"
    assert (done.returncode, done.stdout, done.stderr.startswith(told)) == (1, "", True)
    assert "has another version or other policies" in done.stderr and done.stderr.count("\n") == 1
    assert rows(tmp_path) == []


@needs_dask
@pytest.mark.slow
def test_a_cluster_without_workers_and_one_that_goes_are_errors(
    chunkflow: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    scenario(tmp_path)
    own = Cluster(tmp_path, environment | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"})
    line = ["sweep", "s.yaml", *AXIS, "--dask", own.address, "--out", "rows.csv"]
    how: Any = {"cwd": tmp_path, "env": own.environment}
    try:
        none = chunkflow(*line, **how)
        told = f"Error: the Dask cluster at {own.address} has no workers: start some with `dask worker`\n"
        assert (none.returncode, none.stdout, none.stderr) == (1, "", told)
        own.start_workers(1)
        [worker] = own.pids()
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running = subprocess.Popen([*chunkflow.line, *line], **how, **pipes)
        until(lambda: len(rows(tmp_path)) > 1, running)
        os.kill(worker, signal.SIGSTOP)  # however fast it is, it has not ended
        own.scheduler.kill()
        out, error = running.communicate()
        os.kill(worker, signal.SIGKILL)
        told = f"Error: the Dask scheduler at {own.address} has gone"
        assert (running.returncode, out, error.startswith(told), error.count("\n")) == (1, "", True, 1)
        held = rows(tmp_path)
        assert 1 < len(held) < 1 + len(SIZES) and not [line for line in held if ",environment," in line]
        nobody = chunkflow(*line, **how)
        told = f"Error: no Dask scheduler answers at {own.address}: "
        assert (nobody.returncode, nobody.stderr.startswith(told), nobody.stderr.count("\n")) == (1, True, 1)
    finally:
        own.stop()
    here = chunkflow("sweep", "s.yaml", *AXIS, "--out", "rows.csv", cwd=tmp_path, env=environment)
    assert here.returncode == 0 and sorted(held[1:]) == sorted(set(held) & set(rows(tmp_path)) - {held[0]})


LOST = """
import sys, time
from sim.sweeps.cluster import Cluster

with Cluster(sys.argv[1], patience_s=0.1) as cluster:
    call = cluster.submit(time.sleep, 3600)
    print(flush=True)
    print(type(call.exception()).__name__, call.exception())
"""


@needs_dask
@pytest.mark.slow
def test_a_cluster_that_loses_its_workers_lets_nobody_wait_for_ever(chunkflow: Command, tmp_path: Path) -> None:
    own = Cluster(tmp_path, chunkflow.environment)
    try:
        own.start_workers(1)
        command = [sys.executable, "-c", LOST, own.address]
        with subprocess.Popen(command, env=own.environment, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            waiting.stdout.readline()
            os.killpg(own.started[-1].pid, signal.SIGKILL)
            told = f"NoWorkersError the Dask cluster at {own.address} has lost its workers\n"
            assert waiting.stdout.read() == told
    finally:
        own.stop()


ADDRESSES = {
    "127.0.0.1:8786": True,
    "tcp://127.0.0.1:8786": True,
    "tls://head.example:8786": True,
    "[::1]:8786": True,
    "": False,
    "127.0.0.1": False,
    "tcp://127.0.0.1": False,
    "127.0.0.1:port": False,
    "http://127.0.0.1:8786": False,
    "::1:8786": False,
    "a b:1": False,
    ":8786": False,
    "127.0.0.1:8786\n": False,
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_known_by_its_form(address: str) -> None:
    assert is_address(address) == ADDRESSES[address]


def test_wrong_use_of_dask_is_wrong_input(chunkflow: Command, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE))
    line = ["sweep", "s.yaml", "--set", "world_size=1"]
    wrong = {
        ("--dask", ""): "'--dask': '' is not a scheduler's address: expected HOST:PORT, or tls://HOST:PORT",
        ("--dask", "127.0.0.1:1", "--workers", "2"): "--workers are processes of this machine",
    }
    for options, told in wrong.items():
        done = chunkflow(*line, *options, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "") and told in done.stderr


def test_without_the_package_the_message_says_what_to_install(chunkflow: Command, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE))
    without = "import sys; sys.modules['distributed'] = None; from sim.cli import main; main()"
    line = [sys.executable, "-c", without, "sweep", "s.yaml", "--set", "world_size=1"]
    how: Any = {"cwd": tmp_path, "env": chunkflow.environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*line, "--dask", "127.0.0.1:1"], **how)
    told = "Error: distributed missing: pip install 'chunkflow-sim[cluster]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert subprocess.run(line, **how).returncode == 0, "nobody else needs it"
