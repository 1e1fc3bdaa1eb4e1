"""Copies on several streams, of pageable memory, within and between GPUs, and host flags: probes, fits, the measured set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from calibration.fitting import FitError, fit_rows
from calibration.probes.case import ProbeCase
from calibration.probes.plan import LONG, QUEUE, plan
from sim.datasets.probe_parameters import PARAMETERS, Train
from sim.datasets.probe_rows import RAW, SCHEMA, Row, Stat, load_rows
from sim.hardware import load_profile
from sim.hardware.profile_parameters import numbers_by_path
from sim.inputs.config import InputError, convert

MIB = 2**20
NEW = ("engine", "pageable", "peer_copy", "host_flag_order", "host_flag_turns")
MEASURED = Path(__file__).parents[1] / "validation" / "data" / "h200x1-20261129m"
SIZES = (64 * 2**10, 256 * 2**10, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB)

# ---- plans and parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("quick", [True, False])
def test_plans_have_cases_of_all_of_these_with_parameters_that_fits_accept(gpus: int, quick: bool) -> None:
    cases = plan(gpus, quick)
    for case in cases:
        convert(case.params, PARAMETERS[case.kind], case.name)
    kinds = {case.kind for case in cases}
    assert {*NEW} - kinds == (set() if gpus > 1 else {"peer_copy"})
    assert {case.ranks for case in cases if case.kind == "host_flag_turns"} == ({1, 2} if gpus > 1 else {1})
    directions = {train["direction"] for case in cases if case.kind == "engine" for train in case.params["trains"]}
    assert directions == {"h2d", "d2h", "d2d"}


def test_they_take_25_s_of_a_calibration_at_most_and_come_last() -> None:
    """Streams that they make must not change what others measure; and a calibration on two GPUs stays below 3 minutes."""
    cases = plan(2, quick=False)
    *cases, last = cases
    assert last.kind == "device_overhead", "what the processes take once they have done all else; it makes no streams"
    new = [case for case in cases if case.kind in NEW or case.group in ("d2d", "host_flag")]
    assert cases[-len(new) :] == new
    assert sum(case.seconds for case in new) < 25
    assert sum(case.seconds for case in cases) < 120


def test_a_stream_that_is_parked_takes_all_copies_of_a_train() -> None:
    for case in plan(2, quick=False):
        for train in case.params.get("trains", ()):
            assert 3 * train["count"] * 3 + 4 <= QUEUE, case.name  # three times as long where it is tried again


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("engine", {"posted": "soon"}, "posted"),
        ("engine", {"trains": []}, "trains"),
        ("engine", {"trains": [{"direction": "p2p", "bytes": 1, "count": 1}]}, "direction"),
        ("pageable", {"busy": -1.0}, "busy"),
        ("pageable", {"direction": "d2d"}, "direction"),
        ("peer_copy", {"ranks": 3}, "ranks"),
    ],
)
def test_parameters_that_are_none_are_refused_by_name(kind: str, change: dict[str, Any], said: str) -> None:
    case = next(case for case in plan(2, quick=True) if case.kind == kind)
    with pytest.raises(InputError, match=said):
        convert(case.params | change, PARAMETERS[kind], case.name)


# ---- on a CPU ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_measure_all_of_these(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.probes.runner import run

    cases = [case for case in plan(2, True, "cpu") if case.kind in NEW or case.group in ("d2d", "host_flag")]
    rows = {row.case: row for row in run(cases, tmp_path, device="cpu")}
    assert {case.name for case in cases} <= rows.keys()
    assert not [row.rejected for row in rows.values() if str(row.rejected).startswith("failed")]
    for case in cases:
        row = rows[case.name]
        if row.rejected:
            continue
        assert len(row.ranks) == case.ranks
        for found in row.ranks:
            if case.kind == "engine":
                assert_engine(case, found)
            elif case.kind == "pageable":
                assert 0 < found["call"].median <= found["seconds"].median
                assert ("ahead" in found) == bool(case.params["busy"])
            elif case.kind == "peer_copy":
                assert found["seconds"].median > 0 and found["both_seconds"].median > 0
    order = rows["host_flag/order"].ranks[0]
    assert order["as_stated"].median == 1
    assert order["00000001 for ffffffff"].median == 1, "a counter may wrap around"
    assert order["ffffffff for 00000001"].median == 0
    assert all(row.ranks[0]["seconds"].median > 0 for name, row in rows.items() if "turns" in name)


def assert_engine(case: ProbeCase, found: dict[str, Stat]) -> None:
    trains = case.params["trains"]
    for i, _ in enumerate(trains):
        assert found[f"end_{i}"].median >= found[f"first_{i}"].median >= 0
    if case.params["posted"] == "together" and all(train == trains[0] for train in trains):
        ends = [found[f"end_{i}"].median for i in range(len(trains))]
        assert ends == sorted(ends), "equal trains are numbered by their ends"
    assert ("posted" in found) == (case.params["posted"] == "in_flight")
    assert 0 <= found["switches"].median <= 1


@given(
    st.lists(st.lists(st.floats(0, 1e3), min_size=1, max_size=8), min_size=2, max_size=4),
)
def test_switches_are_a_share(ends: list[list[float]]) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.probes.engines import switches

    assert 0 <= switches(ends) <= 1


@pytest.mark.parametrize(
    ("ends", "share"),
    [
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], 0.0),  # once the first has ended, only one has some left
        ([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]], 1.0),
        ([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]], 0.5),
        ([[1.0], [2.0]], 0.0),
    ],
)
def test_trains_that_alternate_switch_at_each_copy(ends: Sequence[Sequence[float]], share: float) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.probes.engines import switches

    assert switches(ends) == pytest.approx(share)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_at_least_is_cyclic(memory: int, wanted: int, turn: int) -> None:
    """As the driver says: (int32)(memory - wanted) >= 0, whatever both are counted from."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    import ctypes

    from sim.program.commands import at_least

    assert at_least(memory, wanted) == (ctypes.c_int32(memory - wanted).value >= 0)
    assert at_least((memory + turn) % 2**32, (wanted + turn) % 2**32) == at_least(memory, wanted)


