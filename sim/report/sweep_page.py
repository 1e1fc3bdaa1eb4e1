"""The page of a sweep: its winner, step time against chunk size, memory against step time, chunk size and residency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, assert_never

from sim.inputs import units
from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import show_bytes, show_seconds
from sim.policies import describe, describe_plain
from sim.report import figures
from sim.report.html import Badge, Cell, Section, Table, page
from sim.report.sweep_answer import Baseline, answer, axis_names, baseline_of, value_words
from sim.scenario import Scenario
from sim.sweeps.experiments import Experiment
from sim.sweeps.results_file import Point, Row


def write_page(file: Path, name: str, points: Sequence[Point], rows: Sequence[Row]) -> None:
    """Write the page of a finished sweep. Raises OSError."""
    drawn = _drawn_points(points, rows)
    baseline = baseline_of(points, rows)
    sections = list(answer(points, rows))
    if any(p.chunk_bytes for p in drawn):
        sections.append(Section("Step time against chunk size", _CHUNKS, _chunks(drawn, rows, baseline)))
    sections += [*_trade_offs(drawn, rows), Section("All points", _ALL, _table(rows))]
    _write(file, f"Sweep of {Path(name).name}", f"{len(rows)} points", sections, {**_host(baseline), "scenario": name})


def write_experiment(file: Path, experiment: Experiment, points: Sequence[Point], rows: Sequence[Row]) -> None:
    """Write the page of a finished experiment. Raises OSError."""
    drawn = _drawn_points(points, rows)
    baseline = baseline_of(points, rows)
    match experiment.plot:
        case "chunk":
            figure = _chunks(drawn, rows, baseline)
        case "curves":
            figure = figures.curves(experiment.x, _curves(experiment.x, points, rows))
        case "bars":
            figure = figures.bars_by_case(_bars(experiment.x, points, rows))
        case _:
            assert_never(experiment.plot)
    sections = [Section("Step time", experiment.about, figure), *answer(points, rows), *_trade_offs(drawn, rows)]
    sections.append(Section("All points", _ALL, _table(rows)))
    _write(file, experiment.title, f"{len(rows)} points", sections, _host(baseline))


def _host(baseline: Baseline | None) -> dict[str, str]:
    return {"profile": baseline.profile.name, "host": baseline.profile.description} if baseline else {}


def _write(file: Path, title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, str]) -> None:
    write_atomically(file, page(title, subtitle, sections, {**facts, "chunkflow-sim": version("chunkflow-sim")}))


def _trade_offs(drawn: Sequence[figures.Point], rows: Sequence[Row]) -> list[Section]:
    """Memory against step time, and chunk size against residency, where the points differ in them."""
    sections, maps = [], []
    limits = {row.metrics["device_memory_bytes"] for row in rows if not row.error}
    if len({p.memory_bytes for p in drawn}) > 1 and len({p.resident_fraction for p in drawn}) > 1:
        limit = limits.pop() if len(limits) == 1 else None
        there = "" if limit is None or figures.is_near(limit, drawn) else f" The GPU's {show_bytes(limit)} lie beyond."
        sections.append(Section("Memory against step time", _MEMORY + there, figures.memory_against_step(drawn, limit)))
    for policy in dict.fromkeys(p.policy for p in drawn):
        mine = [p for p in drawn if p.policy == policy and p.chunk_bytes]
        cells = {(p.chunk_bytes, p.resident_fraction) for p in mine}
        both = len({c for c, _ in cells}) > 1 and len({r for _, r in cells}) > 1
        if both and len(cells) == len(mine):
            maps.append((policy, mine))
    every = [p for _, mine in maps for p in mine]
    for policy, mine in maps:
        text = _HEAT + (" All maps of this page have one scale." if len(maps) > 1 else "")
        sections.append(Section(f"Chunk size and residency, {policy}", text, figures.heat_map(mine, every)))
    return sections


def _curves(x: str, points: Sequence[Point], rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Policy -> (x, step time s); a policy that has no such key is drawn as a level over the whole range."""
    series: dict[str, list[tuple[float, float]]] = {}
    found = [(Scenario.from_plain(p.data).policy.label(), r) for p, r in zip(points, rows, strict=True) if not r.error]
    values = sorted({v for _, r in found if (v := units.number(r.values[x])) is not None})
    for policy, row in found:
        at = values if (value := units.number(row.values[x])) is None else [value]
        series.setdefault(policy, []).extend((float(v), row.metrics["step_time_s"]) for v in at)
    return series


