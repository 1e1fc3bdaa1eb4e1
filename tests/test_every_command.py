"""Every command on every policy, shipped profile and shipped model: in the terminal, as JSON and as a page."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from conftest import LONG
from html_reader import table_rows
from strategies import Plain, tiny_profile

from sim import hardware, simulate
from sim.analysis.explain import explain, to_plain
from sim.analysis.sensitivity import Interval, sensitivity
from sim.cli import main
from sim.inputs.config import convert
from sim.policies import kinds
from sim.report.sweep_page import write_experiment, write_page
from sim.report.tables import print_explanation, print_run, print_sweep, print_waterfall
from sim.report.uncertainty import print_interval, print_sensitivity
from sim.scenario import Scenario
from sim.sweeps.experiments import Experiment
from sim.sweeps.grid import points, sweep
from sim.timeline.critical_path import causes, waterfall
from sim.timeline.perfetto import write_trace
from sim.workloads import named

POLICIES: dict[str, Plain] = {
    "resident": {"kind": "resident"},
    "whole_layer": {"kind": "whole_layer"},
    "after_compute": {"kind": "whole_layer", "issue": "after_compute", "resident_layers": [0]},
    "quiesce": {"kind": "whole_layer", "quiesce": True, "prefetch_layers": 0},
    "chunked": {"kind": "chunked", "chunk_bytes": "32 MiB", "resident_fraction": 0.5},
    "yielding": {"kind": "yielding", "chunk_bytes": "32 MiB"},
    "drain": {"kind": "yielding", "chunk_bytes": "32 MiB", "drain": True},
    "launch": {"kind": "yielding", "chunk_bytes": "32 MiB", "window": "launch"},
    "kernel": {"kind": "yielding", "chunk_bytes": "32 MiB", "window": "kernel", "slots": 3, "lock": "landed"},
    "no gate": {"kind": "yielding", "chunk_bytes": "32 MiB", "yield_to": "none"},
    "adaptive": {"kind": "adaptive", "algorithms": ["nccl", "copy_engine"]},
    "sharded": {"kind": "sharded"},
    "sharded in chunks": {"kind": "sharded", "chunk_bytes": "32 MiB", "prefetch_layers": 2},
    "sharded on the GPUs": {"kind": "sharded", "store": "device"},
    "diffusers": {"kind": "diffusers_group_offload"},
    "diffusers by leaves": {"kind": "diffusers_group_offload", "level": "leaf", "record_stream": False},
    "diffusers without a stream": {"kind": "diffusers_group_offload", "stream": False},
    "sglang": {"kind": "sglang_layerwise", "resident_layers": [0]},
    "vllm-omni": {"kind": "vllm_omni_layerwise"},
}
"""Each kind of policy, with each option that makes another schedule of it."""

BLOCK = [
    {"compute": {"name": "a", "seconds": "100 us"}},
    {"collective": {"kind": "all_to_all", "bytes": "1 MiB"}},
    {"collective": {"kind": "all_reduce", "bytes": "1 MiB"}},
    {"compute": {"name": "b", "flops": "1 GFLOP", "launches": 3}},
]
EXPLICIT: Plain = {"layers": 2, "steps": 2, "layer_bytes": "40 MiB", "block": BLOCK}


def pairs(others: Iterable[str], share: int) -> list[tuple[str, str]]:
    """Every host and all of `others`, each with one of `share` of the other kind; all pairs in a long run."""
    hosts_and_others = product(enumerate(hardware.shipped()), enumerate(others))
    return [(host, other) for (i, host), (j, other) in hosts_and_others if LONG or (i + j) % share == 0]


TESTED_ELSEWHERE = {"calibrate", "doctor", "import", "measure", "plan", "serve", "validate"}
"""Commands that take no policy, profile or model, or that need a machine; test_measure and others run them."""


def scenario(policy: Plain, host: str = "h200x2-hostpath", workload: Plain = EXPLICIT) -> Plain:
    ranks = min(2, hardware.load_profile(host).gpus)
    return {"hardware": host, "world_size": ranks, "workload": workload, "policy": policy}


def of_model(name: str) -> Plain:
    """A small workload of a model."""
    frames = {"frames": 17} if named.load_model(name).vae.temporal > 1 else {}
    return {"model": name, "height": 256, "width": 256, "layers": 2, "steps": 2} | frames


def invoke(*args: str) -> str:
    """What a command prints; it must end well."""
    done = CliRunner().invoke(main, args)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@contextmanager
def scenario_file(folder: Path, plain: Plain) -> Iterator[str]:
    file = folder / "s.yaml"
    file.write_text(yaml.safe_dump(plain))
    yield str(file)


def test_the_tested_policies_cover_every_kind_and_variant() -> None:
    chosen = [Scenario.from_plain(scenario(p)).policy for p in POLICIES.values()]
    # recorded programs have tests of their own
    assert {type(policy) for policy in chosen} == set(kinds().values()) - {kinds()["replay"]}
    labels = {
        "whole_layer+after_compute",
        "whole_layer+quiesce",
        "yielding+drain",
        "yielding+launch",
        "yielding+kernel",
    }
    assert {policy.label() for policy in chosen} >= labels | {"sharded+device"}


def test_every_command_is_tested() -> None:
    assert isinstance(main, click.Group)
    tried = {"run", "explain", "sensitivity", "hardware", "models", "sweep", "experiment"}
    assert set(main.commands) == tried | TESTED_ELSEWHERE


@pytest.mark.parametrize("policy", POLICIES)
def test_run_and_explain_of_every_policy(policy: str, tmp_path: Path) -> None:
    with scenario_file(tmp_path, scenario(POLICIES[policy])) as file:
        kind = POLICIES[policy]["kind"]
        ran = invoke("run", file).splitlines()
        assert ran[0].startswith("memory: ") and kind in next(line for line in ran if line.startswith("s.yaml on "))
        figures = json.loads(invoke("run", file, "--json", "--trace", str(tmp_path / "t.json")))
        assert 0 < figures["lower_bound_s"] <= figures["step_time_s"] * (1 + 1e-9)
        assert len(json.loads((tmp_path / "t.json").read_text())["traceEvents"]) > 10
        assert "resident step" in invoke("explain", file)
        assert json.loads(invoke("explain", file, "--json"))["sentences"]


@pytest.mark.parametrize("host", hardware.shipped())
def test_every_profile_is_shown_and_run_on(host: str, tmp_path: Path) -> None:
    assert host in invoke("hardware", host)
    assert json.loads(invoke("hardware", host, "--json"))["name"]
    invoke("hardware", host, "--html", str(tmp_path / "page.html"))
    assert "<svg" in (tmp_path / "page.html").read_text(encoding="utf-8")
    policies = list(POLICIES.values())
    with scenario_file(tmp_path, scenario(policies[hardware.shipped().index(host) % len(policies)], host)) as file:
        assert "memory: " in invoke("run", file).splitlines()[0]
        assert json.loads(invoke("run", file, "--json"))["fits_memory"] is True


@pytest.mark.parametrize("name", named.shipped())
def test_every_model_is_shown_and_run(name: str, tmp_path: Path) -> None:
    assert name in invoke("models", name)
    assert json.loads(invoke("models", name, "--json"))["transformer"]
    policies = list(POLICIES.values())
    chosen = policies[named.shipped().index(name) % len(policies)]
    with scenario_file(tmp_path, scenario(chosen, workload=of_model(name))) as file:
        assert "step time" in invoke("run", file)
        figures = json.loads(invoke("run", file, "--json"))
        assert 0 < figures["lower_bound_s"] <= figures["step_time_s"] * (1 + 1e-9)


def test_a_sweep_over_all_policies_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = points(scenario(POLICIES["resident"]), {"policy": list(POLICIES.values())}, "s.yaml")
    rows = sweep(made, output=tmp_path / "rows.csv")
    assert not [row.error for row in rows if row.error]
    print_sweep("s.yaml", rows)
    assert capsys.readouterr().out.count(" yes ") == len(POLICIES)
    write_page(tmp_path / "page.html", "s.yaml", made, rows)
    assert table_rows((tmp_path / "page.html").read_text(encoding="utf-8"), "All points") == len(POLICIES)
    lines = list(csv.DictReader((tmp_path / "rows.csv").open(newline="", encoding="utf-8")))
    assert [line["fits_memory"] for line in lines] == ["true"] * len(POLICIES)
    assert sweep(made, output=tmp_path / "rows.csv") == rows


QUANTITIES: dict[str, list[Any]] = {
    "policy.chunk_bytes": ["1 MiB", "2 MiB"],
    "policy.resident_fraction": [0, 0.25, "0.5"],
    "policy.prefetch_layers": [1, 2],
    "workload.block[0].compute.seconds": ["1 ms", "200 us", 3e-4],
    "workload.layer_bytes": [2**20, "4 MB"],
}
AXES: dict[str, list[Any]] = QUANTITIES | {
    "policy.kind": ["resident", "chunked", "yielding", "whole_layer"],
    "policy": list(POLICIES.values()),
    "hardware": ["h200x2-hostpath", "h200x2-gen4"],
    "policy.drain": [True, False],
}
"""Axes to plot against: also words, true and false, mappings."""


@pytest.mark.parametrize(
    ("x", "plot"),
    [*((x, "curves") for x in QUANTITIES), *((x, plot) for plot in ("bars", "chunk") for x in AXES)],
)
def test_every_plot_of_an_experiment_takes_every_kind_of_axis(x: str, plot: str, tmp_path: Path) -> None:
    kinds = {"policy.kind": ["chunked", "yielding"]} if x in ("policy.chunk_bytes", "policy.drain") else {}
    plain = {
        "title": "t",
        "about": "a",
        "x": x,
        "plot": plot,
        "scenario": scenario(POLICIES["yielding"]),
        "axes": {x: AXES[x], **kinds},
    }
    chosen = convert(plain, Experiment, "e.yaml")
    made = chosen.points("e.yaml")
    write_experiment(tmp_path / "page.html", chosen, made, sweep(made))
    assert table_rows((tmp_path / "page.html").read_text(encoding="utf-8"), "All points") == len(made)


def test_curves_are_drawn_at_the_values_of_quantities(tmp_path: Path) -> None:
    plain = {
        "title": "t",
        "about": "a",
        "x": "policy.chunk_bytes",
        "plot": "curves",
        "scenario": scenario(POLICIES["yielding"]),
        "axes": {"policy.chunk_bytes": ["2 MiB", "1 MiB"]},
    }
    chosen = convert(plain, Experiment, "e.yaml")
    made = chosen.points("e.yaml")
    write_experiment(tmp_path / "page.html", chosen, made, sweep(made))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"x":[2097152.0,1048576.0]' in text


def test_figures_of_runs_that_take_no_time_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    empty = {"layers": 1, "steps": 2, "layer_bytes": 2, "block": [{"compute": {"name": "a", "seconds": 0}}]}
    for seconds in (0.0, 5e-324, 1e-300):
        empty["block"] = [{"compute": {"name": "a", "seconds": seconds}}]
        result = simulate(Scenario.from_plain(scenario({"kind": "resident"}, workload=empty)), tiny_profile(2))
        print_run("s.yaml", result)
        found = causes(result.timeline, result.profile)
        print_waterfall(waterfall(found, found))
        print_interval(Interval(seconds, seconds, seconds, 0.9, 0, 1), result.profile, 2)
    shown = capsys.readouterr().out
    assert "nan" not in shown and "inf " not in shown


def test_sensitivity_of_every_kind_of_policy_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for policy in (POLICIES["resident"], POLICIES["sharded"]):
        chosen = Scenario.from_plain(scenario(policy))
        found = sensitivity(chosen, chosen.profile(), "step_time_s", 0.05)
        print_sensitivity("s.yaml", found)
    assert capsys.readouterr().out.count("parameters have no effect") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("host", "policy"), pairs(POLICIES, 6))
def test_every_policy_on_every_profile(
    host: str, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = hardware.load_profile(host)
    for ranks in {1, profile.gpus} if profile.gpus <= 4 else {8}:
        result = simulate(Scenario.from_plain(scenario(POLICIES[policy], host) | {"world_size": ranks}), profile)
        explanation = explain(result)
        print_run("s.yaml", result)
        print_explanation("s.yaml", explanation)
        json.dumps([result.metrics, to_plain(explanation)], allow_nan=False)
        write_trace(result.timeline, tmp_path / "t.json")
    assert "nan" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("host", "name"), pairs(named.shipped(), 5))
def test_every_model_under_every_policy_on_every_profile(
    host: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # all pairs of a model and a policy, and of a host and a policy; all of three in a long run
    first = hardware.shipped().index(host) + named.shipped().index(name)
    tried = [policy for i, policy in enumerate(POLICIES.values()) if LONG or (first - i) % 4 == 0]
    profile = hardware.load_profile(host)
    for policy in tried:
        result = simulate(Scenario.from_plain(scenario(policy, host, of_model(name))), profile)
        print_run("s.yaml", result)
        json.dumps(result.metrics, allow_nan=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("memory: ") for line in lines) == len(tried) >= len(POLICIES) // 4
