"""Shipped hosts of every shape: what their copies get, how peers meet, and profiles that lean on others."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from conftest import Command

from calibration import fit_h200x8
from calibration.fitting import to_yaml
from sim.fluid import weighted_max_min
from sim.hardware import Inherited, Profile, load_profile, profile_file, shipped, to_plain
from sim.hardware.inheritance import provenance
from sim.hardware.profile_parameters import numbers_by_path
from sim.inputs.config import InputError
from sim.report.hardware_page import hardware_page
from sim.report.profile_rows import ANOTHER_TOPOLOGY
from sim.report.profile_rows import rows_of as profile_rows
from sim.run import simulate
from sim.scenario import Scenario

GB = 1e9


def h2d(profile: Profile, gpus: int) -> list[float]:
    """Rates of copies to the first `gpus` GPUs at once, B/s."""
    return weighted_max_min([profile.copy_flow("h2d", g) for g in range(gpus)], profile.capacities)


def names(profile: Profile, source: int, destination: int) -> list[str]:
    return [profile.graph.names[r] for r, _ in profile.graph.peer(source, destination)]


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_host_runs(name: str) -> None:
    profile = load_profile(name)
    block: list[dict[str, Any]] = [{"compute": {"name": "a", "seconds": 1e-3}}]
    block += [
        {"collective": {"kind": k, "bytes": "8 MB"}} for k in ("all_to_all", "all_reduce", "all_gather", "send_recv")
    ]
    workload = {"layers": 2, "steps": 2, "layer_bytes": "100 MB", "block": block}
    plain = {"hardware": name, "world_size": profile.gpus, "workload": workload, "policy": {"kind": "whole_layer"}}
    figures = simulate(Scenario.from_plain(plain)).metrics
    assert figures["lower_bound_s"] <= figures["step_time_s"] < 10


def test_the_profile_of_eight_gpus_is_the_fit_to_its_rows() -> None:
    assert profile_file(fit_h200x8.NAME).read_text() == to_yaml(fit_h200x8.fit(), fit_h200x8.REMARKS)


def test_eight_gpus_do_what_was_measured() -> None:
    """Isolated collectives as measured; copies, and large collectives with copies in flight, nearly so."""
    found = list(fit_h200x8.compare(load_profile("h200x8-hostpath"), fit_h200x8.load_rows()))
    assert len(found) == 93
    isolated = [abs(c.error) for c in found if c.row.get("bg") == 0]
    copies = [abs(c.error) for c in found if "bg" not in c.row]
    large = [abs(c.error) for c in found if c.row.get("bg") and c.row["bytes"] > fit_h200x8.LARGE]
    assert max(isolated) < 0.001
    assert max(copies) < 0.065
    assert median(large) < 0.02
    assert max(large) < 0.08


PLAIN = {
    "h100x1": "h100x1-20261121e",
    "h200x1": "h200x1-20261121f",
    "h200x2-nvlink": "h200x2-nvlink-20261121i",
    "h200x4-hostpath": "h200x4-hostpath-20261121g",
}


@pytest.mark.parametrize(("plain", "session"), PLAIN.items())
def test_a_plain_name_is_a_session_and_says_which(plain: str, session: str) -> None:
    mine, base = load_profile(plain), load_profile(session)
    assert session.rpartition("-")[2] in mine.description
    assert mine.fingerprint == base.fingerprint
    assert mine.capacities == base.capacities
    values = [{path: entry.value for path, entry in numbers_by_path(of).items()} for of in (mine, base)]
    assert values[0] == values[1]


MEMORY = {
    "NVIDIA A100": 81_920,
    "NVIDIA L40": 46_068,
    "NVIDIA T4": 15_360,
    "NVIDIA H200": 143_771,
    "NVIDIA H100": 81_559,
    "NVIDIA H20": 97_871,
    "NVIDIA GeForce RTX 4090": 24_564,
    "NVIDIA GeForce RTX 5090": 32_607,
}
"""MiB that nvidia-smi reports of a card whose name begins so."""


@pytest.mark.parametrize("name", shipped())
def test_the_memory_of_a_card_is_what_nvidia_smi_reports(name: str) -> None:
    device = load_profile(name).device
    [mib] = [m for card, m in MEMORY.items() if f"{device.name} ".startswith(f"{card} ")] or [None]
    if mib is None:
        assert (device.name, device.memory.value) == ("Intel Max 1550, one tile", 64 * GB)
    else:
        assert device.memory.value == mib * 2**20
        assert "nvidia-smi" in device.memory.source


@pytest.mark.parametrize(("gpus", "total"), [(1, 55), (2, 111), (4, 103), (8, 174)])
def test_copies_to_several_of_eight_gpus_get_what_was_measured(gpus: int, total: float) -> None:
    assert sum(h2d(load_profile("h200x8-hostpath"), gpus)) == pytest.approx(total * GB, rel=0.05)


def test_four_gpus_share_one_uplink() -> None:
    assert h2d(load_profile("h100x4-pcie-uplink"), 4) == pytest.approx([54.5 * GB / 4] * 4)


def test_peers_meet_below_a_switch_or_in_memory() -> None:
    box = load_profile("h100x8-pcie-2switch")
    assert names(box, 0, 3) == ["gpu0>switch0", "switch0>gpu3"]
    across = names(box, 0, 5)
    assert across[:3] == ["gpu0>switch0", "switch0>socket0", "socket0>socket1"]
    assert across[3:] == ["memory1", "memory1", "socket1>switch1", "switch1>gpu5"]


def test_nodes_are_joined_by_the_network() -> None:
    nodes = load_profile("h100x16-nvlink-2nodes")
    assert names(nodes, 1, 6) == ["gpu1>nvswitcha", "nvswitcha>gpu6"]
    assert names(nodes, 1, 14)[-4:] == ["network>nic14", "nic14>pcie14", "pcie14-gpu14", "pcie14>gpu14"]


def test_tiles_share_their_gpus_links() -> None:
    aurora = load_profile("aurora-12tiles")
    assert sum(h2d(aurora, 12)) == pytest.approx(329 * GB, rel=0.01)
    assert h2d(aurora, 1) == [54 * GB]
    assert names(aurora, 0, 1) == ["gpu0>gpu1"]
    assert names(aurora, 0, 11) == ["gpu0>gpu11"]


def test_a_newer_generation_is_faster_in_all(name: str = "h200x2-gen") -> None:
    scenario = {
        "world_size": 2,
        "workload": {"model": "wan2.2-14b", "frames": 17, "height": 480, "width": 832, "layers": 4, "steps": 2},
        "policy": {"kind": "whole_layer"},
    }
    steps = [
        simulate(Scenario.from_plain({"hardware": f"{name}{g}"} | scenario)).metrics["step_time_s"] for g in range(3, 7)
    ]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == pytest.approx(2 * steps[1], rel=0.03)  # copies bind


def test_the_shipped_generations_agree_with_the_measured_host() -> None:
    scaled, measured = load_profile("h200x2-gen5"), load_profile("h200x2-hostpath")
    for size in (10**7, 10**8):
        of = [p.collectives.all_to_all.demand_cap(2, size) for p in (scaled, measured)]
        assert of[0] == pytest.approx(of[1], rel=0.03)


# ---- profiles like others ------------------------------------------------------------------------------------------


def write(folder: Path, name: str, data: dict[str, Any]) -> str:
    (folder / name).write_text(yaml.safe_dump(data))
    return str(folder / name)


def test_a_profile_may_be_like_another(tmp_path: Path) -> None:
    wake = {"value": "1 us", "source": "here"}
    file = write(tmp_path, "mine.yaml", {"like": "h200x2-hostpath", "name": "mine", "streams": {"wake": wake}})
    mine, base = load_profile(file), load_profile("h200x2-hostpath")
    assert (mine.name, mine.streams.wake.value, mine.streams.wake.source) == ("mine", 1e-6, "here")
    assert mine.capacities == base.capacities
    setup = mine.h2d.setup
    assert (setup.source, setup.inherited_from) == (base.h2d.setup.source, "h200x2-hostpath")
    assert provenance(setup) == f"as h200x2-hostpath: {base.h2d.setup.source}"
    assert (mine.streams.wake.inherited_from, base.h2d.setup.inherited_from) == ("", "")
    again = load_profile(write(tmp_path, "again.yaml", {"like": "mine.yaml", "name": "again"}))
    assert provenance(again.streams.wake) == "as mine: here"
    assert again.h2d.setup == setup
    kept = {entry.key: entry for entry in mine.kept}
    assert {"fingerprint", "description", "topology", "collectives.all_to_all", "streams.event"} <= set(kept)
    assert not {"name", "streams", "streams.wake"} & set(kept)
    assert {(entry.profile, entry.another_topology) for entry in mine.kept} == {("h200x2-hostpath", False)}
    assert {*again.kept} == {*mine.kept, Inherited("streams.wake", "mine")}
    ignored = {"name": "mine", "streams": 0, "kept": 0}
    assert to_plain(again) | ignored == to_plain(mine) | ignored


@pytest.mark.parametrize("source", ["as mine: here", "as h200x2-hostpath, scaled", "measured on a bench"])
def test_the_text_of_a_source_changes_no_figure(tmp_path: Path, source: str) -> None:
    wake = {"value": "1 us", "source": source}
    write(tmp_path, "mine.yaml", {"like": "h200x2-hostpath", "name": "mine", "streams": {"wake": wake}})
    again = load_profile(write(tmp_path, "again.yaml", {"like": "mine.yaml", "name": "again"}))
    assert (again.streams.wake.source, again.streams.wake.inherited_from) == (source, "mine")
    assert f"as mine: {source}" in {row.source for row in profile_rows(again)}


@pytest.mark.parametrize("given", [{"value": "1 us"}, {"source": "here"}, {"uncertainty": 0.1}])
def test_a_number_is_given_whole_with_its_source(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"mine.yaml: streams.wake.(value|source): is missing"):
        load_profile(write(tmp_path, "mine.yaml", {"like": "h200x2-hostpath", "streams": {"wake": given}}))


def test_nodes_and_facts_of_a_host_may_be_called_as_a_number_is(tmp_path: Path) -> None:
    plain: dict[str, Any] = to_plain(load_profile("h200x2-hostpath"))
    nodes = {**plain["topology"]["nodes"], "value": {"kind": "network"}}
    plain |= {
        "topology": plain["topology"] | {"nodes": nodes},
        "fingerprint": {"value": "1", "bytes": "2", "seconds": "3"},
    }
    write(tmp_path, "base.yaml", plain)
    heir = load_profile(write(tmp_path, "heir.yaml", {"like": "base.yaml", "name": "heir"}))
    assert heir.topology.nodes["value"].kind == "network"
    assert {entry.number.inherited_from for entry in numbers_by_path(heir.topology).values()} == {"base"}
    assert heir.fingerprint == plain["fingerprint"]


def test_what_was_measured_on_another_topology_says_so(tmp_path: Path, chunkflow: Command) -> None:
    topology = to_plain(load_profile("h200x2-gen4"))["topology"]
    file = write(tmp_path, "mine.yaml", {"like": "h200x2-hostpath", "name": "mine", "topology": topology})
    mine, base = load_profile(file), load_profile("h200x2-hostpath")
    kept = {entry.key: entry.another_topology for entry in mine.kept}
    assert {key for key, another in kept.items() if another} == {
        "description", "fingerprint", "h2d", "d2h",
        *(f"collectives.{kind}" for kind in ("all_to_all", "all_reduce", "all_gather")),
    }  # fmt: skip
    said = f"measured on h200x2-hostpath, another topology: {base.collectives.all_reduce.alone.source}"
    assert provenance(mine.collectives.all_reduce.alone) == said
    assert provenance(mine.h2d.setup) == f"as h200x2-hostpath: {base.h2d.setup.source}"
    # what is like it in turn has no other topology than it, but the tables are no truer there
    again = load_profile(write(tmp_path, "again.yaml", {"like": "mine.yaml", "name": "again"}))
    assert again.collectives.all_reduce.alone == mine.collectives.all_reduce.alone
    assert {e.key: e.another_topology for e in again.kept} == kept | dict.fromkeys(
        ({e.key for e in again.kept} - set(kept)), False
    )
    shown = " ".join(chunkflow("hardware", file).stdout.split())
    assert f"collectives.all_reduce h200x2-hostpath {ANOTHER_TOPOLOGY}" in shown
    plain = json.loads(chunkflow("hardware", file, "--json").stdout)
    assert {"key": "fingerprint", "profile": "h200x2-hostpath", "another_topology": True} in plain["kept"]
    assert ANOTHER_TOPOLOGY in hardware_page(mine)
    assert ANOTHER_TOPOLOGY not in hardware_page(base)


@pytest.mark.parametrize(
    ("like", "problem"),
    [
        ("h200x2-hostpth", "is not a hardware profile; did you mean 'h200x2-hostpath'"),
        ("mine.yaml", "mine.yaml: like: is a cycle: mine.yaml -> mine.yaml"),
        (3, "like: expected the name of a hardware profile"),
    ],
)
def test_a_profile_like_none_is_refused(tmp_path: Path, like: object, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        load_profile(write(tmp_path, "mine.yaml", {"like": like, "name": "mine"}))


def test_a_wrong_number_of_a_profile_like_another_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mine.yaml: streams.wake.value: expected a duration"):
        load_profile(write(tmp_path, "mine.yaml", {"like": "h200x2-hostpath", "streams": {"wake": {"value": "x"}}}))


# ---- one uplink and NVSwitch ---------------------------------------------------------------------------------------


def steps(hardware: str, ranks: int, policy: str, frames: int, height: int, width: int, layers: int = 8) -> float:
    workload = {"model": "wan2.2-14b", "frames": frames, "height": height, "width": width, "layers": layers, "steps": 2}
    plain = {"hardware": hardware, "world_size": ranks, "workload": workload, "policy": {"kind": policy}}
    return simulate(Scenario.from_plain(plain)).metrics["step_time_s"]


def test_offload_costs_nothing_over_nvswitch_where_compute_covers_it() -> None:
    resident, copied = (steps("h100x8-nvlink", 8, kind, 93, 720, 1280) for kind in ("resident", "whole_layer"))
    assert 1 <= copied / resident < 1.01


@pytest.mark.slow
def test_sharding_gains_over_nvswitch_and_not_on_one_uplink() -> None:
    whole, sharded = (steps("h100x8-nvlink", 8, kind, 17, 480, 832) for kind in ("whole_layer", "sharded"))
    assert sharded < 0.5 * whole
    for size in ((93, 720, 1280), (17, 480, 832)):
        whole, sharded = (steps("h100x4-pcie-uplink", 4, kind, *size) for kind in ("whole_layer", "sharded"))
        assert sharded >= whole


@pytest.mark.parametrize("name", shipped())
def test_every_profile_states_its_own_pageable_rates_and_has_rates_of_both_directions(name: str) -> None:
    profile = load_profile(name)
    assert not [part.key for part in profile.kept if part.key.startswith("pageable")]
    for direction, pinned in (("h2d", profile.h2d), ("d2h", profile.d2h)):
        staged = getattr(profile.pageable, direction)
        for number in (staged.rate, staged.setup, staged.staging):
            assert not number.inherited_from
            measured = number.source.startswith("pageable/")
            assert measured or number.source.startswith("assumed: as measured on ")
        assert pinned.cap.source
        for size in (2**16, 2**22, 2**30):
            pinned_s = max(pinned.minimum.value, pinned.setup.value + size / pinned.cap.value)
            assert profile.pageable_seconds(direction, size) > pinned_s  # type: ignore[arg-type]
