"""One measured collective sets the rates of a host that nobody has measured, and hosts that borrow rates say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.analysis.fit_collective import Measured, fit_collective
from sim.cli import main
from sim.hardware import load_profile
from sim.hardware.collectives import isolated_time
from sim.inputs.config import InputError
from sim.program import COLLECTIVES

MIB = 2**20
HOST = "rtx4090x2-gen4-x8"


def case(layers: int, reduces: int, compute: str) -> dict[str, Any]:
    """Two RTX 5070 Ti without P2P (sglang PR 39605): all-reduces of 20 MiB of 10.9 ms each are 733 of an 802 ms step."""
    work: list[dict[str, Any]] = []
    for i in range(reduces):
        work += [
            {"compute": {"name": f"c{i}", "seconds": compute}},
            {"collective": {"kind": "all_reduce", "bytes": 20 * MIB}},
        ]
    workload = {"layers": layers, "steps": 3, "layer_bytes": "400 MB", "block": work}
    return {"hardware": HOST, "world_size": 2, "workload": workload, "policy": {"kind": "resident"}}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([HOST, "l40x8-pcie", "h200x8-hostpath"]),
    st.sampled_from(COLLECTIVES),
    st.integers(16, 28),
    st.floats(1.3, 50.0),
    st.sampled_from([2, 4, 8]),
)
def test_the_collective_takes_what_was_measured(host: str, kind: Any, power: int, longer: float, ranks: int) -> None:
    profile = load_profile(host)
    gpus = range(min(ranks, profile.gpus))
    seconds = longer * isolated_time(profile, kind, 2**power, gpus)
    fitted, factor = fit_collective(profile, Measured(kind, 2**power, seconds), gpus)
    assert isolated_time(fitted, kind, 2**power, gpus) == pytest.approx(seconds, rel=1e-6)
    assert factor > 1
    # latencies, links and shares are the profile's: what is nearly all latency takes as long as it did
    assert fitted.topology == profile.topology and fitted.streams == profile.streams
    mine, theirs = fitted.collectives.all_reduce, profile.collectives.all_reduce
    assert msgspec.structs.replace(mine, alone=theirs.alone, alone_by_ranks=theirs.alone_by_ranks) == theirs


def test_all_kinds_and_numbers_of_ranks_take_one_factor() -> None:
    profile = load_profile("h200x8-hostpath")
    fitted, factor = fit_collective(profile, Measured("all_reduce", 20 * MIB, 0.05), range(4))
    for kind in ("all_to_all", "all_reduce", "all_gather"):
        old, new = getattr(profile.collectives, kind), getattr(fitted.collectives, kind)
        for ranks, table in [(2, old.alone), *old.alone_by_ranks.items()]:
            slower, latency = new.alone_by_ranks.get(ranks, new.alone), old.latency_of(ranks)
            for before, after in zip(table.seconds, slower.seconds, strict=True):
                assert after - latency == pytest.approx(factor * (before - latency))
            assert slower.source.startswith("--fit-collective all_reduce:20 MiB:50 ms on 4 ranks")


def test_what_links_do_not_allow_is_refused() -> None:
    with pytest.raises(InputError, match="is 100 us, but all_reduce of 20 MiB takes .* by its latency and links alone"):
        fit_collective(load_profile(HOST), Measured("all_reduce", 20 * MIB, 1e-4), range(2))
    with pytest.raises(InputError, match="at least 2 ranks"):
        fit_collective(load_profile(HOST), Measured("all_reduce", 20 * MIB, 1e-2), range(1))


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_two_desktop_cards_by_one_measured_all_reduce(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    # 67 of them are the 733 ms that were reported; the rest of the step, 69 ms, is compute
    file.write_text(yaml.safe_dump(case(67, 1, "1.03 ms")))
    done = invoke("run", file, "--json", "--fit-collective", "all_reduce:20MiB:10.9ms")
    assert done.exit_code == 0 and done.stderr == ""
    found = json.loads(done.stdout)
    assert found["collective_time_s"] == pytest.approx(67 * 10.9e-3, rel=0.01)
    assert found["step_time_s"] == pytest.approx(0.802, rel=0.02)
    assert found["collectives_fitted"] == "--fit-collective all_reduce:20 MiB:10.9 ms on 2 ranks"
    assert "Isolated times of all collectives by --fit-collective" in " ".join(
        invoke("run", file, "--fit-collective", "all_reduce:20MiB:10.9ms").stdout.split()
    )
    # without it they are several times too fast, and it is said why
    plain = invoke("run", file, "--json")
    assert json.loads(plain.stdout)["step_time_s"] < 0.5
    assert plain.stderr == (
        f"note: {HOST} scales isolated times of collectives that were measured on h200x2-hostpath, another host: "
        "set them by one of your own with --fit-collective, such as all_reduce:20MiB:10.9ms\n"
    )
    file.write_text(yaml.safe_dump(case(64, 2, "0.54 ms")))
    two = json.loads(invoke("run", file, "--json", "--fit-collective", "all_reduce:20MiB:10.9ms").stdout)
    assert two["collective_time_s"] == pytest.approx(128 * 10.9e-3, rel=0.01)


def test_both_fits_hold_together(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(case(67, 1, "1.03 ms")))
    fits = ["--fit-collective", "all_reduce:20MiB:10.9ms:2", "--fit-step-as-written", "802 ms"]
    found = json.loads(invoke("run", file, "--json", *fits).stdout)
    assert found["step_time_s"] == pytest.approx(0.802, rel=1e-6)
    assert found["collective_time_s"] == pytest.approx(67 * 10.9e-3, rel=0.01)
    rows = invoke("sweep", file, "--set", "workload.layers=33,67", "--workers", "1", *fits[:2])
    assert rows.exit_code == 0 and "note: " not in rows.stderr


WRONG = {
    "no time": ("all_reduce:20MiB", "expected KIND:BYTES:TIME"),
    "kind": ("all_reduced:20MiB:1ms", "'all_reduced' is no collective, expected one of all_to_all"),
    "bytes": ("all_reduce:20ms:1ms", "expected a size"),
    "seconds": ("all_reduce:20MiB:10 GB", "expected a duration"),
    "nothing": ("all_reduce:0:1ms", "is 0, expected more than 0"),
    "ranks": ("all_reduce:20MiB:1ms:1", "expected a number of ranks, at least 2, got '1'"),
    "too many ranks": ("all_reduce:20MiB:1ms:3", f"has 3 ranks, but {HOST} has 2 GPUs"),
    "too fast": ("all_reduce:20MiB:1us", "by its latency and links alone"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_measurement_is_one_line_and_exit_code_2(tmp_path: Path, name: str) -> None:
    text, told = WRONG[name]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(case(2, 1, "1 ms")))
    done = invoke("run", tmp_path / "s.yaml", "--fit-collective", text)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: --fit-collective: ") and told in done.stderr and done.stderr.count("\n") == 1
