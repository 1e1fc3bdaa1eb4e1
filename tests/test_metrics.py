"""Figures of a run: by hand on small timelines, and what holds of all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, Case, Plain, cases, collective, compute, scenario, tiny_profile, trees

from sim.machine import SimulatedMachine
from sim.program import Collective, Copy, Program, RankBuilder
from sim.run import simulate
from sim.timeline import HostSpan
from sim.timeline.critical_path import causes
from sim.timeline.lower_bound import lower_bound
from sim.timeline.metrics import Metrics, metrics

# Links move 8 B/s. A layer is copied in 2 s, in 4 chunks; a collective of 32 bytes sends 16 and takes 2 s alone. See
# test_policies.test_yielding for the timelines.
GATED: Plain = {"layers": 1, "steps": 2, "layer_bytes": 16, "block": [compute(1.25), collective(32), compute(1.25)]}


def figures(policy: Plain, workload: Plain = GATED, **changes: float) -> Metrics:
    return simulate(scenario(workload, policy), tiny_profile(2, changes)).metrics


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(
            {"kind": "resident"},
            {
                "step_time_s": 4.5,
                "step_times_s": [4.5, 4.5],
                "peak_memory_bytes": 16 + 64,
                "h2d_bytes_per_step": 0,
                "h2d_busy_s": 0,
                "h2d_uncovered_s": 0,
                "collective_time_s": 2,
                "collective_inflation_s": 0,
                "h2d_collective_overlap_s": 0,
                "exposed_prefetch_s": 0,
                "lower_bound_s": 4.5,
            },
            id="resident",
        ),
        pytest.param(
            # step 1 from 7.25 to 12.5, collective 8.5 to 11.25; the next layer's chunks 7.25 to 7.75, to 8.25,
            # to 9, to 10
            {"kind": "chunked", "chunk_bytes": 4},
            {
                "step_time_s": 5.25,
                "step_times_s": [7.25, 5.25],
                "peak_memory_bytes": 32 + 64,
                "h2d_bytes_per_step": 16,
                "h2d_busy_s": 2.75,
                "h2d_uncovered_s": 1.5,
                "collective_time_s": 2.75,
                "skew_s": 0,
                "contention_s": 0.75,
                "collective_inflation_s": 0.75,
                "h2d_collective_overlap_s": 1.5,
                "exposed_prefetch_s": 0,
                "lower_bound_s": 4.5,
            },
            id="chunked",
        ),
        pytest.param(
            # step 1 from 6.75 to 11.5, collective 8.25 to 10.25; chunks 6.75 to 8.25 and 10.25 to 10.75; drained from 8
            {"kind": "yielding", "chunk_bytes": 4, "drain": True},
            {
                "step_time_s": 4.75,
                "h2d_busy_s": 2,
                "h2d_uncovered_s": 0.25,
                "collective_time_s": 2,
                "collective_inflation_s": 0,
                "h2d_collective_overlap_s": 0,
                "exposed_prefetch_s": 0,
            },
            id="yielding with drain",
        ),
        pytest.param(
            # copy, kernel, collective, kernel, one after the other
            {"kind": "whole_layer", "prefetch_layers": 0},
            {
                "step_time_s": 6.5,
                "step_times_s": [6.5, 6.5],
                "h2d_busy_s": 2,
                "h2d_uncovered_s": 2,
                "exposed_prefetch_s": 2,
                "peak_memory_bytes": 16 + 64,
            },
            id="nothing ahead",
        ),
    ],
)
def test_figures_by_hand(policy: Plain, expected: dict[str, float]) -> None:
    found = figures(policy)
    assert {key: found[key] for key in expected} == {k: pytest.approx(v) for k, v in expected.items()}  # type: ignore[literal-required]


def test_the_step_time_is_the_median_of_all_but_the_first() -> None:
    found = figures({"kind": "whole_layer"}, {"layers": 1, "steps": 4, "layer_bytes": 16, "block": [compute(3)]})
    assert found["step_times_s"] == [5, 3, 3, 3]
    assert found["step_time_s"] == 3


def test_the_only_step_counts_where_there_is_one() -> None:
    found = figures({"kind": "resident"}, GATED | {"steps": 1})
    assert found["step_time_s"] == 4.5


@pytest.mark.parametrize(
    ("layer_bytes", "changes", "bound"),
    [
        pytest.param(16, {}, 4.5, id="isolated compute and collectives"),
        pytest.param(64, {}, 10, id="copied and received bytes over the link: (64 + 16) / 8"),
        pytest.param(64, {"h2d.cap": 4.0}, 16, id="copied bytes at the copies' cap: 64 / 4"),
        pytest.param(64, {"duplex": 8.0}, 12, id="sent bytes count as well where they cross: (64 + 16 + 16) / 8"),
        pytest.param(64, {"host": 8.0}, 20, id="all ranks count: 2 (64 + 16) / 8"),
        pytest.param(64, {"collective.overhead": 3.0}, 14, id="overhead counts: (64 + 3 * 16) / 8"),
    ],
)
def test_the_lower_bound_by_hand(layer_bytes: int, changes: dict[str, float], bound: float) -> None:
    found = figures({"kind": "whole_layer"}, GATED | {"layer_bytes": layer_bytes}, **changes)
    assert found["lower_bound_s"] == pytest.approx(bound)


def test_skew_and_contention_are_separate() -> None:
    builders = []
    for late in (1.0, 3.0):
        rank = RankBuilder()
        rank.record_step("s")
        rank.kernel("s", "k", seconds=late, step=0)
        rank.collective("s", "x", "all_to_all", 32, step=0)  # both have arrived at 3
        rank.copy("c", "w", 32, rank.buffer("w", 32, "weights"), step=0)  # 0 to 5: 8 bytes left at 3, at 4 B/s
        rank.record_step("s")
        builders.append(rank.build())
    profile = tiny_profile(2)
    timeline = SimulatedMachine(profile).run(Program(tuple(builders)))
    found = [metrics(timeline, profile, rank) for rank in (0, 1)]
    assert [f["skew_s"] for f in found] == pytest.approx([2, 0])
    assert [f["contention_s"] for f in found] == pytest.approx([1, 1])
    assert [f["collective_time_s"] for f in found] == pytest.approx([5, 3])
    assert [f["step_time_s"] for f in found] == pytest.approx([6, 6])


@given(cases())
def test_figures_fit_together(case: Case) -> None:
    result = case.run()
    for rank in range(case.ranks):
        found = metrics(result.timeline, result.profile, rank)
        last = found["step_times_s"][-1]
        near = 1e-9 * max(1, last)
        assert 0 <= found["h2d_uncovered_s"] <= found["h2d_busy_s"] + near <= last + 2 * near
        assert 0 <= found["h2d_collective_overlap_s"] <= min(found["h2d_busy_s"], found["collective_time_s"]) + near
        assert 0 <= found["exposed_prefetch_s"] <= last + near
        assert 0 <= found["collective_time_s"] <= last + near
        assert found["collective_inflation_s"] == found["skew_s"] + found["contention_s"]
        assert found["skew_s"] >= 0
        assert found["contention_s"] >= 0
        assert min(found["step_times_s"]) > -near
        copied = [c for _, c in result.timeline.commands(rank, Copy) if c.step == len(found["step_times_s"]) - 1]
        # nothing but weights is copied here, and some runtimes copy them back
        assert found["h2d_bytes_per_step"] == sum(c.bytes for c in copied if c.kind == "h2d")
        assert found["block_copy_bytes_per_step"] == sum(c.bytes for c in copied if c.kind == "d2h")


@given(trees(), st.sampled_from(KINDS), st.integers(1, 40))
def test_a_collective_that_meets_nothing_is_not_inflated_on_any_rank(host: Plain, kind: str, size: int) -> None:
    # on a host that is not the same for all ranks, they are not done at the same time
    profile = tiny_profile(3, {"collective.cap": 100.0}, host)
    workload: Plain = {"layers": 1, "steps": 3, "layer_bytes": 0, "block": [compute(1.0), collective(size, kind)]}
    timeline = simulate(scenario(workload, {"kind": "resident"}, 3), profile).timeline
    for rank in range(3):
        found = metrics(timeline, profile, rank)
        assert found["contention_s"] == pytest.approx(0, abs=1e-9)
        assert found["collective_inflation_s"] >= 0
        assert found["lower_bound_s"] <= found["step_time_s"] * (1 + 1e-9)
        isolated = [span.end - span.ready for span, _ in timeline.commands(rank, Collective)]
        assert [span.isolated_time for span, _ in timeline.commands(rank, Collective)] == pytest.approx(isolated)


@pytest.mark.parametrize(
    "policy", [{"kind": "resident"}, {"kind": "whole_layer"}, {"kind": "chunked", "chunk_bytes": 1}]
)
@pytest.mark.parametrize("seconds", [0.0, 5e-324, 1e-300])
def test_a_step_that_takes_no_time(seconds: float, policy: Plain) -> None:
    workload: Plain = {"layers": 2, "steps": 4, "layer_bytes": 0, "block": [compute(seconds, launches=3)]}
    changes = {"streams.launch_delay": 1.0, "streams.crowd_delay": 1.0}
    found = simulate(scenario(workload, policy, 1), tiny_profile(1, changes))
    assert found.metrics["step_time_s"] == pytest.approx(0, abs=1e-290)
    assert found.metrics["settled"]
    assert sum(causes(found.timeline, found.profile).values()) == pytest.approx(0, abs=1e-290)


@given(cases())
def test_exposed_prefetch_is_what_the_compute_stream_waits(case: Case) -> None:
    result = case.run()
    start, end = result.timeline.steps[0][-2:]
    busy = sorted(
        (s.start, s.end) for s in result.timeline.of(0) if s.command.stream == "compute" and s.kind != "WaitEvent"
    )
    idle = sum(max(b - a, 0.0) for (_, a), (b, _) in pairwise([i for i in busy if i[1] >= start and i[0] <= end]))
    assert result.metrics["exposed_prefetch_s"] <= idle + 1e-9 * max(1, end)


Build = Callable[[RankBuilder], object]


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            lambda r: [r.copy(k, k, 16, r.buffer(k, 16, "weights"), kind=k, step=0) for k in ("h2d", "d2h")],
            id="copies up and down",
        ),
        pytest.param(lambda r: [r.kernel(s, "k", seconds=2, step=0) for s in ("s", "t")], id="kernels on two streams"),
    ],
)
def test_the_lower_bound_of_side_by_side_work(build: Build) -> None:
    rank = RankBuilder()
    rank.record_step("s")
    build(rank)
    for stream in ("h2d", "d2h", "t"):
        rank.wait("s", rank.record(stream))
    rank.record_step("s")
    profile = tiny_profile(1)
    timeline = SimulatedMachine(profile).run(Program((rank.build(),)))
    assert timeline.step_times() == [2]
    assert lower_bound(timeline, profile) <= 2


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            Case(
                {"steps": 1, "layers": 1, "layer_bytes": 2, "block": [compute(0.125)]},
                {"kind": "whole_layer"},
                1,
                {"down": 1.0, "h2d.cap": 1.0, "host.event": 0.125},
            ),
            id="prefetched before the first step began",
        ),
        pytest.param(
            Case(
                {"steps": 2, "layers": 1, "layer_bytes": 2, "block": [collective(16)]},
                {"kind": "whole_layer", "prefetch_layers": 2},
                2,
                {"h2d.weight": 0.25, "collective.weight": 2.0, "host.copy": 0.5},
            ),
            id="prefetched while the host was late, then starved",
        ),
    ],
)
def test_the_lower_bound_when_prefetch_ran_ahead(case: Case) -> None:
    found = case.run().metrics
    assert found["lower_bound_s"] <= found["step_time_s"]


def test_collective_spans_of_a_step_lie_in_it() -> None:
    result = simulate(scenario(GATED, {"kind": "chunked", "chunk_bytes": 4}), tiny_profile(2))
    for rank in (0, 1):
        for span, call in result.timeline.commands(rank, Collective):
            start, end = result.timeline.steps[rank][call.step : call.step + 2]
            assert start <= span.start <= span.end <= end


def test_only_the_blocked_feeder_of_the_compute_stream_is_exposed_prefetch() -> None:
    """The compute stream is idle because issuing is slow, while a thread that feeds it nothing is blocked."""
    result = simulate(scenario(GATED, {"kind": "chunked", "chunk_bytes": 4}), tiny_profile(2, {"host.kernel": 4.0}))
    timeline = result.timeline
    thread = timeline.program.ranks[0].feeders()[timeline.program.ranks[0].step_stream()]
    found = []
    for rank, number in ((0, thread), (0, thread + 1), (0, thread - 1), (1, thread)):
        held = HostSpan(rank, number, 0.0, 1000.0, None, 0, "")
        found.append(metrics(timeline._replace(host=(*timeline.host, held)), result.profile)["exposed_prefetch_s"])
    assert found[0] > found[1] == found[2] == found[3] == result.metrics["exposed_prefetch_s"]