# ---- fits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> list[Row]:
    """The measured rows of what other numbers are fitted to."""
    return [row for row in load_rows(MEASURED / RAW) if not is_new(row)]


def is_new(row: Row) -> bool:
    return row.kind in NEW or row.case.split("/")[0] in ("d2d", "host_flag")


def a_row(case: ProbeCase, **found: float) -> Row:
    stats = {name: Stat(value, 0.01, 5) for name, value in found.items()}
    return Row(
        schema=SCHEMA, case=case.name, kind=case.kind, params=dict(case.params), device="cuda", gpu="NVIDIA H200",
        date="2026-01-01T00:00:00+00:00", seconds=0.1, ranks=[stats] * case.ranks,
    )  # fmt: skip


def answered(truth: dict[str, float]) -> list[Row]:
    """Rows as a GPU with these numbers would give them."""
    rows = []
    for case in plan(2, quick=False):
        p = case.params
        if case.kind == "engine" and p["posted"] == "together":
            trains = [convert(train, Train, case.name) for train in p["trains"]]
            isolated = trains[0].bytes * trains[0].count / truth[f"{trains[0].direction}.cap"]
            at_once = min(int(truth[f"{trains[0].direction}.engines"]), len(trains))
            ends = {f"end_{i}": isolated * max(at_once, i + 1) for i in range(len(trains))}
            rows.append(a_row(case, alone_0=isolated, **ends))
        elif case.kind == "copy" and p["directions"] == ["d2d"]:
            rows.append(a_row(case, d2d=truth["d2d.setup"] + p["bytes"] / truth["d2d.cap"]))
        elif case.kind == "pageable":
            side = f"pageable.{p['direction']}"
            seconds = truth[f"{side}.setup"] + p["bytes"] / truth[f"{side}.rate"]
            if p["direction"] == "d2h":
                seconds += min(p["bytes"], truth["staging"]) / truth["d2h.cap"]
            ahead = {"ahead": float(p["bytes"] <= truth["staging"])} if p["busy"] else {}
            rows.append(a_row(case, call=seconds, **ahead))
        elif case.name.startswith("host_flag/host_"):
            cost = "host_flag_write" if "write" in p["pattern"] else "host_flag_wait"
            [plain] = [r for r in load_rows(MEASURED / RAW) if r.case == f"commands/copy/alone/{p['bytes']}"]
            more = p["pattern"].count("+") * truth[f"streams.{cost}"]
            rows.append(a_row(case, seconds=plain.stat("seconds").median + more))
        elif case.name == "host_flag/wake/kernel":
            rows.append(a_row(case, seconds=truth["streams.host_flag_write"] + truth["streams.host_flag_wake"]))
    return rows


def costs(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda v: float(f"{v:.4g}"))


