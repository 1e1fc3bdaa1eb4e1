"""Measured data sets against predictions: errors apart for cases that may be fitted on, unseen ones and residents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from statistics import mean, median
from typing import NamedTuple

from sim.config import InputError
from sim.hardware import Profile
from sim.policies import Resident, label
from sim.scenario import Scenario
from sim.units import show_bytes
from validation.measured import DataSet, MeasuredCase
from validation.predict import predict, references, workload_key


class Compared(NamedTuple):
    """One case of a data set: what it is called, measured and predicted step times (s), the measurement's spread."""

    set: str
    name: str
    group: str
    """"resident", "fitted" (constants may be fitted on it) or "unseen"."""
    measured_s: float
    predicted_s: float
    spread: float

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return self.predicted_s / self.measured_s - 1


class Errors(NamedTuple):
    """Absolute relative errors of some cases."""

    cases: int
    median: float
    mean: float
    p95: float
    maximum: float
    worst: str


def case_name(case: MeasuredCase) -> str:
    """Model, tokens a rank, parallelism and policy of a case in a few words."""
    scenario = case.load_scenario()
    policy = scenario.policy
    words = [_workload(scenario), label(policy)]
    if chunk := getattr(policy, "chunk_bytes", None):
        words.append(show_bytes(chunk))
    if fraction := getattr(policy, "resident_fraction", 0.0):
        words.append(f"r={fraction:g}")
    if (ahead := getattr(policy, "prefetch_layers", 1)) != 1:
        words.append(f"k={ahead}")
    return " ".join(words)


def _workload(scenario: Scenario) -> str:
    from sim.models import Named, load_model

    workload = scenario.workload
    if not isinstance(workload, Named):
        return f"{scenario.world_size} ranks"
    tokens = workload.tokens(load_model(workload.model))
    if workload.parallelism == "tensor":
        return f"{workload.model} tensor {tokens}"
    return f"{workload.model} {-(-tokens // scenario.world_size)}"


def _predict(job: tuple[MeasuredCase, Sequence[MeasuredCase], Profile]) -> float:
    return predict(*job).predicted_s


def compare_set(chosen: DataSet, profile: Profile | None = None, executor: Executor | None = None) -> list[Compared]:
    """Predict every case of a data set, on its own profile unless another is given.

    Raises:
        InputError: there is no profile, or a case cannot be predicted; names the data set and the case.
    """
    profile = profile or chosen.profile()
    residents = references(chosen.cases)
    for case in chosen.cases:
        if workload_key(case) not in residents:
            problem = "there is no resident case of its workload, which shows the times of its kernels"
            raise InputError(chosen.name, f"measured case {case.number}", problem)
    jobs = [(case, residents[workload_key(case)], profile) for case in chosen.cases]
    try:
        predicted = list(executor.map(_predict, jobs) if executor else map(_predict, jobs))
    except InputError as error:
        raise InputError(f"{chosen.name}: {error.source}", error.path, error.problem) from None
    compared = []
    for case, seconds in zip(chosen.cases, predicted, strict=True):
        resident = isinstance(case.load_scenario().policy, Resident)
        group = "resident" if resident else "fitted" if case.number in chosen.fitted else "unseen"
        compared.append(Compared(chosen.name, case_name(case), group, case.step_time_s, seconds, case.spread))
    return compared


def errors(compared: Iterable[Compared]) -> Errors:
    """Errors of some cases. Raises ValueError where there are none."""
    ordered = sorted(compared, key=lambda c: abs(c.error))
    if not ordered:
        raise ValueError("no cases to summarise")
    values = [abs(c.error) for c in ordered]
    return Errors(
        len(values),
        median(values),
        mean(values),
        values[min(int(0.95 * len(values)), len(values) - 1)],
        values[-1],
        f"{ordered[-1].set}: {ordered[-1].name}",
    )


def by_group(compared: Sequence[Compared]) -> dict[tuple[str, str], Errors]:
    """Errors of each (set, group)."""
    found = dict.fromkeys((c.set, g) for c in compared for g in ("resident", "fitted", "unseen") if c.group == g)
    return {key: errors(c for c in compared if (c.set, c.group) == key) for key in found}


def markdown(compared: Sequence[Compared]) -> str:
    """The table of all cases but residents, and the errors of each set and group."""
    lines = ["| set | group | cases | median % | mean % | 95th % | max % |", "|---|---|---:|---:|---:|---:|---:|"]
    for (name, group), e in by_group(compared).items():
        figures = " | ".join(f"{100 * v:.2f}" for v in (e.median, e.mean, e.p95, e.maximum))
        lines.append(f"| {name} | {group} | {e.cases} | {figures} |")
    lines += ["", "| set | case | measured ms | spread % | predicted ms | error % |", "|---|---|---:|---:|---:|---:|"]
    for c in compared:
        if c.group != "resident":
            times = f"{1e3 * c.measured_s:.2f} | {100 * c.spread:.2f} | {1e3 * c.predicted_s:.2f}"
            lines.append(f"| {c.set} | {c.name} | {times} | {100 * c.error:+.2f} |")
    return "\n".join(lines)
