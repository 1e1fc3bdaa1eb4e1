"""Ranks that are proved to do the same are simulated once: the same spans, times and figures as of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import (
    Case,
    Plain,
    cases,
    chunked,
    collective,
    compute,
    gated,
    policies,
    scenario,
    sharded,
    tiny_profile,
    trees,
    whole_layer,
    workloads,
)

from sim.hardware import Profile, load_profile
from sim.machine import SimulatedMachine
from sim.run import simulate
from sim.scenario import Scenario
from sim.shortcuts import Shortened, expanded, run_layers
from sim.timeline import Sections, Timeline
from sim.timeline.critical_path import causes
from sim.timeline.metrics import metrics

REL, ABS = 1e-9, 1e-12


def limit(value: float) -> Plain:
    return {"value": value, "source": "test"}


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
        its, expected = by_stream(found, rank), by_stream(full, rank)
        assert its.keys() == expected.keys()
        for stream, spans in expected.items():
            assert [kind for kind, *_ in its[stream]] == [kind for kind, *_ in spans]
            times = [time for _, *times in spans for time in times]
            assert [time for _, *times in its[stream] for time in times] == pytest.approx(times, rel=REL, abs=ABS)


def by_stream(timeline: Timeline, rank: int) -> dict[str, list[tuple[str, float, float, float, float]]]:
    """Stream -> kind and times of its spans, in their order."""
    found: dict[str, list[tuple[str, float, float, float, float]]] = {}
    for s in timeline.of(rank):
        found.setdefault(s.command.stream, []).append((s.kind, s.start, s.ready, s.end, s.isolated_time))
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
    limits = st.sampled_from([4.0, 8.0, 16.0]).map(limit)
    below, above, one_memory = draw(limits), draw(limits), draw(st.booleans())
    nodes: Plain = {"top": {"kind": "fabric"}}
    links: list[Plain] = []
    pinned: Plain = {}
    for switch in range(gpus // each):
        nodes[f"s{switch}"] = {"kind": "switch"}
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


def star(slow: float = 8.0, gpus: int = 6) -> Plain:
    """GPUs with a memory each, around one switch; the link of the first one has its own limit."""
    links = [
        {"ends": ["memory{gpu}", "gpu{gpu}"], "each_way": limit(8.0)},
        {"ends": ["gpu{gpu}", "switch"], "gpus": list(range(1, gpus)), "each_way": limit(8.0)},
        {"ends": ["gpu0", "switch"], "each_way": limit(slow)},
    ]
    return {"nodes": {"memory{gpu}": {"kind": "memory"}, "switch": {"kind": "switch"}}, "links": links}


def two_sockets(**of_last: Any) -> Plain:
    """Two sockets with two GPUs each; the last GPU's link may differ."""
    nodes: Plain = {"memory": {"kind": "memory"}, "s0": {"kind": "socket"}, "s1": {"kind": "socket"}}
    links: list[Plain] = [{"ends": ["memory", f"s{i}"], "each_way": limit(12.0)} for i in (0, 1)]
    links += [{"ends": [f"s{gpu // 2}", f"gpu{gpu}"], "each_way": limit(8.0)} for gpu in range(4)]
    links[-1] |= of_last
    return {"nodes": nodes, "links": links, "peers": "host"}


