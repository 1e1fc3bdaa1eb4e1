"""Probes on a CPU: real processes, real gloo, real threads as streams; plans, resuming, rejected cases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calibration.probes.case import ProbeCase
from calibration.probes.plan import LONG, QUEUE, plan, rank_counts
from calibration.probes.runner import disturbed
from calibration.probes.scales import Kind
from sim.datasets.probe_rows import ABOUT, RAW, SCHEMA, Journal, Row, RowError, Stat, load_rows, stat
from sim.hardware import load_profile

ROOT = Path(__file__).parents[1]


def a_row(case: str = "copy/x", **changes: Any) -> Row:
    made = Row(
        schema=SCHEMA, case=case, kind="device", params={}, device="cpu", gpu="cpu", date="2026-01-01",
        seconds=0.1, ranks=[{"h2d": Stat(1.0, 0.0, 3)}],
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


# ---- plans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
@pytest.mark.parametrize("quick", [True, False])
def test_a_plan_is_plain_data_of_bounded_cost(gpus: int, quick: bool) -> None:
    cases = plan(gpus, quick)
    assert len({c.name for c in cases}) == len(cases)
    assert msgspec.json.decode(msgspec.json.encode(cases), type=list[ProbeCase]) == cases
    assert max(c.ranks for c in cases) == gpus
    assert all(0 < c.seconds < 10 for c in cases)
    assert sum(c.seconds for c in cases) < (90 if quick else 240)
    kinds = {c.kind for c in cases}
    assert ("collective" in kinds) == (gpus > 1)
    assert {"copy", "commands", "wake", "launch", "issue", "depth", "gemm", "attention", "device_copy"} <= kinds


@pytest.mark.parametrize("quick", [True, False])
def test_no_parked_stream_is_given_more_than_its_queue_takes(quick: bool) -> None:
    for case in plan(8, quick):
        p = case.params
        if case.kind == "copy":
            assert p["lead"] + p["count"] + min(3 * p["tail"], 300) + 4 <= QUEUE, case.name
        elif case.kind == "commands":
            assert p["count"] * (p["pattern"].count("+") + 1) <= QUEUE, case.name


def test_every_number_of_gpus_is_covered() -> None:
    assert [rank_counts(n) for n in (1, 2, 3, 4, 8)] == [[], [2], [2, 3], [2, 4], [2, 4, 8]]
    with pytest.raises(ValueError, match="gpus is 0"):
        plan(0, True)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("quick", [True, False])
def test_what_gathers_meet_is_measured_with_several_gpus(quick: bool, device: Kind) -> None:
    assert not [c.name for c in plan(1, quick, device) if c.kind in ("pair", "crowd")]
    for gpus in (2, 4):
        cases = [c for c in plan(gpus, quick, device) if c.kind in ("pair", "crowd")]
        parts = {tuple(c.name.split("/")[:2]) for c in cases}
        assert parts == {("pair", "all_to_all"), ("pair", "all_reduce"), ("crowd", "block")}
        for case in cases:
            assert (case.ranks, case.group, case.params["other"]) == (gpus, case.kind, "all_gather")


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_spread_is_that_of_most_repeats() -> None:
    assert stat([1.0, 1.0, 1.0, 50.0]) == Stat(1.0, 0.0, 4)
    assert stat([9.0, 10.0, 11.0]).spread == pytest.approx(0.14826)


def test_a_half_written_line_is_forgotten(tmp_path: Path) -> None:
    with Journal(tmp_path / RAW) as journal:
        journal.append(a_row("a"))
        journal.append(a_row("b"))
    file = tmp_path / RAW
    file.write_bytes(file.read_bytes()[:-20])
    assert [r.case for r in load_rows(file)] == ["a"]
    with Journal(file) as journal:
        assert journal.done() == {"a"}
        journal.append(a_row("c"))
    assert [r.case for r in load_rows(file)] == ["a", "c"]


def test_a_rejected_case_is_run_again_and_its_last_row_counts(tmp_path: Path) -> None:
    with Journal(tmp_path / RAW) as journal:
        journal.append(a_row("a", rejected="not covered"))
        assert journal.done() == set()
        journal.append(a_row("a"))
        assert journal.done() == {"a"}
    [kept] = load_rows(tmp_path / RAW)
    assert kept.rejected is None


def copied(case: str, directions: str, *seconds: float, size: int = LONG, **changes: Any) -> Row:
    """A train of copies, whose time is the same in all directions, on a GPU for each of `seconds`."""
    ways = directions.split("+")
    params = {"directions": ways, "ranks": len(seconds), "bytes": size, "count": 2}
    ranks = [{way: Stat(time, 0.0, 3) for way in ways} for time in seconds]
    return a_row(case, **{"kind": "copy", "params": params, "ranks": ranks} | changes)


def test_long_copies_slower_than_others_on_their_way_are_late() -> None:
    rows = [
        copied("fast", "h2d", 1.0),
        copied("near", "h2d", 1.009),
        copied("slow", "h2d", 1.02),
        copied("large and fast", "h2d", 3.97, size=4 * LONG),
        copied("large and slow", "h2d", 4.1, size=4 * LONG),
        # other ways: more directions, another one, more GPUs
        copied("both", "h2d+d2h", 1.5),
        copied("back", "d2h", 2.0),
        copied("two", "h2d", 3.0, 3.0),
        copied("two, one slow", "h2d", 3.0, 3.2),
        # these say nothing of rates
        copied("short", "h2d", 2.0, size=LONG - 1),
        copied("lone", "h2d", 2.0, params={"directions": ["h2d"], "ranks": 1, "bytes": LONG, "count": 1}),
        copied("rejected", "d2h", 0.1, rejected="not covered"),
        a_row("something else"),
    ]
    assert disturbed(rows) == {"near", "slow", "large and slow", "two, one slow"}
    assert disturbed(rows[:3]) == {"slow"}
    assert disturbed([]) == set()


WRONG = {
    "no JSON": (b"{\n", "line 1"),
    "no row": (b'{"case": "a"}\n', "line 1: schema: is missing"),
    "other schema": (
        msgspec.json.encode(a_row(schema=SCHEMA + 1)) + b"\n",
        f"schema: is {SCHEMA + 1}, expected {SCHEMA}",
    ),
    "unknown key": (
        msgspec.json.encode({**msgspec.to_builtins(a_row()), "more": 1}) + b"\n",
        "line 1: more: unknown key",
    ),
    "text for a number": (msgspec.json.encode(a_row()).replace(b'"median":1.0', b'"median":"1"') + b"\n", "median"),
    "too large": (msgspec.json.encode(a_row()).replace(b'"median":1.0', b'"median":1e999') + b"\n", "line 1"),
    "no text": (b"\xff\xfe\n", "line 1"),
}


@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG.keys())
def test_rows_that_cannot_be_read_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / RAW
    file.write_bytes(content)
    with pytest.raises(RowError, match=said):
        load_rows(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="cannot be read"):
        load_rows(tmp_path / RAW)


# ---- on a CPU ------------------------------------------------------------------------------------------------------


def probes(*arguments: str | Path) -> subprocess.Popen[str]:
    """`python -m calibration.probes` in a process group of its own."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    line = [sys.executable, "-m", "calibration.probes", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=environment)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]] if file.exists() else []


