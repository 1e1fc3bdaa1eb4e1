"""The page of a sweep: step time against chunk size, memory against step time, chunk size against residency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sim.output import write_atomically
from sim.policies import label
from sim.report import figures
from sim.report.html import Section, Table, page
from sim.report.theme import ms
from sim.run import simulate
from sim.scenario import Scenario
from sim.sweep import Point, Row
from sim.units import show_bytes


def write_page(file: Path, name: str, data: Mapping[str, Any], points: Sequence[Point], rows: Sequence[Row]) -> None:
    """Write the page of a finished sweep of the scenario `data`. Raises OSError."""
    drawn = [_drawn(p, r) for p, r in zip(points, rows, strict=True) if not r.error]
    resident = simulate(Scenario.from_plain({**data, "policy": {"kind": "resident"}}))
    sections = [Section("Step time against chunk size", _CHUNKS, _chunks(drawn, rows, resident.metrics["step_time_s"]))]
    if len({p.memory_bytes for p in drawn}) > 1:
        sections.append(Section("Memory against step time", _MEMORY, figures.memory_against_step(drawn)))
    for policy in dict.fromkeys(p.policy for p in drawn):
        mine = [p for p in drawn if p.policy == policy and p.chunk_bytes]
        if len({p.resident_fraction for p in mine}) > 1 and len({p.chunk_bytes for p in mine}) > 1:
            sections.append(Section(f"Chunk size and residency, {policy}", _HEAT, figures.heat_map(mine)))
    sections.append(Section("All points", "", _table(rows)))
    facts = {
        "profile": resident.profile.name,
        "scenario": name,
        "points": str(len(rows)),
        "chunkflow-sim": version("chunkflow-sim"),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, page(f"Sweep of {Path(name).name}", resident.profile.description, sections, facts))


_CHUNKS = """Small chunks pay the cost of a copy often, large ones keep the link from the collectives.
The lower bound is the smallest of the points' floors: no schedule on this host is faster. The resident line needs no
copies at all."""
_MEMORY = "Peak device memory and step time of each point; no point beats those on the front in both."
_HEAT = "Step time by chunk size and resident fraction."


def _drawn(point: Point, row: Row) -> figures.Point:
    policy = Scenario.from_plain(point.data).policy
    return figures.Point(
        label(policy),
        getattr(policy, "chunk_bytes", None),
        getattr(policy, "resident_fraction", 0.0),
        row.figures["step_time_s"],
        row.figures["peak_memory_bytes"],
    )


def _chunks(drawn: Sequence[figures.Point], rows: Sequence[Row], resident_s: float) -> Any:
    """Chunk sizes at the smallest resident fraction: one line a policy."""
    least = min((p.resident_fraction for p in drawn if p.chunk_bytes), default=0.0)
    shown = [p for p in drawn if p.policy != "resident" and p.resident_fraction == least]
    floor = min((r.figures["lower_bound_s"] for r in rows if not r.error), default=None)
    return figures.chunk_sweep(shown, floor, resident_s)


def _table(rows: Sequence[Row]) -> Table:
    headers = (*rows[0].values, "step time", "lower bound", "exposed prefetch", "collective inflation", "peak memory")
    cells = []
    for row in rows:
        values = ["" if v is None else str(v) for v in row.values.values()]
        if row.error:
            cells.append((*values, row.error, "", "", "", ""))
            continue
        times = ("step_time_s", "lower_bound_s", "exposed_prefetch_s", "collective_inflation_s")
        cells.append((*values, *(ms(row.figures[t]) for t in times), show_bytes(row.figures["peak_memory_bytes"])))
    return Table(headers, cells)
