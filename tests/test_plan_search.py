"""The search of plans: floors that are proved, nothing discarded that could be better, and nothing better missed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Case, cases, collective, compute, offloading, scenario, sharded, workloads

from sim.hardware.profile_parameters import changed
from sim.planning.floors import Floors
from sim.planning.search import Search
from sim.planning.simulated import Limits
from sim.planning.space import Deployment, Family, families
from sim.policies import Resident, kinds
from sim.run import simulate
from sim.sweeps.evaluation import Evaluator
from sim.sweeps.job import Job

SETTLED = 0.005
"""By how much steps may differ that count as alike."""
NEARLY = 1.005
"""How much longer than the best of all schedules the one that is found may take."""


FEW = {"resident_fraction": (0.0, 0.5), "prefetch_layers": (1, 2), "chunk_bytes": (4, 16)}
"""Values of each axis, so that all schedules can be simulated."""


def layout(case: Case, memory: int | None = None) -> Deployment:
    """The workload on its host, whose GPUs have `memory` bytes if that is given."""
    profile = case.profile
    if memory is not None:
        profile = changed(profile, {"device.memory": lambda _: memory})
    job = Job.of(case.scenario, profile)
    return Deployment(job, Floors(job))


def thinned(of: Deployment) -> list[Family]:
    """What policies offer, with `FEW` values of each axis."""
    found = []
    for family in families([of]):
        varied = {name for name, values in family.axes.items() if len(values) > 1 or name == "chunk_bytes"}
        axes = {n: FEW.get(n, values) if n in varied else values for n, values in family.axes.items()}
        found.append(family._replace(axes=axes))
    return found


def searched(case: Case, memory: int, small: int, evaluator: Evaluator, only: Sequence[int] = ()) -> Search:
    """What is found in all families, or in some of them, by number."""
    at = layout(case, memory)
    search = Search([at], Limits(0.01), evaluator, small=small, most=10**9)
    every = thinned(at)
    search.run([every[n % len(every)] for n in dict.fromkeys(only)] if only else every)
    return search


@given(cases(policy=offloading | sharded, workload=workloads(min_steps=2)))
def test_floors_are_below_every_run(case: Case) -> None:
    result = simulate(case.scenario, case.profile)
    assume(result.timeline.period)
    floors = Floors(Job.of(case.scenario, case.profile))
    assert floors.step_s(case.scenario.policy) <= result.metrics["step_time_s"] * (1 + SETTLED)
    assert floors.memory(case.scenario.policy) <= result.metrics["peak_memory_bytes"]


def spaces() -> st.SearchStrategy[Case]:
    """Workloads of a few layers of some bytes on any host; the policy plays no part."""
    return cases(workloads(st.integers(8, 40), min_steps=2), st.just({"kind": "resident"}))


@given(spaces(), st.sampled_from([0.8, 0.5]))
@settings(max_examples=settings().max_examples // 6)
def test_a_search_finds_nearly_the_best_of_all_schedules_and_discards_none_that_is_better(
    case: Case, share: float
) -> None:
    memory = int(layout(case).floors.memory(Resident()) * share)
    evaluator = Evaluator()
    brief, whole = (searched(case, memory, small, evaluator) for small in (0, 10**9))
    assert (brief.best is None) == (whole.best is None)
    for search in (brief, whole):
        if search.best is not None and search.smallest is not None:
            assert search.best.fits and search.best.peak <= memory
            assert all(floor >= search.best.step_s for floor in search.pruned.values())
            assert search.smallest.step_s <= search.threshold
            assert search.smallest.peak <= search.best.peak
    if brief.best is not None and whole.best is not None:
        assert brief.best.step_s <= whole.best.step_s * NEARLY


@pytest.mark.slow
@given(spaces(), st.sampled_from([0.8, 0.5]), st.tuples(*[st.integers(0, 11)] * 2))
@settings(max_examples=max(settings().max_examples, 100))
def test_searches_of_a_hundred_scenarios_are_nearly_as_good_as_trying_all(
    case: Case, share: float, only: tuple[int, ...]
) -> None:
    memory = int(layout(case).floors.memory(Resident()) * share)
    evaluator = Evaluator()
    brief, whole = (searched(case, memory, small, evaluator, only) for small in (0, 10**9))
    assert (brief.best is None) == (whole.best is None)
    if brief.best is not None and whole.best is not None:
        assert brief.best.step_s <= whole.best.step_s * NEARLY
        assert brief.best.fits


def test_a_schedule_is_discarded_exactly_where_its_floor_says_so() -> None:
    # 4 layers of 8 B at 8 B/s take 4 s a step to copy, beside 8 s of compute; all resident takes 8 s
    block = {"layers": 4, "steps": 2, "layer_bytes": 8, "block": [compute(2.0)]}
    case = Case(block, {"kind": "resident"}, 1)
    at = layout(case, 1000)
    search = Search([at], Limits(0.0), Evaluator())
    search.simulate([(0, Resident())])
    assert search.best is not None and search.best.step_s == 8.0
    whole = kinds()["whole_layer"].read({})
    assert whole is not None and at.floors.step_s(whole) == 8.0
    assert search.needed(0, whole)  # as fast, and may be smaller
    search.simulate([(0, whole)])
    assert search.smallest is not None and search.smallest.policy == whole
    sparing = kinds()["whole_layer"].read({"resident_fraction": 0.5})
    assert sparing is not None and not search.needed(0, sparing)
    search.simulate([(0, sparing)])
    assert search.pruned == {(0, sparing): 8.0}


def test_what_is_chosen_is_simulated_until_it_settles_as_run_does() -> None:
    # copies run ahead, so that the last steps have none: the fewer steps, the larger their part
    block = {"layers": 3, "steps": 2, "layer_bytes": 40, "block": [compute(4.0), collective(32)]}
    case = Case(block, {"kind": "diffusers_group_offload", "level": "leaf", "hook": 0, "per_tensor": 0}, 2)
    whole = simulate(case.scenario, case.profile).metrics
    few = simulate(case.scenario, case.profile, max_steps=8).metrics
    assert not few["settled"] and few["step_time_s"] < whole["step_time_s"]
    policy = case.scenario.policy
    axes = {name: (getattr(policy, name),) for name in ("level", "hook", "per_tensor")}
    search = Search([layout(case, 10**6)], Limits(0.0), Evaluator(), small=10**9)
    search.run([Family(0, type(policy), axes)])
    assert search.best is not None and search.best.policy == policy
    assert search.best.step_s == whole["step_time_s"]


def test_floors_by_hand() -> None:
    # 3 layers of 40 B in 2 passes: 240 B at 8 B/s on one rank; collectives of 16 B send 8 B at 8 B/s
    block = {"layers": 3, "steps": 2, "passes_per_step": 2, "layer_bytes": 40, "activation_bytes": 100}
    case = Case(block | {"block": [compute(0.5), collective(16)]}, {"kind": "resident"}, 2)
    floors = layout(case).floors
    whole, half = (kinds()["whole_layer"].read({"resident_fraction": r}) for r in (0, 0.5))
    assert whole is not None and half is not None
    assert floors.stream_s == 2 * 3 * (0.5 + 1.0)
    assert floors.step_s(Resident()) == floors.stream_s
    # copies and collectives share a GPU's link: 240 B and 6 x 8 B
    assert floors.step_s(whole) == (240 + 48) / 8
    assert floors.step_s(half) == (120 + 48) / 8
    assert floors.memory(whole) == 2 * 40 + 100 + 2 * 16
    assert floors.memory(half) == 3 * 20 + 2 * 20 + 100 + 2 * 16
    assert floors.memory(Resident()) == 120 + 100 + 2 * 16


@pytest.mark.parametrize("layer_bytes", [3, 40, 16 * 2**20 + 1])
@pytest.mark.parametrize("level", ["block", "leaf"])
@pytest.mark.parametrize("stream", [True, False])
def test_floors_of_groups_are_below_their_runs(level: str, stream: bool, layer_bytes: int) -> None:
    """A leaf takes less memory than a layer does, and may fit where no layer does."""
    policy = {"kind": "diffusers_group_offload", "level": level, "stream": stream}
    made = scenario({"layers": 3, "steps": 3, "layer_bytes": layer_bytes, "block": [compute(1e-4)]}, policy)
    floors, metrics = Floors(Job.of(made)), simulate(made).metrics
    assert floors.memory(made.policy) <= metrics["peak_memory_bytes"]
    assert floors.step_s(made.policy) <= metrics["step_time_s"] * (1 + SETTLED)
