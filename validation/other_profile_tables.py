"""Tables of measured cases, predicted on profiles of other hosts and on profiles with a changed cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import msgspec

from sim.datasets.cases import references, workload_key
from sim.hardware import Profile, load_profile
from validation.compare import compare_all, jobs
from validation.datasets import load_set
from validation.error_statistics import errors, step_errors
from validation.markdown import table
from validation.predict import predict
from validation.step_statistics import Detailed, short

CROSS = (
    ("h200x2-hostpath-20261121a", ("h200x2-hostpath-20261121b", "h200x2-hostpath")),
    ("h200x2-hostpath-20261121b", ("h200x2-hostpath-20261121a",)),
    ("h200x2-hostpath-20261121c", ("h200x2-hostpath-20261121a", "h200x2-hostpath")),
    ("h200x2-hostpath-20261121i", ("h200x2-hostpath-20261121a", "h200x2-hostpath-20261121h")),
    ("h200x2-nvlink-20261121a", ("h200x2-nvlink-20261121c",)),
    ("h200x2-nvlink-20261121c", ("h200x2-nvlink-20261121a",)),
    ("h200x4-hostpath-20261121g", ("h200x4-hostpath-20261121j",)),
)
"""Sets, and profiles of other hosts that predict them."""

FLAG_WAITS = (("h200x2-hostpath-20261121b", (5, 18, 20, 29, 30)),)
"""Cases whose prediction is repeated with longer flag waits."""


def _changed(name: str, change: Callable[[Profile], Profile], numbers: Sequence[int]) -> list[float]:
    """Predictions of some cases of a set on a changed profile, s."""
    cases = load_set(name).cases
    baselines = references(cases)
    profile = change(load_profile(name))
    chosen = [next(c for c in cases if c.number == number) for number in numbers]
    return [predict(c, baselines[workload_key(c)], profile).predicted_s for c in chosen]


def later(seconds: float) -> Callable[[Profile], Profile]:
    """Flag waits that take `seconds` longer."""

    def change(profile: Profile) -> Profile:
        wait = profile.streams.wait_flag
        longer = msgspec.structs.replace(wait, value=type(wait.value)(wait.value + seconds))
        return msgspec.structs.replace(profile, streams=msgspec.structs.replace(profile.streams, wait_flag=longer))

    return change


def flag_waits(found: Sequence[Detailed]) -> str:
    """How predictions move with the cost of a flag wait."""
    rows = []
    for name, numbers in FLAG_WAITS:
        slower = [_changed(name, later(us * 1e-6), numbers) for us in (1, 2)]
        for i, number in enumerate(numbers):
            e = next(e for e in found if e.compared.set == name and e.case.number == number)
            moved = (f"{100 * (times[i] / e.case.step_time_s - 1):+.2f}" for times in slower)
            rows.append((short(name), e.compared.name, f"{100 * e.compared.error:+.2f}", *moved, *map(str, e.late)))
    headers = ("session", "case", "error %", "1 us more a wait", "2 us more", "late chunks, measured", "predicted")
    return table(headers, rows, 2)


def cross(executor: Executor, chosen: Sequence[tuple[str, Sequence[str]]] = CROSS) -> str:
    """Errors of the offloaded cases of sets on profiles of other hosts."""
    rows = []
    for name, others in chosen:
        for profile in others:
            all_jobs = jobs(load_set(name), load_profile(profile), steps_only=True)
            of = errors(step_errors(compare_all([j for j in all_jobs if j.group != "resident"], executor)))
            figures = (f"{100 * v:.2f}" for v in (of.median, of.p95, of.max))
            rows.append((short(name), profile, str(of.cases), *figures))
    return table(("cases of", "profile", "cases", "median %", "95th %", "max %"), rows, 2)
