"""Tables of what `serving_grid.py` found of `genserve-grid.yaml`, as docs/serving.md has them.

python benchmarks/serving_grid_report.py benchmarks/genserve-grid.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Row = Mapping[str, str]
Point = dict[str, str]
SCALES, SHARES = ("0.5", "1.0", "1.5", "2.0"), ("0.5", "0.8", "0.95")
LOADS = ("0.3", "0.5", "0.7", "0.9", "1.1")
KINDS = ("fcfs", "srtf", "genserve", "edf", "static_partition", "tetriserve", "contention_aware")
MARGIN = 0.01
"""What counts as a difference of attainment."""


def point_of(row: Row) -> Point:
    """The values of a row's axes."""
    return dict(part.split("=", 1) for part in row["point"].split("; "))


class Results:
    """Rows of the grid itself, by scheduler, load, share of images and deadline scale."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows: dict[tuple[str, str, str, str], Row] = {}
        for row in rows:
            if not row["varied"]:
                at = point_of(row)
                key = at["scheduler.kind"], at["arrivals.load"], at["classes.image.share"], at["deadline_scale"]
                self.rows[key] = row

    def value(self, kind: str, *at: str, key: str = "attainment") -> float | None:
        """A figure of a point; None where it was not run."""
        row = self.rows.get((kind, *at))
        return None if row is None else float(row[key])

    def points(self) -> Iterator[tuple[str, str, str]]:
        """(load, share of images, deadline scale)."""
        return ((load, share, scale) for share in SHARES for scale in SCALES for load in LOADS)


def shown(value: float | None) -> str:
    """In percent."""
    return "-" if value is None else f"{100 * value:.0f}"


def tables(found: Results) -> Iterator[str]:
    """Attainment, a table a share of images: first three, then the other schedulers."""
    for kinds in (KINDS[:3], KINDS[3:]):
        for share in SHARES:
            yield f"\nShare of images {share}, {' / '.join(kinds)}, %:\n"
            yield (
                "| deadline scale | " + " | ".join(f"load {load}" for load in LOADS) + " |\n|---|" + "---|" * len(LOADS)
            )
            for scale in SCALES:
                cells = (" / ".join(shown(found.value(kind, load, share, scale)) for kind in kinds) for load in LOADS)
                yield f"| {scale} | " + " | ".join(cells) + " |"


def summary(found: Results) -> Iterator[str]:
    """How often the ordering holds, and what the gains are."""
    ordered = clear = total = 0
    failing: list[tuple[object, ...]] = []
    gains: dict[str, list[float]] = {}
    p90: dict[str, list[float]] = {}
    over_all: dict[tuple[str, str], list[float]] = {}
    best_of: dict[str, int] = {}
    for at in found.points():
        values = {kind: found.value(kind, *at) for kind in KINDS}
        fcfs, srtf, genserve = (values[kind] for kind in KINDS[:3])
        if fcfs is None or srtf is None or genserve is None:
            continue
        total += 1
        holds = genserve >= srtf - MARGIN and srtf >= fcfs - MARGIN
        ordered += holds
        clear += genserve > srtf + MARGIN and srtf > fcfs + MARGIN
        if not holds:
            failing.append((at, shown(fcfs), shown(srtf), shown(genserve)))
        if max(fcfs, srtf) > 0.0:
            gains.setdefault(at[0], []).append(100 * (genserve / max(fcfs, srtf) - 1.0))
        rivals = {kind: values[kind] for kind in KINDS if kind not in ("genserve", "contention_aware")}
        most = {kind: value for kind, value in rivals.items() if value}
        if most and None not in rivals.values():
            best = max(most, key=lambda kind: most[kind])
            best_of[best] = best_of.get(best, 0) + 1
            over_all.setdefault((at[2], at[0]), []).append(100 * (genserve / most[best] - 1.0))
        ours, theirs = (found.value(kind, *at, key="image_latency_p90_s") for kind in ("genserve", "fcfs"))
        if ours and theirs and at[2] != "0.5":
            p90.setdefault(at[0], []).append(theirs / ours)
    yield f"\nordering within {MARGIN}: {ordered} of {total}; each step clear: {clear}"
    for one in failing:
        yield f"  fails at {one}"
    for name, of in (("gain over the better of fcfs and srtf, %, by load", gains), ("images' p90, times", p90)):
        yield name
        for key, values in of.items():
            yield f"  {key}: {min(values):.1f} to {max(values):.1f}"
    yield f"best of the others: {best_of}"
    yield "gain over the strongest baseline, %, by deadline scale and load"
    for both, values in sorted(over_all.items()):
        yield f"  {both}: {min(values):.1f} to {max(values):.1f}"


def assumptions(rows: Sequence[Row]) -> Iterator[str]:
    """Attainment of fcfs / srtf / genserve by assumption and load."""
    found: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for row in rows:
        if row["varied"]:
            at = point_of(row)
            key = row["varied"], at[row["varied"]]
            found.setdefault(key, {})[at["arrivals.load"], at["scheduler.kind"]] = shown(float(row["attainment"]))
    if found:
        yield "\n| assumption | value | " + " | ".join(f"load {load}" for load in LOADS) + " |\n|---|---|" + "---|" * 5
    for (name, value), cells in found.items():
        each = (" / ".join(cells.get((load, kind), "-") for kind in KINDS[:3]) for load in LOADS)
        yield f"| {name} | {value} | " + " | ".join(each) + " |"


def main() -> None:
    """Print all of it."""
    with Path(sys.argv[1]).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = Results(rows)
    for line in (*tables(found), *summary(found), *assumptions(rows)):
        print(line)


if __name__ == "__main__":
    main()