def _bars(x: str, points: Sequence[Point], rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Policy -> case -> step time, s; one series where every case has a policy of its own.

    A policy that has no such key has its step time in every case.
    """
    series: dict[str, dict[str, float]] = {}
    single = len(rows) == len({describe_plain(r.values[x]) for r in rows})
    cases = list(dict.fromkeys(describe_plain(r.values[x]) for r in rows if r.values[x] is not None)) or [""]
    for point, row in zip(points, rows, strict=True):
        if not row.error:
            name = "step time" if single else Scenario.from_plain(point.data).policy.label()
            for case in cases if row.values[x] is None else [describe_plain(row.values[x])]:
                series.setdefault(name, {})[case] = row.metrics["step_time_s"]
    return series


def _drawn_points(points: Sequence[Point], rows: Sequence[Row]) -> list[figures.Point]:
    return [_drawn(p, r) for p, r in zip(points, rows, strict=True) if not r.error]


_CHUNKS = """Small chunks pay the cost of a copy often, large chunks block the link for collectives.
The lower bound is the smallest of the points' floors: no schedule with the copies of one of them takes less. The
resident line is that of the first point without its copies."""
_MEMORY = "Peak device memory and step time of each point; no point beats those on the front in both."
_HEAT = "Step time by chunk size and resident fraction; the fastest is framed."
_ALL = "A click on a header sorts."


def _drawn(point: Point, row: Row) -> figures.Point:
    policy = Scenario.from_plain(point.data).policy
    return figures.Point(
        policy.label(),
        policy.chunk_bytes,
        policy.resident_fraction,
        row.metrics["step_time_s"],
        row.metrics["peak_memory_bytes"],
        describe(policy, short=True),
    )


def _chunks(drawn: Sequence[figures.Point], rows: Sequence[Row], baseline: Baseline | None) -> Any:
    """Chunk sizes at the smallest resident fraction: one line a policy."""
    least = min((p.resident_fraction for p in drawn if p.chunk_bytes), default=0.0)
    shown = [p for p in drawn if p.policy != "resident" and p.resident_fraction == least]
    floor = min((r.metrics["lower_bound_s"] for r in rows if not r.error), default=None)
    return figures.chunk_sweep(shown, floor, baseline.step_s if baseline else None)


_TIMES = {
    "lower_bound_s": "lower bound",
    "exposed_prefetch_s": "wait for prefetch",
    "collective_inflation_s": "collective inflation",
}


def _table(rows: Sequence[Row]) -> Table:
    """Every point: its values, and first what a choice is made by."""
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        values = [value_words(axis, value) for axis, value in row.values.items()]
        if row.error:
            cells.append((*values, Badge(row.error, "bad"), *[""] * (len(_TIMES) + 2)))
            continue
        memory = show_bytes(row.metrics["peak_memory_bytes"])
        fits = Badge("yes", "plain") if row.metrics["fits_memory"] else Badge("no", "bad")
        step = show_seconds(row.metrics["step_time_s"])
        cells.append((*values, step, memory, fits, *(show_seconds(row.metrics[t]) for t in _TIMES)))
    headers = (*axis_names(rows[0].values), "step time", "peak memory", "fits", *_TIMES.values())
    return Table(headers, cells, sortable=True)
