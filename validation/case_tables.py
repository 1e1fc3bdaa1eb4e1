"""Tables of measured cases next to their predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from sim.datasets.cases import references, workload_key
from validation.datasets import case_name, probed_sets
from validation.error_statistics import Errors, errors
from validation.markdown import maybe, span, table
from validation.step_statistics import (
    NEIGHBOURS,
    Detailed,
    crosses_nvlink,
    lateness,
    long_kernels,
    short,
    unsteadiness,
    yields,
)

OFF = 0.03
"""Cases that are off by more are listed one by one."""

LOST, UNEVEN = 0.02, 0.01
"""Copies that are later, and steps that are longer than the fastest, by more than this were disturbed."""

LATE = 50e-6
"""Waits for peers from here on are looked at, s."""


def clocks(found: Sequence[Detailed]) -> str:
    """One row a workload: baseline repeats, their kernels next to those of offloaded cases, clocks."""
    rows = []
    for name in probed_sets():
        mine = [e for e in found if e.compared.set == name]
        for key, baselines in references([e.case for e in mine]).items():
            offloaded = [e for e in mine if workload_key(e.case) == key and e.compared.group != "resident"]
            times = [c.step_time_s for c in baselines]
            ratios = [r for e in offloaded if (r := long_kernels(e.case, baselines)) is not None]
            rows.append(
                (
                    short(name),
                    case_name(baselines[0]).removesuffix(" resident"),
                    " ".join(f"{1e3 * t:.2f}" for t in times),
                    f"{100 * (max(times) / min(times) - 1):.1f}",
                    span((100 * (r - 1) for r in ratios), "{:+.1f}") or "-",
                    f"{min(s['min'] for c in baselines for k, s in c.sampled.items() if k.endswith('sm_mhz')):.0f}",
                )
            )
    of = "resident steps, in order, ms", "range %", "long kernels, offloaded %", "least SM MHz"
    headers = ("session", "workload", *of)
    return table(headers, rows, 3)


def waits(found: Sequence[Detailed]) -> str:
    """Residents at whose largest collectives rank 0 seems to wait long, with other repeats of their workloads."""
    baselines = [e for e in found if e.compared.group == "resident"]
    late = {(e.compared.set, workload_key(e.case)) for e in baselines if (e.measured.late or 0.0) > LATE}
    rows = []
    for e in baselines:
        m, p = e.measured, e.predicted
        if (e.compared.set, workload_key(e.case)) in late and None not in (m.largest, m.late, p.largest, p.late):
            moving = [(of.largest or 0.0) - (of.late or 0.0) for of in (m, p)]
            figures = (m.largest, m.late, *moving)
            rows.append((short(e.compared.set), e.compared.name, *(maybe(f, 1e6, "{:.0f}") for f in figures)))
    headers = (
        "session",
        "case",
        "from start to end us",
        "of which waiting",
        "moving",
        "moving, isolated by the profile",
    )
    return table(headers, rows, 2)


def memory(found: Sequence[Detailed]) -> str:
    """The simulated peak against what the GPU's allocators held at most, by set."""
    rows = []
    for name in probed_sets():
        cases = [e for e in found if e.compared.set == name]
        off = {e.compared.name: e.compared.predicted.memory_bytes / e.case.memory_bytes[0] - 1 for e in cases}
        worst = min(off, key=lambda n: off[n])
        difference = [e.case.memory_bytes[0] - e.compared.predicted.memory_bytes for e in cases]
        rows.append(
            (
                short(name),
                str(len(cases)),
                f"{100 * median(off.values()):+.2f}",
                f"{100 * max(off.values()):+.2f}",
                f"{100 * off[worst]:+.2f}",
                f"{median(difference) / 1e6:.1f}",
                f"{max(difference) / 1e6:.1f}",
                worst,
            )
        )
    headers = ("session", "cases", "median %", "most %", "least %", "median missing MB", "most missing MB", "least at")
    return table(headers, rows)


WINDOWS = ("whole_layer", "chunked", "launch", "device_gate", "device_gate, drain", "kernel")


