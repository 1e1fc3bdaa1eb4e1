"""Text from files is data: no markup, no control codes on the terminal, no formulas in spreadsheets, any encoding."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from conftest import Command
from hypothesis import example, given
from hypothesis import strategies as st

from calibration.doctor import Finding, print_findings
from sim.cli import main
from sim.hardware import load_profile, to_plain
from sim.inputs.safe_text import csv_cell, csv_text, printable
from sim.report.tables import print_experiments
from sim.report.terminal import Console, say, show, styled, table
from sim.sweeps.grid import points, sweep

HOSTILE = "[/x][bold]b[/] [link=http://a.example]c[/link] :smile: \x1b[31mred\x1b]8;;http://a.example\x07 \x9b31m \x00\u202eabc"
"""Rich's markup, an emoji code, a colour, a link, a CSI in one byte, a null byte, text turned around."""
SHOWN = r"[/x][bold]b[/] [link=http://a.example]c[/link] :smile: \x1b[31mred\x1b]8;;http://a.example\x07 \x9b31m \x00\u202eabc"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_controls_are_shown_as_escapes_and_all_else_stays() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("µs ± é 漢字\tx\n") == "µs ± é 漢字\tx\n"
    assert printable("a\r\ud800\u2028\ufeff") == r"a\r\ud800\u2028\ufeff"


@given(st.text())
def test_nothing_that_is_printed_controls_a_terminal(text: str) -> None:
    shown = printable(text)
    assert CONTROLS.search(shown) is None
    shown.encode()
    if text.isprintable():
        assert shown == text


@given(st.text(min_size=1, max_size=30))
@example("[bold]")
@example("\x1b[31m")
def test_cells_titles_and_sentences_are_shown_as_they_are(text: str) -> None:
    with io.StringIO() as out:
        console = Console()
        console.file = out
        made = table("c", title=text)
        made.add_row(text)
        made.add_row(styled(text, "bold red"))
        console.print(made)
        console.print(text)
        shown = out.getvalue()
    assert CONTROLS.search(shown) is None
    if re.fullmatch(r"[!-~]+", text):
        assert shown.count(text) >= 4


def test_colours_come_from_styles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with io.StringIO() as out:
        console = Console()
        console.file = out
        console.print("[red]a\x1b[31m")
        assert CONTROLS.sub("?", out.getvalue()).strip() == r"[red]a\x1b[31m"
        console.print(styled("b", "red"))
        assert "\x1b[31mb" in out.getvalue()


# ---- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which every text is hostile: names, descriptions, sources, kernels, titles."""
    monkeypatch.chdir(tmp_path)
    host: Any = to_plain(load_profile("h200x2-hostpath"))
    host |= {"name": HOSTILE, "description": HOSTILE, "fingerprint": {HOSTILE: HOSTILE}}
    host["h2d"]["cap"]["source"] = HOSTILE
    host["device"]["name"] = HOSTILE
    block = [
        {"compute": {"name": HOSTILE, "seconds": 1e-4}},
        {"collective": {"kind": "all_to_all", "bytes": 4096, "name": HOSTILE}},
    ]
    workload = {"layers": 1, "steps": 2, "layer_bytes": "1 MiB", "block": block}
    plain = {"hardware": "host.yaml", "world_size": 2, "workload": workload, "policy": {"kind": "whole_layer"}}
    chosen = {
        "title": HOSTILE,
        "about": HOSTILE,
        "x": "case",
        "plot": "bars",
        "scenario": plain | {"hardware": "h200x2-hostpath"},
    }
    cases = [{"name": HOSTILE, "set": {"world_size": 2}}, {"name": "=1+1", "set": {"world_size": 1}}]
    for name, data in {"host": host, "s": plain, "e": chosen | {"cases": cases}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(data))
    return tmp_path


@pytest.mark.parametrize(
    "args",
    [
        ["run", "s.yaml"],
        ["run", "s.yaml", "--json"],
        ["explain", "s.yaml"],
        ["explain", "s.yaml", "--json"],
        ["hardware", "host.yaml"],
        ["hardware", "host.yaml", "--json"],
        ["hardware", "host.yaml", "--html", "a\x1b[31m.html"],
        ["sweep", "s.yaml", "--set", "world_size=1,2", "--workers", "1"],
        ["experiment", "e.yaml", "--workers", "1", "--out", "r.csv"],
    ],
    ids=lambda args: " ".join(args[:3:2]),
)  # fmt: skip
def test_no_command_prints_control_codes_or_takes_text_for_markup(args: list[str], folder: Path) -> None:
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    assert CONTROLS.search(done.output) is None
    if args[0] in ("hardware", "experiment") and "--json" not in args and "--html" not in args:
        assert "[/x][bold]b[/]" in "".join(done.stdout.split())


