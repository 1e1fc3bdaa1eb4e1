"""The plots of docs/measurements.md and of the pages in docs/measurements."""

from __future__ import annotations

from collections.abc import Sequence

from sim.datasets.cases import workload_key
from sim.datasets.probe_rows import Row
from sim.report.theme import BLUE, GREEN, GREY, PINK, RED, VIOLET, YELLOW
from validation.datasets import probed_sets
from validation.step_statistics import (
    CHUNKS,
    FOUR,
    LARGE,
    MIB,
    NVLINK,
    TWO,
    Detailed,
    crosses_nvlink,
    probes,
    rates,
    short,
    value,
    yields,
)
from validation.svg import MARKERS, Axis, Marker, Panel, Series, figure, linear, logarithmic

COLOURS = BLUE, RED, GREEN, PINK, YELLOW, VIOLET
"""In the order in which series take them."""
PLACES = (
    (TWO, 2, "2 GPUs, host memory", BLUE),
    (FOUR, 4, "4 GPUs, host memory", RED),
    (NVLINK, 2, "2 GPUs, NVLink", GREEN),
)


def plots(found: Sequence[Detailed]) -> dict[str, str]:
    """Every plot by name."""
    return {
        "contention": contention(),
        "sm_copies": sm_copies(),
        "collectives": collectives(),
        "hosts": hosts(),
        "windows": windows(found),
        "baselines": baselines(found),
        "errors": errors(found),
    }


def longer(row: Row) -> float:
    """A collective's time during copies over its isolated time."""
    return value(row, "seconds") / value(row, "alone_seconds")


def _chunks() -> Axis:
    return logarithmic("bytes of a copy", [(c, f"{c // MIB} MiB") for c in CHUNKS])


def contention() -> str:
    """Copies during collectives by chunk, and what the collectives pay."""
    copies, slower = [], []
    for name, ranks, words, colour in PLACES:
        if name != NVLINK:
            isolated = [probes(name)[f"copy/h2d/{ranks}/train/{c}"] for c in CHUNKS]
            points = [(c, sum(rates(r, "h2d")) / ranks / 1e9) for c, r in zip(CHUNKS, isolated, strict=True)]
            copies.append(Series(f"{ranks} GPUs, isolated copies", points, colour, "none", dashed=True))
        for kind, marker in zip(("all_to_all", "all_reduce"), MARKERS, strict=False):
            rows = [probes(name)[f"beside/{kind}/{LARGE}/h2d/{c}"] for c in CHUNKS]
            title = f"{words}, {kind.replace('_', '-')}"
            both = list(zip(CHUNKS, rows, strict=True))
            copies.append(Series(title, [(c, value(r, "rate") / 1e9) for c, r in both], colour, marker))
            slower.append(Series(title, [(c, longer(r)) for c, r in both], colour, marker))
    return figure(
        [
            Panel("Copies during a collective", _chunks(), linear("GB/s of each GPU", 0, 60, 10), copies),
            Panel("The collective's time over its isolated time", _chunks(), linear("times", 0.9, 2.1, 0.2), slower),
        ]
    )


def sm_copies() -> str:
    """Copies by SMs: rate during an all-to-all by CTAs, and rate against what the all-to-all pays."""
    rate, price = [], []
    for name, _, words, colour in PLACES:
        rows = {n: probes(name)[f"sm_copy/{n}"] for n in (1, 2, 3, 4, 6, 8)}
        seen = {n: r for n, r in rows.items() if "seconds" in r.ranks[0]}
        title = f"SMs, {words}"
        rate.append(Series(title, [(n, value(r, "copy_beside") / 1e9) for n, r in seen.items()], colour))
        if name == TWO:
            points = [(n, value(r, "copy_alone") / 1e9) for n, r in rows.items()]
            rate.append(Series("isolated SM copies", points, GREY, "none", dashed=True))
        pairs = [(value(r, "copy_beside") / 1e9, longer(r)) for r in seen.values()]
        price.append(Series(title, pairs, colour))
        chunks = [probes(name).get(f"beside/all_to_all/{40 * MIB}/h2d/{c}") for c in CHUNKS]
        pairs = [(value(r, "rate") / 1e9, longer(r)) for r in chunks if r]
        price.append(Series(f"DMA, {words}", pairs, colour, "square", line=False))
    return figure(
        [
            Panel("Copies by SMs", linear("CTAs", 0, 8, 1), linear("GB/s of each GPU", 0, 60, 10), rate),
            Panel(
                "What an all-to-all of 40 MiB pays for the copies",
                linear("GB/s of concurrent copies", 0, 60, 10),
                linear("its time over its isolated time", 0.8, 3.2, 0.4),
                price,
            ),
        ]
    )


def collectives() -> str:
    """Isolated times of collectives by size."""
    sizes = [2**k for k in range(16, 29) if f"collective/all_to_all/2/{2**k}" in probes(TWO)]
    sizes = sorted({*sizes, *(40 * MIB << k for k in range(4))})
    shown = [(64 * 2**10, "64 KiB"), (MIB, "1 MiB"), (16 * MIB, "16 MiB"), (320 * MIB, "320 MiB")]
    panels = []
    for kind in ("all_to_all", "all_reduce"):
        series = []
        for name, ranks, words, colour in ((TWO, 2, "2 GPUs, host memory", BLUE), *PLACES[1:]):
            rows = {s: probes(name)[f"collective/{kind}/{ranks}/{s}"] for s in sizes}
            series.append(Series(words, [(s, 1e6 * value(r, "seconds")) for s, r in rows.items()], colour))
        ticks = [(10.0, "10"), (100.0, "100"), (1000.0, "1,000"), (10000.0, "10,000")]
        vertical = logarithmic("us", ticks, 2.0)
        panels.append(
            Panel(f"isolated {kind.replace('_', '-')}", logarithmic("bytes on a rank", shown), vertical, series)
        )
    return figure(panels)


