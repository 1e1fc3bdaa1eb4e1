"""What collectives move, over which edges, at which cap."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, program, tiny_profile

from sim.hardware import CollectiveTag, IsolatedTimes, Profile, collectives, load_profile
from sim.hardware.collective_classes import Algorithm
from sim.inputs.config import InputError
from sim.inputs.units import Bytes, Seconds
from sim.machine import SimulatedMachine
from sim.program import CollectiveKind, RankBuilder

kinds = st.sampled_from(KINDS)


@pytest.mark.parametrize(
    ("kind", "ranks", "sent"),
    [
        ("all_to_all", 2, 60),
        ("all_to_all", 4, 90),
        ("all_reduce", 2, 120),
        ("all_reduce", 4, 180),
        ("all_gather", 3, 80),
        ("reduce_scatter", 3, 80),
        ("send_recv", 3, 120),
        *((kind, 1, 0) for kind in KINDS),
    ],
)
def test_bytes_are_those_of_bandwidth_optimal_algorithms(kind: CollectiveKind, ranks: int, sent: float) -> None:
    assert collectives.sent_per_rank(kind, 120, ranks) == sent


DOMAINS = {1: [(0,)], 2: [(0, 1)], 3: [(0,), (1,), (2,)], 4: [(0, 1), (2, 3)], 6: [(0, 3, 4), (5, 1, 2)], 8: [(0, 1), (2, 3), (4, 5), (6, 7)]}  # fmt: skip


@given(kinds, st.integers(1, 10**9), st.sampled_from(list(DOMAINS)), st.sampled_from(get_args(Algorithm)))
def test_every_rank_sends_and_receives_what_the_phases_say(
    kind: CollectiveKind, size: int, ranks: int, algorithm: str
) -> None:
    phases = collectives.phases(kind, size, ranks, algorithm, DOMAINS[ranks])
    for phase in phases:
        sent, received = [0.0] * ranks, [0.0] * ranks
        for part in phase.parts:
            for source, destination in part.edges:
                assert source != destination
                assert {source, destination} <= set(part.ranks)
                sent[source] += part.size
                received[destination] += part.size
        assert sent == pytest.approx([phase.sent] * ranks)
        assert received == pytest.approx([phase.sent] * ranks)
    total = collectives.sent_per_rank(kind, size, ranks)
    if algorithm == "hierarchical" and kind == "all_to_all" and ranks > 1:
        g, d = len(DOMAINS[ranks][0]), len(DOMAINS[ranks])
        total = size * (g - 1) / g + size * (d - 1) / d
    assert sum(phase.sent for phase in phases) == pytest.approx(total)


@pytest.mark.parametrize(
    ("kind", "within", "across"),
    [
        # 4 ranks in 2 domains of 2, 120 B: bytes over each directed edge within a domain, and between domains
        ("all_to_all", {60}, {60}),
        ("all_gather", {60}, {30}),
        ("reduce_scatter", {60}, {30}),
        ("all_reduce", {120}, {60}),
    ],
)
def test_hierarchical_bytes_per_link(kind: CollectiveKind, within: set[float], across: set[float]) -> None:
    moved: dict[tuple[int, int], float] = {}
    for phase in collectives.phases(kind, 120, 4, "hierarchical", [(0, 1), (2, 3)]):
        for part in phase.parts:
            for edge in part.edges:
                moved[edge] = moved.get(edge, 0) + part.size
    near = {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert {moved.pop(edge) for edge in near} == within
    assert moved.keys() == {(0, 2), (2, 0), (1, 3), (3, 1)}
    assert set(moved.values()) == across


def test_an_all_to_all_has_a_flow_a_pair_and_a_ring_is_one_flow() -> None:
    (exchange,) = collectives.phases("all_to_all", 12, 3, "direct")
    assert {p.edges for p in exchange.parts} == {((i, j),) for i in range(3) for j in range(3) if i != j}
    assert {(p.size, p.ranks == p.edges[0]) for p in exchange.parts} == {(4.0, True)}
    ((ring,), *_) = collectives.phases("all_gather", 12, 3, "ring")[0]
    assert ring == (((0, 1), (1, 2), (2, 0)), 8.0, (0, 1, 2))
    (shift,) = collectives.phases("send_recv", 12, 3, "direct")
    assert [p.edges for p in shift.parts] == [((0, 1),), ((1, 2),), ((2, 0),)]


def test_a_two_phase_all_to_all_spares_slow_links_and_must_have_even_domains() -> None:
    """4 GPUs: 8 B/s within a pair, all four pairs of GPUs across share 2 B/s each way."""
    limit = {"value": 8.0, "source": "test"}
    plain = {
        "nodes": {
            "memory": {"kind": "memory"},
            "left": {"kind": "switch"},
            "right": {"kind": "switch"},
        },
        "links": [
            {"ends": ["memory", "left"], "each_way": limit},
            {"ends": ["left", "gpu{gpu}"], "gpus": [0, 1], "each_way": limit},
            {"ends": ["right", "gpu{gpu}"], "gpus": [2, 3], "each_way": limit},
            {"ends": ["left", "right"], "each_way": limit | {"value": 2.0}},
        ],
        "domains": [[0, 1], [2, 3]],
    }
    profile = tiny_profile(4, {"collective.latency": 0.5, "collective.cap": 8.0}, plain)
    assert _seconds(profile, "all_to_all", 32) == 0.5 + 4 * 8 / 2
    chosen = msgspec.structs.replace(profile.collectives.all_to_all, algorithm="hierarchical")
    kinds = msgspec.structs.replace(profile.collectives, all_to_all=chosen)
    two_phase = msgspec.structs.replace(profile, collectives=kinds)
    # 16 B to the other rank of the domain, then 16 B across from each of two
    assert _seconds(two_phase, "all_to_all", 32) == 0.5 + 16 / 8 + 0.5 + 2 * 16 / 2
    with pytest.raises(InputError, match="3 ranks in domains of one size"):
        collectives.flows(two_phase, "all_to_all", 30, range(3))
    uneven = msgspec.structs.replace(profile.topology, domains=((0,), (1, 2, 3)))
    for domains, said in ((uneven.domains, r"are \[0\], \[1, 2, 3\]: a hier"), ((), "are none: a hier")):
        topology = msgspec.structs.replace(profile.topology, domains=domains)
        with pytest.raises(InputError, match=said):
            collectives.flows(msgspec.structs.replace(two_phase, topology=topology), "all_to_all", 32, range(4))


def _seconds(profile: Profile, kind: str, size: int) -> float:
    builders = [RankBuilder() for _ in range(profile.gpus)]
    for rank in builders:
        rank.record_step("s")
        rank.collective("s", "x", kind, size)  # type: ignore[arg-type]
        rank.record_step("s")
    return SimulatedMachine(profile).run(program(*builders)).step_times()[0]


@given(kinds, st.integers(2, 10**6), st.integers(2, 6), st.sampled_from([0.0, 0.5]), st.sampled_from([1.0, 4.0]))
def test_caps_reproduce_the_measured_isolated_times(
    kind: CollectiveKind, size: int, ranks: int, latency: float, cap: float
) -> None:
    profile = tiny_profile(ranks, {"collective.latency": latency, "collective.cap": cap, "collective.weight": 3})
    sent = collectives.sent_per_rank(kind, size, ranks)
    (phase,) = collectives.flows(profile, kind, size, range(ranks))
    flows = phase.flows
    assert [part.size / spec.cap + phase.latency for spec, part in flows] == pytest.approx(
        [profile.collective_class(kind).alone.at(sent)] * len(flows)
    )
    # what a rank sends at once shares one cap and one weight
    at_once = ranks - 1 if kind == "all_to_all" else 1
    assert [spec.weight for spec, _ in flows] == pytest.approx([3 / at_once] * len(flows))
    if sent >= 1:
        assert [spec.cap for spec, _ in flows] == pytest.approx([cap / at_once] * len(flows))


def test_flows_cross_the_resources_of_both_ends_with_the_overhead() -> None:
    profile = tiny_profile(3, {"collective.overhead": 1.5})
    routes = {
        part.edges: {profile.resource_names[i]: multiplier for i, multiplier in spec.route}
        for kind in ("all_to_all", "all_reduce")
        for spec, part in collectives.flows(profile, kind, 12, range(3))[0].flows  # type: ignore[arg-type]
    }
    assert routes[((0, 2),)] == {"gpu0>host": 1.5, "host-gpu0": 1.5, "host": 1.5, "host-gpu2": 1.5, "host>gpu2": 1.5}
    ring = routes[((0, 1), (1, 2), (2, 0))]
    assert ring == {name: 1.5 for g in range(3) for name in (f"gpu{g}>host", f"host>gpu{g}")} | {
        "host-gpu0": 3.0,
        "host-gpu1": 3.0,
        "host-gpu2": 3.0,
        "host": 4.5,
    }


def test_flows_are_marked_by_their_ranks_and_slowed_by_what_meets_the_sender() -> None:
    def tags(kind: str, *ranks: int) -> set[CollectiveTag]:
        return {CollectiveTag(name, rank) for rank in ranks for name in (None, kind)}  # type: ignore[arg-type]

    profile = tiny_profile(3, {"all_to_all.beside.all_gather": 0.5, "all_gather.beside.all_to_all": 0.25})
    (pairs,) = collectives.flows(profile, "all_to_all", 30, range(3))
    for spec, part in pairs.flows:
        [(sender, receiver)] = part.edges
        assert set(spec.tags) == tags("all_to_all", sender, receiver)
        assert spec.slowed_by == ((tuple(CollectiveTag("all_gather", rank) for rank in part.ranks), 0.5),)
    (ring,) = collectives.flows(profile, "all_gather", 30, range(3))
    [(spec, _)] = ring.flows
    assert set(spec.tags) == tags("all_gather", 0, 1, 2)
    assert spec.slowed_by == ((tuple(CollectiveTag("all_to_all", rank) for rank in (0, 1, 2)), 0.25),)


@pytest.mark.parametrize(("ranks", "latency"), [(1, 1.0), (2, 1.0), (3, 1.25), (5, 1.75)])
def test_latency_grows_with_ranks_beyond_two(ranks: int, latency: float) -> None:
    profile = tiny_profile(8, {"collective.latency": 1, "collective.latency_per_rank": 0.25})
    assert profile.collectives.all_gather.latency_of(ranks) == latency


@pytest.mark.parametrize(
    ("size", "seconds"), [(1, 2), (10, 2), (15, 3), (20, 4), (25, 7), (30, 10), (40, 16)], ids=lambda value: str(value)
)
def test_isolated_times_are_interpolated_and_extrapolated_with_the_last_slope(size: float, seconds: float) -> None:
    table = IsolatedTimes(bytes=(10, 20, 30), seconds=(2, 4, 10), source="test")  # type: ignore[arg-type]
    assert table.at(size) == pytest.approx(seconds)
    assert IsolatedTimes(bytes=(10,), seconds=(2,), source="test").at(size) == pytest.approx(max(2, size / 5))  # type: ignore[arg-type]


def test_one_rank_has_nothing_to_move() -> None:
    profile = load_profile("h200x2-hostpath")
    assert collectives.flows(profile, "all_reduce", 100, range(1)) == []


def test_more_ranks_have_times_of_their_own() -> None:
    table = IsolatedTimes(bytes=(Bytes(1), Bytes(2)), seconds=(Seconds(0.5), Seconds(0.75)), source="test")
    profile = tiny_profile(4, {"all_to_all.latency": 0.125, "all_to_all.latency_per_rank": 0.0625})
    cls = msgspec.structs.replace(profile.collectives.all_to_all, alone_by_ranks={4: table})
    assert cls.demand_cap(4, 2.0) == 2 / (0.75 - 0.25)
    assert cls.demand_cap(3, 2.0) == cls.demand_cap(2, 2.0) == 8
    with pytest.raises(ValueError, match="latency of 4 ranks"):
        short = msgspec.structs.replace(table, seconds=(Seconds(0.25), Seconds(0.75)))
        msgspec.structs.replace(cls, alone_by_ranks={4: short})
    with pytest.raises(ValueError, match="at least 2"):
        msgspec.structs.replace(cls, alone_by_ranks={1: table})
