"""What collectives move, over which edges, at which cap."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, tiny_profile

from sim import collectives
from sim.hardware import AloneTime, load_profile
from sim.program import CollectiveKind
from sim.units import Bytes, Seconds

kinds = st.sampled_from(KINDS)


@pytest.mark.parametrize(
    ("kind", "ranks", "sent"),
    [
        ("all_to_all", 2, 60),
        ("all_to_all", 4, 90),
        ("all_reduce", 2, 120),
        ("all_reduce", 4, 180),
        ("all_gather", 3, 80),
        ("all_gather", 1, 0),
        ("all_reduce", 1, 0),
    ],
)
def test_bytes_are_those_of_bandwidth_optimal_algorithms(kind: CollectiveKind, ranks: int, sent: float) -> None:
    assert collectives.sent_per_rank(kind, 120, ranks) == sent


@given(kinds, st.integers(1, 10**9), st.integers(1, 8))
def test_every_rank_sends_and_receives_what_sent_per_rank_says(kind: CollectiveKind, size: int, ranks: int) -> None:
    sent, received = [0.0] * ranks, [0.0] * ranks
    for part in collectives.parts(kind, size, ranks):
        for source, destination in part.edges:
            assert source != destination
            assert {source, destination} <= set(part.ranks)
            sent[source] += part.size
            received[destination] += part.size
    expected = [collectives.sent_per_rank(kind, size, ranks)] * ranks
    assert sent == pytest.approx(expected)
    assert received == pytest.approx(expected)


def test_an_all_to_all_has_a_flow_a_pair_and_a_ring_is_one_flow() -> None:
    pairs = collectives.parts("all_to_all", 12, 3)
    assert {p.edges for p in pairs} == {((i, j),) for i in range(3) for j in range(3) if i != j}
    assert {(p.size, p.ranks == p.edges[0]) for p in pairs} == {(4.0, True)}
    (ring,) = collectives.parts("all_gather", 12, 3)
    assert ring == (((0, 1), (1, 2), (2, 0)), 8.0, (0, 1, 2))


@given(kinds, st.integers(2, 10**6), st.integers(2, 6), st.sampled_from([0.0, 0.5]), st.sampled_from([1.0, 4.0]))
def test_caps_make_the_time_alone_what_was_measured(
    kind: CollectiveKind, size: int, ranks: int, latency: float, cap: float
) -> None:
    profile = tiny_profile(ranks, {"collective.latency": latency, "collective.cap": cap, "collective.weight": 3})
    sent = collectives.sent_per_rank(kind, size, ranks)
    flows = collectives.flows(profile, kind, size, ranks)
    assert [part.size / spec.cap + latency for spec, part in flows] == pytest.approx(
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
        for spec, part in collectives.flows(profile, kind, 12, 3)  # type: ignore[arg-type]
    }
    assert routes[((0, 2),)] == {"gpu0>host": 1.5, "host-gpu0": 1.5, "host": 1.5, "host-gpu2": 1.5, "host>gpu2": 1.5}
    ring = routes[((0, 1), (1, 2), (2, 0))]
    assert ring == {name: 1.5 for g in range(3) for name in (f"gpu{g}>host", f"host>gpu{g}")} | {
        "host-gpu0": 3.0,
        "host-gpu1": 3.0,
        "host-gpu2": 3.0,
        "host": 4.5,
    }


@pytest.mark.parametrize(("ranks", "latency"), [(1, 1.0), (2, 1.0), (3, 1.25), (5, 1.75)])
def test_latency_grows_with_ranks_beyond_two(ranks: int, latency: float) -> None:
    profile = tiny_profile(8, {"collective.latency": 1, "collective.latency_per_rank": 0.25})
    assert profile.collectives.all_gather.latency_of(ranks) == latency


@pytest.mark.parametrize(
    ("size", "seconds"), [(1, 2), (10, 2), (15, 3), (20, 4), (25, 7), (30, 10), (40, 16)], ids=lambda value: str(value)
)
def test_times_alone_are_interpolated_and_go_on_with_the_last_slope(size: float, seconds: float) -> None:
    table = AloneTime(bytes=(10, 20, 30), seconds=(2, 4, 10), source="test")  # type: ignore[arg-type]
    assert table.at(size) == pytest.approx(seconds)
    assert AloneTime(bytes=(10,), seconds=(2,), source="test").at(size) == pytest.approx(max(2, size / 5))  # type: ignore[arg-type]


def test_one_rank_has_nothing_to_move() -> None:
    profile = load_profile("h200x2-hostpath")
    assert collectives.flows(profile, "all_reduce", 100, 1) == []


def test_more_ranks_have_times_of_their_own() -> None:
    table = AloneTime(bytes=(Bytes(1), Bytes(2)), seconds=(Seconds(0.5), Seconds(0.75)), source="test")
    profile = tiny_profile(4, {"all_to_all.latency": 0.125, "all_to_all.latency_per_rank": 0.0625})
    cls = msgspec.structs.replace(profile.collectives.all_to_all, alone_by_ranks={4: table})
    assert cls.rate_alone(4, 2.0) == 2 / (0.75 - 0.25)
    assert cls.rate_alone(3, 2.0) == cls.rate_alone(2, 2.0) == 8
    with pytest.raises(ValueError, match="latency of 4 ranks"):
        short = msgspec.structs.replace(table, seconds=(Seconds(0.25), Seconds(0.75)))
        msgspec.structs.replace(cls, alone_by_ranks={4: short})
    with pytest.raises(ValueError, match="at least 2"):
        msgspec.structs.replace(cls, alone_by_ranks={1: table})