@pytest.mark.parametrize(
    "args",
    [
        ["run", "\x1b[31m.yaml"],
        ["run", "bad.yaml"],
        ["\x1b[31m"],
        ["run", "s.yaml", "--\x1b[31m"],
        ["hardware", "\x9b31m"],
        ["models", "[/x]\x1b[31m"],
        ["sweep", "s.yaml", "--set", "world_size=[/x]\x1b[31m"],
        ["sweep", "s.yaml", "--set", "\x1b[31m=1"],
        ["run", "s.yaml", "--trace", "\x1b[31m/s.yaml/t"],
    ],
    ids=range(9),
)
def test_no_message_holds_control_codes(args: list[str], folder: Path) -> None:
    (folder / "bad.yaml").write_text('{"\\e[31m": 1, hardware: "\\e[31m"}')
    (folder / "\x1b[31m").touch()
    done = CliRunner().invoke(main, args)
    assert done.exit_code in (1, 2) and "Error: " in done.stderr
    assert CONTROLS.search(done.output) is None


def test_findings_and_lists_are_data(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("warning", HOSTILE, HOSTILE, HOSTILE)])
    print_experiments({HOSTILE: HOSTILE})
    say(HOSTILE)
    show(table(HOSTILE, HOSTILE, title=HOSTILE))
    shown = capsys.readouterr().out
    assert CONTROLS.search(shown) is None and SHOWN in shown


# ---- encodings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
@pytest.mark.parametrize(
    "args",
    [["run", "s.yaml"], ["hardware", "host.yaml"], ["models", "sd3.5-large"], ["run", "漢.yaml"], ["run", os.fsdecode(b"\xff.yaml")]],
    ids=["run", "hardware", "models", "no such file", "no text"],
)  # fmt: skip
def test_what_an_encoding_does_not_have_is_replaced(
    args: list[str], encoding: str, folder: Path, chunkflow: Command
) -> None:
    text = (folder / "host.yaml").read_text()
    (folder / "host.yaml").write_text(text.replace("[/x]", "\N{MICRO SIGN} 漢"))
    environment = chunkflow.environment | {"PYTHONIOENCODING": encoding, "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run([*chunkflow.line, *args], capture_output=True, cwd=folder, env=environment, timeout=60)
    wrong = args[1].startswith(("漢", "\udcff"))
    assert done.returncode == (2 if wrong else 0), done.stderr
    assert b"Traceback" not in done.stderr
    done.stdout.decode(encoding)


# ---- spreadsheets ---------------------------------------------------------------------------------------------------

NUMBERS = ["1", "-5", "+3", "-1.5e-3", "1e9", ".5", "0", "-.5", "-inf", "nan"]
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", "-5 ms", "\t=1", "\r=1", "\n=1", "\uff1d1", "--1"]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay(text: str) -> None:
    assert csv_cell(text) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_quoted(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@given(st.text() | st.sampled_from(FORMULAS) | st.sampled_from(["'=1", "''=1", "'", "'a"]))
def test_every_text_comes_back_from_its_cell(text: str) -> None:
    cell = csv_cell(text)
    assert csv_text(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) or cell == text
    if cell.startswith(("=", "@", "\t", "\r", "\n")):
        raise AssertionError(f"{cell!r} is evaluated")


def test_values_of_other_types() -> None:
    assert [csv_cell(v) for v in (True, False, 1, -2.5, 1e-300)] == ["true", "false", "1", "-2.5", "1e-300"]


def test_a_sweep_over_names_that_are_formulas_is_quoted_and_resumes(tmp_path: Path) -> None:
    block = [{"compute": {"name": "a", "seconds": 1e-4}}]
    workload = {"layers": 1, "steps": 2, "layer_bytes": "1 MiB", "block": block}
    plain = {"hardware": "h200x2-hostpath", "world_size": 1, "workload": workload, "policy": {"kind": "whole_layer"}}
    names = ["=1+1", "@a", "-1+2", "'=x", "plain"]
    made, file = points(plain, {"workload.block[0].compute.name": names}), tmp_path / "rows.csv"
    rows = sweep(made, output=file)
    content = file.read_bytes()
    cells = [line["workload.block[0].compute.name"] for line in csv.DictReader(content.decode().splitlines())]
    assert cells == ["'=1+1", "'@a", "'-1+2", "''=x", "plain"]
    file.write_bytes(content[: content.rindex(b"plain")])
    assert sweep(made, output=file) == rows
    assert file.read_bytes() == content