def hosts() -> str:
    """What each GPU gets by the number of GPUs that copy."""
    panels = []
    for directions, words in ((("h2d",), "H2D"), (("d2h",), "D2H"), (("h2d", "d2h"), "both ways at once")):
        series = []
        for name, colour, title in ((FOUR, RED, "4-GPU host"), (TWO, BLUE, "2-GPU host a")):
            for direction, marker in zip(directions, MARKERS, strict=False):
                rows = {n: probes(name).get(f"copy/{'+'.join(directions)}/{n}/train/{512 * MIB}") for n in (1, 2, 4)}
                points = [(n, r / 1e9) for n, row in rows.items() if row for r in rates(row, direction)]
                middle = [(n, sum(y for x, y in points if x == n) / n) for n in (1, 2, 4) if rows[n]]
                shown = f"{title}, {direction.upper()}"
                series.append(Series(shown, middle, colour, "none", dashed=direction == "d2h"))
                series.append(Series("", points, colour, marker, line=False))
        across, up = linear("GPUs that copy", 0.6, 4.4, 1), linear("GB/s of each GPU", 0, 60, 10)
        panels.append(Panel(words, across, up, series))
    return figure(panels)


LOOKS = {
    "whole_layer": (GREY, MARKERS[3]),
    "chunked": (PINK, MARKERS[2]),
    "launch": (RED, MARKERS[1]),
    "device_gate": (BLUE, MARKERS[0]),
    "device_gate, drain": (GREEN, MARKERS[2]),
    "kernel": (YELLOW, MARKERS[3]),
}


def windows(found: Sequence[Detailed]) -> str:
    """Part of the collectives' time during copies, predicted against measured."""
    panels = []
    for nvlink, words in ((False, "host memory"), (True, "NVLink")):
        series = []
        for kind, (colour, marker) in LOOKS.items():
            mine = [e for e in found if yields(e.case) == kind and crosses_nvlink(e.compared.set) == nvlink]
            shares = [(e.measured.share, e.predicted.share) for e in mine]
            points = [(m, p) for m, p in shares if m is not None and p is not None]
            series.append(Series(kind, points, colour, marker, line=False))
        panels.append(
            Panel(
                f"Share of collectives' time with copies in flight: {words}",
                linear("measured", -0.05, 1.05, 0.2),
                linear("predicted", -0.05, 1.05, 0.2),
                series,
                (((0, 0), (1, 1)),),
            )
        )
    return figure(panels)


def baselines(found: Sequence[Detailed]) -> str:
    """Resident steps over their workload's first, in the order of measuring."""
    panels = []
    for nvlink, words in ((False, "PCIe"), (True, "NVLink")):
        names = [n for n in probed_sets() if crosses_nvlink(n) == nvlink]
        series = []
        for name, colour in zip(names, COLOURS, strict=False):
            first: dict[str, float] = {}
            for e in (e for e in found if e.compared.set == name and e.compared.group == "resident"):
                first.setdefault(workload_key(e.case), e.case.step_time_s)
            for i, (key, base) in enumerate(first.items()):
                cases = [
                    e.case
                    for e in found
                    if e.compared.set == name and e.compared.group == "resident" and workload_key(e.case) == key
                ]
                points = [(n, 100 * (c.step_time_s / base - 1)) for n, c in enumerate(cases, 1)]
                series.append(Series(f"session {short(name)}" if i == 0 else "", points, colour))
        panels.append(
            Panel(
                f"Repeats without offload: {words}",
                linear("repeat", 0.8, 3.2, 1),
                linear("% over the first", -4, 4, 1),
                series,
            )
        )
    return figure(panels)


def errors(found: Sequence[Detailed]) -> str:
    """Signed errors of every case by set."""
    names = probed_sets()
    places = {name: i + 1 for i, name in enumerate(names)}
    axis = Axis("session", 0.4, len(names) + 0.6, [(places[n], short(n)) for n in names])
    series = []
    groups: tuple[tuple[str, str, Marker, float], ...] = (
        ("resident", GREY, "diamond", -0.22),
        ("fitted", YELLOW, "triangle", 0.0),
        ("unseen", BLUE, "circle", 0.22),
    )
    for group, colour, marker, shift in groups:
        mine = [e for e in found if e.compared.group == group]
        points = []
        for name in names:
            cases = sorted((e for e in mine if e.compared.set == name), key=lambda e: e.case.number)
            for i, e in enumerate(cases):
                points.append(
                    (places[name] + shift + 0.16 * (i / max(len(cases) - 1, 1) - 0.5), 100 * e.compared.error)
                )
        series.append(Series(group, points, colour, marker, line=False))
    vertical = linear("predicted over measured, %", -8, 12, 2)
    return figure(
        [Panel("Step time: every case in order of measuring", axis, vertical, series, (((0.4, 0), (7.6, 0)),))]
    )
