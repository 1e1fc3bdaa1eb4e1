"""What `chunkflow-sim serve` prints."""

from __future__ import annotations

from collections.abc import Sequence

from sim.inputs.units import show_bytes, show_seconds
from sim.report.terminal import say, show, table
from sim.serving import Replicates
from sim.serving.figures import REASONS
from sim.serving.grid import GridRow
from sim.serving.pairs import Side
from sim.serving.replicates import Mean


def percent(of: Mean) -> str:
    """A share with its interval, in percent."""
    width = f" \N{PLUS-MINUS SIGN} {100 * of.half_width:.1f}" if _differs(of) else ""
    return f"{100 * of.mean:.1f}{width} %"


def seconds(of: Mean) -> str:
    """A time with its interval."""
    width = f" \N{PLUS-MINUS SIGN} {show_seconds(of.half_width)}" if _differs(of) else ""
    return show_seconds(of.mean) + width


def _differs(of: Mean) -> bool:
    """Whether the runs differ by more than rounding does."""
    return of.half_width > 1e-9 * abs(of.mean)


def class_rows(found: Replicates) -> list[list[str]]:
    """A row a class, and one of all requests."""
    paths: list[tuple[str, ...]] = [("classes", name) for name in found.first.prepared.classes]
    return [[path[-1] if path else "all", *_class_cells(found, path)] for path in [*paths, ()]]


def _class_cells(found: Replicates, path: tuple[str, ...]) -> list[str]:
    count = found.mean(*path, "requests").mean
    if not count:
        return ["0", *["-"] * (len(CLASS_COLUMNS) - 2)]
    mean = found.mean
    return [
        f"{count:.0f}",
        percent(mean(*path, "attainment")),
        *(seconds(mean(*path, key)) for key in ("latency_mean_s", *_PERCENTILES)),
        percent(mean(*path, "utilisation")),
    ]


_PERCENTILES = ("latency_p50_s", "latency_p90_s", "latency_p99_s")
CLASS_COLUMNS = ("class", "requests", "in time", "mean", "p50", "p90", "p99", "GPU time")


def print_served(name: str, found: Replicates) -> None:
    """Figures by class, why requests were late, and what the run was."""
    prepared = found.first.prepared
    made = table(*CLASS_COLUMNS, title=f"{name}: {prepared.scenario.scheduler.kind} on {prepared.gpus} GPUs")
    for row in class_rows(found):
        made.add_row(*row)
    late = table("late because of", *REASONS)
    for cls in prepared.classes:
        late.add_row(cls, *(f"{found.mean('classes', cls, 'missed', reason).mean:.4g}" for reason in REASONS))
    show(made, late)
    plain = found.figures[0]
    memory = ""
    if prepared.profile is not None or prepared.scenario.memory is not None:
        peak = show_bytes(max(of["peak_memory_bytes"] for of in found.figures))
        memory = f" Peak memory of a GPU: {peak} of {show_bytes(prepared.memory)}."
    seeds = f", {len(found.figures)} seeds" if len(found.figures) > 1 else ""
    say(f"{plain['rate_per_s']:.4g} requests a second{seeds}.{memory}")


def grid_columns(rows: Sequence[GridRow]) -> list[str]:
    """Axes, then figures."""
    return [*rows[0].values, "in time", *rows[0].classes, "p90", "GPU time"]


def grid_rows(rows: Sequence[GridRow]) -> list[list[str]]:
    """A row a point: its values; requests in time, of all and by class; p90 of latencies; utilisation."""
    return [
        [
            *map(str, row.values.values()),
            percent(row.mean("attainment")),
            *(percent(row.mean("classes", name, "attainment")) for name in row.classes),
            seconds(row.mean("latency_p90_s")),
            percent(row.mean("utilisation")),
        ]
        for row in rows
    ]


def print_grid(name: str, rows: Sequence[GridRow]) -> None:
    """Print a row a point."""
    made = table(*grid_columns(rows), title=f"{name}: requests in time, of all and by class")
    for cells in grid_rows(rows):
        made.add_row(*cells)
    show(made)


def print_pairs(name: str, found: Sequence[tuple[Side, Side]]) -> None:
    """Print two lines a pair: each class's step alone and beside the other one."""
    made = table("class", "GPUs", "beside", "alone", "together", "longer", title=f"{name}: steps side by side")
    for pair in found:
        for side, other in (pair, pair[::-1]):
            longer = f"{100 * (side.together_s / side.alone_s - 1):+.1f} %"
            gpus = ", ".join(map(str, side.gpus))
            made.add_row(side.cls, gpus, other.cls, show_seconds(side.alone_s), show_seconds(side.together_s), longer)
    show(made)
