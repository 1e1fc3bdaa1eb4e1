"""Intervals about predictions of measured cases: their parts, and how often the measurement lies inside."""

from __future__ import annotations

from functools import partial
from math import hypot

import msgspec
import pytest

from sim.sensitivity import interval, uncertain
from validation import coverage as module
from validation.compare import Compared, Side, compare_all, jobs
from validation.coverage import TOP, Covered, Deviations, by_group, coverage, kernel_spread, model_error
from validation.measured import MeasuredCase
from validation.predict import kernel_times, predict, references, with_kernel_times, workload_key
from validation.sets import DataSet, load_set


def compared(group: str, error: float) -> Compared:
    measured, predicted = (Side(step, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, {}) for step in (1.0, 1.0 + error))
    return Compared("set", "", 0, "", "", "", None, 0.0, 1, group, 0.01, False, "", measured, predicted)


def measured_at(found: Covered, seconds: float) -> Covered:
    side = found.compared.measured._replace(step_s=seconds)
    return found._replace(compared=found.compared._replace(measured=side))


def sampled(name: str, kinds: tuple[str, ...]) -> DataSet:
    """The resident cases of a set's first workload, and its first cases of some kinds of policy."""
    chosen = load_set(name)
    of = [c for c in chosen.cases if c.scenario["workload"] == chosen.cases[0].scenario["workload"]]
    firsts = [next(c for c in of if c.scenario["policy"]["kind"] == kind) for kind in kinds]
    cases = [c for c in of if c.scenario["policy"]["kind"] == "resident" or c in firsts]
    return chosen._replace(cases=tuple(cases))


@pytest.fixture(scope="module")
def chosen() -> DataSet:
    return sampled("h200x2-hostpath-20261121c", ("whole_layer", "yielding"))


@pytest.fixture(scope="module")
def predicted(chosen: DataSet) -> list[Compared]:
    return list(compare_all(jobs(chosen, steps_only=True)))


@pytest.fixture(scope="module")
def covered(chosen: DataSet, predicted: list[Compared]) -> list[Covered]:
    return coverage(chosen, predicted, 0.004)


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
    alone = msgspec.structs.replace(one, step_times_s=(((9.0, 0.98, 0.99, 1.0, 1.01, 1.02),),))
    assert kernel_spread([alone]) == pytest.approx(1.4826 * 0.01)


# ---- intervals -----------------------------------------------------------------------------------------------------


def test_the_parts_of_an_interval(chosen: DataSet, predicted: list[Compared], covered: list[Covered]) -> None:
    residents = references(chosen.cases)
    for case, comparison, found in zip(chosen.cases, predicted, covered, strict=True):
        profile, kernels, steps, model = found.deviations
        step = comparison.predicted.step_s
        assert (found.low_s + found.high_s) / 2 == pytest.approx(step) and found.compared == comparison
        assert (found.high_s - found.low_s) / 2 == pytest.approx(1.6448536 * hypot(profile, kernels, steps, model))
        assert steps == pytest.approx(1.4826 * case.spread * step) and model == pytest.approx(0.004 * step)
        assert kernels <= kernel_spread(residents[workload_key(case)]) * step * 1.01


def test_a_resident_step_owes_its_kernels_their_share(chosen: DataSet, covered: list[Covered]) -> None:
    for case, found in zip(chosen.cases, covered, strict=True):
        if found.compared.group == "resident":
            residents = references(chosen.cases)[workload_key(case)]
            kernels = sum(kernel_times(residents).first.values())
            assert found.deviations.kernels == pytest.approx(kernel_spread(residents) * kernels, rel=0.02)


def test_the_largest_numbers_carry_nearly_all(chosen: DataSet, covered: list[Covered]) -> None:
    host = chosen.profile()
    assert len(uncertain(host)) > 2 * TOP
    for case, found in zip(chosen.cases, covered, strict=True):
        if found.compared.group != "resident":
            residents = references(chosen.cases)[workload_key(case)]
            program = with_kernel_times(case.load_scenario().program(), kernel_times(residents))
            whole = interval(partial(module._step, program), host, 0.6826895)
            assert whole.figure == predict(case, residents, host).predicted_s
            assert 0.9 * (whole.high - whole.figure) <= found.deviations.profile <= whole.high - whole.figure + 1e-12


def test_a_case_takes_few_simulations(chosen: DataSet, predicted: list[Compared], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    ran: list[str] = []

    class Counting(module.SimulatedMachine):
        def run(self, program: object) -> object:
            ran.append("")
            return super().run(program)  # type: ignore[arg-type]

    def ranked(case: MeasuredCase, residents: object, profile: object) -> object:
        asked.append(case.number)
        return uncertain(chosen.profile())[:TOP]

    asked: list[int] = []
    monkeypatch.setattr(module, "SimulatedMachine", Counting)
    monkeypatch.setattr(module, "_largest", ranked)
    coverage(chosen, predicted, 0.0)
    assert len(ran) == (2 * TOP + 3) * len(chosen.cases) and 2 * TOP + 3 <= 15
    assert len(asked) == 3, "once a kind of policy"


def test_a_measurement_far_off_lies_outside(chosen: DataSet, predicted: list[Compared], covered: list[Covered]) -> None:
    assert all(c.inside for c in covered)
    far = [measured_at(c, c.high_s * 1.001) for c in covered]
    near = [measured_at(c, c.low_s * 1.001) for c in covered]
    assert [c.inside for c in (*far, *near)] == [False] * len(far) + [True] * len(near)


def test_groups_count_what_lies_inside() -> None:
    none = Deviations(0.0, 0.0, 0.0, 0.0)
    some = [Covered(compared("unseen", 0.0), 1.0 - w, 1.0 + w, none) for w in (0.1, 0.2, 0.6)]
    off = Covered(compared("fitted", 1.0), 1.5, 2.5, none)
    found = by_group([*some, off])
    assert found == {("set", "unseen"): (3, 3, pytest.approx(0.2)), ("set", "fitted"): (1, 0, pytest.approx(0.25))}
