"""No output destroys an input, another output, or a file that chunkflow-sim has not written."""

from __future__ import annotations

import csv
import os
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import ClickException
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from small_scenario import SMALL

import scenarios
import validation
from calibration.calibrate import RESIDUALS
from sim.cli import main
from sim.cli.common import with_exit_codes
from sim.hardware import load_profile, to_plain
from sim.inputs import files_read
from sim.inputs.atomic_files import write_atomically
from sim.inputs.config import InputError
from sim.inputs.overwriting import Kind, Output, check_outputs
from sim.sweeps.grid import points, sweep
from validation.datasets import shipped_sets

EXPERIMENT = {
    "title": "t",
    "about": "a",
    "x": "world_size",
    "plot": "bars",
    "scenario": SMALL,
    "axes": {"world_size": [1, 2]},
}
FOREIGN = {
    "notes.html": "<html>mine</html>",
    "notes.csv": "a,b\n1,2\n",
    "notes.json": '{"traceEvents": []}',
    "notes": "x",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a scenario, its profile with a base, an experiment, and files of others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SMALL | {"hardware": "host.yaml"}))
    (tmp_path / "host.yaml").write_text("like: base.yaml\nname: mine\n")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(to_plain(load_profile("h200x2-hostpath"))))
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    for name, text in FOREIGN.items():
        (tmp_path / name).write_text(text)
    os.link(tmp_path / "s.yaml", tmp_path / "hard")
    (tmp_path / "soft").symlink_to("s.yaml")
    (tmp_path / "sub").mkdir()
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def refused(folder: Path, *args: str) -> str:
    """What a command says that must change nothing."""
    before = contents(folder)
    done = invoke(*args)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert contents(folder) == before
    return done.stderr


COMMANDS = {
    "run": ("run", "s.yaml", "--trace"),
    "sweep rows": ("sweep", "s.yaml", "--set", "world_size=1", "--workers", "1", "--out"),
    "sweep page": ("sweep", "s.yaml", "--set", "world_size=1", "--workers", "1", "--html"),
    "hardware": ("hardware", "host.yaml", "--html"),
    "run page": ("run", "s.yaml", "--html"),
    "explain page": ("explain", "s.yaml", "--workers", "1", "--html"),
    "experiment rows": ("experiment", "e.yaml", "--workers", "1", "--out"),
    "experiment page": ("experiment", "e.yaml", "--workers", "1", "--html"),
}
INPUTS = {"run": "s.yaml", "explain": "s.yaml", "sweep": "s.yaml", "hardware": "host.yaml", "experiment": "e.yaml"}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_input_is_refused_as_output(command: str, folder: Path) -> None:
    args = COMMANDS[command]
    own = INPUTS[args[0]]
    bases = ["host.yaml", "base.yaml"] if args[0] != "experiment" else []
    same = ["hard", "soft"] if own == "s.yaml" else []
    for name in (own, f"sub/../{own}", str(folder / own), *bases, *same):
        assert f"{name}: {args[-1]} would overwrite a file that this command reads" in refused(folder, *args, name)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_foreign_file_is_refused_as_output(command: str, folder: Path) -> None:
    args = COMMANDS[command]
    for name in FOREIGN:
        assert f"{name}: {args[-1]} would overwrite a file that is not an earlier" in refused(folder, *args, name)


@pytest.mark.parametrize("second", ["r", "sub/../r", "link"])
@pytest.mark.parametrize("command", ["sweep rows", "experiment rows"])
def test_two_outputs_are_two_files(command: str, second: str, folder: Path) -> None:
    (folder / "link").symlink_to("r")
    for force in ((), ("--force",)):
        said = refused(folder, *COMMANDS[command], "r", "--html", second, *force)
        assert f"{second}: --html would overwrite what --out writes" in said