@pytest.mark.parametrize(
    ("topology", "gpus", "classes"),
    [
        pytest.param(None, range(6), [0] * 6, id="one switch"),
        pytest.param(star(), range(6), [0] * 6, id="a memory each"),
        pytest.param(star(), [4, 1, 3], [0] * 3, id="some of them"),
        pytest.param(star(slow=7.92), range(6), [0, 1, 1, 1, 1, 1], id="a slower link"),
        pytest.param(star(slow=7.92), [3, 5, 0], [0, 0, 2], id="the slower link of the last rank"),
        pytest.param(two_sockets(), range(4), [0] * 4, id="two sockets"),
        pytest.param(two_sockets(), [0, 1, 2], [0, 0, 2], id="two and one of two sockets"),
        pytest.param(two_sockets(each_way=limit(7.92)), range(4), [0, 0, 2, 3], id="a slower GPU on a socket"),
        pytest.param(two_sockets(hops=2), range(4), [0, 0, 2, 3], id="a longer link"),
        pytest.param(two_sockets(both_ways=limit(12.0)), range(4), [0, 0, 2, 3], id="directions of a link share"),
        pytest.param(two_sockets() | {"peers": [[0, 1], [2], [3]]}, range(4), [0, 0, 2, 2], id="two peers"),
    ],
)
def test_which_ranks_stand_alike(topology: Plain | None, gpus: Sequence[int], classes: list[int]) -> None:
    profile = tiny_profile(6 if topology is None or "switch" in topology["nodes"] else 4, topology=topology)
    assert list(profile.symmetry_of(gpus).rank_class) == classes


def rails() -> Plain:
    """Two switches with two GPUs each, and a link from each GPU to a network, where the memory is.

    A ring through all ranks enters the first GPU of each switch from the network, and leaves there by the second one.
    """
    nodes: Plain = {"memory": {"kind": "memory"}, "net": {"kind": "network"}}
    links: list[Plain] = [{"ends": ["memory", "net"]}, {"ends": ["net", "gpu{gpu}"], "each_way": limit(8.0), "hops": 2}]
    for switch in (0, 1):
        nodes[f"s{switch}"] = {"kind": "switch"}
        both = [2 * switch, 2 * switch + 1]
        links.append({"ends": [f"s{switch}", "gpu{gpu}"], "gpus": both, "each_way": limit(16.0)})
    return {"nodes": nodes, "links": links}


def simulated(policy: Plain, block: list[Plain], topology: Plain, **changes: float) -> list[int]:
    """The ranks that are simulated of four, or of six on a star; figures are compared with those of all of them."""
    ranks = 6 if "switch" in topology["nodes"] else 4
    work = {"layers": 6, "steps": 3, "layer_bytes": 40, "block": block}
    case, profile = Case(work, policy, ranks), tiny_profile(ranks, changes, topology)
    short, full = runs(case.scenario, profile)
    assert_same_figures(short.timeline, full.timeline, profile)
    return list(short.timeline.simulated_ranks)


CHUNKED: Plain = {"kind": "chunked", "chunk_bytes": 8}
EXCHANGE = [compute(1.0), collective(48), compute(0.5)]
RING = [compute(1.0), collective(48, "all_reduce")]


@pytest.mark.parametrize(
    ("policy", "block", "topology", "ranks"),
    [
        pytest.param(CHUNKED, EXCHANGE, star(), [0], id="exchange"),
        pytest.param(CHUNKED, RING, star(), [0], id="ring"),
        pytest.param(CHUNKED | {"kind": "yielding"}, EXCHANGE, star(), [0], id="gated"),
        pytest.param(CHUNKED | {"kind": "yielding", "window": "kernel"}, EXCHANGE, star(), [0], id="two host threads"),
        pytest.param(CHUNKED, EXCHANGE, star(slow=4.0), [0, 1], id="a slow link"),
        pytest.param(CHUNKED, RING, star(slow=4.0), [0, 1], id="a slow link of a ring"),
        pytest.param(CHUNKED, EXCHANGE, rails(), [0], id="exchange over rails"),
        pytest.param(CHUNKED, RING, rails(), [0, 1], id="ring over rails, in beside copies or out"),
        pytest.param(CHUNKED, [collective(48, "send_recv")], rails(), [0, 1], id="shift over rails"),
        pytest.param(CHUNKED, RING, two_sockets(), [0], id="ring through the host"),
        pytest.param(CHUNKED, [collective(48, "send_recv")], two_sockets(), [0], id="shift through the host"),
        pytest.param({"kind": "sharded"}, EXCHANGE, star(), list(range(6)), id="ranks of a policy that differ"),
        pytest.param(
            CHUNKED, [{"collective": {"kind": "all_gather", "bytes": 48, "group": [[0, 1, 2], [3, 4, 5]]}}], star(),
            list(range(6)), id="groups",
        ),
        pytest.param(
            CHUNKED, [{"collective": {"kind": "all_gather", "bytes": 48, "algorithm": "copy_engine"}}], star(),
            list(range(6)), id="collectives by copy engines",
        ),
    ],
)  # fmt: skip
def test_which_ranks_are_simulated(policy: Plain, block: list[Plain], topology: Plain, ranks: list[int]) -> None:
    assert simulated(policy, block, topology) == ranks


