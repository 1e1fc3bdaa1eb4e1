"""`adaptive` against fixed schedules, and the model that it decides by against the simulator."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, Plain, cases, compute, scenario

from sim.contention import host_rates
from sim.hardware import load_profile
from sim.inputs import units
from sim.inputs.config import InputError
from sim.policies.adaptive import Adaptive
from sim.policies.predicted import predicted_step
from sim.policies.yielding import Yielding
from sim.run import simulate
from sim.scenario import Scenario

HOST = "h200x2-hostpath"
PROFILE = load_profile(HOST)
MIB = 2**20


def named(name: str, size: int, **more: str) -> Plain:
    return {"collective": {"kind": "all_to_all", "name": name, "bytes": size, **more}}


@st.composite
def blocks(draw: st.DrawFn) -> Plain:
    """Layers of real sizes: times of kernels, bytes of collectives and weights over two decades."""
    count = draw(st.integers(0, 3))
    block: list[Plain] = []
    for number in range(count):
        block.append(compute(draw(st.sampled_from([20e-6, 200e-6, 2e-3])), f"k{number}"))
        block.append(named(f"c{number}", draw(st.sampled_from([4, 20, 80])) * MIB))
    block.append(compute(draw(st.floats(0.5e-3, 15e-3)), "rest"))
    return {"layers": 5, "steps": 3, "layer_bytes": draw(st.integers(30, 500)) * MIB, "block": block}


def fixed(workload: Plain) -> list[Plain]:
    names = [item["collective"]["name"] for item in workload["block"] if "collective" in item]
    some: list[Plain] = [{"yield_to": names[:1]}, {"yield_to": names[1:]}] if len(names) > 1 else []
    gates: list[Plain] = [{}, {"drain": True}, *some]
    gated = [{"kind": "yielding", "chunk_bytes": size * MIB, **gate} for size in (8, 64) for gate in gates]
    return [{"kind": "whole_layer"}, {"kind": "chunked", "chunk_bytes": 16 * MIB}, *gated]


def step(workload: Plain, policy: Plain, **more: float) -> float:
    return simulate(scenario(workload, policy | more, hardware=HOST), PROFILE).metrics["step_time_s"]


def check_regret(workload: Plain, resident: float, ahead: int) -> None:
    shared = {"resident_fraction": resident, "prefetch_layers": ahead}
    best = min(step(workload, policy, **shared) for policy in fixed(workload))
    assert step(workload, {"kind": "adaptive"}, **shared) <= 1.005 * best


@settings(max_examples=3)
@given(blocks(), st.sampled_from([0.0, 0.5]), st.sampled_from([1, 1, 0, 2]))
def test_adaptive_is_hardly_slower_than_any_fixed_schedule(workload: Plain, resident: float, ahead: int) -> None:
    check_regret(workload, resident, ahead)


@pytest.mark.slow
@settings(max_examples=10)
@given(blocks(), st.sampled_from([0.0, 0.5]), st.sampled_from([1, 1, 0, 2]))
def test_adaptive_is_hardly_slower_than_any_of_many(workload: Plain, resident: float, ahead: int) -> None:
    check_regret(workload, resident, ahead)


@settings(max_examples=15)
@given(blocks(), st.data())
def test_the_model_of_a_step_agrees_with_the_simulator(workload: Plain, data: st.DataObject) -> None:
    of = scenario(workload, data.draw(st.sampled_from(fixed(workload)[2:])), hardware=HOST)
    own, policy = of.workload.resolve(2), of.policy
    assert isinstance(policy, Yielding)
    found = predicted_step(own.of(0), policy, host_rates(PROFILE, [own], of.gpus), 2)
    assert found == pytest.approx(simulate(of, PROFILE).metrics["step_time_s"], rel=0.02)


@settings(max_examples=25)
@given(cases(policy=st.just({"kind": "adaptive"})))
def test_it_decides_and_runs_on_any_host(case: Case) -> None:
    found = case.run()
    assert found.policy.kind == "yielding"
    assert found.metrics["lower_bound_s"] <= found.metrics["step_time_s"] * (1 + 1e-9) + 1e-9


def test_copy_engines_are_chosen_where_they_are_faster_and_only_where_allowed() -> None:
    own = simulate(scenario(WORKLOAD, {"kind": "adaptive"}, hardware=HOST), PROFILE)
    both = {"kind": "adaptive", "algorithms": ["nccl", "copy_engine"]}
    found = simulate(scenario(WORKLOAD, both, hardware=HOST), PROFILE)
    assert found.metrics["step_time_s"] < 0.95 * own.metrics["step_time_s"]
    assert "by copy engines: q" in found.decided
    assert "copy engines" not in own.decided
    # what the workload says stays: only what is left to NCCL may be chosen
    copied = WORKLOAD | {"collectives": {"algorithm": "copy_engine", "piece_bytes": 8 * MIB}}
    assert "q (8 MiB), k (8 MiB)" in simulate(scenario(copied, {"kind": "adaptive"}, hardware=HOST), PROFILE).decided
    with pytest.raises(InputError) as error:
        scenario(WORKLOAD, {"kind": "adaptive", "algorithms": ["copy_engine"]})
    assert "policy.algorithms: is [copy_engine], expected [nccl] or [nccl, copy_engine]" in str(error.value)


BLOCK = [compute(1e-3, "k"), named("q", 80 * MIB), compute(0.1e-3, "t"), named("k", 80 * MIB), compute(9e-3, "rest")]
WORKLOAD: Plain = {"layers": 6, "steps": 3, "layer_bytes": 600 * MIB, "block": BLOCK}


def decided(hardware: str = HOST, policy: Plain | None = None, block: list[Plain] | None = None) -> Yielding:
    found = (
        scenario(WORKLOAD | {"block": block or BLOCK}, policy or {"kind": "adaptive"}, hardware=hardware)
        .decided()
        .policy
    )
    assert isinstance(found, Yielding)
    return found


def test_it_yields_where_collectives_share_the_link_and_not_where_they_do_not() -> None:
    assert decided().yield_to != "none"
    assert decided("h200x2-nvlink").yield_to == "none"
    # a copy that takes much longer than the block has nothing to yield for: it hides no more of it
    assert decided(block=[compute(0.1e-3, "k"), named("q", 4 * MIB)]).yield_to == "none"


def test_rates_of_a_file_are_taken_instead_of_the_profiles() -> None:
    of = scenario(WORKLOAD, {"kind": "adaptive"}, hardware="h200x2-nvlink")
    rates = host_rates(PROFILE, [of.workload.resolve(2)], of.gpus)
    plain = msgspec.to_builtins(rates, enc_hook=units.plain)
    assert decided("h200x2-nvlink", {"kind": "adaptive", "rates": plain}) == decided(HOST)


def test_it_decides_the_same_for_the_same_rates_whatever_ran_before() -> None:
    of = scenario(WORKLOAD, {"kind": "adaptive"}, hardware=HOST)
    own = of.workload.resolve(2)
    policy = Adaptive(rates=host_rates(PROFILE, [own], of.gpus))
    assert policy.decided(own, 2).policy == of.decided().policy == decided()
    assert policy.schedule(own, 2, 0) == of.program().ranks[0]


def test_it_cannot_decide_without_rates() -> None:
    own = scenario(WORKLOAD, {"kind": "adaptive"}, hardware=HOST).workload.resolve(2)
    with pytest.raises(ValueError, match="decides by rates of a host"):
        Adaptive().schedule(own, 2, 0)


@pytest.mark.parametrize("name", ["copy_rate", "memory_bandwidth"])
def test_rates_of_nothing_are_refused(name: str) -> None:
    of = scenario(WORKLOAD, {"kind": "adaptive"}, hardware=HOST)
    plain = msgspec.to_builtins(host_rates(PROFILE, [of.workload.resolve(2)], of.gpus), enc_hook=units.plain)
    with pytest.raises(InputError) as error:
        Scenario.from_plain(of.to_plain() | {"policy": {"kind": "adaptive", "rates": plain | {name: 0}}})
    assert f"policy.rates.{name}: is 0, expected more" in str(error.value)


def test_what_it_chose_is_told() -> None:
    result = simulate(scenario(WORKLOAD, {"kind": "adaptive"}, hardware=HOST), PROFILE)
    assert result.policy == decided()
    assert result.scenario.policy.kind == "adaptive"
    assert simulate(result.scenario.with_policy(decided()), PROFILE).metrics == result.metrics
