"""Chunks that yield to some collectives only: by hand, and as properties of generated scenarios.

Links move 8 B/s, nothing else costs time; a collective of 32 bytes on 2 ranks sends 16 and takes 2 s alone.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, Plain, cases, chunked, compute, gated, scenario, tiny_profile, windowed

from sim import policies
from sim.inputs.config import InputError
from sim.policies import Policy
from sim.policies.yielding import Yielding
from sim.program import Collective, Copy, WaitFlag, WriteFlag
from sim.run import simulate
from sim.timeline import Timeline


def named(name: str, size: int = 32, **more: str) -> Plain:
    return {"collective": {"kind": "all_to_all", "name": name, "bytes": size, **more}}


BLOCK = [compute(1), named("a"), compute(1), named("b"), compute(1)]
WORKLOAD: Plain = {"layers": 4, "steps": 3, "layer_bytes": 24, "block": BLOCK}


def run(yield_to: object, **more: object) -> Timeline:
    policy = {"kind": "yielding", "chunk_bytes": 8, "yield_to": yield_to, **more}
    return simulate(scenario(WORKLOAD, policy), tiny_profile()).timeline


def copied_beside(timeline: Timeline, name: str) -> float:
    """Seconds of the last step in which rank 0 copies while collectives of that name move bytes."""
    calls = [s for s, c in timeline.commands(0, Collective) if c.name == name and c.step in timeline.shown]
    copies = [s for s, _ in timeline.commands(0, Copy)]
    return sum(max(min(a.end, b.end) - max(a.ready, b.ready), 0.0) for a in calls for b in copies)


def test_chunks_catch_up_beside_collectives_that_they_do_not_yield_to() -> None:
    # 24 B take 3 s and a block 7: with a gate around both, each of three kernels hides one chunk
    assert run("all").step_times()[-1] == pytest.approx(28)
    assert copied_beside(run("all"), "a") == copied_beside(run("all"), "b") == 0
    # a layer's chunks start with the layer: the first beside the first kernel, the next two beside `a` unless it shuts
    assert copied_beside(run(["b"]), "a") > 0
    assert copied_beside(run(["b"]), "b") == 0
    assert copied_beside(run(["a"]), "a") == 0


@pytest.mark.parametrize("window", ["device_gate", "launch", "kernel"])
def test_only_named_collectives_have_a_window(window: str) -> None:
    drain = {"drain": True} if window == "device_gate" else {}
    commands = list(run(["b"], window=window, **drain).program.ranks[0].commands())
    alike = list(run("all", window=window, **drain).program.ranks[0].commands())
    kernels = [c for c in commands if not isinstance(c, WaitFlag | WriteFlag)]
    shut = sum(isinstance(c, WriteFlag) and c.flag == "gate" and c.value == 1 for c in commands)
    if window == "device_gate":
        assert shut == 2 * 4 * 3  # one collective a layer, written twice as it drains
        assert kernels == [c for c in alike if not isinstance(c, WaitFlag | WriteFlag)]
    else:
        # to raise the count, take the lock, wait, give it back and lower the count, for one of two collectives
        assert len(alike) - len(commands) == 4 * 3 * (8 if window == "kernel" else 6)


@pytest.mark.parametrize(
    ("yield_to", "message"),
    [
        (["a", "c"], "policy.yield_to[1]: is 'c', which is no collective of the workload: expected names among a, b"),
        (["all_to_all"], "expected names among a, b"),  # the kind names only those without a name
        ([], "policy.yield_to: is empty"),
        (["a", "a"], "policy.yield_to: names 'a' twice"),
        ("some", "policy.yield_to: expected one of all, none"),
    ],
)
def test_names_that_no_collective_has_are_refused(yield_to: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        run(yield_to)
    assert message in str(error.value)


def test_drain_needs_something_to_yield_to() -> None:
    with pytest.raises(InputError) as error:
        run("none", drain=True)
    assert "policy.drain: needs collectives to yield to" in str(error.value)


def test_a_stream_without_collectives_that_are_yielded_to_has_no_gate() -> None:
    block = [compute(1), named("a", stream="comm"), compute(1), named("b"), compute(1)]
    policy = {"kind": "yielding", "chunk_bytes": 8, "yield_to": ["a"]}
    commands = scenario(WORKLOAD | {"block": block}, policy).program().ranks[0].commands()
    assert {c.flag for c in commands if isinstance(c, WaitFlag)} == {"gate comm"}


@given(cases(policy=chunked))
def test_yielding_to_none_is_chunked(case: Case) -> None:
    yielding = case._replace(policy=case.policy | {"kind": "yielding", "yield_to": "none"})
    assert yielding.run().timeline.spans == case.run().timeline.spans


@given(cases(policy=gated | windowed))
def test_yielding_to_every_name_is_yielding_to_all(case: Case) -> None:
    names = case.scenario.workload.resolve(case.ranks).collective_names
    if names:
        by_name = case._replace(policy=case.policy | {"yield_to": list(names)})
        assert by_name.run().timeline.spans == case.run().timeline.spans


def yielded(policy: Policy, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the collectives that chunks yield to."""
    assert isinstance(policy, Yielding)
    return {"all": names, "none": ()}.get(str(policy.yield_to), tuple(policy.yield_to))


