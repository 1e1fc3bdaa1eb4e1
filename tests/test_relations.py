"""Relations between runs that are theorems: what must be the same, and what can only be later.

Few such relations exist: with shared links more bandwidth, a shorter kernel or one flow less can make a run longer
(scheduling anomalies), and so can waking a stream, which costs time only if it had to wait. Each test says why its
relation holds nevertheless.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import (
    NEVER_FULL,
    Case,
    Network,
    Plain,
    cases,
    changes,
    chunked,
    direct_programs,
    networks,
    offloading,
    positive,
    tiny_profile,
    whole_layer,
)

from sim.fluid import weighted_max_min
from sim.machine import SimulatedMachine
from sim.program import Collective, Copy, Kernel
from sim.timeline import Timeline

SLACK = 1 + 1e-9
TIE = 1e-9
PLAIN_STREAMS: dict[str, Any] = {
    "streams__wake": 0.0,
    "streams__beside_kernel": 0.0,
    "streams__launch_delay": 0.0,
    "all_reduce__copy_start": 0.0,
}
FREE_HOST = {f"host__{command}": 0.0 for command in ("kernel", "copy", "collective", "event", "memop", "wake", "sync")}
FREE_LINKS = dict.fromkeys(("down", "up", "duplex", "host"), NEVER_FULL)


def work(timeline: Timeline, rank: int) -> list[tuple[type, int, int, int, float]]:
    """Ends of kernels, copies and collectives, in the order of their streams."""
    return [
        (type(s.command), s.command.step, s.command.layer, getattr(s.command, "offset", 0), s.end)
        for s in timeline.of(rank)
        if isinstance(s.command, Kernel | Copy | Collective)
    ]


def blocks(workload: Plain) -> list[list[Plain]]:
    return [group["block"] for group in workload.get("blocks", [workload])]


def with_blocks(workload: Plain, change: Any) -> Plain:
    """The workload with `change` made to every entry of every block: it gives the entries to put in its place."""

    def new(block: list[Plain]) -> list[Plain]:
        return [entry for item in block for entry in change(item)]

    if "blocks" in workload:
        return workload | {"blocks": [b | {"block": new(b["block"])} for b in workload["blocks"]]}
    return workload | {"block": new(workload["block"])}


# ---- what must be the same -----------------------------------------------------------------------------------------


@given(cases(**PLAIN_STREAMS, **FREE_HOST, host__queue_depth=1000.0), st.floats(0.1, 0.9))
def test_a_kernel_split_in_two_takes_as_long(case: Case, share: float) -> None:
    # nothing but its stream notices where a kernel ends, as commands cost nothing and kernels delay nobody
    def split(item: Plain) -> list[Plain]:
        if "seconds" not in item.get("compute", {}):
            return [item]
        seconds = item["compute"]["seconds"]
        return [{"compute": item["compute"] | {"seconds": s}} for s in (seconds * share, seconds * (1 - share))]

    two = case._replace(workload=with_blocks(case.workload, split))
    assert two.run().metrics["step_times_s"] == pytest.approx(case.run().metrics["step_times_s"], rel=1e-9, abs=1e-9)


@given(cases())
def test_a_gpu_that_does_nothing_changes_nothing(case: Case) -> None:
    program = case.scenario.program()
    exact, larger = (SimulatedMachine(tiny_profile(case.ranks + more, case.changes)).run(program) for more in (0, 1))
    assert (exact.spans, exact.steps) == (larger.spans, larger.steps)


@given(st.data(), changes(host=NEVER_FULL), st.sampled_from([2, 3]))
def test_ranks_that_share_nothing_run_as_if_alone(data: st.DataObject, drawn: dict[str, float], ranks: int) -> None:
    program = data.draw(direct_programs(ranks, collectives=False))
    together = SimulatedMachine(tiny_profile(ranks, drawn)).run(program)
    for rank, part in enumerate(program.ranks):
        single = SimulatedMachine(tiny_profile(1, drawn)).run(type(program)((part,)))
        times = [[time for span in spans for time in span[2:]] for spans in (single.spans, together.of(rank))]
        assert times[0] == pytest.approx(times[1], rel=1e-9, abs=1e-9)


@given(cases())
def test_what_comes_later_changes_nothing_before(case: Case) -> None:
    # a step more is more commands behind all others; the copies for it wait until the last layer has freed its slot
    longer = case._replace(workload=case.workload | {"steps": case.workload["steps"] + 1})
    fewer, more = case.run().metrics["step_times_s"], longer.run().metrics["step_times_s"]
    assert more[: len(fewer)] == pytest.approx(fewer, rel=1e-9, abs=1e-9)


# ---- what can only be later ----------------------------------------------------------------------------------------
# On free links all durations are given, and streams, events and queues are a timed event graph: each start is the
# latest of some ends, so every time is a non-decreasing function of every duration.

waiting_only_for_events = chunked | whole_layer


@given(cases(policy=waiting_only_for_events, **PLAIN_STREAMS, **FREE_LINKS), st.data())
def test_without_contention_longer_kernels_never_finish_earlier(case: Case, data: st.DataObject) -> None:
    def longer(item: Plain) -> list[Plain]:
        if "seconds" not in item.get("compute", {}):
            return [item]
        return [
            {
                "compute": item["compute"]
                | {"seconds": item["compute"]["seconds"] + data.draw(st.sampled_from([0, 0.5]))}
            }
        ]

    slow = case._replace(workload=with_blocks(case.workload, longer))
    never_sooner(case, slow)


@given(cases(policy=waiting_only_for_events, **PLAIN_STREAMS, **FREE_LINKS), st.sampled_from(["h2d.setup", "streams.event", "host.kernel", "host.copy", "host.event", "collective.latency"]), positive)  # fmt: skip
def test_without_contention_higher_command_costs_never_finish_earlier(case: Case, cost: str, more: float) -> None:
    if cost == "collective.latency":
        # the time alone is given as latency plus bytes at the cap, so a longer latency is a longer collective
        more = min(more, 0.5)
    never_sooner(case, case._replace(changes={**case.changes, cost: case.changes.get(cost, 0.0) + more}))


@given(cases(policy=waiting_only_for_events, **PLAIN_STREAMS, **FREE_LINKS), st.integers(1, 5))
def test_without_contention_a_shorter_queue_never_finishes_earlier(case: Case, depth: int) -> None:
    deep = case._replace(changes={**case.changes, "host.queue_depth": 1000.0})
    never_sooner(deep, case._replace(changes={**case.changes, "host.queue_depth": float(depth)}))


@given(cases(policy=waiting_only_for_events, **PLAIN_STREAMS, **FREE_LINKS, **FREE_HOST, host__queue_depth=1000.0, streams__event=0.0))  # fmt: skip
def test_without_contention_less_prefetch_never_finishes_a_layer_earlier(case: Case) -> None:
    # with a slot less, copies wait for a later layer's end; commands are issued all at once, and events cost nothing:
    # `after_compute` records one on the compute stream for each layer ahead
    assume(case.policy["prefetch_layers"] > 0)
    less = case._replace(policy=case.policy | {"prefetch_layers": case.policy["prefetch_layers"] - 1})
    ahead, behind = case.run().timeline, less.run().timeline
    for rank in range(case.ranks):
        first, second = ([s.end for s, _ in t.commands(rank, Kernel)] for t in (ahead, behind))
        assert all(a <= b * SLACK + TIE for a, b in zip(first, second, strict=True))


def never_sooner(fast: Case, slow: Case) -> None:
    fast_run, slow_run = fast.run().timeline, slow.run().timeline
    for rank in range(fast.ranks):
        first, second = ({r[:-1]: [] for r in work(fast_run, rank)} for _ in range(2))  # type: ignore[var-annotated]
        for into, timeline in ((first, fast_run), (second, slow_run)):
            for *key, end in work(timeline, rank):
                into[tuple(key)].append(end)
        assert all(a <= b * SLACK + TIE for key in first for a, b in zip(first[key], second[key], strict=True))


@given(cases(policy=offloading))
def test_contention_only_delays_a_lone_run(case: Case) -> None:
    # no step is shorter than its compute and collectives alone, which is what a resident run on free links takes
    workload = case.scenario.workload.resolve(case.ranks)
    isolated = sum(s.isolated_time for s in case.run().timeline.of(0) if isinstance(s.command, Kernel | Collective))
    steps = case.run().metrics["step_times_s"]
    assert sum(steps) * SLACK + TIE >= isolated and len(steps) == workload.steps


# ---- rates ---------------------------------------------------------------------------------------------------------


@given(networks(simultaneous=True, most_resources=1))
def test_on_one_resource_a_flow_more_raises_no_other_rate(network: Network) -> None:
    # the level is where what all take at it is the capacity: one more demand can only lower it
    flows = [d.spec._replace(drag=None) for d in network.demands]
    with_all, without = (weighted_max_min(f, network.capacities) for f in (flows, flows[:-1]))
    assert all(a <= b * SLACK for a, b in zip(with_all, without, strict=False))


@given(networks(simultaneous=True), st.data(), st.floats(1.0, 4.0))
def test_a_larger_cap_lowers_no_rate_of_its_own_flow(network: Network, data: st.DataObject, factor: float) -> None:
    # at its cap the rate grows with it; below its cap nothing changes, as the same rates keep their certificate
    flows = [d.spec._replace(drag=None) for d in network.demands]
    i = data.draw(st.integers(0, len(flows) - 1))
    raised = [*flows[:i], flows[i]._replace(cap=flows[i].cap * factor), *flows[i + 1 :]]
    before, after = (weighted_max_min(f, network.capacities)[i] for f in (flows, raised))
    assert after * SLACK >= before


@given(networks(simultaneous=True), st.data(), st.floats(1.0, 4.0))
def test_more_capacity_never_lowers_the_smallest_share(network: Network, data: st.DataObject, factor: float) -> None:
    # all rates that fitted still fit, and of all that fit the fair ones have the largest smallest share
    flows = [d.spec._replace(drag=None, cap=d.spec.cap * 1e6) for d in network.demands if d.spec.route]
    assume(flows)
    r = data.draw(st.integers(0, len(network.capacities) - 1))
    more = [c * (factor if i == r else 1) for i, c in enumerate(network.capacities)]
    before, after = (
        min(rate / f.weight for f, rate in zip(flows, weighted_max_min(flows, c), strict=True))
        for c in (network.capacities, more)
    )
    assert after * SLACK >= before
