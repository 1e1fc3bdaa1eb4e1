"""Published cases: the stated bounds hold, a broken host breaks them, and bad files are told."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from conftest import shared_folder
from strategies import Plain, collective, compute

from sim.cli import main
from sim.hardware import Profile, load_profile
from sim.hardware.topology import Capacity, Link, Sourced
from sim.inputs.config import InputError
from sim.inputs.units import Bandwidth, Number
from validation import published, published_tables
from validation.published import Case, Figure, Outcome, Row, load_suite, predict, predict_all

ROOT = Path(__file__).parents[1]
CASES = {case.name: case for name in published.shipped() for case in load_suite(name).cases}
FLUX = "FLUX.1-dev 1024 x 1024, batch 8"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """All cases predicted."""

    def make(folder: Path) -> None:
        with ProcessPoolExecutor(2) as pool:
            (folder / "pickle").write_bytes(pickle.dumps(list(predict_all(CASES.values(), pool))))

    found: list[Outcome] = pickle.loads((shared_folder(tmp_path_factory, "published", make) / "pickle").read_bytes())
    return found


def figures(outcome: Outcome, run: str) -> dict[str, float]:
    return {row.figure.figure: row.predicted for row in outcome.rows if row.run == run}


# ---- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_stated_bound_holds(outcomes: Sequence[Outcome]) -> None:
    assert [fault for outcome in outcomes for fault in outcome.faults] == []
    assert sum(row.figure.bounds is not None for o in outcomes for row in o.rows) > 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "speedup", "within"),
    [
        ("Wan2.2-TI2V-5B, 81 frames", 1.27, 0.05),
        ("HunyuanVideo 720p, 21 frames", 1.24, 0.05),
        (FLUX, 1.10, 0.05),
        ("FLUX.1-dev 1024 x 1024, batch 16", 1.015, 0.015),
    ],
)
def test_chunkflow_is_as_much_faster_as_published(
    case: str, speedup: float, within: float, outcomes: Sequence[Outcome]
) -> None:
    outcome = next(o for o in outcomes if o.case.name == case)
    made = figures(outcome, "ChunkFlow")
    assert made["speedup"] == pytest.approx(speedup, abs=within)
    assert made["speedup"] > 1
    assert made["inflation_per_overlap"] == pytest.approx(0.50, abs=0.06)
    # the files may not state wider bounds
    stated = {f.figure: f.bounds for f in outcome.case.runs[2].figures}
    for name, least, most in (("speedup", speedup - within, speedup + within), ("inflation_per_overlap", 0.44, 0.56)):
        bounds = stated[name]  # type: ignore[index]
        assert bounds is not None and bounds[0] >= least - 1e-9 and bounds[1] <= most + 1e-9


def _no_contention(profile: Profile) -> Profile:
    """Collectives cross nothing that copies cross."""
    apart = Link(mesh=((0,), (1,)), each_way=Capacity(value=Bandwidth(1e15), source="broken"))
    topology = msgspec.structs.replace(profile.topology, links=(*profile.topology.links, apart), peers="direct")
    return msgspec.structs.replace(profile, topology=topology)


def _weight(value: float) -> Any:
    def change(profile: Profile) -> Profile:
        replace = msgspec.structs.replace
        cls = replace(profile.collectives.all_to_all, weight=Sourced(Number(value), "broken"))
        return replace(profile, collectives=replace(profile.collectives, all_to_all=cls))

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "broken"),
    [
        pytest.param(_no_contention, "inflation_per_overlap", id="collectives do not contend"),
        pytest.param(_weight(0.2932), "speedup", id="the weight of the H200 host"),
    ],
)
def test_a_broken_fabric_breaks_bounds(change: Any, broken: str) -> None:
    case = CASES[FLUX]
    faults = predict(msgspec.structs.replace(case, runs=case.runs[:3]), change).faults
    assert any(f"ChunkFlow: {broken} is" in fault for fault in faults)


@pytest.mark.slow
def test_threads_that_keep_step_slow_each_other_more() -> None:
    case = CASES[FLUX]
    case = msgspec.structs.replace(case, runs=(case.runs[0], case.runs[2]), fit="nothing")

    def in_step(profile: Profile) -> Profile:
        host = msgspec.structs.replace(profile.host, wake_spread=Sourced(Number(0.0), "in step"))
        return msgspec.structs.replace(profile, host=host)

    apart, together = (figures(predict(case, change), "ChunkFlow") for change in (None, in_step))
    path = load_profile(case.hardware).capacities[0]
    assert together["chunk_p50_s"] == pytest.approx(2 * 2**24 / path, rel=0.02)
    assert apart["chunk_p50_s"] < 0.97 * together["chunk_p50_s"]


@pytest.mark.slow
def test_only_the_column_without_offload_is_fitted(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        assert {row.run for row in outcome.rows if row.fitted} <= {"no offload", "1 GPU"}
        assert all(abs(row.error or 0) < 0.002 for row in outcome.rows if row.fitted)


@pytest.mark.slow
def test_the_table_in_the_documentation_is_todays(outcomes: Sequence[Outcome]) -> None:
    text = (ROOT / "docs" / "modelling.md").read_text()
    [table] = re.findall(r"<!-- published table -->\n(.*)\n<!-- end of published table -->", text, re.DOTALL)
    assert table == published_tables.markdown(outcomes)


# ---- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "predicted", "broken", "error"),
    [
        ({}, 9.0, False, 8.0),
        ({"tolerance": 0.1}, 1.1, False, 0.1),
        ({"tolerance": 0.1}, 0.89, True, -0.11),
        ({"to": 2.0, "tolerance": 0.1}, 2.1, False, 0.05),
        ({"to": 2.0, "tolerance": 0.1}, 1.5, False, 0.0),
        ({"least": 0.5}, 0.4, True, -0.6),
        ({"most": 1.5, "tolerance": 1}, 1.6, True, 0.6),
        ({"tolerance": 0.1}, float("nan"), True, None),
    ],
)
def test_a_row_is_held_to_its_bounds(more: Plain, predicted: float, broken: bool, error: float | None) -> None:
    row = Row("c", "r", Figure(figure="step_s", published=Number(1.0), kind="M", **more), predicted, False)
    assert row.broken == broken
    if error is not None:
        assert row.error == pytest.approx(error)
    assert ("broken" in published_tables.cells(row)[-1]) == broken


def test_nothing_is_off_by_a_share_of_zero() -> None:
    row = Row("c", "r", Figure(figure="overlap_s", published=Number(0.0), kind="M"), 0.1, False)
    assert row.error is None and not row.broken


# ---- files and the command -----------------------------------------------------------------------------------------


def suite(**changes: Any) -> Plain:
    """A small file of one case: a layer's copy takes as long as its kernel."""
    step = [{"figure": "step_s", "published": 0.02, "kind": "M", "tolerance": 0.05}]
    case: Plain = {
        "name": "small",
        "source": "a test",
        "hardware": "h200x2-hostpath",
        "world_size": 2,
        "workload": {
            "layers": 2,
            "steps": 3,
            "layer_bytes": 55350000,
            "block": [compute(9e-3), collective(10**6)],
        },
        "fit": "nothing",
        "runs": [
            {"name": "no offload", "policy": {"kind": "resident"}, "figures": step},
            {"name": "whole-layer", "policy": {"kind": "whole_layer"}, "figures": step},
        ],
    }
    return {"source": "a test", "cases": [case | changes]}