def test_the_data_sets_that_validate_reads_are_no_outputs(folder: Path) -> None:
    name = next(n for n in shipped_sets() if n != "h200x2-hostpath")
    shutil.copytree(Path(validation.__file__).parent / "data" / name, folder / name)
    data = ("validate", "--data", f"./{name}", "--hardware", "host.yaml")
    said = refused(folder, *data, "--html", f"{name}/cases.jsonl")
    assert "--html would overwrite a file that this command reads" in said
    said = refused(folder, *data, "--trace", "base.yaml")
    assert "--trace would overwrite a file that this command reads" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_force_overwrites_and_the_next_run_knows_its_own(command: str, folder: Path) -> None:
    args = (*COMMANDS[command], "notes")
    done = invoke(*args, "--force")
    assert done.exit_code == 0, done.output
    made = (folder / "notes").read_bytes()
    assert made != FOREIGN["notes"].encode()
    assert (invoke(*args).exit_code, (folder / "notes").read_bytes()) == (0, made)


def test_force_lets_an_input_be_an_output(folder: Path) -> None:
    assert invoke("run", "s.yaml", "--trace", "s.yaml", "--force").exit_code == 0
    assert Kind.TRACE.value in (folder / "s.yaml").read_bytes()


@pytest.mark.parametrize("command", COMMANDS)
def test_results_of_one_kind_are_no_output_of_another(command: str, folder: Path) -> None:
    own = {"--trace": Kind.TRACE, "--out": Kind.ROWS, "--html": Kind.PAGE}[COMMANDS[command][-1]]
    for kind in Kind:
        if kind is not own:
            (folder / kind.name).write_bytes(kind.value + b"\n")
            refused(folder, *COMMANDS[command], kind.name)


@pytest.mark.parametrize("name", ["host.yaml", RESIDUALS])
def test_a_calibration_overwrites_no_profile_that_it_did_not_write(name: str, folder: Path) -> None:
    (folder / RESIDUALS).write_text("mine")
    said = refused(folder, "calibrate", "--fit-only", "--name", "host" if name == "host.yaml" else "new", "--out", ".")
    assert f"{name}: --out would overwrite a file that is not an earlier --out" in said


def test_the_shipped_files_are_no_outputs(folder: Path) -> None:
    shipped = Path(scenarios.__file__).parent / "hardware" / "h200x2-hostpath.yaml"
    before = shipped.read_bytes()
    refused(folder, "hardware", "h200x2-hostpath", "--html", str(shipped))
    refused(folder, "run", "s.yaml", "--trace", str(shipped))
    assert shipped.read_bytes() == before


def test_an_empty_file_and_a_new_one_may_be_written(folder: Path) -> None:
    (folder / "empty").touch()
    assert invoke("run", "s.yaml", "--trace", "empty").exit_code == 0
    assert invoke("run", "s.yaml", "--trace", "new/folder/t.json").exit_code == 0
    assert invoke("run", "s.yaml", "--trace", "/dev/null").exit_code == 0


def test_every_written_file_has_the_mark_of_its_kind(folder: Path) -> None:
    for (*command, option), kind in ((COMMANDS["run"], Kind.TRACE), (COMMANDS["sweep page"], Kind.PAGE)):
        assert invoke(*command, option, "out").exit_code == 0
        assert kind.made((folder / "out").read_bytes()[:4096])
        (folder / "out").unlink()


@given(st.sampled_from(Kind), st.binary(max_size=60))
def test_files_without_the_mark_are_not_overwritten(kind: Kind, head: bytes) -> None:
    assert kind.made(b"")
    assert kind.made(kind.value + head)
    if head and kind.value not in head and not kind.value.startswith(head):
        assert not kind.made(head)


def test_reading_is_noted_only_while_it_is_recorded(folder: Path) -> None:
    load_profile("host.yaml")
    assert files_read.noted() == ()
    with files_read.recording():
        load_profile("host.yaml")
        assert [file.name for file in files_read.noted()] == ["host.yaml", "base.yaml"]
        with pytest.raises(InputError, match=r"base\.yaml: --html would overwrite a file that this command reads"):
            check_outputs([Output("--html", folder / "base.yaml", Kind.PAGE)])
    assert files_read.noted() == ()


def test_the_file_that_standard_output_goes_to_is_no_output(folder: Path, chunkflow: Any) -> None:
    with (folder / "out").open("wb") as out:
        done = chunkflow("run", "s.yaml", "--trace", "out", cwd=folder, capture_output=False, stdout=out, stderr=-1)
    assert done.returncode == 2 and "out: --trace would overwrite the file that standard output goes to" in done.stderr


