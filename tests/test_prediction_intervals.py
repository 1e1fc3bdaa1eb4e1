"""Intervals about predictions of measured cases: their parts, and how often the measurement lies inside."""

from __future__ import annotations

from functools import partial
from math import hypot
from pathlib import Path

import msgspec
import pytest

from sim.analysis.sensitivity import interval, uncertain
from sim.datasets.cases import references, workload_key
from sim.program import Program
from sim.timeline import Timeline
from validation import prediction_intervals as module
from validation.compare import Compared, Side, compare_all, jobs
from validation.comparison_tables import coverage_table, markdown_table
from validation.datasets import DataSet, load_set, session, shipped_sets
from validation.markdown import standing
from validation.predict import kernel_times, with_kernel_times
from validation.prediction_intervals import (
    Covered,
    Deviations,
    Estimate,
    by_group,
    coverage,
    estimate,
    kernel_spread,
    model_error,
    model_errors,
)


def compared(group: str, error: float) -> Compared:
    measured, predicted = (Side(step, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, {}) for step in (1.0, 1.0 + error))
    return Compared("set", "", 0, "", "", "", None, 0.0, 1, group, 0.01, False, "", measured, predicted)


def measured_at(found: Covered, seconds: float) -> Covered:
    side = found.compared.measured._replace(step_s=seconds)
    return found._replace(compared=found.compared._replace(measured=side))


def sampled(name: str, kinds: tuple[str, ...]) -> DataSet:
    """The baselines of a set's first workload, and its first cases of some kinds of policy."""
    chosen = load_set(name)
    of = [c for c in chosen.cases if c.scenario["workload"] == chosen.cases[0].scenario["workload"]]
    firsts = [next(c for c in of if c.scenario["policy"]["kind"] == kind) for kind in kinds]
    cases = [c for c in of if c.scenario["policy"]["kind"] == "resident" or c in firsts]
    return chosen._replace(cases=tuple(cases))


@pytest.fixture(scope="module")
def chosen() -> DataSet:
    return sampled("h200x2-hostpath-20261121c", ("whole_layer", "yielding"))


@pytest.fixture(scope="module")
def todo(chosen: DataSet) -> Estimate:
    asked = jobs(chosen, steps_only=True)
    return estimate(asked, list(compare_all(asked)))


@pytest.fixture(scope="module")
def covered(todo: Estimate) -> list[Covered]:
    return coverage(todo, {todo.jobs[0].set: 0.004})


# ---- the model's error ---------------------------------------------------------------------------------------------


def test_the_model_error_is_of_fitted_cases_and_robust() -> None:
    fitted = [compared("fitted", e) for e in (-0.01, 0.02, 0.03, 0.01, 9.0)]
    others = [compared(group, 0.5) for group in ("unseen", "resident")]
    assert model_error([*others, *fitted]) == pytest.approx(1.4826 * 0.02)
    with pytest.raises(ValueError, match="no fitted cases"):
        model_error(others)


def test_kernels_spread_as_resident_steps_do(chosen: DataSet) -> None:
    one, two = (msgspec.structs.replace(chosen.cases[0], step_times_s=(((9.0, *steps),),)) for steps in ((1.0, 1.0), (1.1, 1.1)))  # fmt: skip
    assert kernel_spread([one, two]) == pytest.approx(0.1 / 2**0.5 / 1.05)
    lone = msgspec.structs.replace(one, step_times_s=(((9.0, 0.98, 0.99, 1.0, 1.01, 1.02),),))
    assert kernel_spread([lone]) == pytest.approx(1.4826 * 0.01)


def test_a_set_without_fitted_cases_takes_the_error_of_its_path() -> None:
    own = [compared("fitted", 0.01)._replace(set="a-20261121a"), compared("unseen", 0.5)._replace(set="a-20261121b")]
    other = [compared("fitted", error)._replace(set="c-20261121d") for error in (0.03, 0.03)]
    found = model_errors(["a-20261121a", "a-20261121b", "c-20261121d", "elsewhere"], [*own, *other])
    assert [value / 1.4826 for value in found.values()] == pytest.approx([0.01, 0.01, 0.03, 0.03])
    with pytest.raises(ValueError, match="no fitted cases"):
        model_errors(["a-20261121b"], own[1:])


# ---- intervals -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_parts_of_an_interval(todo: Estimate, covered: list[Covered]) -> None:
    baselines = references([job.case for job in todo.jobs])
    for job, comparison, found in zip(todo.jobs, todo.compared, covered, strict=True):
        profile, kernels, steps, model = found.deviations
        step = comparison.predicted.step_s
        assert (found.low_s + found.high_s) / 2 == pytest.approx(step) and found.compared == comparison
        assert (found.high_s - found.low_s) / 2 == pytest.approx(1.6448536 * hypot(profile, kernels, steps, model))
        assert steps == pytest.approx(1.4826 * job.case.spread * step) and model == pytest.approx(0.004 * step)
        assert kernels <= kernel_spread(baselines[workload_key(job.case)]) * step * 1.01


