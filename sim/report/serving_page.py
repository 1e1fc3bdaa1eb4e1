"""Pages of serving: one scenario with a minute of it drawn, or a grid of scenarios."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import show_bytes, show_seconds
from sim.report import serving_figures as draw
from sim.report.html import Section, Table, page
from sim.report.serving_tables import CLASS_COLUMNS, class_rows, grid_columns, grid_rows, percent
from sim.serving import Replicates, Served
from sim.serving.figures import PARTS, REASONS
from sim.serving.grid import GridRow
from sim.serving.replicates import Figures, Mean, mean_of

MINUTE = 60.0
SCHEDULER = "scheduler.kind"


def write_page(file: Path, name: str, found: Replicates, minute: float | None = None) -> None:
    """Write the page of a scenario; its minute starts at `minute` s, or is the busiest one. Raises OSError."""
    write_atomically(file, serving_page(name, found, minute))


def serving_page(name: str, found: Replicates, minute: float | None = None) -> str:
    """The HTML of a scenario's page."""
    first = found.first
    prepared = first.prepared
    start = _busiest(first) if minute is None else minute
    names = list(prepared.classes)
    drawn = draw.occupation(first.segments, names, prepared.gpus, start, start + MINUTE)
    latencies = {of: [r.latency for r in first.requests if r.cls.name == of] for of in names}
    deadlines = {of: found.figures[0]["classes"][of]["deadline_s"] for of in names}
    sections = [
        Section("Requests", _REQUESTS, Table(CLASS_COLUMNS, class_rows(found))),
        Section("Latency", _LATENCY, draw.latency_curves(latencies, deadlines)),
        *_late(found),
        Section("Where the time went", _PARTS, Table(("class", *PARTS), list(_parts(found)))),
        Section("A minute", _MINUTE.format(start=show_seconds(start)), drawn),
        Section("Step times", _STEPS, _steps(first)),
    ]
    facts = {
        "scheduler": prepared.scenario.scheduler.kind,
        "host": prepared.profile.name if prepared.profile else "stated step times",
        "GPUs": str(prepared.gpus),
        "in time": percent(found.mean("attainment")),
        "GPU time": percent(found.mean("utilisation")),
        "seeds": str(len(found.figures)),
        "chunkflow-sim": version("chunkflow-sim"),
    }
    about = prepared.profile.description if prepared.profile else "no host: step times are stated"
    return page(f"Serving {name}", about, sections, facts)


_REQUESTS = "Means over seeds, with 95 % intervals where there are several. GPU time is the share of all GPUs' time."
_LATENCY = "From arrival to the end of decoding, first seed. Dotted: what the deadline of the class allows."
_LATE = """Slow step: the stages alone, at the numbers of GPUs that the request had, took longer than the deadline
allowed. Others by what took most of their time besides: in the queue, between stages or paused, slowed by groups that
ran beside, or paying for changes."""
_PARTS = "Means of a request, s, first seed: what a latency consists of."
_MINUTE = "First seed, from {start} on. Shades tell requests apart; faint parts are what starting a job costs."
_STEPS = "Isolated, by number of GPUs."


def _late(found: Replicates) -> Iterator[Section]:
    shares = {}
    for name in found.first.prepared.classes:
        count = max(found.mean("classes", name, "requests").mean, 1.0)
        missed = {reason: found.mean("classes", name, "missed", reason).mean for reason in REASONS}
        shares[name] = {reason: number / count for reason, number in missed.items()}
    if any(any(of.values()) for of in shares.values()):
        yield Section("Why requests were late", _LATE, draw.late_reasons(shares))


def _parts(found: Replicates) -> Iterator[list[Any]]:
    for name, of in found.figures[0]["classes"].items():
        yield [name, *(show_seconds(max(of["mean_s"][part], 0.0)) for part in PARTS)]


def _steps(served: Served) -> Table:
    rows = []
    for name, cls in served.prepared.classes.items():
        for (degree, batch), of in cls.cells.items():
            rows.append((name, degree, batch, show_seconds(of.step), show_bytes(of.weights), show_bytes(of.memory)))
    return Table(("class", "GPUs", "batch", "step", "weights", "besides"), rows)


def _busiest(served: Served) -> float:
    """Start of the minute in which most was started, s."""
    counts: dict[int, int] = {}
    for segment in served.segments:
        at = int(segment.start // MINUTE)
        counts[at] = counts.get(at, 0) + 1
    return max(counts, key=lambda at: counts[at], default=0) * MINUTE


def write_grid_page(file: Path, name: str, rows: Sequence[GridRow]) -> None:
    """Write the page of a grid. Raises OSError."""
    write_atomically(file, grid_page(name, rows))


def grid_page(name: str, rows: Sequence[GridRow]) -> str:
    """The HTML of a grid's page: attainment over each axis of several values, and all points."""
    sections = [Section(f"Requests in time, by {axis}", _GRID, figure) for axis, figure in _curves(rows)]
    sections += _late_by_scheduler(rows)
    sections.append(
        Section("All points", "A click on a header sorts.", Table(grid_columns(rows), grid_rows(rows), True))
    )
    facts = {
        "points": str(len(rows)),
        "seeds": str(len(rows[0].runs)),
        "chunkflow-sim": version("chunkflow-sim"),
    }
    return page(f"Serving {name}", "a grid of serving scenarios", sections, facts)


_GRID = "Means over all other axes but the scheduler's; with 95 % intervals over seeds, where there are several."
_GRID_LATE = "Means over all points. " + _LATE


def _by_scheduler(rows: Sequence[GridRow]) -> dict[str, list[GridRow]]:
    """Points by their scheduler, where that is an axis."""
    found: dict[str, list[GridRow]] = {}
    for row in rows:
        found.setdefault(str(row.values.get(SCHEDULER, "all")), []).append(row)
    return found


def _curves(rows: Sequence[GridRow]) -> Iterator[tuple[str, Any]]:
    axes = [axis for axis in rows[0].values if axis != SCHEDULER]
    curves = _by_scheduler(rows) if axes else {"all": list(rows)}
    for axis in axes or [SCHEDULER]:
        found: dict[str, list[tuple[str, Mean]]] = {}
        for name, points in curves.items():
            by_value: dict[str, list[GridRow]] = {}
            for row in points:
                by_value.setdefault(str(row.values[axis]), []).append(row)
            found[name] = [(value, _over_points(of)) for value, of in by_value.items()]
        if len({value for curve in found.values() for value, _ in curve}) > 1:
            yield axis, draw.attainment_curves(axis, found)


def _over_points(rows: Sequence[GridRow]) -> Mean:
    """Requests in time, a mean over points; the interval is over seeds."""
    by_seed: list[Figures] = list(zip(*(row.runs for row in rows), strict=True))
    return mean_of([math.fsum(of["attainment"] for of in runs) / len(rows) for runs in by_seed])


def _late_by_scheduler(rows: Sequence[GridRow]) -> Iterator[Section]:
    shares = {}
    for name, points in _by_scheduler(rows).items():
        runs = [of for row in points for of in row.runs if of["requests"]]
        shares[name] = {
            reason: math.fsum(of["missed"][reason] / of["requests"] for of in runs) / max(len(runs), 1)
            for reason in REASONS
        }
    if any(any(of.values()) for of in shares.values()):
        yield Section("Why requests were late", _GRID_LATE, draw.late_reasons(shares))