def windows(found: Sequence[Detailed]) -> str:
    """Part of the collectives' time in which copies run, by how the copies yield."""
    rows = []
    for crossing in ("host memory", "NVLink"):
        for kind in WINDOWS:
            cases = [
                e for e in found if yields(e.case) == kind and crosses_nvlink(e.compared.set) == (crossing == "NVLink")
            ]
            pairs = [(e.measured.share, e.predicted.share) for e in cases]
            shares = [(m, p) for m, p in pairs if m is not None and p is not None]
            if shares:
                rows.append(
                    (
                        crossing,
                        kind,
                        str(len(shares)),
                        f"{median(m for m, _ in shares):.2f}",
                        span((m for m, _ in shares), "{:.2f}"),
                        f"{median(p for _, p in shares):.2f}",
                        span((p for _, p in shares), "{:.2f}"),
                        f"{max((p - m for m, p in shares), key=abs):+.2f}",
                    )
                )
    headers = ("path", "window", "cases", "measured", "least, most", "predicted", "least, most", "largest error")
    return table(headers, rows, 2)


def summary(found: Sequence[Detailed]) -> str:
    """Errors of all offloaded cases, and of parts of them."""
    offloaded = [e for e in found if e.compared.group != "resident"]
    chosen = {
        "all offloaded cases": offloaded,
        "those of unseen sets and cases": [e for e in offloaded if e.compared.group == "unseen"],
        "those of 1 and 2 GPUs, without neighbours": [
            e for e in offloaded if "x4" not in e.compared.set and e.compared.set not in NEIGHBOURS
        ],
        "those of 4 GPUs": [e for e in offloaded if "x4" in e.compared.set],
        "those with neighbours (session h)": [e for e in offloaded if e.compared.set in NEIGHBOURS],
    }
    rows = []
    for what, cases in chosen.items():
        of = _errors(cases)
        rows.append((what, str(of.cases), *(f"{100 * v:.2f}" for v in (of.median, of.mean, of.p95, of.max))))
    return table(("cases", "number", "median %", "mean %", "95th %", "max %"), rows)


def _errors(cases: Sequence[Detailed]) -> Errors:
    return errors({f"{e.compared.set} {e.case.number}": e.compared.error for e in cases})


def group_errors(found: Sequence[Detailed]) -> str:
    """Errors by set and group."""
    rows = []
    for name in probed_sets():
        for group in ("resident", "fitted", "unseen"):
            if cases := [e for e in found if (e.compared.set, e.compared.group) == (name, group)]:
                of = _errors(cases)
                figures = (f"{100 * v:.2f}" for v in (of.median, of.mean, of.p95, of.max))
                rows.append((name, group, str(of.cases), *figures))
    return table(("set", "group", "cases", "median %", "mean %", "95th %", "max %"), rows, 2)


def all_errors(found: Sequence[Detailed]) -> str:
    """Every offloaded case."""
    rows = []
    for e in (e for e in found if e.compared.group != "resident"):
        times = (
            f"{1e3 * e.case.step_time_s:.2f}",
            f"{100 * e.case.spread:.2f}",
            f"{1e3 * e.compared.predicted.step_s:.2f}",
        )
        rows.append((e.compared.set, e.compared.name, *times, f"{100 * e.compared.error:+.2f}"))
    return table(("set", "case", "measured ms", "spread %", "predicted ms", "error %"), rows, 2)


def _wrong(found: Sequence[Detailed]) -> list[Detailed]:
    """Offloaded cases off by more than `OFF`, the worst first, but for those with neighbours."""
    wrong = (
        e
        for e in found
        if e.compared.group != "resident" and abs(e.compared.error) > OFF and e.compared.set not in NEIGHBOURS
    )
    return sorted(wrong, key=lambda e: -abs(e.compared.error))