@given(cases(policy=gated | windowed), st.data())
def test_variants_yield_to_one_collective_more_or_less(case: Case, data: st.DataObject) -> None:
    workload = case.scenario.workload.resolve(case.ranks)
    names = workload.collective_names
    chosen = data.draw(st.sets(st.sampled_from(names), min_size=1)) if names else set()
    changed = {"yield_to": sorted(chosen)} if chosen else {}
    own = case._replace(policy=case.policy | changed).scenario.policy
    for variant in own.variants_on(workload, case.ranks):
        yields, now = (set(yielded(p, names)) for p in (variant, own))
        assert len(yields ^ now) == 1
        assert policies.count_commands(workload, variant, case.ranks) >= sum(
            len(list(rank.commands())) for rank in policies.build(workload, variant, case.ranks).ranks
        )


COPIED: Plain = {
    "layers": 3,
    "steps": 3,
    "layer_bytes": 64,
    "collectives": {"algorithm": "copy_engine", "piece_bytes": 8},
    "block": [compute(1), named("a", 64), compute(1)],
}


def by_copies(yield_to: object, changes: dict[str, float] | None = None) -> Timeline:
    policy = {"kind": "yielding", "chunk_bytes": 8, "yield_to": yield_to}
    return simulate(scenario(COPIED, policy), tiny_profile(2, changes)).timeline


def prefetched_within_collectives(timeline: Timeline) -> float:
    """Seconds in which rank 0 prefetches while a collective by copy engines is not at its end."""
    copies = [s for s, c in timeline.commands(0, Copy) if c.brings_weights]
    calls = [s for s in timeline.composed if s.rank == 0]
    return sum(max(min(a.end, b.end) - max(a.ready, b.ready), 0.0) for a in calls for b in copies)


def test_chunks_fill_the_time_in_which_a_collective_has_no_piece() -> None:
    # the first piece goes down for 1 s before any is there to come up
    assert prefetched_within_collectives(by_copies("all")) == pytest.approx(0)
    assert prefetched_within_collectives(by_copies("pieces")) >= 3 * 2 * 1.0
    assert by_copies("pieces").step_times()[-1] < by_copies("all").step_times()[-1]


@pytest.mark.parametrize("setup", [0.0, 0.25])
def test_no_chunk_passes_its_gate_while_a_piece_is_there(setup: float) -> None:
    timeline = by_copies("pieces", {"h2d.setup": setup, "streams.wait_flag": 0.05})
    for rank in range(2):
        shut = [(s.end, c.value) for s, c in timeline.commands(rank, WriteFlag) if c.flag == "gate compute receive"]
        assert [value for _, value in shut] == [1, 0] * (len(shut) // 2)
        closed = [(a, b) for (a, _), (b, _) in zip(shut[::2], shut[1::2], strict=True)]
        passed = [s.end for s, c in timeline.commands(rank, WaitFlag) if c.flag == "gate compute receive"]
        assert passed
        assert closed
        assert not [t for t in passed for a, b in closed if a + 1e-9 < t < b - 1e-9]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"drain": True}, "policy.drain: needs collectives to yield to as a whole, but yield_to is pieces"),
        ({"window": "launch"}, "policy.yield_to: pieces is for window device_gate"),
    ],
)
def test_pieces_are_for_the_gate_on_the_gpu(more: Plain, message: str) -> None:
    with pytest.raises(InputError) as error:
        scenario(COPIED, {"kind": "yielding", "chunk_bytes": 8, "yield_to": "pieces", **more})
    assert message in str(error.value)


def test_copies_of_pieces_are_counted_before_a_program_is_built() -> None:
    of = scenario(COPIED, {"kind": "yielding", "chunk_bytes": 8, "yield_to": "pieces"})
    made = sum(len(list(rank.commands())) for rank in of.program().ranks)
    assert made <= policies.count_commands(of.workload.resolve(2), of.policy, 2) < 3 * made
