"""Whether a scenario's peak memory fits its GPUs: said in the first lines, in JSON, in sweeps."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from strategies import Case, Plain, cases, compute, program, tiny_profile

from sim import simulate
from sim.cli import main
from sim.hardware import Profile, load_profile
from sim.inputs.units import Bytes
from sim.machine import SimulatedMachine
from sim.policies import copied_bytes
from sim.program import RankBuilder
from sim.report.sweep_page import write_page
from sim.report.tables import print_sweep
from sim.scenario import Scenario
from sim.sweeps.grid import points, sweep
from sim.timeline.metrics import fit, metrics

MIB = 2**20
TOO_LARGE: Plain = {
    "hardware": "rtx4090x2-gen4-x8",
    "world_size": 1,
    "workload": {"model": "qwen-image", "height": 1024, "width": 1024, "steps": 2},
    "policy": {"kind": "whole_layer", "resident_fraction": 0.9},
}
"""Nine tenths of Qwen-Image's 38 GiB on a card of 24 GB."""


def run(folder: Path, plain: Plain, *options: str) -> Result:
    (folder / "s.yaml").write_text(yaml.safe_dump(plain))
    done = CliRunner().invoke(main, ["run", str(folder / "s.yaml"), *options])
    assert done.exit_code == 0, done.output
    return done


def test_too_little_memory_is_said_first_and_exits_with_0(tmp_path: Path) -> None:
    first = run(tmp_path, TOO_LARGE).stdout.splitlines()[0]
    assert "DOES NOT FIT" in first and "34.49 GiB" in first
    assert all(word in first for word in ("CUDA context", "NCCL buffers", "text encoder", "VAE"))
    figures = json.loads(run(tmp_path, TOO_LARGE, "--json").stdout)
    memory = load_profile("rtx4090x2-gen4-x8").device.memory.value
    assert (figures["fits_memory"], figures["device_memory_bytes"]) == (False, memory)
    assert figures["fits_host_memory"] is None
    assert figures["peak_memory_bytes"] > 34 * 2**30 > memory


def test_enough_memory_is_said_too(tmp_path: Path) -> None:
    less = TOO_LARGE | {"policy": {"kind": "whole_layer"}}
    first = run(tmp_path, less).stdout.splitlines()[0]
    assert "DOES NOT FIT" not in first and "fits the GPU's" in first
    assert json.loads(run(tmp_path, less, "--json").stdout)["fits_memory"] is True


def test_the_label_of_peak_memory_says_what_it_leaves_out(tmp_path: Path) -> None:
    _, row = " ".join(run(tmp_path, TOO_LARGE).stdout.split()).split("peak memory", 1)
    assert "without CUDA context, NCCL buffers, text encoder and VAE" in row


def test_the_two_slots_of_a_wan_layer_take_what_was_reported() -> None:
    """Two blocks of Wan2.2-A14B in bf16 as static buffers: 1340.46 MB (2**20 B) were reported."""
    plain = TOO_LARGE | {
        "hardware": "h100x4-pcie-uplink",
        "world_size": 4,
        "workload": {"model": "wan2.2-14b", "frames": 81, "height": 480, "width": 832, "layers": 2, "steps": 2},
        "policy": {"kind": "whole_layer"},
    }
    program = Scenario.from_plain(plain).program()
    slots = [b.bytes for b in program.ranks[0].buffers if b.kind == "slot"]
    assert len(slots) == 2
    assert sum(slots) / MIB == pytest.approx(1340.46, abs=1)


def with_memory(profile: Profile, size: int) -> Profile:
    memory = msgspec.structs.replace(profile.device.memory, value=Bytes(size))
    return msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, memory=memory))


@given(cases())
def test_a_run_fits_exactly_where_the_largest_peak_of_its_ranks_does(case: Case) -> None:
    result = case.run()
    ranks = range(result.scenario.world_size)
    peak = max(level for rank in ranks for _, level in result.timeline.memory(rank))
    for size, fits in ((peak, True), (peak - 1, False), (2 * peak + 1, True), (1, peak <= 1)):
        if size >= 1:
            found = metrics(result.timeline, with_memory(result.profile, size))
            assert (found["fits_memory"], found["device_memory_bytes"]) == (fits, size)
            assert fit(found)[0] == fits
            assert ("DOES NOT FIT" in fit(found)[1]) != fits


SWEPT: Plain = {
    "hardware": "rtx4090x2-gen4-x8",
    "world_size": 1,
    "workload": {"layers": 8, "steps": 2, "layer_bytes": "4 GiB", "block": [compute(1e-3)]},
    "policy": {"kind": "whole_layer"},
}
AXES: dict[str, list[Any]] = {"policy.resident_fraction": [0, 0.25, 0.75, 1]}
FITS = [True, True, False, False]


def test_sweeps_have_the_column_in_rows_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = points(SWEPT, AXES)
    rows = sweep(made, output=tmp_path / "rows.csv")
    assert [row.metrics["fits_memory"] for row in rows] == FITS
    lines = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [line["fits_memory"] for line in lines] == ["true", "true", "false", "false"]
    assert {line["device_memory_bytes"] for line in lines} == {
        str(int(load_profile(SWEPT["hardware"]).device.memory.value))
    }
    assert sweep(made, output=tmp_path / "rows.csv") == rows, "what a file says is read again"
    print_sweep("s.yaml", rows)
    shown = capsys.readouterr().out
    assert [line.split()[-1] for line in shown.splitlines() if "GiB" in line] == ["yes", "yes", "NO", "NO"]
    write_page(tmp_path / "page.html", "s.yaml", made, rows)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.split("<h2>All points</h2>")[1].count('<span class="badge bad">no</span>') == 2


def test_peak_memory_is_resident_weights_and_slots() -> None:
    """By hand: 8 layers of 4 GiB, of which a quarter stays, and two slots of the rest."""
    result = simulate(Scenario.from_plain(SWEPT | {"policy": {"kind": "whole_layer", "resident_fraction": 0.25}}))
    copied = copied_bytes(4 * 2**30, 0.25)
    assert result.metrics["peak_memory_bytes"] == 8 * (4 * 2**30 - copied) + 2 * copied == 14 * 2**30


def test_another_rank_that_does_not_fit_is_reported() -> None:
    ranks = [RankBuilder(), RankBuilder()]
    for rank, size in zip(ranks, (8, 32), strict=True):
        rank.record_step("s")
        rank.copy("c", "w", size, rank.buffer("w", size, "weights"), step=0)
        rank.record_step("s")
    profile = with_memory(tiny_profile(2), 16)
    figures = metrics(SimulatedMachine(profile).run(program(*ranks)), profile)
    assert (figures["peak_memory_bytes"], figures["fits_memory"]) == (8, False)
    assert "another rank's peak" in fit(figures)[1]