def test_host_threads_that_wake_at_random_times_are_all_simulated() -> None:
    waiting = {"kind": "yielding", "chunk_bytes": 8, "window": "kernel"}
    assert simulated(waiting, EXCHANGE, star(), **{"host.wake": 0.25, "host.wake_spread": 0.5}) == list(range(6))
    assert simulated(CHUNKED, EXCHANGE, star(), **{"host.wake": 0.25, "host.wake_spread": 0.5}) == [0], "none waits"


@pytest.mark.parametrize("chunk", [4, 8])
def test_what_happens_as_a_collective_starts_is_alike_on_all_ranks(chunk: int) -> None:
    # chunks end and start as the kernel ends: whether they start beside the collective, which delays them, is one answer
    work = {"layers": 4, "steps": 2, "layer_bytes": 40, "block": [compute(1.0), collective(32, "all_reduce")]}
    case = Case(work, {"kind": "chunked", "chunk_bytes": chunk}, 4, {"all_reduce.copy_start": 0.5})
    short, full = runs(case.scenario, case.profile, all_layers=True)
    assert list(short.timeline.simulated_ranks) == [0]
    assert len(set(full.timeline.steps)) == 1
    assert_same_spans(short.timeline, full.timeline)


def test_a_rate_law_of_ones_own_has_all_ranks_simulated() -> None:
    scenario = Case({"layers": 2, "steps": 2, "layer_bytes": 40, "block": EXCHANGE}, CHUNKED, 4).scenario
    machine = SimulatedMachine(tiny_profile(4), lambda flows, capacities: [f.cap / 2 for f in flows])
    run = run_layers(machine, scenario.workload.resolve(4), scenario.policy, 4, worth=0)
    assert len(run.timeline.simulated_ranks) == 4


def test_the_timeline_of_a_result_has_all_ranks() -> None:
    block = [compute(1.0), *[collective(48)] * 2]
    work = {"layers": 48, "steps": 2, "layer_bytes": 256, "block": block}
    case, profile = Case(work, {"kind": "chunked", "chunk_bytes": 8}, 4), tiny_profile(4)
    short, full = (simulate(case.scenario, profile, shortcuts=given) for given in (True, False))
    assert short.repeated_layers > 0 and len(short.simulated.simulated_ranks) == 1
    assert_same_spans(short.timeline, full.timeline)
    assert {span.rank for span in short.timeline.spans} == set(range(4))


@pytest.mark.slow
@pytest.mark.parametrize("host", ["h200x8-hostpath", "h100x16-nvlink-2nodes", "l40x16-2nodes", "aurora-12tiles"])
@pytest.mark.parametrize("kind", ["all_to_all", "all_reduce"])
def test_shipped_hosts_come_to_the_same_both_ways(host: str, kind: str) -> None:
    profile = load_profile(host)
    block = [compute(2e-3), *[collective(79872000, kind)] * 2, compute(4e-3)]
    work = {"layers": 4, "steps": 2, "layer_bytes": 268435456, "block": block}
    policy = {"kind": "yielding", "chunk_bytes": 16777216}
    made = scenario(work, policy, profile.gpus, host)
    short, full = runs(made, profile)
    assert len(short.timeline.simulated_ranks) < profile.gpus
    assert_same_figures(short.timeline, full.timeline, profile)
