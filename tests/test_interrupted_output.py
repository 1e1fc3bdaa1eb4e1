"""How a command ends when its output or its user goes away: a message, a code, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from conftest import Command

from sim.cli.group import CommandGroup

BLOCK = [{"compute": {"name": "a", "seconds": 1e-4}}, {"collective": {"kind": "all_to_all", "bytes": 4096}}]
SMALL = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {"layers": 1, "steps": 2, "layer_bytes": "1 MiB", "block": BLOCK},
    "policy": {"kind": "chunked", "chunk_bytes": "1 MiB"},
}
LONG = SMALL | {"workload": SMALL["workload"] | {"layers": 2000, "steps": 40}}  # type: ignore[operator]
SERVING = {
    "gpus": 1,
    "duration": 10.0,
    "classes": {"a": {"step_times": {1: 0.1}, "steps": 3, "degrees": [1], "share": 1, "deadline": {"seconds": 1.0}}},
    "arrivals": {"kind": "poisson", "load": 0.5},
    "scheduler": {"kind": "fcfs"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(LONG))
    return tmp_path


PRINTING = [
    ["run", "s.yaml"],
    ["run", "s.yaml", "--json"],
    ["explain", "s.yaml"],
    ["hardware"],
    ["hardware", "h200x2-hostpath", "--json"],
    ["models", "wan2.2-14b"],
    ["sweep", "s.yaml", "--set", "world_size=1", "--workers", "1"],
    ["experiment"],
    ["--help"],
    ["run", "--help"],
]


@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_closed_standard_output_is_code_1(args: list[str], folder: Path, chunkflow: Command) -> None:
    gone, pipe = os.pipe()
    os.close(gone)
    done = chunkflow(*args, cwd=folder, capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (1, ""), "a reader that went away wants no message"
    with Path("/dev/full").open("w") as full:
        done = chunkflow(*args, cwd=folder, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot be written: No space left on device" in done.stderr
    bare = {name: text for name, text in chunkflow.environment.items() if name in ("PATH", "PYTHONPATH")}
    with Path("/dev/full").open("w") as full:  # Python's own buffering keeps what could not be written
        done = subprocess.run(
            [*chunkflow.line, *args], stdout=full, stderr=subprocess.PIPE, text=True, cwd=folder, env=bare
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *chunkflow.line, *args]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, cwd=folder, env=chunkflow.environment)
    assert (done.returncode, done.stderr) == (1, "Error: standard output is closed\n")


@pytest.mark.parametrize(
    "args",
    [
        ["sweep", "s.yaml", "--set", "world_size=1", "--workers", "1", "--html"],
        ["plan", "s.yaml", "--workers", "1", "--html"],
        ["plan", "s.yaml", "--workers", "1", "--json", "--out"],
        ["serve", "serving.yaml", "--html"],
        ["serve", "serving.yaml", "--vary", "seed=1,2", "--workers", "1", "--html"],
    ],
    ids=" ".join,
)
def test_files_are_written_though_nobody_reads_what_is_printed(
    args: list[str], folder: Path, chunkflow: Command
) -> None:
    """As in `plan FILE --out chosen.yaml | head -3`: head ends before all is printed."""
    (folder / "serving.yaml").write_text(yaml.safe_dump(SERVING))
    gone, pipe = os.pipe()
    os.close(gone)
    done = chunkflow(*args, "written", cwd=folder, capture_output=False, stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    assert done.returncode == 1 and "Error" not in done.stderr
    assert (folder / "written").stat().st_size > 300


@pytest.mark.parametrize(
    "args",
    [
        ["run", "long.yaml", "--no-shortcuts"],
        ["run", "long.yaml", "--json", "--trace", "t.json"],
        ["run", "s.yaml", "--interval"],
        ["explain", "long.yaml", "--set", "policy.resident_layers=1"],
        ["sensitivity", "long.yaml", "--workers", "2"],
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("after_s", [1.0, 2.0])
def test_an_interrupted_command_prints_no_traceback(
    args: list[str], after_s: float, folder: Path, chunkflow: Command
) -> None:
    """As from a terminal: every process of the group gets the signal."""
    program = [sys.executable, "-m", "sim.cli", *args]
    running = subprocess.Popen(
        program, stdout=-1, stderr=-1, text=True, cwd=folder, env=chunkflow.environment, start_new_session=True
    )
    try:
        time.sleep(after_s)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert "Traceback" not in stderr, stderr
    assert running.returncode in (130, -signal.SIGINT) or (running.returncode == 0 and args[-1] == "--interval")


def test_every_end_of_a_command_has_its_code() -> None:
    @click.group(cls=CommandGroup)
    def group() -> None:
        """Commands that end in every way."""

    ends: dict[str, BaseException] = {
        "interrupt": KeyboardInterrupt(),
        "message": click.ClickException("it is \x1b[31m"),
        "usage": click.UsageError("it is \x1b[31m"),
        "three": SystemExit(3),
        "zero": SystemExit(0),
        "words": SystemExit(None),
        "disk": OSError(28, "No space left on device"),
        "pipe": BrokenPipeError(32, "Broken pipe"),
    }
    for name, error in ends.items():

        @group.command(name)
        def end(error: BaseException = error) -> None:
            raise error

    codes = {"interrupt": 130, "message": 1, "usage": 2, "three": 3, "zero": 0, "words": 0, "disk": 1, "pipe": 1}
    for name, code in codes.items():
        done = CliRunner().invoke(group, [name])
        assert done.exit_code == code, name
        assert "\x1b" not in done.stderr
        assert bool(done.stderr) == (name in ("interrupt", "message", "usage", "disk")), name
