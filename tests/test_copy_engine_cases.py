"""Collectives by copy engines in data sets: what is a baseline, what are operations, what kernels take."""

from __future__ import annotations

import pytest
from strategies import Plain, collective, compute, scenario, tiny_profile

from sim.datasets.cases import operations_of, with_nccl
from sim.machine import SimulatedMachine
from sim.program import Kernel, instrument
from sim.run import simulate
from sim.sweeps.experiments import load_experiment
from validation.predict import KernelTimes, with_kernel_times

ENGINES: Plain = {"algorithm": "copy_engine", "piece_bytes": 8}


def workload(kind: str = "all_to_all", **more: object) -> Plain:
    block = [compute(1.0, "a"), collective(32, kind), compute(2.0, "b")]
    return {"layers": 2, "steps": 3, "layer_bytes": 16, "block": block, **more}


def plain(policy: str, **more: object) -> Plain:
    return {"hardware": "h200x2-hostpath", "world_size": 2, "workload": workload(**more), "policy": {"kind": policy}}


def test_baselines_are_resident_with_nccl_and_stand_around_all_cases_of_a_workload() -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from calibration.measure import plan

    cases = [plain("whole_layer"), plain("resident", collectives=ENGINES), plain("whole_layer", collectives=ENGINES)]
    planned = [(m.scenario["policy"]["kind"], "collectives" in m.scenario["workload"]) for m in plan(cases)]
    assert planned == [
        ("resident", False),
        ("whole_layer", False),
        ("resident", True),
        ("whole_layer", True),
        ("resident", False),
    ]


def test_what_is_said_of_algorithms_is_not_what_is_computed() -> None:
    said = plain("chunked", collectives={"q": ENGINES})
    entry = {"collective": {"kind": "all_to_all", "bytes": 8, "algorithm": "copy_engine", "piece_bytes": 4}}
    said["workload"]["before"] = [{"block": [entry]}]
    without = with_nccl(said)
    assert "collectives" not in without["workload"]
    assert without["workload"]["before"] == [{"block": [{"collective": {"kind": "all_to_all", "bytes": 8}}]}]
    assert without["policy"] == said["policy"]
    assert with_nccl(without) == without


def test_a_collective_by_copy_engines_is_one_operation_without_events_of_its_own() -> None:
    for kind in ("all_to_all", "all_reduce"):
        runs = []
        for more in ({}, {"collectives": ENGINES}):
            of = scenario(workload(kind, **more), {"kind": "whole_layer"})
            program = instrument(of.program()).program
            timeline = SimulatedMachine(tiny_profile(2)).run(program)
            runs.append([o for o in operations_of(timeline) if o.kind in ("Collective", "Kernel", "Copy")])
            kernels = {o.name for o in runs[-1] if o.kind == "Kernel"} - {f"{kind} add"}
            assert kernels == {"a", "b"}
        calls = [[(o.name, o.layer, o.bytes, o.stream) for o in run if o.kind == "Collective"] for run in runs]
        assert calls[0] == calls[1] == [(kind, 0, 32, "compute"), (kind, 1, 32, "compute")]
        assert {o.stream for o in runs[1] if o.kind == "Copy"} == {"copy"}


def test_additions_take_what_the_profile_says_where_baselines_have_none() -> None:
    program = scenario(workload("all_reduce", collectives=ENGINES), {"kind": "resident"}).program()
    times = {(layer, name, 0): seconds for layer in (0, 1) for name, seconds in (("a", 0.5), ("b", 0.25))}
    timed = with_kernel_times(program, KernelTimes(times, times))
    kernels = {(k.name, k.seconds) for k in timed.ranks[0].commands() if isinstance(k, Kernel)}
    assert kernels == {("a", 0.5), ("b", 0.25), ("all_reduce add", None)}


def test_the_campaign_has_every_workload_with_both_algorithms() -> None:
    points = load_experiment("scenarios/measurements/copy-engines-2gpu.yaml").points("campaign", check_gpu_count=False)
    found: dict[str, set[bool]] = {}
    for point in points:
        found.setdefault(str(point.values["case"]), set()).add("collectives" in point.data["workload"])
    assert len(found) == 8
    assert set(map(tuple, found.values())) == {(False, True)}


def test_isolated_times_are_those_of_the_collective_alone() -> None:
    of = scenario(workload(collectives=ENGINES), {"kind": "resident"})
    alone = simulate(of, tiny_profile(2)).timeline
    # 16 B in two pieces at 8 B/s: one goes down, then both come up, at one time
    assert [span.isolated_time for span in alone.composed] == [pytest.approx(3.0)] * len(alone.composed)
    beside = simulate(scenario(workload(collectives=ENGINES, layer_bytes=80), {"kind": "whole_layer"}), tiny_profile(2))
    figures = beside.metrics
    assert figures["contention_s"] > 0
    assert figures["collective_time_s"] == pytest.approx(2 * 3.0 + figures["contention_s"] + figures["skew_s"])


def test_a_timeline_shows_collectives_by_their_names_and_their_pieces() -> None:
    found = simulate(scenario(workload(collectives=ENGINES), {"kind": "resident"}), tiny_profile(2)).timeline
    frame = found.to_frame()
    calls = frame[(frame["kind"] == "Collective") & (frame["rank"] == 0)]
    assert list(calls["name"]) == ["all_to_all"] * 6
    assert set(calls["stream"]) == {"compute"}
    pieces = frame[(frame["kind"] == "Copy") & (frame["rank"] == 0) & (frame["step"] == 0) & (frame["layer"] == 0)]
    assert sorted(zip(pieces["stream"], pieces["name"], strict=True)) == [
        ("compute", "all_to_all own"),
        ("compute receive", "all_to_all in 0"),
        ("compute receive", "all_to_all in 1"),
        ("compute send", "all_to_all out 0"),
        ("compute send", "all_to_all out 1"),
    ]
    within = calls[(calls["step"] == 0) & (calls["layer"] == 0)].iloc[0]
    assert within["start_s"] <= pieces["start_s"].min()
    assert within["end_s"] >= pieces["end_s"].max()