@pytest.mark.slow
def test_two_processes_measure_everything_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    arguments = ("--run", tmp_path, "--gpus", "2", "--quick")
    killed = probes(*arguments)
    while len(lines(tmp_path / RAW)) < 15:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = lines(tmp_path / RAW)
    code, out, err = finish(probes(*arguments))
    assert code == 0, err
    after = lines(tmp_path / RAW)
    assert after[: len(before)] == before, "nothing that was measured is lost or measured again"
    accepted = Counter(r["case"] for r in after if r["rejected"] is None and r["kind"] not in ABOUT)
    assert set(accepted.values()) == {1}
    wanted = {c.name for c in plan(2, True, "cpu")}
    assert {r["case"] for r in after if r["kind"] not in ABOUT} == wanted
    assert all(r["device"] == "cpu" and r["schema"] == SCHEMA for r in after)
    failed = {r["case"]: r["rejected"] for r in after if (r["rejected"] or "").startswith("failed")}
    assert failed == {}, "rows may be rejected for what a CPU's threads do, not for errors"
    for r in after:
        if r["rejected"] is None and r["kind"] not in ABOUT:
            assert len(r["ranks"]) == r["params"].get("ranks", 1)
    assert "REJECTED" in out or not any(r["rejected"] for r in after)
    assert_fits(tmp_path)


def assert_fits(folder: Path) -> None:
    from calibration.calibrate import refit

    written = refit(folder, "stand-in")
    assert load_profile(str(written.profile)) == written.calibrated.profile
    assert "times mean nothing" in written.calibrated.profile.description
    rejected = {r.case for r in load_rows(folder / RAW) if r.rejected}
    assert set(written.calibrated.rejected) == rejected
    assert written.calibrated.profile.fingerprint["cpu"]
    assert not rejected & {r.case for r in written.calibrated.residuals}