TRUTHS = st.fixed_dictionaries(
    {
        "h2d.engines": st.integers(1, 3).map(float),
        "d2h.engines": st.integers(1, 3).map(float),
        "d2d.engines": st.integers(1, 2).map(float),
        "d2d.cap": costs(3e11, 4e12),
        "d2d.setup": costs(1e-6, 1e-5),
        "pageable.h2d.rate": costs(2e9, 20e9),
        "pageable.d2h.rate": costs(2e9, 20e9),
        "pageable.h2d.setup": costs(1e-6, 5e-5),
        "pageable.d2h.setup": costs(1e-6, 5e-5),
        "staging": st.sampled_from([MIB // 4, MIB, 2 * MIB, 4 * MIB, 16 * MIB]),
        "streams.host_flag_write": costs(0.5e-6, 5e-6),
        "streams.host_flag_wait": costs(0.5e-6, 5e-6),
        "streams.host_flag_wake": costs(0.5e-6, 9e-6),
    }
)


@settings(max_examples=8, deadline=None, phases=[Phase.generate])  # to shrink takes minutes
@given(truth=TRUTHS)
def test_the_numbers_of_a_gpu_come_back(truth: dict[str, float], base: list[Row]) -> None:
    fixed = {"h2d.cap": 55e9, "d2h.cap": fit_rows(base, "base").profile.d2h.cap.value}
    calibrated = fit_rows([*base, *answered({**truth, **fixed})], "found")
    found = {path: entry.value for path, entry in numbers_by_path(calibrated.profile).items()}
    staging = truth.pop("staging")
    assert found["pageable.h2d.staging"] == found["pageable.d2h.staging"] == staging
    off = {path: (found[path], value) for path, value in truth.items() if found[path] != pytest.approx(value, rel=0.01)}
    assert off == {}
    late = [r for r in calibrated.residuals if r.probe in ("engine", "d2d", "pageable", "host_flag")]
    assert late


def test_copies_between_gpus_are_fitted_from_both_ranks(base: list[Row]) -> None:
    cases = [case for case in plan(2, quick=True) if case.kind == "peer_copy"]
    rows = [a_row(c, seconds=4e-6 + c.params["bytes"] / 100e9, both_seconds=1.0) for c in cases]
    p2p = fit_rows([*base, *rows], "found").profile.p2p
    assert p2p is not None
    assert (p2p.cap.value, p2p.setup.value) == pytest.approx((100e9, 4e-6), rel=1e-3)
    assert p2p.cap.source.startswith("peer, ")


def test_hosts_without_peer_copies_have_none(base: list[Row]) -> None:
    profile = fit_rows(base, "found").profile
    assert profile.p2p is None and profile.d2d is None
    assert profile.h2d.engines.source == "not given: taken as 1"
    assert profile.streams.host_flag_wake.source == "not given: as streams.flag_wake"
    assert profile.pageable.h2d.rate.source.startswith("assumed: ")


def test_pageable_copies_that_take_less_for_more_are_refused(base: list[Row]) -> None:
    cases = [case for case in plan(1, quick=True) if case.kind == "pageable" and not case.params["busy"]]
    rows = [a_row(case, call=1.0 / case.params["bytes"]) for case in cases]
    with pytest.raises(FitError, match="pageable/h2d/idle: .* less than"):
        fit_rows([*base, *rows], "found")


# ---- what was measured ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case: row for row in load_rows(MEASURED / RAW)}


def ratio(row: Row, quantity: str) -> float:
    return row.stat(quantity).median / row.stat("alone_0").median


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
@pytest.mark.parametrize("size", [size for size in SIZES if size >= MIB])
def test_an_engine_serves_one_copy_of_a_direction_at_a_time(direction: str, size: int, rows: dict[str, Row]) -> None:
    row = rows[f"engine/{direction}/2/{size}"]
    assert ratio(row, "end_0") == pytest.approx(1, abs=0.02)
    assert ratio(row, "end_1") == pytest.approx(2, abs=0.11)


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_a_stream_keeps_the_engine_until_it_waits_for_a_flag(direction: str, rows: dict[str, Row]) -> None:
    """Trains of copies on two streams: events leave one train before the other, flags make them take turns."""
    for between in ("timed", "nothing", "events", "eventwaits"):
        if (row := rows.get(f"engine/{direction}/16x{4 * MIB}/{between}/2")) is not None:
            assert ratio(row, "end_0") == pytest.approx(1, abs=0.02), between
    for between in ("waits", "writes"):
        if (row := rows.get(f"engine/{direction}/16x{4 * MIB}/{between}/2")) is not None:
            assert ratio(row, "end_0") > 1.9, between


def test_the_shipped_profile_is_the_fit_of_its_rows(rows: dict[str, Row]) -> None:
    shipped = load_profile(MEASURED.name)
    fitted = fit_rows(list(rows.values()), MEASURED.name).profile
    assert numbers_by_path(shipped).keys() == numbers_by_path(fitted).keys()
    assert [entry.number for entry in numbers_by_path(fitted).values()] == [
        entry.number for entry in numbers_by_path(shipped).values()
    ]


def test_the_measured_set_is_that_of_the_plan(rows: dict[str, Row]) -> None:
    # calls of copies within a GPU, and what CUDA and NCCL take of its memory, came into the plan later
    later = {"issue/device_copy", "device/overhead"}
    cases = {case.name: case.params for case in plan(1, quick=False)}
    assert later <= cases.keys()
    planned = {name: params for name, params in cases.items() if name not in later}
    assert {name: row.params for name, row in rows.items() if row.kind not in ("host", "sampled")} == planned
    assert not [name for name, row in rows.items() if row.rejected]
    assert max(SIZES) > LONG
