"""The shipped experiments run, and their curves have the published shapes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command

from sim.inputs.config import InputError, convert
from sim.report.sweep_page import write_experiment
from sim.sweeps.experiments import Experiment, load_experiment, shipped
from sim.sweeps.grid import Row, sweep

MiB = 2**20


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ProcessPoolExecutor(2) as executor:
        yield executor


def run(name: str, pool: Executor) -> list[Row]:
    rows = sweep(load_experiment(name).points(name), pool)
    assert not [r.error for r in rows if r.error]
    return rows


def curve(rows: list[Row], kind: str, x: str) -> dict[float, float]:
    """Step time, s, over the axis `x` for one kind of policy."""
    return {
        float(str(r.values[x])): r.metrics["step_time_s"]
        for r in rows
        if r.values["policy.kind"] == kind and r.values[x] is not None
    }


@pytest.mark.slow
def test_the_chunk_size_curve_is_a_u(pool: Executor) -> None:
    steps = curve(run("chunk-size-wan", pool), "yielding", "policy.chunk_bytes")
    sizes = sorted(steps)
    best = min(sizes, key=lambda size: steps[size])
    assert 4 * MiB <= best <= 64 * MiB
    falling, rising = [s for s in sizes if s <= best], [s for s in sizes if s >= best]
    assert all(steps[a] > steps[b] for a, b in pairwise(falling))
    assert all(steps[a] < steps[b] for a, b in pairwise(rising))
    assert steps[sizes[0]] > 1.1 * steps[best]
    assert steps[sizes[-1]] > 1.1 * steps[best]


@pytest.mark.slow
def test_the_step_falls_in_a_line_with_residency_until_it_meets_the_resident_one(pool: Executor) -> None:
    rows = run("residency-wan-small", pool)
    resident = next(r.metrics["step_time_s"] for r in rows if r.values["policy.kind"] == "resident")
    for kind in ("whole_layer", "yielding"):
        steps = curve(rows, kind, "policy.resident_fraction")
        fractions = sorted(steps)
        assert steps[1.0] == pytest.approx(resident)
        slope = (steps[0.5] - steps[0.0]) / 0.5  # here copies bind
        assert slope < -resident
        for f in (f for f in fractions if f <= 0.5):
            assert steps[f] == pytest.approx(steps[0.0] + slope * f, rel=0.002)
        assert all(steps[a] >= steps[b] * (1 - 1e-3) for a, b in pairwise(fractions))


@pytest.mark.slow
def test_overhead_vanishes_past_the_crossover(pool: Executor) -> None:
    rows = run("frames-wan", pool)
    resident, yielding = (curve(rows, kind, "workload.frames") for kind in ("resident", "yielding"))
    overhead = [yielding[frames] / resident[frames] - 1 for frames in sorted(resident)]
    assert overhead[0] > 3
    assert overhead[-1] < 0.03  # what a chunk in flight costs each collective
    assert all(a > b - 0.02 for a, b in pairwise(overhead))  # which collective a chunk meets moves it by a point


@pytest.mark.slow
def test_three_models_keep_the_published_order(pool: Executor) -> None:
    rows = run("models-policies", pool)
    steps = {(r.values["case"], r.values["policy.kind"]): r.metrics["step_time_s"] for r in rows}
    published = {
        "Wan2.2-TI2V-5B, 81 frames": 1.302,
        "HunyuanVideo, 21 frames": 1.340,
        "FLUX.1-dev, batch 8": 1.624,
    }
    for case, seconds in published.items():
        assert steps[case, "resident"] == pytest.approx(seconds, rel=0.1)
        assert steps[case, "resident"] < steps[case, "yielding"] < steps[case, "whole_layer"]


@pytest.mark.slow
def test_yield_windows_leak_as_published(pool: Executor) -> None:
    rows = {str(r.values["case"]): r.metrics for r in run("yield-windows-wan", pool)}
    leak = {name: f["h2d_collective_overlap_s"] / f["collective_time_s"] for name, f in rows.items()}
    assert 1 / 3 <= leak["launch window"] <= 2 / 3
    assert leak["kernel window"] == 0
    assert leak["device gate, drain"] < 0.01
    # a gate leaks at most the chunk in flight: 16 MiB at a quarter of the host path, once a collective
    calls, chunk = 8 * 60, 16 * MiB / (54.5e9 / 4)
    assert rows["device gate"]["h2d_collective_overlap_s"] <= calls * (chunk + 10e-6)
    assert rows["launch window"]["step_time_s"] == pytest.approx(1.483, rel=0.06)
    assert rows["no yielding"]["step_time_s"] > rows["device gate"]["step_time_s"]


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_every_experiment_has_a_page(name: str, pool: Executor, tmp_path: Path) -> None:
    experiment = load_experiment(name)
    points = experiment.points(name)[:6]
    write_experiment(tmp_path / "page.html", experiment, points, sweep(points, pool))
    assert escape(experiment.title) in (tmp_path / "page.html").read_text()


def test_an_unknown_experiment_is_told_the_shipped_ones() -> None:
    with pytest.raises(
        InputError, match="is not an experiment; did you mean 'chunk-size-wan'\\? `chunkflow-sim experiment` lists all"
    ):
        load_experiment("chunks")


@pytest.mark.slow
def test_one_uplink_slows_collectives_and_nvswitch_does_not(pool: Executor) -> None:
    rows = run("aces", pool)
    step = {(str(r.values["case"]), str(r.values["policy.kind"])): r.metrics["step_time_s"] for r in rows}
    called = {(str(r.values["case"]), str(r.values["policy.kind"])): r.metrics["collective_time_s"] for r in rows}
    one, switched = "one uplink", "NVSwitch"
    assert step[one, "whole_layer"] / step[one, "resident"] == pytest.approx(1.12, abs=0.04)
    assert called[one, "whole_layer"] / called[one, "resident"] == pytest.approx(1.32, abs=0.08)
    assert step[switched, "whole_layer"] / step[switched, "resident"] < 1.01
    for case in (one, f"{one}, 17 frames"):
        assert step[case, "sharded"] >= step[case, "whole_layer"]
    few = f"{switched}, 17 frames"
    assert step[few, "sharded"] < 0.5 * step[few, "whole_layer"]


PLAIN: dict[str, Any] = {
    "title": "t",
    "about": "a",
    "x": "policy.chunk_bytes",
    "plot": "curves",
    "scenario": {
        "hardware": "h200x2-hostpath",
        "world_size": 2,
        "workload": {"layers": 2, "steps": 2, "layer_bytes": "4 MiB", "block": [{"compute": {"name": "a", "seconds": 1}}]},
        "policy": {"kind": "chunked", "chunk_bytes": "1 MiB"},
    },
    "axes": {"policy.chunk_bytes": "1MiB..4MiB:x2"},
}  # fmt: skip
CASES = [{"name": "a", "set": {}}, {"name": "b", "set": {"world_size": 1}}]
DRAIN = {"policy.kind": ["yielding"], "policy.drain": [True]}
KINDS = {"policy.kind": ["resident", "chunked"]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"axes": {"policy.chunk_bytes": []}}, "axes.policy.chunk_bytes: has no values"),
        ({"axes": {"policy.chunk_bytes": None}}, "axes.policy.chunk_bytes: expected a list of values, or text such as"),
        ({"axes": {"policy.chunk_bytes": {"a": 1}}}, "policy.chunk_bytes: expected a size, such as 16777216"),
        ({"axes": {"policy.chunk_bytes": "4..1:x2"}}, "axes.policy.chunk_bytes: expected a range that ascends"),
        ({"axes": {"policy.chunk_bytes": "1..z:x2"}}, "axes.policy.chunk_bytes: 'z' is not a number with a unit"),
        ({"axes": {"world_size": [1]}}, "x: is 'policy.chunk_bytes', which is none of the axes: world_size"),
        ({"axes": {}}, "x: is 'policy.chunk_bytes', which is none of the axes: there are neither axes"),
        ({"x": "policy.kind", "axes": KINDS}, "axes.policy.kind[0]: is 'resident': plot: curves needs numbers on x"),
        ({"x": "policy.kind", "axes": {"policy.kind": "resident,chunked"}}, "axes.policy.kind: is 'resident': plot:"),
        ({"axes": {"policy.chunk_bytes": ["1 MiB", True]}}, "policy.chunk_bytes=True: policy.chunk_bytes: expected a size"),
        ({"axes": {"policy.chunk_bytes": [float("nan")]}}, "policy.chunk_bytes=.nan: policy.chunk_bytes: expected a size"),
        ({"x": "policy.drain", "axes": DRAIN}, "axes.policy.drain[0]: is True: plot: curves needs numbers on x"),
        ({"x": "case", "cases": CASES}, "plot: curves need numbers on x, not the names of cases: plot: bars shows any"),
        ({"cases": CASES, "axes": {"case": [1]}}, "axes.case: is the axis of the cases: give this one another name"),
        ({"plot": "bars", "axes": {"policy.chunk_bytes": [2**20, "1 ms"]}}, "policy.chunk_bytes=1 ms: policy.chunk_bytes:"),
        ({"axes": PLAIN["axes"] | {"world_size": [2, 3]}}, "world_size=3: world_size: is 3, but h200x2-hostpath has 2"),
        ({"axes": PLAIN["axes"] | KINDS | {"policy.chunks": [1]}}, "policy.chunks: unknown key, which no policy has"),
    ],
)  # fmt: skip
def test_a_wrong_experiment_is_refused_before_anything_runs(
    change: dict[str, Any], told: str, chunkflow: Command, tmp_path: Path
) -> None:
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(PLAIN | change))
    with pytest.raises(InputError) as caught:
        load_experiment(str(tmp_path / "e.yaml")).points("e.yaml")
    assert str(caught.value).startswith("e.yaml") and told in str(caught.value)
    if "axes" in change and None in change["axes"].values():
        done = chunkflow("experiment", "e.yaml", "--out", "rows.csv", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "") and told in done.stderr
        assert not (tmp_path / "rows.csv").exists()


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        ("1MiB..4MiB:x2", [2**20, 2**21, 2**22]),
        ("1 MiB,2MiB", [2**20, 2**21]),
        ([1048576, "2 MiB"], [2**20, 2**21]),
        (1048576, [2**20]),
        ([1.5e6], [1_500_000]),
        ("2097152", [2**21]),
    ],
)
def test_axes_of_an_experiment_are_lists_text_or_one_number(values: object, sizes: list[int]) -> None:
    experiment = convert(PLAIN | {"axes": {"policy.chunk_bytes": values}}, Experiment, "e.yaml")
    assert [point.data["policy"] for point in experiment.points("e.yaml")] == [
        {"kind": "chunked", "chunk_bytes": point.values["policy.chunk_bytes"]} for point in experiment.points("e.yaml")
    ]
    policies = [point.job.scenario.policy for point in experiment.points("e.yaml")]
    assert [policy.chunk_bytes for policy in policies] == sizes
