"""What a comparison says, as tables for the terminal, for Markdown and for the page."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Literal

from sim.inputs.units import show_bytes
from sim.report.html import Badge, Table
from validation.bounds import Bound, Judged, Verdict
from validation.compare import COPY, KERNEL, Compared, Side
from validation.datasets import kind, session
from validation.error_statistics import Choice, Errors, choices, errors, errors_by, plan_choices
from validation.markdown import table
from validation.prediction_intervals import LEVEL, Covered, by_group

_TONES: dict[Verdict, Literal["good", "fair", "bad", "plain"]] = {
    "held": "good",
    "target missed": "fair",
    "broken": "bad",
    "not judged": "plain",
}

_FIGURES = {"median": "median", "p95": "95th percentile", "max": "largest"}

PLAN_TARGET = 0.01
"""How much longer than the best measured schedule that fits the one may take that a plan chooses."""


def verdict(judged: Sequence[Judged]) -> str:
    """The bounds in a sentence or two."""
    counts: dict[str, int] = {v: sum(j.verdict == v for j in judged) for v in _TONES}
    known = counts["held"] + counts["target missed"] + counts["broken"]
    if not known:
        return "No bound is stated for these cases."
    said = f"{counts['held']} of {known} targets are met."
    if counts["target missed"]:
        said += f" {counts['target missed']} missed, all within their fallback limit."
    if counts["broken"]:
        said += f" Stated bounds that are broken: {counts['broken']}."
    return said


def bounds_table(judged: Sequence[Judged]) -> Table:
    """Every figure against its target."""
    rows = [
        (
            f"{title(j.bound)}: {_FIGURES[j.figure]}",
            Badge(j.verdict, _TONES[j.verdict]),
            f"{j.value:.2f} %",
            f"{j.target:g} %",
            f"{j.allowed:g} %",
            j.cases,
        )
        for j in judged
    ]
    return Table(("error", "verdict", "found", "target", "must hold", "cases"), rows)


def title(bound: Bound) -> str:
    """What a bound is of."""
    return f"{bound.of.capitalize()}, {bound.name}"


def shortfalls(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    """(Bound, why its target is missed), for those that do not meet it."""
    missed = dict.fromkeys(j.bound for j in judged if j.verdict in ("target missed", "broken"))
    unknown = "Nothing is known that explains it."
    return [
        (title(bound), bound.known.why or unknown)
        if all(j.verdict != "broken" for j in judged if j.bound == bound)
        else (title(bound), unknown)
        for bound in missed
    ]


def errors_table(what: str, compared: Iterable[Compared], key: Callable[[Compared], str]) -> Table:
    """Absolute errors of the step times of the cases that share a key."""
    return Table(
        (what, "cases", "median", "mean", "95th", "max", "largest"),
        [_row(k, e) for k, e in errors_by(compared, key).items()],
    )


def _row(name: str, found: Errors) -> tuple[str, int, str, str, str, str, str]:
    figures = (f"{100 * value:.2f} %" for value in (found.median, found.mean, found.p95, found.max))
    first, second, third, fourth = figures
    return name, found.cases, first, second, third, fourth, found.worst


def group(case: Compared) -> str:
    """A case's set, and whether it is unseen."""
    return f"{case.session}, {case.group}"


def sessions(case: Compared) -> str:
    """A case's set, and the profile it is predicted with."""
    return f"{case.session} by {session(case.profile)}"


FAR_OFF = 0.25
"""Relative error of an operation, median over cases, from which its row says where it is largest."""


