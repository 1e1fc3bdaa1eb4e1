"""GPUs of different kinds in one host, P2P for some pairs, memory of another socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from sim.analysis.fit_step import fit_step
from sim.cli import main
from sim.hardware import Profile, load_profile, to_plain
from sim.hardware.profile_parameters import numbers_by_path
from sim.inputs.config import InputError, convert
from sim.program import Collective, Kernel
from sim.run import simulate
from sim.scenario import Scenario


def number(value: object) -> dict[str, object]:
    return {"value": value, "source": "datasheet"}


# A 5090, a 5070 Ti and four 5060 Ti on one processor; the driver allows P2P between the 5060 Ti, and from the 5070 Ti to one
MIXED: dict[str, Any] = {
    "name": "mixed",
    "description": "six cards of three kinds",
    "like": "rtx5090x2-gen5-x8",
    "gpus": 6,
    "fingerprint": {"gpu": "5090, 5070 Ti, 4 x 5060 Ti", "evidence": "datasheets"},
    "devices": [
        {"gpus": [1], "name": "RTX 5070 Ti", "memory": number("16303 MiB"), "peak_flops": number("88 TFLOP/s")},
        {
            "gpus": [2, 3, 4, 5],
            "name": "RTX 5060 Ti",
            "memory": number("16311 MiB"),
            "peak_flops": number("47.4 TFLOP/s"),
            "hbm_bandwidth": number("448 GB/s"),
        },
    ],
    "topology": {
        "nodes": {
            "memory0": {"kind": "memory", "through": number("80 GB/s")},
            "memory1": {"kind": "memory", "through": number("80 GB/s")},
            "socket0": {"kind": "socket"},
            "socket1": {"kind": "socket"},
        },
        "links": [
            {"ends": ["memory0", "socket0"]},
            {"ends": ["memory1", "socket1"]},
            {"ends": ["socket0", "socket1"], "kind": "UPI", "each_way": number("12 GB/s")},
            {"ends": ["socket0", "gpu{gpu}"], "gpus": [0, 1, 2], "each_way": number("27.7 GB/s")},
            {"ends": ["socket1", "gpu{gpu}"], "gpus": [3, 4, 5], "each_way": number("27.7 GB/s")},
        ],
        "peers": [[2, 3, 4, 5], [1, 2]],
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "mixed.yaml"
    made.write_text(yaml.safe_dump(MIXED))
    return made


def scenario(hardware: object, ranks: int, layer_bytes: str = "100 MB", policy: str = "whole_layer") -> Scenario:
    block = [
        {"compute": {"name": "matrices", "flops": "1 TFLOP"}},
        {"collective": {"kind": "all_reduce", "bytes": "1 MB"}},
    ]
    workload = {"layers": 3, "steps": 3, "layer_bytes": layer_bytes, "block": block}
    plain = {"hardware": str(hardware), "world_size": ranks, "workload": workload, "policy": {"kind": policy}}
    return Scenario.from_plain(plain)


def test_what_a_kind_leaves_out_is_as_the_others(file: Path) -> None:
    profile = load_profile(str(file))
    common = profile.device
    assert [profile.device_of(gpu).name for gpu in range(6)] == [common.name, "RTX 5070 Ti", *["RTX 5060 Ti"] * 4]
    assert profile.device_of(1).hbm_bandwidth == common.hbm_bandwidth
    assert profile.device_of(5).hbm_bandwidth.value == 448e9
    assert profile.device_of(5).compute_efficiency == common.compute_efficiency
    assert profile.cards == f"1 x {common.name} + 1 x RTX 5070 Ti + 4 x RTX 5060 Ti"
    assert convert(to_plain(profile), Profile, "again") == profile
    assert {"devices[0].memory", "devices[1].hbm_bandwidth"} <= numbers_by_path(profile).keys()
    # copies within a memory by its own bandwidth, read and written
    assert profile.copy_class("d2d", 5).cap.value / profile.copy_class("d2d", 0).cap.value == pytest.approx(
        448e9 / common.hbm_bandwidth.value
    )


def test_each_rank_computes_at_its_own_rate_and_waits_for_the_slowest(file: Path) -> None:
    profile = load_profile(str(file))
    result = simulate(scenario(file, 3, policy="resident"))
    lasts = []
    for rank in range(3):
        spans = [s.end - s.start for s, _ in result.timeline.commands(rank, Kernel)]
        device = profile.device_of(rank)
        assert spans[-1] == pytest.approx(1e12 / (device.peak_flops.value * device.compute_efficiency.value), rel=1e-3)
        lasts.append(spans[-1])
    assert lasts == sorted(lasts) and lasts[2] > 1.5 * lasts[1] > 1.5 * lasts[0]
    waited = [s.ready - s.start for s, _ in result.timeline.commands(0, Collective)]
    assert waited[-1] == pytest.approx(lasts[2] - lasts[0], rel=0.05)


def test_memory_is_each_cards_own(file: Path) -> None:
    one, six = (simulate(scenario(file, ranks, "8 GB", "resident")).metrics for ranks in (1, 6))
    assert one["fits_memory"] and one["device_memory_bytes"] == load_profile(str(file)).device.memory.value
    assert not six["fits_memory"] and six["device_memory_bytes"] == 16303 * 2**20


def test_a_fitted_step_scales_every_kind(file: Path) -> None:
    profile = load_profile(str(file))
    fitted = fit_step(scenario(file, 6), profile, 1.0, as_written=True)
    kernel = Kernel("s", "k", flops=1e12)
    ratios = {fitted.kernel_seconds(kernel, gpu) / profile.kernel_seconds(kernel, gpu) for gpu in range(6)}
    assert max(ratios) == pytest.approx(min(ratios))
    assert simulate(scenario(file, 6, policy="resident"), fitted).metrics["step_time_s"] == pytest.approx(1, rel=1e-6)


def test_some_pairs_reach_each_other_directly_and_the_others_through_the_host(file: Path) -> None:
    graph = load_profile(str(file)).graph

    def through_memory(a: int, b: int) -> bool:
        return any(graph.names[r].startswith("memory") for r, _ in graph.peer(a, b))

    direct = {(a, b) for a in range(6) for b in range(6) if a != b and not through_memory(a, b)}
    among = {(a, b) for a in range(2, 6) for b in range(2, 6) if a != b}
    assert direct == among | {(1, 2), (2, 1)}


def test_memory_of_the_other_socket_is_as_far_as_the_link_between_them(file: Path) -> None:
    near = simulate(scenario(file, 1)).metrics["h2d_busy_s"]
    plain = json.loads(json.dumps(MIXED))
    plain["topology"]["pinned"] = {"memory1": [0]}
    file.write_text(yaml.safe_dump(plain))
    far = simulate(scenario(file, 1)).metrics["h2d_busy_s"]
    cap = min(27.7e9, load_profile(str(file)).h2d.cap.value)
    assert far / near == pytest.approx(cap / 12e9, rel=0.01)


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_commands_name_each_kind(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert invoke("hardware", file, "--html", page).exit_code == 0
    assert "devices[1].peak_flops" in invoke("hardware", file).stdout
    assert "4 × RTX 5060 Ti" in page.read_text()
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {
                "hardware": "mixed.yaml",
                "world_size": 4,
                "workload": {
                    "model": "wan2.1-1.3b",
                    "frames": 17,
                    "height": 256,
                    "width": 448,
                    "layers": 2,
                    "steps": 2,
                },
                "policy": {"kind": "whole_layer"},
            }
        )
    )
    for command in ("run", "explain"):
        done = invoke(command, tmp_path / "s.yaml", "--json")
        assert done.exit_code == 0, done.output


WRONG: dict[str, tuple[Any, str]] = {
    "twice": ([{"gpus": [1]}, {"gpus": [2, 1]}], "devices[1].gpus: has GPU 1, which was named before"),
    "not there": ([{"gpus": [6]}], "devices[0].gpus: has GPU 6, expected 0 to 5"),
    "none": ([{"gpus": []}], "devices[0].gpus: is empty"),
    "missing": ([{"name": "x"}], "devices[0].gpus: is missing"),
    "key": ([{"gpus": [1], "memry": number("1 GB")}], "devices[0].memry: unknown key; did you mean 'memory'?"),
    "nothing": ([{"gpus": [1], "peak_flops": number(0)}], "devices[0].peak_flops: is 0.0, expected more than 0"),
    "no list": ({"gpus": [1]}, "devices: expected a list, got a mapping"),
    "no mapping": (["RTX"], "devices[0]: expected a mapping of keys to values, got text 'RTX'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kinds_are_told_by_their_key(file: Path, name: str) -> None:
    devices, told = WRONG[name]
    file.write_text(yaml.safe_dump({**MIXED, "devices": devices}))
    with pytest.raises(InputError) as caught:
        load_profile(str(file))
    assert told in str(caught.value)


def test_hosts_of_one_kind_are_what_they_were() -> None:
    profile = load_profile("h200x2-hostpath")
    assert "devices" not in to_plain(profile) and profile.device_of(1) is profile.device
    assert profile.cards == "2 x NVIDIA H200"
    assert msgspec.structs.replace(profile, devices=()).kernel_seconds(Kernel("s", "k", flops=1e12)) > 0