def written(tmp_path: Path, data: Plain) -> Path:
    file = tmp_path / "suite.yaml"
    file.write_text(json.dumps(data))
    return file


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"runs": []}, "cases[0]: runs is empty"),
        ({"fitt": "kernels"}, "cases[0].fitt: unknown key; did you mean 'fit'?"),
        ({"fit": "outside"}, "cases[0]: fit outside needs a first run of kind resident with a published request_s"),
        ({"request_steps": 0}, "cases[0]: request_steps is 0"),
        ({"hardware": "h200x2"}, "cases[0].runs[0].hardware: 'h200x2' is not a hardware profile"),
        ({"world_size": 3}, "cases[0].runs[0].world_size: is 3, but h200x2-hostpath has 2 GPUs"),
        ({"workload": {"model": "wan"}}, "cases[0].runs[0].workload.height: is missing"),
    ],
)
def test_a_wrong_file_is_reported(changes: Plain, expected: str, tmp_path: Path) -> None:
    file = written(tmp_path, suite(**changes))
    with pytest.raises(InputError, match=re.escape(f"{file}: {expected}")):
        load_suite(file)


def test_a_step_without_offload_cannot_be_shorter_than_its_collectives(tmp_path: Path) -> None:
    [case] = load_suite(written(tmp_path, suite(fit="kernels"))).cases
    step = Figure(figure="step_s", published=Number(1e-6), kind="M")
    runs = (msgspec.structs.replace(case.runs[0], figures=(step,)),)
    with pytest.raises(
        InputError, match="small, step_s: is 1 us, but a step on 2 ranks as written takes .* without any compute"
    ):
        predict(msgspec.structs.replace(case, runs=runs))


