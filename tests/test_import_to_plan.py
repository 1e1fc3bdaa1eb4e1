"""A profile in ten minutes: four outputs of common tools become a profile that is planned on, and predicts what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.cli import main
from sim.datasets.cases import workload_key
from sim.hardware import load_profile
from validation.datasets import load_set
from validation.imported_hosts import imported, offloaded_errors, outputs
from validation.markdown import standing
from validation.predict import predict

SET = "h200x2-hostpath-20261121i"
DOCUMENT = Path(__file__).parents[1] / "docs" / "importing.md"


def run(*args: str) -> str:
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_four_outputs_become_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in outputs(SET).items():
        Path(name).write_text(text)
    nccl = sorted(name for name in outputs(SET) if name.endswith("_2.txt"))
    run("import", "topo", "topo.txt", "-o", "host.yaml", "--gpu", "H200", "--peers", "host")
    run("import", "nvbandwidth", "nvbandwidth.json", "--into", "host.yaml")
    run("import", "nccl-tests", *nccl, "--into", "host.yaml")
    run("import", "p2p", "p2p.txt", "--into", "host.yaml")
    run("hardware", "host.yaml", "--check")
    host, calibrated = load_profile("host.yaml"), load_profile(SET)
    for kind in ("h2d", "d2h"):
        assert getattr(host, kind).cap.value == pytest.approx(getattr(calibrated, kind).cap.value, rel=0.005)
    assert host.d2h.weight.value == pytest.approx(calibrated.d2h.weight.value, rel=0.01)
    assert host.collectives.reduce_scatter is not None
    block = [{"compute": {"name": "a", "seconds": "4 ms"}}, {"collective": {"kind": "all_to_all", "bytes": "80 MB"}}]
    workload = {"layers": 2, "steps": 2, "layer_bytes": "300 MB", "block": block}
    policy = {"kind": "yielding", "chunk_bytes": "16 MiB"}
    scenario = {"hardware": "host.yaml", "world_size": 2, "workload": workload, "policy": policy}
    Path("s.json").write_text(json.dumps(scenario))
    plan = json.loads(run("plan", "s.json", "--memory", "1 GiB", "--json", "--no-cache", "--workers", "1"))
    assert plan["best"]["fits_memory"] and plan["floor_s"] <= plan["best"]["step_time_s"]


def test_measured_cases_are_predicted_nearly_as_by_the_calibrated_profile() -> None:
    cases = load_set(SET)
    baselines = cases.baselines()
    made = imported(SET)
    offloaded = [case for case in cases.cases if case.scenario["policy"]["kind"] in ("whole_layer", "chunked")][:2]
    for case in offloaded:
        errors = [predict(case, baselines[workload_key(case)], p).error for p in (made.all, load_profile(SET))]
        assert abs(errors[0]) < abs(errors[1]) + 0.02, (case.number, errors)


@pytest.mark.slow
def test_the_table_of_imported_hosts_is_as_the_data_makes_it() -> None:
    name = "h200x2-nvlink-20261121a"
    tables = dict(standing(DOCUMENT.read_text(encoding="utf-8")))
    row = next(line for line in tables["imported hosts"].splitlines() if line.startswith("| h200x2-nvlink a "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    found = offloaded_errors(name, imported(name).all, None)
    assert cells[1] == str(found.cases)
    assert cells[4:6] == [f"{100 * found.median:.2f}", f"{100 * found.p95:.2f}"]
