"""The fuzzer (`make fuzz`) at a small number of inputs, and that its judge notices what it is there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from conftest import Command
from fuzzing.families import FAMILIES
from fuzzing.judge import figures, limited, reading, texts, written

from sim.inputs.config import InputError

SEED = 7


@pytest.mark.parametrize("family", FAMILIES)
def test_random_input_of_each_kind_is_run_or_refused(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        found = FAMILIES[family][1](Random(f"{SEED}:{family}:{number}"))
        assert not found.faults, number


@pytest.mark.slow
def test_the_command_counts_what_it_tried_and_an_input_can_be_made_again(chunkflow: Command, tmp_path: Path) -> None:
    fuzz = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--seed", "3"]
    run = {"cwd": tmp_path, "env": chunkflow.environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*fuzz, "--inputs", "30", "--kills", "1"], **run)
    assert done.returncode == 0, done.stdout
    assert "| kills | 1 |" in done.stdout and "\n31 inputs, 0 with faults, seed 3" in done.stdout
    again = subprocess.run([*fuzz, "--only", "5"], **run)
    assert again.returncode == 0 and again.stdout.split("\n")[0] in FAMILIES


GOOD = '{"step_time_s": 2, "lower_bound_s": 1, "collective_inflation_s": 0}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD, ""),
        ("{", "no JSON"),
        ('{"x": NaN}', "NaN is not a number"),
        (GOOD.replace("2", "0.5"), "lower bound 1 > step 0.5"),
        (GOOD.replace(": 0}", ": -1e-9}"), "collective_inflation_s is negative"),
    ],
)
def test_figures_are_judged(text: str, words: str) -> None:
    found = list(figures(text))
    assert (len(found), words in "".join(found)) == (bool(words), True)


@pytest.mark.parametrize(
    ("code", "out", "err", "words"),
    [
        (0, "step 2 ms", "", ""),
        (2, "", "Error: s.yaml: steps: is 0, expected at least 1\n", ""),
        (2, "", "Usage: run FILE\n\nError: Missing argument 'FILE'.\n", ""),
        (1, "", "Error: 3 of 4 points failed\n", ""),
        (3, "", "", "exit code 3"),
        (2, "", "Error: steps: is 0\n", "names no file"),
        (2, "", "Error: s.yaml: is 0\nsteps: is 0\n", "names no file"),
        (2, "", "", "a message of 0 lines"),
        (2, "step", "Error: s.yaml: is 0\n", "printed"),
        (1, "", "Error: division by zero\n", "division by zero"),
        (1, "", "Error: \n", "exit code 1 says"),
        (2, "", "Error: s.yaml: KeyError: 'x'\n", "KeyError"),
        (0, "a\x1b[31mb", "", "control characters"),
        (0, "step nan ms", "", "'nan' in the output"),
        (0, "rate (inf)", "", "'inf' in the output"),
        (0, "information of nanotubes", "", ""),
    ],
)
def test_the_fuzzer_judges_printed_output(code: int, out: str, err: str, words: str) -> None:
    found = list(texts(code, out, err, ["s.yaml"]))
    assert (bool(found), words in "".join(found)) == (bool(words), True), found


@pytest.mark.parametrize(
    ("after", "code", "words"),
    [
        ({"a": b"1"}, 2, ""),
        ({"a": b"1", "t.json": b"{}"}, 0, ""),
        ({"a": b"1", "t.json": b"{"}, 0, "no JSON"),
        ({"a": b"2"}, 2, "wrote a"),
        ({}, 0, "removed a"),
        ({"a": b"1", ".a.x": b""}, 0, "temporary file"),
        ({"a": b"1", "p.html": b"<p>&lt;img src=x onerror=alert(1)></p>"}, 0, ""),
        ({"a": b"1", "p.html": b"<p><img src=x onerror=alert(1)></p>"}, 0, "became an element"),
    ],
)
def test_the_fuzzer_judges_written_files(after: dict[str, bytes], code: int, words: str) -> None:
    found = list(written({"a": b"1"}, after, code))
    assert (bool(found), words in "".join(found)) == (bool(words), True), found


def _fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "ended", "words"),
    [
        (InputError("s.yaml", "a", "is 0"), "refused", ""),
        (InputError("a", "", "is 0"), "refused", "names no file"),
        (InputError("s.yaml", "a", "unsupported operand"), "refused", "internal words"),
        (KeyError("x"), "uncaught", "uncaught KeyError"),
    ],
)
def test_the_fuzzer_judges_exceptions_of_readers(error: BaseException, ended: str, words: str) -> None:
    found = reading(lambda: _fails(error), ["s.yaml"])
    assert (found.ended, bool(found.faults), words in "".join(found.faults)) == (ended, bool(words), True)


def test_the_fuzzer_stops_runs_that_do_not_end() -> None:
    def endless() -> None:
        with limited(0.05):
            while True:
                pass

    assert reading(endless, ["s.yaml"]).ended == "endless"
