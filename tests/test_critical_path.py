"""Why a step takes as long as it does: each cause by hand, and causes that always tile the step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from strategies import Case, cases, tiny_profile

from sim.analysis.explain import explain, resident_causes
from sim.machine import SimulatedMachine
from sim.program import Program, RankBuilder
from sim.timeline.critical_path import CAUSES, causes, critical_path, waterfall

COMPUTE = {"compute": {"name": "k", "seconds": 1.0}}
CALL = {"collective": {"kind": "all_to_all", "bytes": 16}}  # 8 B each way: 1 s of a link alone


def found(
    policy: dict[str, Any], block: list[Any], ranks: int = 2, size: int = 16, **changes: float
) -> dict[str, float]:
    """Causes above zero of the last of 4 steps of 2 layers."""
    workload = {"layers": 2, "layer_bytes": size, "steps": 4, "block": block}
    result = Case(workload, policy, ranks, {k.replace("__", "."): v for k, v in changes.items()}).run()
    return {c: s for c, s in causes(result.timeline, result.profile).items() if s > 1e-9}


@pytest.mark.parametrize(
    ("policy", "block", "changes", "expected"),
    [
        ({"kind": "resident"}, [COMPUTE, CALL], {}, {"compute": 2, "collective_alone": 2}),
        # 2 s of copy hide 1 s of compute: the path is the copies, but for the layer that ends the step
        ({"kind": "whole_layer"}, [COMPUTE], {}, {"compute": 1, "exposed_h2d": 3}),
        (
            {"kind": "whole_layer"},
            [COMPUTE],
            {"h2d__setup": 0.5},
            {"compute": 1, "exposed_h2d": 3.5, "copy_overhead": 0.5},
        ),
        ({"kind": "whole_layer", "prefetch_layers": 0}, [COMPUTE], {}, {"compute": 2, "exposed_h2d": 4}),
        # issuing a kernel takes 3 s, running it 1 s
        ({"kind": "resident"}, [COMPUTE], {"host__kernel": 3.0}, {"compute": 2, "host_issue": 4}),
        (
            {"kind": "whole_layer", "prefetch_layers": 0},
            [COMPUTE],
            {"streams__event": 0.25},
            {"compute": 2, "exposed_h2d": 3.75, "stream_overhead": 1.25},
        ),
    ],
    ids=["resident", "copies bind", "set-up", "nothing ahead", "host", "events"],
)
def test_causes_by_hand(
    policy: dict[str, Any], block: list[Any], changes: dict[str, float], expected: dict[str, float]
) -> None:
    assert found(policy, block, **changes) == pytest.approx(expected)


def test_contention_is_a_cause_apart_from_transfer() -> None:
    # copies of 8 s, two a step, and collectives of 1 s on the same link: both get 4 of 8 B/s, so each collective takes 2 s
    shown = found({"kind": "whole_layer"}, [CALL], size=64, collective__weight=1.0)
    expected = {"collective_alone": 1, "collective_contention": 1, "exposed_h2d": 14, "copy_contention": 2}
    assert shown == pytest.approx(expected)
    assert sum(shown.values()) == pytest.approx(
        Case(
            {"layers": 2, "layer_bytes": 64, "steps": 4, "block": [CALL]},
            {"kind": "whole_layer"},
            2,
            {"collective.weight": 1.0},
        )
        .run()
        .timeline.step_times()[-1]
    )


def test_waiting_at_gates_is_a_cause() -> None:
    gated = {"kind": "yielding", "chunk_bytes": 8}
    # the gate is closed for the 1 s of a collective that lies on the path
    assert found(gated, [COMPUTE, CALL], size=64)["yield_wait"] == 1
    assert "yield_wait" not in found({"kind": "chunked", "chunk_bytes": 8}, [COMPUTE, CALL], size=64)


def two_ranks(late: float) -> Program:
    """Rank 1 computes `late` s before a collective that rank 0 reaches at once."""
    ranks = []
    for seconds in (0.0, late):
        rank = RankBuilder()
        rank.record_step("compute")
        rank.kernel("compute", "k", seconds=seconds, step=0)
        rank.collective("compute", "c", "all_to_all", 16, step=0)
        rank.record_step("compute")
        ranks.append(rank.build())
    return Program(tuple(ranks))


def test_skew_is_waiting_for_peers() -> None:
    profile = tiny_profile(2)
    timeline = SimulatedMachine(profile).run(two_ranks(3.0))
    assert causes(timeline, profile, 0) == pytest.approx(
        dict.fromkeys(CAUSES, 0.0) | {"skew": 3, "collective_alone": 1}
    )
    assert causes(timeline, profile, 1) == pytest.approx(
        dict.fromkeys(CAUSES, 0.0) | {"compute": 3, "collective_alone": 1}
    )


def test_a_full_queue_shows_as_the_copies_that_fill_it() -> None:
    # ten chunks a layer, a queue of six: the host cannot issue compute before copies have ended
    shown = found({"kind": "chunked", "chunk_bytes": 8}, [COMPUTE], size=80, host__queue_depth=6.0)
    assert shown == {"compute": 1, "exposed_h2d": 19}


def test_the_critical_path_crosses_host_threads() -> None:
    launch = {"kind": "yielding", "chunk_bytes": 8, "window": "launch"}
    shown = found(launch, [COMPUTE], size=64)
    assert shown == {"compute": 1, "exposed_h2d": 15}  # copies bind: 8 s a layer against 1 s of compute


@given(cases())
def test_causes_tile_the_step(case: Case) -> None:
    result = case.run()
    for rank in range(case.ranks):
        begin, end = result.timeline.steps[rank][-2:]
        path = critical_path(result.timeline, result.profile, rank)
        assert sum(causes(result.timeline, result.profile, rank).values()) == pytest.approx(end - begin, abs=1e-9)
        assert all(s.start < s.end and s.cause in CAUSES for s in path)
        assert all(later.start == earlier.end for later, earlier in pairwise(path))
        if path:
            assert (path[-1].start, path[0].end) == (begin, end)


@given(cases())
def test_the_waterfall_sums_to_the_step(case: Case) -> None:
    result = case.run()
    resident = Case(case.workload, {"kind": "resident"}, case.ranks, case.changes).run()
    fall = waterfall(causes(result.timeline, result.profile), causes(resident.timeline, resident.profile))
    step = result.timeline.step_times()[-1]
    assert fall.resident_s + sum(s for _, s in fall.parts) == pytest.approx(step, abs=1e-9)
    assert fall.step_s == pytest.approx(step, abs=1e-9)


def test_explain_names_the_binding_resource_and_the_best_variant() -> None:
    from sim import Scenario, simulate

    block = [{"compute": {"name": "k", "seconds": "1 ms"}}, {"collective": {"kind": "all_to_all", "bytes": "16 MiB"}}]
    workload = {"layers": 4, "layer_bytes": "400 MiB", "steps": 3, "block": block}
    data = {"hardware": "h200x2-hostpath", "world_size": 2, "workload": workload}
    bound = explain(simulate(Scenario.from_plain({**data, "policy": {"kind": "yielding", "chunk_bytes": "4 MiB"}})))
    text = " ".join(bound.sentences)
    assert "Copies bind" in text
    assert "waiting at gates" in text
    assert bound.changes == sorted(bound.changes, key=lambda c: c.step_s)
    assert bound.changes[0].words == "resident_fraction: 0.25"
    resident = Scenario.from_plain({**data, "policy": {"kind": "resident"}})
    assert "Nothing is copied" in " ".join(explain(simulate(resident)).sentences)
    assert sum(resident_causes(resident).values()) == pytest.approx(simulate(resident).timeline.step_times()[-1])