@pytest.mark.slow
def test_one_process_measures_what_needs_no_peer(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.calibrate import calibrate

    seen: list[tuple[str, bool]] = []
    written = calibrate(tmp_path, "alone", True, lambda case, row: seen.append((case.name, row is not None)), gpus=1)
    names = [c.name for c in plan(1, True, "cpu")]
    assert seen == [(name, done) for name in names for done in (False, True)]
    assert written.calibrated.profile.gpus == 1
    assert "not measured" in written.calibrated.profile.collectives.all_to_all.alone.source


def test_the_plan_is_listed_and_may_be_narrowed() -> None:
    code, out, err = finish(probes("--plan", "--gpus", "2", "--only", "gemm,beside"))
    assert code == 0, err
    *rows, total, where = out.splitlines()
    assert {row.split()[-1].split("/")[0] for row in rows} == {"gemm", "beside"}
    assert total.endswith(f"{len(rows)} cases")
    assert where.endswith("2 x cpu")


@pytest.mark.slow
def test_cases_that_fail_are_rejected_and_too_many_end_the_run(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.probes.runner import MAX_CONSECUTIVE_FAILURES, ProbeError, run

    good = ProbeCase("gemm/good", "gemm", {"m": 16, "n": 16, "k": 16, "count": 1, "repeats": 2}, 0.1)
    bad = [ProbeCase(f"gemm/bad{i}", "gemm", {"repeats": 2}, 0.1) for i in range(MAX_CONSECUTIVE_FAILURES + 1)]
    with pytest.raises(
        ProbeError,
        match=f"{MAX_CONSECUTIVE_FAILURES} consecutive cases failed, the last is gemm/bad{MAX_CONSECUTIVE_FAILURES}",
    ):
        run([bad[0], good, *bad[1:]], tmp_path, device="cpu")
    rows = load_rows(tmp_path / RAW)
    assert [r.case for r in rows if r.rejected is None] == ["host", "gemm/good"]
    assert all(str(r.rejected).startswith("failed: rank 0: KeyError") for r in rows if r.rejected)


def long_copies(name: str) -> ProbeCase:
    params = {"directions": ["h2d"], "ranks": 1, "bytes": LONG, "count": 2, "lead": 1, "tail": 0, "repeats": 2}
    return ProbeCase(f"copy/{name}", "copy", params, 0.5)


def seconds(row: Row) -> float:
    return row.stat("h2d").median


@pytest.mark.slow
def test_a_late_case_is_measured_once_more_and_the_faster_row_counts(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.probes.runner import run

    with Journal(tmp_path / RAW) as journal:
        journal.append(copied("copy/light", "h2d", 1e-6))  # no memory is as fast
        journal.append(copied("copy/there", "h2d", 1e3))
    seen: list[tuple[str, Row | None]] = []
    cases = [long_copies(name) for name in ("light", "there", "slow")]
    rows = run(cases, tmp_path, lambda case, row: seen.append((case.name, row)), device="cpu")
    assert [(name, row is None) for name, row in seen] == [("copy/slow", True), ("copy/slow", False)] * 2
    written = [msgspec.convert(line, Row) for line in lines(tmp_path / RAW) if line["kind"] == "copy"]
    _, _, first, second, *counts = written
    assert {r.case for r in written[2:]} == {"copy/slow"}, "what was there is left alone"
    assert counts == ([first] if seconds(second) > seconds(first) else [])
    [kept] = [r for r in rows if r.case == "copy/slow"]
    assert kept == seen[-1][1] == min(first, second, key=seconds)
    assert [r for r in load_rows(tmp_path / RAW) if r.case == "copy/slow"] == [kept]


@pytest.mark.slow
def test_the_faster_of_two_rows_counts_unless_it_is_rejected(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.probes.runner import Pool, run_again

    cases = {name: long_copies(name) for name in ("fast", "slow", "uncovered", "fails")}
    cases["uncovered"].params["directions"] = ["h2d", "d2h"]  # nothing follows what is measured of either
    del cases["fails"].params["lead"]
    before = {
        name: copied(case.name, "+".join(case.params["directions"]), 1e-6 if name == "fast" else 1e3)
        for name, case in cases.items()
    }
    with Journal(tmp_path / RAW) as journal, Pool(list(cases.values()), "cpu") as pool:
        for row in before.values():
            journal.append(row)
        for case in cases.values():
            run_again(case, pool, journal, lambda case, row: None)
        assert len(journal.done()) == 4
    kept = {r.case.removeprefix("copy/"): r for r in load_rows(tmp_path / RAW)}
    assert 0 < seconds(kept.pop("slow")) < seconds(before["slow"])
    assert kept == {name: before[name] for name in kept}
    written = lines(tmp_path / RAW)
    tried = Counter(line["case"].removeprefix("copy/") for line in written)
    assert tried == {"fast": 3, "uncovered": 3, "fails": 3, "slow": 2}, "all that was measured is written"
    [ended, failed] = [line["rejected"] for line in written if line["rejected"]]
    assert ended.startswith("traffic of a rank ended at ") and failed.startswith("failed: rank 0: KeyError")


@pytest.mark.parametrize(
    ("background_scale", "alone", "once", "expected"),
    [
        (1, 1e-3, 2e-3, (10, 40)),
        (3, 1e-3, 2e-3, (10, 120)),
        pytest.param(1, 1e-3, 5e-3, (20, 32), id="four of the others at least"),
        pytest.param(1, 9e-3, 1e-3, (2, 80), id="two collectives at least"),
        pytest.param(1, 1e-6, 1e-6, (300, 200), id="no more than a queue takes"),
    ],
)
def test_trains_of_collectives_beside_others(
    background_scale: int, alone: float, once: float, expected: tuple[int, int]
) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.probes.collectives import trains

    assert trains({"window": 10e-3, "cover": 8}, background_scale, alone, once) == expected


def test_gpus_that_are_not_there_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    from calibration.probes.runner import run
    from calibration.processes import MachineError

    with pytest.raises(MachineError, match="2 ranks need as many GPUs, there are 0"):
        run(plan(2, True), tmp_path / "set", device="cuda")
    assert not (tmp_path / "set").exists()