def operations_table(compared: Sequence[Compared]) -> Table:
    """How long operations last, by kind of host: medians of cases' median durations, and their errors.

    The numbered pieces of one operation, such as "gather 3", are one row: which of them meets a stall is chance.
    """
    found: dict[tuple[str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    for c in compared:
        host, case = kind(c.set), f"{c.session} #{c.number}"
        if c.measured.kernels_s:
            found[host, "kernels, all together"][case] = (c.measured.kernels_s, c.predicted.kernels_s)
        pieces: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for (what, name), seconds in sorted(c.measured.operations.items()):
            simulated = c.predicted.operations.get((what, name))
            if what != KERNEL and seconds and simulated:
                whole = re.sub(r" \d+$", "", name)
                pieces["copy" if what == COPY else f"collective {whole}"].append((seconds, simulated))
        for name, both in pieces.items():
            found[host, name][case] = (median(m for m, _ in both), median(p for _, p in both))
    rows = []
    for (host, name), values in sorted(found.items()):
        e = errors({case: p / m - 1 for case, (m, p) in values.items()})
        signed = 100 * median(p / m - 1 for m, p in values.values())
        lasted = f"{1e3 * median(m for m, _ in values.values()):.3f} ms"
        parts = (f"{signed:+.1f} %", f"{100 * e.median:.1f} %", f"{100 * e.p95:.1f} %")
        rows.append((host, name, e.cases, lasted, *parts, f"worst: {e.worst}" if e.median > FAR_OFF else ""))
    headers = (
        "host",
        "operation",
        "cases",
        "measured",
        "error, median",
        "absolute, median",
        "absolute, 95th",
        "over 25 % off",
    )
    return Table(headers, rows)


def overlap_share(side: Side) -> float:
    """The part of the collectives' time during which a copy is in flight, %."""
    return 100 * side.overlap_s / side.collectives_s if side.collectives_s else 0.0


def inflations(compared: Sequence[Compared]) -> list[tuple[Compared, float, float]]:
    """(Offloaded case, measured, simulated): its collectives' time over that of the baseline."""
    resident: dict[tuple[str, str], list[Compared]] = defaultdict(list)
    for c in compared:
        if c.group == "resident" and c.measured.collectives_s:
            resident[c.set, c.workload].append(c)
    found = []
    for c in compared:
        base = resident.get((c.set, c.workload))
        if base and c.group != "resident" and c.measured.collectives_s:
            measured = c.measured.collectives_s / median(r.measured.collectives_s for r in base)
            found.append((c, measured, c.predicted.collectives_s / median(r.predicted.collectives_s for r in base)))
    return found


def choices_table(compared: Sequence[Compared]) -> Table:
    """What is chosen by simulation, what would have been best, and the regret."""
    rows = [
        (
            f"{c.session}, {c.workload}",
            c.memory,
            c.candidates,
            c.chosen.schedule,
            c.best.schedule,
            f"{100 * c.regret:.2f} %",
        )
        for c in sorted(choices(compared), key=lambda c: -c.regret)
    ]
    return Table(("set and workload", "memory", "candidates", "chosen", "best measured", "regret"), rows)


def plan_table(compared: Sequence[Compared]) -> Table:
    """The regret of plans by set and workload: the worst of all amounts of memory."""
    found: dict[tuple[str, str], list[Choice]] = {}
    for choice in plan_choices(compared):
        found.setdefault((choice.session, choice.workload), []).append(choice)
    rows = []
    for (name, workload), of in sorted(found.items(), key=lambda item: -max(c.regret for c in item[1])):
        worst = max(of, key=lambda c: c.regret)
        cells = (worst.memory, worst.candidates, worst.chosen.schedule, worst.best.schedule)
        rows.append((f"{name}, {workload}", len(of), f"{100 * worst.regret:.2f} %", *cells))
    headers = ("set and workload", "memory limits", "largest regret", "at", "candidates", "chosen", "best measured")
    return Table(headers, rows)


def plan_regret(compared: Sequence[Compared]) -> str:
    """The regret of plans in a sentence; empty where there is none."""
    found = sorted(choice.regret for choice in plan_choices(compared))
    if not found:
        return ""
    within = sum(regret <= PLAN_TARGET for regret in found)
    return (
        f"Plans choose a schedule within {100 * PLAN_TARGET:g} % of the best one measured that fits at {within} of "
        f"{len(found)} memory limits; their regret is {100 * median(found):.2f} % in the median, "
        f"{100 * found[-1]:.2f} % at most."
    )


def coverage_table(covered: Sequence[Covered]) -> Table:
    """How many measurements lie inside their intervals, and how wide these are, with what makes them: medians."""
    rows: list[tuple[str | int, ...]] = []
    for (name, of), c in by_group(covered).items():
        shares = (f"{100 * share:.2f} %" for share in (c.half_width, *c.deviations))
        rows.append((f"{session(name)}, {of}", c.cases, c.inside, f"{100 * c.inside / c.cases:.0f} %", *shares))
    headers = ("set", "cases", "inside", "share", "half width", "profile", "kernels", "steps", "model")
    return Table(headers, rows)


def covers(covered: Sequence[Covered]) -> str:
    """How many measurements lie inside, in a sentence."""
    inside = sum(c.inside for c in covered)
    return f"{inside} of {len(covered)} measured steps lie inside their {100 * LEVEL:g} % intervals."


def cases_table(compared: Sequence[Compared], covered: Sequence[Covered] = (), sortable: bool = False) -> Table:
    """Every case, with its interval if it is among `covered`."""
    ranges = {(c.compared.set, c.compared.number): f"{1e3 * c.low_s:.2f}..{1e3 * c.high_s:.2f} ms" for c in covered}
    headers = (
        *("case", "workload", "schedule", "group", "measured", "spread", "predicted"),
        *(("interval",) if covered else ()),
        "error",
        *("collectives", "overlap", "simulated", "memory", "program"),
    )
    rows = [
        (
            f"{c.session} #{c.number}",
            c.workload,
            c.schedule,
            c.group,
            f"{1e3 * c.measured.step_s:.2f} ms",
            f"{100 * c.spread:.2f} %{', disturbed' if c.disturbed else ''}",
            f"{1e3 * c.predicted.step_s:.2f} ms",
            *((ranges.get((c.set, c.number), ""),) if covered else ()),
            f"{100 * c.error:+.2f} %",
            _ratio(c.measured.collectives_s, c.predicted.collectives_s),
            f"{overlap_share(c.measured):.0f} %",
            f"{overlap_share(c.predicted):.0f} %",
            show_bytes(c.predicted.memory_bytes),
            c.program[:8],
        )
        for c in compared
    ]
    return Table(headers, rows, sortable)


def _ratio(measured: float, simulated: float) -> str:
    return f"{100 * (simulated / measured - 1):+.1f} %" if measured else ""


def markdown(compared: Sequence[Compared], judged: Sequence[Judged], covered: Sequence[Covered] = ()) -> str:
    """The bounds, the errors of each set and group, how often intervals hold the measurement, the offloaded cases."""
    offloaded = [c for c in compared if c.group != "resident"]
    tables = (
        bounds_table(judged),
        errors_table("set", compared, group),
        coverage_table(covered),
        cases_table(offloaded, covered),
    )
    return "\n\n".join(markdown_table(shown) for shown in tables if shown.rows)


def markdown_table(shown: Table) -> str:
    """A table in Markdown."""
    rows = ([c.text if isinstance(c, Badge) else str(c) for c in row] for row in shown.rows)
    return table(shown.headers, rows, len(shown.headers))


_MECHANISMS = {
    ("copies", True): "Copies are faster on the host: the capacity that they share, fitted to probes, is too small for "
    "what runs beside them here.",
    ("copies", False): "Copies are slower on the host: a cost of theirs, or what they give way to, is missing.",
    ("collectives", True): "Collectives are faster on the host: the model gives copies too large a share beside them, "
    "or lets chunks into them that the host keeps out.",
    ("collectives", False): "Collectives are slower on the host than their share of the links explains: something "
    "else that they share with copies is missing.",
    ("waits for peers", True): "Ranks wait less for each other on the host.",
    ("waits for peers", False): "Ranks wait for each other on the host, where in the model they go in step: what sets "
    "them apart, such as links and clocks that differ, is missing.",
    ("kernels", True): "Kernels are faster on the host: clocks, or less interference by copies than is modelled.",
    ("kernels", False): "Kernels are slower on the host: clocks, or memory traffic of copies, which only delays "
    "launches in the model.",
}


def diagnosis(case: Compared) -> str:
    """What differs most between a case and its simulation, in words, and which mechanism that points to."""
    m, p = case.measured, case.predicted
    parts = {
        "copies": (m.copies_s, p.copies_s),
        "collectives": (m.collectives_s, p.collectives_s),
        "waits for peers": (m.waits_s, p.waits_s),
        "kernels": (m.kernels_s, p.kernels_s),
    }
    unsteady = "The measured steps differ from each other by more than 1 %: the schedule has more than one state.\n\n"
    figures = "; ".join(f"{name} {1e3 * a:.1f} ms, simulated {1e3 * b:.1f}" for name, (a, b) in parts.items() if a or b)
    most = max(parts, key=lambda name: abs(parts[name][1] - parts[name][0]))
    overlap = f"copies and collectives at once {1e3 * m.overlap_s:.1f} ms, simulated {1e3 * p.overlap_s:.1f}"
    return (
        f"{case.session}, {case.group}: step {1e3 * m.step_s:.2f} ms (spread {100 * case.spread:.2f} %), simulated "
        f"{1e3 * p.step_s:.2f} ms, error {100 * case.error:+.2f} %. In the run with events, over "
        f"{1e3 * m.window_s:.1f} ms (simulated {1e3 * p.window_s:.1f}): {figures}; {overlap}."
        f"\n\n{unsteady if case.spread > 0.01 else ''}{_MECHANISMS[most, parts[most][1] > parts[most][0]]}"
    )
