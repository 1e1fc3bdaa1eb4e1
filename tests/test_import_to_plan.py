"""A profile in ten minutes: four outputs of common tools become a profile that is planned on, and predicts what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_outputs import nvbandwidth_json
from click.testing import CliRunner

from sim.cli import main
from sim.datasets.cases import workload_key
from sim.hardware import load_profile, to_plain
from sim.hardware.collectives import isolated_time
from sim.importers.nccl_runs import KINDS
from validation.datasets import load_set
from validation.imported_hosts import imported, outputs
from validation.predict import predict

SET = "h200x2-hostpath-20261121i"


def run(*args: str) -> str:
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of a host, and the profile that is imported of all."""
    made = tmp_path_factory.mktemp("host")
    for name, text in outputs(SET).items():
        (made / name).write_text(text)
    files = sorted(str(file) for file in made.iterdir())
    run("import", "host", *files, "-o", str(made / "host.yaml"), "--gpu", "H200", "--peers", "host")
    return made


def test_four_outputs_become_a_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run("hardware", "host.yaml", "--check")
    host, calibrated = load_profile("host.yaml"), load_profile(SET)
    for kind in ("h2d", "d2h"):
        assert getattr(host, kind).cap.value == pytest.approx(getattr(calibrated, kind).cap.value, rel=0.005)
    assert host.d2h.weight.value == pytest.approx(calibrated.d2h.weight.value, rel=0.01)
    assert host.collectives.reduce_scatter is not None
    block = [{"compute": {"name": "a", "seconds": "4 ms"}}, {"collective": {"kind": "all_to_all", "bytes": "80 MB"}}]
    workload = {"layers": 2, "steps": 2, "layer_bytes": "300 MB", "block": block}
    policy = {"kind": "yielding", "chunk_bytes": "16 MiB"}
    scenario = {"hardware": "h200x2-nvlink", "world_size": 2, "workload": workload, "policy": policy}
    Path("s.json").write_text(json.dumps(scenario))
    args = ("plan", "s.json", "--hardware", "host.yaml", "--memory", "1 GiB", "--json", "--no-cache", "--workers", "1")
    plan = json.loads(run(*args))
    assert plan["best"]["fits_memory"] and plan["floor_s"] <= plan["best"]["step_time_s"]


def test_one_command_gives_what_one_for_each_file_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("four", "named"):
        Path(name).mkdir()
    nccl = [f"{name}_2.txt" for name in sorted(KINDS) if Path(f"{name}_2.txt").exists()]
    run("import", "topo", "topo.txt", "-o", "four/host.yaml", "--gpu", "H200", "--peers", "host")
    run("import", "nvbandwidth", "nvbandwidth.json", "--into", "four/host.yaml")
    run("import", "p2p", "p2p.txt", "--into", "four/host.yaml")
    run("import", "nccl-tests", *nccl, "--into", "four/host.yaml")
    named = ["--nccl-tests", nccl[0], *(word for name in nccl[1:] for word in ("--nccl-tests", name))]
    more = ["--topo", "topo.txt", "--nvbandwidth", "nvbandwidth.json", "--p2p", "p2p.txt"]
    run("import", "host", *named, *more, "-o", "named/host.yaml", "--gpu", "H200", "--peers", "host")
    one, *others = (to_plain(load_profile(name)) for name in ("host.yaml", "named/host.yaml", "four/host.yaml"))
    numbers = [
        {k: v for k, v in plain.items() if k not in ("name", "description", "fingerprint")} for plain in (one, *others)
    ]
    assert numbers[0] == numbers[1] == numbers[2]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "give files of the host"),
        (["s.yaml"], "s.yaml: is a scenario: run it with"),
        (["--p2p", "topo.txt"], "topo.txt: is the output of nvidia-smi topo -m"),
        (["notes.txt"], "notes.txt: is none of topo, nvbandwidth, p2p, nccl-tests"),
        (["topo.txt", "four.json"], "four.json: has rates of 4 GPUs, but x has 2: is it of"),
    ],
)
def test_files_of_no_host_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], told: str
) -> None:
    monkeypatch.chdir(folder)
    Path("s.yaml").write_text("workload: {}\npolicy: {}\n")
    Path("notes.txt").write_text("a note\n")
    Path("four.json").write_text(nvbandwidth_json({"host_to_device_memcpy_ce": [25.0] * 4}))
    done = CliRunner().invoke(main, ["import", "host", *args, "-o", "x.yaml"])
    assert (done.exit_code, Path("x.yaml").exists()) == (2, False) and told in done.stderr


def test_a_host_is_imported_of_what_there_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = CliRunner().invoke(main, ["import", "host", "all_reduce_2.txt", "-o", "part.yaml"]).stderr
    assert "not given, so assumed: topo, nvbandwidth, p2p" in said and "nothing tells how the 2 GPUs are joined" in said
    made = load_profile("part.yaml")
    assert (made.gpus, made.device.name) == (2, "NVIDIA H200")
    size = 2**24
    pair = [isolated_time(p, "all_reduce", size, range(2)) for p in (made, load_profile("host.yaml"))]
    assert pair[0] == pytest.approx(pair[1], rel=0.01)


def test_measured_cases_are_predicted_nearly_as_by_the_calibrated_profile() -> None:
    cases = load_set(SET)
    baselines = cases.baselines()
    made = imported(SET)
    offloaded = [case for case in cases.cases if case.scenario["policy"]["kind"] in ("whole_layer", "chunked")][:2]
    for case in offloaded:
        errors = [predict(case, baselines[workload_key(case)], p).error for p in (made.all, load_profile(SET))]
        assert abs(errors[0]) < abs(errors[1]) + 0.02, (case.number, errors)