def test_a_request_has_a_time_outside_of_its_steps(tmp_path: Path) -> None:
    request = [{"figure": "request_s", "published": 1.0, "kind": "M"}]
    runs = [{"name": "no offload", "policy": {"kind": "resident"}, "figures": request}]
    [case] = load_suite(written(tmp_path, suite(fit="outside", request_steps=10, runs=runs))).cases
    [row] = predict(case).rows
    assert row.predicted == pytest.approx(1.0) and row.fitted


def test_the_order_of_runs_is_checked_unless_a_run_is_left_out(tmp_path: Path) -> None:
    def runs(ordered: bool) -> list[Plain]:
        return [
            {"name": name, "policy": {"kind": kind}, "ordered": ordered, "figures": [figure | {"published": seconds}]}
            for name, kind, seconds in (("no offload", "resident", 2.0), ("whole-layer", "whole_layer", 1.0))
        ]

    figure = {"figure": "step_s", "kind": "M"}
    found = []
    for ordered in (True, False):
        [case] = load_suite(written(tmp_path, suite(runs=runs(ordered)))).cases
        found.append(predict(case).faults)
    assert found == [["small: whole-layer is published as faster than no offload"], []]


def command(monkeypatch: pytest.MonkeyPatch, file: Path, *more: str) -> tuple[int, str]:
    monkeypatch.setattr(published, "shipped", lambda: ("small",))
    monkeypatch.setattr(published, "load_suite", lambda _: load_suite(file))
    done = CliRunner().invoke(main, ["validate", "--published", "--workers", "1", *more])
    return done.exit_code, done.output


@pytest.mark.parametrize("more", [(), ("--markdown",)])
def test_the_command_ends_with_1_if_a_bound_is_broken(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = command(monkeypatch, written(tmp_path, suite()), *more)
    assert (code, "small" in output) == (1, True)
    assert "2 stated bounds are broken" in output


def test_the_command_ends_with_0_if_all_hold_and_2_if_a_file_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = suite()
    for run in data["cases"][0]["runs"]:
        run["figures"] = [{"figure": "step_s", "published": 0.02, "kind": "M", "most": 1.0}]
    assert command(monkeypatch, written(tmp_path, data))[0] == 0
    code, output = command(monkeypatch, written(tmp_path, suite(runs=[])))
    assert code == 2 and output.count("\n") == 1 and "runs is empty" in output


def test_published_cases_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, ["validate", "--published", "--hardware", "h100x2-pcie"])
    assert done.exit_code == 2 and "--published takes no other option" in done.output


def test_a_case_pickles_and_is_frozen() -> None:
    case: Case = pickle.loads(pickle.dumps(CASES[FLUX]))
    assert case == CASES[FLUX]