def large_errors(found: Sequence[Detailed]) -> str:
    """Cases off by more than `OFF`: measured / predicted parts of the step."""
    rows = []
    for e in _wrong(found):
        m, p = e.measured, e.predicted
        rows.append(
            (
                short(e.compared.set),
                e.compared.name,
                f"{100 * e.compared.error:+.2f}",
                f"{1e3 * e.case.step_time_s:.1f}",
                f"{1e3 * e.case.instrumented_step_times_s[-1]:.1f}",
                f"{1e3 * e.compared.predicted.step_s:.1f}",
                f"{1e3 * m.kernels:.1f} / {1e3 * p.kernels:.1f}",
                f"{1e3 * (m.collectives - m.waited):.1f} / {1e3 * (p.collectives - p.waited):.1f}",
                f"{1e3 * m.waited:.1f} / {1e3 * p.waited:.1f}",
                f"{maybe(m.share, 1, '{:.2f}')} / {maybe(p.share, 1, '{:.2f}')}",
                f"{maybe(m.uncontended, 1e-9, '{:.1f}')} / {maybe(p.uncontended, 1e-9, '{:.1f}')}",
                f"{maybe(m.contended, 1e-9, '{:.1f}')} / {maybe(p.contended, 1e-9, '{:.1f}')}",
                f"{maybe(m.gap, 1e6, '{:.1f}')} / {maybe(p.gap, 1e6, '{:.1f}')}",
                f"{maybe(m.resume, 1e6, '{:.0f}')} / {maybe(p.resume, 1e6, '{:.0f}')}",
            )
        )
    headers = (
        "session",
        "case",
        "error %",
        "step ms",
        "with events",
        "predicted",
        "kernels ms",
        "collectives moving ms",
        "waiting for peers ms",
        "share covered",
        "uncontended copies GB/s",
        "contended copies GB/s",
        "gap of chunks us",
        "copies resume us",
    )
    return table(headers, rows, 2)


def neighbours(found: Sequence[Detailed]) -> str:
    """What disturbed each session's copies and steps, seen only in measurements."""
    rows = []
    for name in probed_sets():
        mine = [e for e in found if e.compared.set == name and e.compared.group != "resident"]
        cases = [e.case for e in mine]
        late = [lost for case in cases if (lost := lateness(case, crosses_nvlink(name))) is not None]
        uneven = [unsteadiness(case) for case in cases]
        rows.append(
            (
                short(name),
                str(len(cases)),
                f"{100 * median(late):.1f}",
                f"{sum(lost > LOST for lost in late)} of {len(late)}",
                f"{100 * median(uneven):.2f}",
                f"{sum(part > UNEVEN for part in uneven)} of {len(uneven)}",
                f"{100 * median(e.compared.error for e in mine):+.2f}",
            )
        )
    headers = (
        "session",
        "cases",
        "copies late, median %",
        "over 2 %",
        "steps over the fastest, median %",
        "over 1 %",
        "median error %",
    )
    return table(headers, rows)


def steps(found: Sequence[Detailed]) -> str:
    """The single steps of those cases, the first step of a run left out."""
    rows = []
    for e in _wrong(found):
        plain, events = e.case.steps_s, e.case.instrumented_step_times_s[1:]
        shown = (" ".join(f"{1e3 * t:.1f}" for t in times) for times in (plain, events))
        fastest = f"{100 * (e.compared.predicted.step_s / min(plain) - 1):+.1f}"
        rows.append(
            (short(e.compared.set), e.compared.name, *shown, f"{1e3 * e.compared.predicted.step_s:.1f}", fastest)
        )
    headers = ("session", "case", "steps ms", "with events", "predicted", "error of the fastest %")
    return table(headers, rows, 4)


def contended_copies(found: Sequence[Detailed]) -> str:
    """Rates of chunks that meet a collective because they were in flight when a device gate closed."""
    groups: dict[tuple[str, str, str], list[Detailed]] = defaultdict(list)
    for e in found:
        policy, workload = e.case.scenario["policy"], e.case.scenario["workload"]
        if (
            yields(e.case) == "device_gate"
            and e.measured.contended
            and e.predicted.contended
            and not crosses_nvlink(e.compared.set)
        ):
            parallel = "all_reduce" if workload.get("parallelism") == "tensor" else "all_to_all"
            groups[short(e.compared.set), parallel, policy["chunk_bytes"]].append(e)
    rows = []
    for key, cases in sorted(groups.items()):
        rates = [(e.measured.contended or 0.0, e.predicted.contended or 0.0) for e in cases]
        cells = f"{median(m for m, _ in rates) / 1e9:.1f}", f"{median(p for _, p in rates) / 1e9:.1f}"
        rows.append((*key, str(len(cases)), *cells, f"{100 * median(e.compared.error for e in cases):+.2f}"))
    headers = (
        "session",
        "collectives",
        "chunks",
        "cases",
        "measured GB/s",
        "predicted GB/s",
        "median error of steps %",
    )
    return table(headers, rows, 3)
