"""A profile's numbers are all found, and changed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from strategies import tiny_profile

from sim.hardware import Profile, load_profile, shipped, to_plain
from sim.hardware.profile_parameters import changed, numbers_by_path
from sim.hardware.schema import Device, HostIssue, Streams
from sim.hardware.topology import Sourced
from sim.inputs.config import convert
from sim.inputs.units import Bandwidth, Bytes, Number, Seconds


def four() -> Profile:
    """The golden host with what it has none of: an uncertainty, and a table for four ranks."""
    plain: Any = to_plain(load_profile(str(Path(__file__).parent / "golden" / "host.yaml")))
    plain["h2d"]["cap"]["uncertainty"] = 0.005
    everywhere = plain["collectives"]["all_to_all"]
    everywhere["alone_by_ranks"] = {4: everywhere["alone"]}
    return convert(plain, Profile, "four")


FOUR = four()


def sources(plain: Any) -> int:
    """How many mappings of plain data have a source."""
    if isinstance(plain, dict):
        return ("source" in plain) + sum(map(sources, plain.values()))
    return sum(map(sources, plain)) if isinstance(plain, list | tuple) else 0


@pytest.mark.parametrize("name", shipped())
def test_every_number_with_a_source_is_found(name: str) -> None:
    profile = load_profile(name)
    assert len(numbers_by_path(profile)) == sources(to_plain(profile)) > 40


@pytest.mark.parametrize(
    ("path", "value", "uncertainty"),
    [
        ("device.memory", 80e9, None),
        ("h2d.cap", 45e9, 0.005),
        ("topology.nodes.memory.out_of", 110e9, None),
        ("topology.links[0].both_ways", 80e9, None),
        ("collectives.all_to_all.alone_by_ranks[4]", None, None),
        ("streams.flag_wake", 0.0, None),
    ],
)
def test_a_number_is_found_by_its_key_path(path: str, value: float | None, uncertainty: float | None) -> None:
    entry = numbers_by_path(FOUR)[path]
    assert (entry.value, entry.uncertainty) == (value, uncertainty)


@pytest.mark.parametrize("path", numbers_by_path(FOUR))
def test_a_changed_number_changes_nothing_else(path: str) -> None:
    def more(value: float) -> float:
        return value * 1.01 + 1e-7

    def raised(plain: Any) -> Any:
        if "seconds" in plain:
            return plain | {"seconds": tuple(map(more, plain["seconds"]))}
        return plain | {"value": type(plain["value"])(more(plain["value"]))}

    def expected(plain: Any, at: str) -> Any:
        if at == path:
            return raised(plain)
        if isinstance(plain, dict):
            return {k: expected(v, f"{at}[{k}]" if isinstance(k, int) else f"{at}.{k}".strip(".")) for k, v in plain.items()}  # fmt: skip
        if isinstance(plain, list | tuple):
            return type(plain)(expected(v, f"{at}[{i}]") for i, v in enumerate(plain))
        return plain

    before = to_plain(FOUR)
    assert to_plain(changed(FOUR, {path: more})) == expected(before, "") != before
    assert to_plain(FOUR) == before


def test_changed_numbers_keep_their_kind_and_reach_the_routes() -> None:
    twice = changed(FOUR, dict.fromkeys(("device.memory", "h2d.setup", "topology.links[0].there"), lambda v: v * 2))
    kinds = twice.device.memory.value, twice.h2d.setup.value, twice.topology.links[0].there.value  # type: ignore[union-attr]
    assert [type(value) for value in kinds] == [Bytes, Seconds, Bandwidth]
    changes = {(new / old) for old, new in zip(FOUR.capacities, twice.capacities, strict=True) if new != old}
    assert changes == {2.0} and sum(a != b for a, b in zip(FOUR.capacities, twice.capacities, strict=True)) == 4


def test_numbers_that_are_valid_only_together_are_changed_together() -> None:
    profile = tiny_profile(changes={"collective.latency": 1.0})
    later = {"collectives.all_to_all.latency": lambda v: v * 2, "collectives.all_to_all.alone": lambda v: v * 2}
    assert changed(profile, later).collectives.all_to_all.latency.value == 2.0
    with pytest.raises(ValueError, match="latency must be shorter"):
        changed(profile, {"collectives.all_to_all.latency": later["collectives.all_to_all.latency"]})


@pytest.mark.parametrize("path", ["h2d.caps", "h2d", "topology.links.0.there", "gpus"])
def test_a_path_that_leads_to_no_number_is_an_error(path: str) -> None:
    with pytest.raises(KeyError, match=path):
        changed(FOUR, {path: lambda v: v})


HOST_FLAGS = {"host_flag_write": "write_flag", "host_flag_wait": "wait_flag", "host_flag_wake": "flag_wake"}


@pytest.mark.parametrize(("name", "like"), HOST_FLAGS.items())
def test_flags_in_host_memory_cost_what_those_in_device_memory_do_unless_given(name: str, like: str) -> None:
    plain = to_plain(FOUR)
    plain["streams"][like] = {"value": 3e-6, "source": "test"}
    del plain["streams"][name]
    missing = convert(plain, Profile, "test").streams
    assert getattr(missing, name) == Sourced(Seconds(3e-6), f"not given: as streams.{like}")
    plain["streams"][name] = {"value": 5e-6, "source": "measured"}
    assert getattr(convert(plain, Profile, "test").streams, name) == Sourced(Seconds(5e-6), "measured")


def test_profiles_without_newer_numbers_say_what_stands_in_for_them() -> None:
    assert "engines" not in (Path(__file__).parent / "golden" / "host.yaml").read_text()
    assert FOUR.h2d.engines == FOUR.d2h.engines == Sourced(Number(1), "not given: taken as 1")
    assert FOUR.d2d is None and FOUR.p2p is None
    memory = FOUR.device.hbm_bandwidth.value * FOUR.device.hbm_efficiency.value
    assert FOUR.device_copies.cap.value == memory / 2
    assert FOUR.device_copies.cap.source.startswith("not given: device.hbm_bandwidth x device.hbm_efficiency / 2")
    staged = (FOUR.pageable.h2d, FOUR.pageable.d2h)
    assert {number.source for side in staged for number in (side.rate, side.setup, side.staging)} == {
        "assumed: as measured on h200x1-20261129m"
    }


def test_what_is_assumed_of_pageable_memory_is_what_its_source_measured() -> None:
    measured, assumed = load_profile("h200x1-20261129m"), FOUR.pageable
    for side in ("h2d", "d2h"):
        for name in ("rate", "setup", "staging"):
            shown = getattr(getattr(measured.pageable, side), name).value
            assert getattr(getattr(assumed, side), name).value == pytest.approx(shown, rel=1e-9), (side, name)


def test_copies_within_a_gpu_are_as_given() -> None:
    given = msgspec.structs.replace(FOUR, d2d=FOUR.h2d)
    assert given.device_copies is FOUR.h2d
    assert "d2d.cap" in numbers_by_path(given) and "d2d.cap" not in numbers_by_path(FOUR)


@pytest.mark.parametrize(("engines", "at_once"), [(0.2, 1), (1.0, 1), (1.05, 1), (2.0, 2), (2.6, 3)])
def test_engines_are_whole(engines: float, at_once: int) -> None:
    given = msgspec.structs.replace(FOUR.h2d, engines=Sourced(Number(engines), "test"))
    assert given.copies_at_once == at_once


@pytest.mark.parametrize("path", ["h2d.engines", "pageable.h2d.rate", "pageable.d2h.rate"])
def test_numbers_that_must_be_positive_are_refused_by_name(path: str) -> None:
    with pytest.raises(ValueError, match=path):
        changed(FOUR, {path: lambda v: 0.0})


@pytest.mark.parametrize("part", [Device, HostIssue, Streams])
def test_what_a_profile_does_not_give_is_what_its_source_says(part: type[msgspec.Struct]) -> None:
    defaults = [f.default for f in msgspec.structs.fields(part) if isinstance(f.default, Sourced)]
    defaults = [number for number in defaults if number.source]  # others are as another number of the profile
    assert defaults
    for number in defaults:
        assert number.source == f"not given: taken as {number.value:g}"