@pytest.mark.slow
def test_a_resident_step_owes_its_kernels_their_share(chosen: DataSet, covered: list[Covered]) -> None:
    for case, found in zip(chosen.cases, covered, strict=True):
        if found.compared.group == "resident":
            baselines = references(chosen.cases)[workload_key(case)]
            kernels = sum(kernel_times(baselines, chosen.profile()).rank0.values())
            assert found.deviations.kernels == pytest.approx(kernel_spread(baselines) * kernels, rel=0.02)


@pytest.mark.slow
def test_representative_runs_estimate_every_interval(todo: Estimate, covered: list[Covered]) -> None:
    for job, found in zip(todo.jobs, covered, strict=True):
        if found.compared.group != "resident":
            assert job in todo.representatives.values()
            program = with_kernel_times(job.case.load_scenario().program(), kernel_times(job.baselines, job.profile))
            whole = interval(partial(module.step_seconds, program), job.profile, 0.6826895)
            assert whole.value == found.compared.predicted.step_s
            assert found.deviations.profile == pytest.approx(whole.high - whole.value, rel=0.2)


@pytest.mark.slow
def test_a_case_takes_the_deviation_of_its_kind() -> None:
    data = load_set("h200x2-hostpath-20261121c")
    asked = [job for job in jobs(data, steps_only=True) if job.case.scenario["policy"]["kind"] in ("resident", "whole_layer")]  # fmt: skip
    found = estimate(asked, list(compare_all(asked)))
    assert len(found.representatives) == 2 and found.size == len(asked) + 2
    covered = coverage(found, {data.name: 0.002})
    offloaded = [(job, c) for job, c in zip(asked, covered, strict=True) if c.compared.group != "resident"]
    assert len({round(c.deviations.profile / c.compared.predicted.step_s, 9) for _, c in offloaded}) == 1
    [representative] = {job.case.number for job, _ in offloaded} & {
        j.case.number for j in found.representatives.values()
    }
    for job, c in offloaded:
        if job.case.number != representative:
            own = module.profile_deviation(job) * c.compared.predicted.step_s
            full = 1.6448536 * hypot(own, *c.deviations[1:])
            assert (c.high_s - c.low_s) / 2 == pytest.approx(full, rel=0.2)


def test_kinds_are_told_apart_by_what_binds() -> None:
    asked = jobs(load_set("h100x1-20261121e"), steps_only=True)[:3]
    for error, binds in ((0.05, [True, True]), (0.2, [False, False]), (None, [True, False])):
        cases = [compared(group, e)._replace(set=asked[0].set) for group, e in zip(("resident", "unseen", "unseen"), (0.0, error or 0.05, error or 0.2), strict=True)]  # fmt: skip
        found = estimate([asked[0], asked[1], asked[1]], cases)
        assert [key[-1] for key in found.kinds] == [True, *binds]
        assert len(found.representatives) == 1 + len(set(binds))


def test_few_are_simulated_often(todo: Estimate, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Counting(module.SimulatedMachine):
        def run(self, program: Program) -> Timeline:
            found = super().run(program)
            steps.append(len(found.step_times()))
            return found

    monkeypatch.setattr(module, "SimulatedMachine", Counting)
    monkeypatch.setattr(module, "uncertain", lambda profile: uncertain(profile)[:1])
    coverage(todo, {todo.jobs[0].set: 0.0})
    assert len(todo.representatives) == 3, "one a kind of policy"
    assert len(steps) <= 3 * len(todo.representatives) + 2 * len(todo.jobs) and set(steps) == {module.STEPS}


@pytest.mark.slow
def test_a_measurement_far_off_lies_outside(covered: list[Covered]) -> None:
    assert all(c.inside for c in covered)
    far = [measured_at(c, c.high_s * 1.001) for c in covered]
    near = [measured_at(c, c.low_s * 1.001) for c in covered]
    assert [c.inside for c in (*far, *near)] == [False] * len(far) + [True] * len(near)


@pytest.mark.slow
def test_the_table_in_the_documentation_is_todays() -> None:
    name = "h100x1-20261121e"
    asked = jobs(load_set(name), steps_only=True)
    found = list(compare_all(asked))
    covered = coverage(estimate(asked, found), model_errors([name], found))
    _, _, *todays = markdown_table(coverage_table(covered)).splitlines()
    table = dict(standing((Path(__file__).parents[1] / "docs" / "modelling.md").read_text()))["coverage"]
    assert [row for row in table.splitlines() if name[:6] in row] == todays
    assert all(session(other) in table for other in shipped_sets())


def test_groups_count_what_lies_inside() -> None:
    parts = Deviations(0.1, 0.2, 0.4, 0.8)
    some = [Covered(compared("unseen", 0.0), 1.0 - w, 1.0 + w, parts._replace(profile=w)) for w in (0.1, 0.2, 0.6)]
    off = Covered(compared("fitted", 1.0), 1.5, 2.5, parts)
    assert by_group([*some, off]) == {
        ("set", "unseen"): (3, 3, pytest.approx(0.2), (pytest.approx(0.2), 0.2, 0.4, 0.8)),
        ("set", "fitted"): (1, 0, pytest.approx(0.25), (0.05, 0.1, 0.2, 0.4)),
    }