# ---- outputs that are none ------------------------------------------------------------------------------------------

FORMS = ["pipe", "sub/../pipe", "link", "chain", "pipe/x"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_named_pipe_is_refused_before_it_is_opened(command: str, folder: Path) -> None:
    """To open it would wait for a reader, perhaps for ever."""
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("pipe")
    (folder / "chain").symlink_to("link")
    args = COMMANDS[command]
    for name in FORMS:
        for force in ((), ("--force",)):
            assert f"{name}: {args[-1]} is a pipe: give a file" in refused(folder, *args, name, *force)


def test_results_of_a_library_go_to_no_named_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    made = points(SMALL, {"world_size": [1]})
    for write in (lambda: sweep(made, output=folder / "pipe"), lambda: write_atomically(folder / "pipe", "text")):
        with pytest.raises(InputError, match="pipe: is a pipe: give a file"):
            write()


@pytest.mark.parametrize("command", ["calibrate", "measure"])
def test_a_folder_of_results_holds_no_named_pipe(command: str, folder: Path) -> None:
    if command == "measure":
        pytest.importorskip("torch", reason="the torch extra is not installed")
    os.mkfifo(folder / "sub" / "new.yaml")
    os.mkfifo(folder / "sub" / "cases.jsonl")
    (folder / "h.yaml").write_text(yaml.safe_dump(SMALL | {"hardware": "host.yaml"}))
    args = ("calibrate", "--fit-only", "--name", "new") if command == "calibrate" else ("measure", "h.yaml")
    assert "--out is a pipe: give a file" in refused(folder, *args, "--out", "sub")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_without_a_name_is_code_2(command: str, folder: Path) -> None:
    before = contents(folder)
    for name, said in (("", "is empty: give the name of a file"), ("new/", "'new/' names a folder: give a file")):
        done = invoke(*COMMANDS[command], name)
        assert (done.exit_code, done.stdout) == (2, "") and said in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_is_refused_before_anything_is_simulated(command: str, folder: Path) -> None:
    done = invoke(*COMMANDS[command], "sub/")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "Error: sub: cannot be written: Is a directory\n")


def test_a_failed_read_is_no_failed_write() -> None:
    @with_exit_codes
    def reads() -> None:
        Path("nowhere").read_bytes()

    with pytest.raises(ClickException) as failed:
        reads()
    assert (failed.value.exit_code, failed.value.message) == (1, "nowhere: No such file or directory")


# ---- results that go to a pipe -------------------------------------------------------------------------------------

AXES = {"world_size": [2, 1], "policy.chunk_bytes": ["1 MiB", "512 KiB"]}


def test_rows_go_to_a_pipe_once_each_as_they_come(folder: Path) -> None:
    """A pipe holds nothing to continue from, is never put in order, and stays a pipe."""
    made = points(SMALL, AXES)
    expected = folder / "expected.csv"
    rows = sweep(made, output=expected)
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with pipe.open("wb") as writer:
        assert sweep(made, output=Path(f"/dev/fd/{writer.fileno()}")) == rows
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert got == [expected.read_bytes()]


def test_a_sweep_streams_its_rows_to_standard_output(folder: Path, chunkflow: Any) -> None:
    args = [f"--set={path}={','.join(map(str, values))}" for path, values in AXES.items()]
    done = chunkflow("sweep", "s.yaml", *args, "--workers", "1", "--out", "/dev/stdout", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    rows, table = done.stdout.split("sweep of s.yaml")
    found = list(csv.DictReader(rows.splitlines()))
    assert sorted((row["world_size"], row["policy.chunk_bytes"]) for row in found) == [
        (ranks, size) for ranks in ("1", "2") for size in ("1 MiB", "512 KiB")
    ]
    expected = {tuple(map(str, row.values.values())): row.metrics["step_time_s"] for row in sweep(points(SMALL, AXES))}
    assert {(row["world_size"], row["policy.chunk_bytes"]): float(row["step_time_s"]) for row in found} == expected
    assert table.count(" yes ") == 4
