"""What a sweep answers: its fastest point that fits, the runner-up, and the fastest against its baseline.

Names of axes and values in the tables of its page are here, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sim.analysis.explain import resident
from sim.hardware import Profile
from sim.inputs.units import show_bytes, show_seconds
from sim.policies import Resident, describe, describe_plain
from sim.report.html import Badge, Cell, Section, Table
from sim.report.step_sections import why
from sim.report.theme import signed
from sim.sweeps.evaluation import evaluate
from sim.sweeps.results_file import Point, Row
from sim.timeline.critical_path import waterfall

WITHIN = 0.01
"""How much longer than the fastest the smallest point may take that is shown beside it."""


class Baseline(NamedTuple):
    """A point's workload with all weights on the GPU."""

    profile: Profile
    step_s: float


class _Ran(NamedTuple):
    """A point and its metrics."""

    point: Point
    row: Row

    @property
    def step_s(self) -> float:
        return self.row.metrics["step_time_s"]

    @property
    def peak(self) -> float:
        return self.row.metrics["peak_memory_bytes"]

    @property
    def fits(self) -> bool:
        return bool(self.row.metrics["fits_memory"])

    @property
    def words(self) -> str:
        """The policy, and values of axes that are not the policy's."""
        others = {axis: value for axis, value in self.row.values.items() if axis.split(".")[0] != "policy"}
        names = dict(zip(self.row.values, axis_names(self.row.values), strict=True))
        listed = [f"{names[axis]} {value_words(axis, value)}" for axis, value in others.items()]
        return ", ".join([describe(self.point.job.scenario.policy, short=True), *listed])


def baseline_of(points: Sequence[Point], rows: Sequence[Row]) -> Baseline | None:
    """Of the first point that did not fail."""
    for point, row in zip(points, rows, strict=True):
        if not row.error:
            result = point.job.with_policy(Resident()).simulate()
            return Baseline(result.profile, result.metrics["step_time_s"])
    return None


def answer(points: Sequence[Point], rows: Sequence[Row]) -> Iterator[Section]:
    """The winner and the runner-up in words and figures, and a waterfall of the winner against its baseline."""
    ran = [_Ran(point, row) for point, row in zip(points, rows, strict=True) if not row.error]
    if not ran:
        return
    ranked = sorted(ran, key=lambda r: (not r.fits, r.step_s, r.peak))
    best, others = ranked[0], ranked[1:]
    job = best.point.job._replace(causes=True)
    own, all_resident = (evaluate(one).figures() for one in (job, resident(job)))
    smallest = min((r for r in ran if r.fits and r.step_s <= best.step_s * (1 + WITHIN)), key=_size, default=best)
    shown = {"fastest": best}
    if others:
        shown["runner-up"] = others[0]
    if smallest.peak < best.peak and smallest not in others[:1]:
        shown[f"smallest within {100 * WITHIN:g} %"] = smallest
    metrics = all_resident.metrics
    table: list[tuple[Cell, ...]] = [(name, *_cells(r.words, r.row.metrics, best)) for name, r in shown.items()]
    table.append(("baseline", *_cells("all weights resident", metrics, best)))
    headers = ("", "point", "step time", "change", "over its floor", "peak memory", "fits")
    yield Section("Answer", "\n\n".join(_sentences(best, others, smallest, len(ran))), Table(headers, table))
    yield why(
        waterfall(own.causes_s, all_resident.causes_s), "baseline", "the fastest", "The fastest, and its baseline"
    )


def _size(ran: _Ran) -> tuple[float, float]:
    return ran.peak, ran.step_s


def _sentences(best: _Ran, others: Sequence[_Ran], smallest: _Ran, count: int) -> Iterator[str]:
    limit = show_bytes(best.row.metrics["device_memory_bytes"])
    step, peak = show_seconds(best.step_s), show_bytes(best.peak)
    if best.fits:
        yield f"The fastest of {count} points that fits {limit} is {best.words}: step {step}, peak memory {peak}."
    else:
        yield f"None of {count} points fits its GPU. The fastest is {best.words}: step {step}, {peak} of {limit}."
    if others and others[0].fits == best.fits:
        rival = others[0]
        more = _more(rival.step_s, best.step_s)
        yield f"The runner-up, {rival.words}, takes {more} with a peak of {show_bytes(rival.peak)}."
    if smallest.peak < best.peak:
        more, less = _more(smallest.step_s, best.step_s), show_bytes(best.peak - smallest.peak)
        yield f"The smallest within {100 * WITHIN:g} %, {smallest.words}, takes {more} and {less} less."


def _more(step_s: float, best_s: float) -> str:
    return f"{100 * (step_s / best_s - 1):.2f} % longer" if best_s else "as long"


def _cells(words: str, metrics: Mapping[str, object], best: _Ran) -> tuple[Cell, ...]:
    step, floor, peak = (float(str(metrics[key])) for key in ("step_time_s", "lower_bound_s", "peak_memory_bytes"))
    over = f"{100 * (step / floor - 1):.2f} %" if floor else ""
    change = signed(100 * (step / best.step_s - 1), "%") if best.step_s else ""
    fits = Badge("yes", "plain") if metrics["fits_memory"] else Badge("no", "bad")
    return words, show_seconds(step), change, over, show_bytes(peak), fits


def axis_names(axes: Mapping[str, object]) -> list[str]:
    """What tables call axes: the last part of each path; the whole path where two end alike."""
    short = ["policy" if axis == "policy.kind" else axis.split(".")[-1].replace("_", " ") for axis in axes]
    return [name if short.count(name) == 1 else axis for axis, name in zip(axes, short, strict=True)]


def value_words(axis: str, value: object) -> str:
    """A value on an axis as tables show it: sizes in binary units."""
    if value is None:
        return ""
    if axis.endswith("bytes") and isinstance(value, int | float) and not isinstance(value, bool):
        return show_bytes(value)
    return describe_plain(value)
