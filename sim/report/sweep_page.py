"""The page of a sweep: step time against chunk size, memory against step time, chunk size against residency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, assert_never

from sim.inputs import units
from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import show_bytes
from sim.policies import Resident, describe_plain
from sim.report import figures
from sim.report.html import Badge, Cell, Section, Table, page
from sim.report.theme import ms
from sim.run import Result
from sim.scenario import Scenario
from sim.sweeps.experiments import Experiment
from sim.sweeps.results_file import Point, Row


def write_page(file: Path, name: str, points: Sequence[Point], rows: Sequence[Row]) -> None:
    """Write the page of a finished sweep. Raises OSError."""
    drawn = _drawn_points(points, rows)
    resident = _resident(points, rows)
    sections = [Section("Step time against chunk size", _CHUNKS, _chunks(drawn, rows, resident))]
    sections += [*_trade_offs(drawn), Section("All points", "", _table(rows))]
    _write(file, f"Sweep of {Path(name).name}", f"{len(rows)} points", sections, {**_host(resident), "scenario": name})


def write_experiment(file: Path, experiment: Experiment, points: Sequence[Point], rows: Sequence[Row]) -> None:
    """Write the page of a finished experiment. Raises OSError."""
    drawn = _drawn_points(points, rows)
    resident = _resident(points, rows)
    match experiment.plot:
        case "chunk":
            figure = _chunks(drawn, rows, resident)
        case "curves":
            figure = figures.curves(experiment.x, _curves(experiment.x, points, rows))
        case "bars":
            figure = figures.bars_by_case(_bars(experiment.x, points, rows))
        case _:
            assert_never(experiment.plot)
    sections = [Section("Step time", experiment.about, figure), *_trade_offs(drawn)]
    sections.append(Section("All points", "", _table(rows)))
    _write(file, experiment.title, f"{len(rows)} points", sections, _host(resident))


def _resident(points: Sequence[Point], rows: Sequence[Row]) -> Result | None:
    """The first point that did not fail, with all weights on the GPU."""
    for point, row in zip(points, rows, strict=True):
        if not row.error:
            return point.job.with_policy(Resident()).simulate()
    return None


def _host(resident: Result | None) -> dict[str, str]:
    return {"profile": resident.profile.name, "host": resident.profile.description} if resident else {}


def _write(file: Path, title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, str]) -> None:
    write_atomically(file, page(title, subtitle, sections, {**facts, "chunkflow-sim": version("chunkflow-sim")}))


def _trade_offs(drawn: Sequence[figures.Point]) -> list[Section]:
    """Memory against step time, and chunk size against residency, where the points differ in them."""
    sections = []
    if len({p.memory_bytes for p in drawn}) > 1 and len({p.resident_fraction for p in drawn}) > 1:
        sections.append(Section("Memory against step time", _MEMORY, figures.memory_against_step(drawn)))
    for policy in dict.fromkeys(p.policy for p in drawn):
        mine = [p for p in drawn if p.policy == policy and p.chunk_bytes]
        cells = {(p.chunk_bytes, p.resident_fraction) for p in mine}
        both = len({c for c, _ in cells}) > 1 and len({r for _, r in cells}) > 1
        if both and len(cells) == len(mine):
            sections.append(Section(f"Chunk size and residency, {policy}", _HEAT, figures.heat_map(mine)))
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
_HEAT = "Step time by chunk size and resident fraction."


def _drawn(point: Point, row: Row) -> figures.Point:
    policy = Scenario.from_plain(point.data).policy
    return figures.Point(
        policy.label(),
        policy.chunk_bytes,
        policy.resident_fraction,
        row.metrics["step_time_s"],
        row.metrics["peak_memory_bytes"],
    )


def _chunks(drawn: Sequence[figures.Point], rows: Sequence[Row], resident: Result | None) -> Any:
    """Chunk sizes at the smallest resident fraction: one line a policy."""
    least = min((p.resident_fraction for p in drawn if p.chunk_bytes), default=0.0)
    shown = [p for p in drawn if p.policy != "resident" and p.resident_fraction == least]
    floor = min((r.metrics["lower_bound_s"] for r in rows if not r.error), default=None)
    return figures.chunk_sweep(shown, floor, resident.metrics["step_time_s"] if resident else None)


_TIMES = {
    "step_time_s": "step time",
    "lower_bound_s": "lower bound",
    "exposed_prefetch_s": "wait for prefetch",
    "collective_inflation_s": "collective inflation",
}


def _table(rows: Sequence[Row]) -> Table:
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        values = ["" if v is None else describe_plain(v) for v in row.values.values()]
        if row.error:
            cells.append((*values, row.error, *[""] * (len(_TIMES) + 1)))
            continue
        memory = show_bytes(row.metrics["peak_memory_bytes"])
        fits = Badge("yes", "plain") if row.metrics["fits_memory"] else Badge("no", "bad")
        cells.append((*values, *(ms(row.metrics[t]) for t in _TIMES), memory, fits))
    return Table((*rows[0].values, *_TIMES.values(), "peak memory", "fits"), cells)
