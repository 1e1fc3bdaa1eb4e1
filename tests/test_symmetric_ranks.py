"""Ranks that are proved to do the same are simulated once: the same spans, times and figures as of all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import (
    Case,
    Plain,
    cases,
    chunked,
    gated,
    policies,
    sharded,
    tiny_profile,
    trees,
    whole_layer,
    workloads,
)

from sim.hardware import Profile
from sim.machine import SimulatedMachine
from sim.scenario import Scenario
from sim.shortcuts import Shortened, expanded, run_layers
from sim.timeline import Sections, Timeline
from sim.timeline.critical_path import causes
from sim.timeline.metrics import metrics

REL, ABS = 1e-9, 1e-12


def runs(scenario: Scenario, profile: Profile, **options: Any) -> tuple[Shortened, Shortened]:
    """With ranks and layers left out, and with neither."""
    machine, workload = SimulatedMachine(profile), scenario.workload.resolve(scenario.world_size)
    given = machine, workload, scenario.policy, scenario.world_size
    placement = scenario.placement or ()
    short = run_layers(*given, worth=0, placement=placement, **options)
    return short, run_layers(*given, shortcuts=False, placement=placement)


def assert_same_spans(short: Timeline, full: Timeline) -> None:
    """Every command of every rank, in its stream's order, at the same times."""
    found = expanded(short)
    assert found.program == full.program
    for rank, steps in enumerate(full.steps):
        assert short.steps[rank] == pytest.approx(steps, rel=REL, abs=ABS)
        assert by_stream(found, rank) == {
            stream: [(kind, pytest.approx(times, rel=REL, abs=ABS)) for kind, times in spans]
            for stream, spans in by_stream(full, rank).items()
        }


def by_stream(timeline: Timeline, rank: int) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    found: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
    for s in timeline.of(rank):
        found.setdefault(s.command.stream, []).append((s.kind, (s.start, s.ready, s.end, s.isolated_time)))
    return found


def assert_same_figures(short: Timeline, full: Timeline, profile: Profile) -> None:
    if Sections.of(short, 0) is None or short.simulated_shown.start < 1:
        return
    for rank in range(len(full.steps)):
        expected = metrics(full, profile, rank)
        found = metrics(short, profile, rank)
        for key, value in expected.items():
            close = pytest.approx(value, rel=REL, abs=ABS) if isinstance(value, float | list) else value
            assert found[key] == close, key  # type: ignore[literal-required]
        wanted = pytest.approx(causes(full, profile, rank), rel=REL, abs=ABS * full.steps[0][-1])
        assert causes(short, profile, rank) == wanted


@st.composite
def hosts(draw: st.DrawFn, ranks: int, changes: dict[str, float]) -> Profile:
    """Hosts whose GPUs are alike, or in groups that are, or not at all."""
    if draw(st.booleans()):
        return tiny_profile(ranks, changes)
    plain = draw(symmetric_trees(ranks) | trees(ranks) if ranks > 2 else symmetric_trees(ranks))
    kept = {key: value for key, value in changes.items() if key not in ("down", "up", "duplex", "host")}
    return tiny_profile(ranks, kept, plain)


@st.composite
def symmetric_trees(draw: st.DrawFn, gpus: int) -> Plain:
    """GPUs in equal numbers below switches of one kind, joined by one above; one link may differ."""
    each = draw(st.sampled_from([n for n in range(1, gpus + 1) if gpus % n == 0]))
    limits = st.sampled_from([4.0, 8.0, 16.0]).map(lambda value: {"value": value, "source": "test"})
    below, above, one_memory = draw(limits), draw(limits), draw(st.booleans())
    nodes: Plain = {"top": {"kind": "fabric"}}
    links: list[Plain] = []
    pinned: Plain = {}
    for switch in range(gpus // each):
        nodes[f"s{switch}"] = {"kind": "switch", "through": draw(st.none()) or None}
        links.append({"ends": [f"s{switch}", "top"], "each_way": above})
        members = list(range(switch * each, (switch + 1) * each))
        links += [{"ends": [f"s{switch}", f"gpu{gpu}"], "each_way": below} for gpu in members]
        if not one_memory:
            nodes[f"memory{switch}"] = {"kind": "memory"}
            links.append({"ends": [f"memory{switch}", f"s{switch}"]})
            pinned[f"memory{switch}"] = members
    if one_memory:
        nodes["memory"] = {"kind": "memory"}
        links.append({"ends": ["memory", "top"]})
    if draw(st.integers(0, 3)) == 0:
        odd = draw(st.sampled_from([link for link in links if "each_way" in link]))
        links[links.index(odd)] = odd | {"each_way": draw(limits)}
    return {"nodes": nodes, "links": links, "peers": draw(st.sampled_from(["direct", "host"])), "pinned": pinned}


@st.composite
def generated(draw: st.DrawFn) -> tuple[Case, Profile]:
    ranks = draw(st.sampled_from([2, 3, 4, 4, 6]))
    case = draw(cases(workloads(), chunked | gated | whole_layer | sharded | policies))._replace(ranks=ranks)
    return case, draw(hosts(ranks, dict(case.changes)))


@given(generated())
def test_symmetric_ranks_change_nothing(made: tuple[Case, Profile]) -> None:
    case, profile = made
    short, full = runs(case.scenario, profile, all_layers=True)
    quotient = short.timeline.quotient
    event(f"of {case.ranks} ranks simulated: {len(short.timeline.simulated_ranks)}")
    assert quotient is None or len(quotient.representatives) < case.ranks
    assert short.commands == full.commands
    assert_same_spans(short.timeline, full.timeline)
    assert_same_figures(short.timeline, full.timeline, profile)


@given(generated())
def test_with_layers_left_out_too(made: tuple[Case, Profile]) -> None:
    case, profile = made
    workload = case.workload | ({"layers": 20} if "layers" in case.workload else {})
    case = case._replace(workload=workload)
    short, full = runs(case.scenario, profile)
    event(f"ranks: {short.timeline.quotient is not None}, layers: {short.repeated_layers > 0}")
    for found, steps in zip(short.timeline.steps, full.timeline.steps, strict=True):
        assert found == pytest.approx(steps, rel=REL, abs=ABS)
    assert_same_figures(short.timeline, full.timeline, profile)


def test_symmetry_is_found_on_shipped_hosts_only_where_it_is() -> None:
    assert set(tiny_profile(6).symmetry_of(range(6)).rank_class) == {0}
