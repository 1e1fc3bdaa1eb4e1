"""The validation page: predictions against measurements, the bounds, and the worst cases side by side."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sim.datasets.cases import Operation, operations_of
from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import show_bytes
from sim.program import Collective, Copy, Kernel
from sim.report.html import Section, Table, page
from sim.timeline import Span
from validation import comparison_tables
from validation.bounds import Judged
from validation.compare import COLLECTIVE, COPY, Compared, Job, layers, window
from validation.datasets import kind
from validation.error_statistics import case_id
from validation.predict import predict_instrumented
from validation.prediction_intervals import LEVEL, Covered
from validation.run import Validation

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from sim.report.figures import Case

DRAWN_LAYERS = 3
"""How many layers a timeline shows."""


class Worst(NamedTuple):
    """A case with what ran in it, measured and simulated."""

    compared: Compared
    measured: Sequence[Operation]
    simulated: Sequence[Operation]


def worst_cases(validation: Validation) -> list[tuple[Job, Compared]]:
    """The offloaded case of each kind of host that is predicted worst, the worst of them first."""
    found: dict[str, tuple[Job, Compared]] = {}
    for job, case in zip(validation.plan.own, validation.compared, strict=True):
        if case.group == "resident":
            continue
        if kind(case.set) not in found or abs(case.error) > abs(found[kind(case.set)][1].error):
            found[kind(case.set)] = job, case
    return sorted(found.values(), key=lambda pair: -abs(pair[1].error))


def look(job: Job, compared: Compared) -> Worst:
    """A case's operations, simulated once more."""
    return Worst(
        compared, job.case.operations, operations_of(predict_instrumented(job.case, job.baselines, job.profile))
    )


def write_page(file: Path, validation: Validation, worst: Sequence[Worst]) -> None:
    """Write the page. Raises OSError."""
    compared, judged = validation.compared, validation.judged
    sections = [
        *_verdict(judged),
        *_agreement(compared),
        *_tables(compared),
        *_operations(compared),
        *_swept(compared),
        *_choices(compared),
        *_cross(validation.cross),
        *_covered(validation.covered),
        *_worst(worst),
        Section("All cases", _CASES, comparison_tables.cases_table(compared, validation.covered, sortable=True)),
    ]
    offloaded = [c for c in compared if c.group != "resident"]
    known = [j for j in judged if j.verdict != "not judged"]
    facts = {
        "stated bounds": f"{sum(j.verdict != 'broken' for j in known)} of {len(known)} hold",
        "targets": f"{sum(j.verdict == 'held' for j in known)} of {len(known)} met",
        "measured cases": f"{len(compared)}, {len(offloaded)} of them offloaded",
        "data sets": str(len({c.set for c in compared})),
        "unseen cases": str(sum(c.group == "unseen" for c in compared)),
        "kinds of host": str(len({kind(c.set) for c in compared})),
        "chunkflow-sim": version("chunkflow-sim"),
    }
    content = page("Predictions against measurements", comparison_tables.verdict(judged), sections, facts)
    write_atomically(file, content)


_CASES = """A click on a header sorts. A letter is a session: h200x2-hostpath b is the set h200x2-hostpath-20261121b.
"collectives" is the error of the time that collectives take; the two columns of overlap say for how much of that time a
copy is in flight, measured and simulated. Memory is the simulated peak, program the hash of the program that ran."""


def _verdict(judged: Sequence[Judged]) -> list[Section]:
    text = """Errors are |predicted - measured| / measured. A target is what the model is to reach; where it does
    not yet, "must hold" is the bound that it is held to until then. `validate` fails where one is broken."""
    sections = [Section("Verdict", text.replace("`", ""), comparison_tables.bounds_table(judged))]
    sections += [Section(name, why, under=True) for name, why in comparison_tables.shortfalls(judged)]
    return sections


def _agreement(compared: Sequence[Compared]) -> list[Section]:
    from sim.report import figures

    cases = [_drawn(c) for c in compared]
    offloaded = [c for c in compared if c.group != "resident"]
    lanes: dict[str, list[figures.Case]] = {}
    for c in sorted(offloaded, key=lambda c: (c.policy, c.chunk_bytes or 0)):
        lanes.setdefault(f"{c.policy} {show_bytes(c.chunk_bytes)}" if c.chunk_bytes else c.policy, []).append(_drawn(c))
    return [
        Section("Errors", _ERRORS, figures.error_against_step(cases)),
        Section("How many cases have which error", "", figures.error_histogram(cases), under=True),
        Section("By policy and chunk size", "A line marks the median.", figures.error_ranges(lanes), under=True),
    ]


_ERRORS = """Error of the predicted step time of every case, by the measured one; bands are 1 % and 5 %. Each set is
predicted with the profile that was fitted to probes of the same host and hour. Kernels take what they took in the
baseline of the same workload: what is predicted is everything that offload adds."""


def _drawn(case: Compared) -> Case:
    from sim.report.figures import Case

    return Case(case_id(case), kind(case.set), case.policy, case.measured.step_s, case.predicted.step_s, case.group)


def _tables(compared: Sequence[Compared]) -> list[Section]:
    offloaded = [c for c in compared if c.group != "resident"]
    apart = """Unseen cases were kept apart before any model was changed; constants may be fitted on fitted ones.
    Baselines copy nothing: their errors say how well kernel times carry over from one run to the next."""
    return [
        Section(
            "Tables of errors",
            apart,
            comparison_tables.errors_table("set and group", compared, comparison_tables.group),
        ),
        Section("By policy", "", comparison_tables.errors_table("policy", offloaded, lambda c: c.policy), under=True),
        Section(
            "By chunk size", "", comparison_tables.errors_table("chunk size", _by_chunk(offloaded), _chunk), under=True
        ),
        Section(
            "By workload", "", comparison_tables.errors_table("workload", offloaded, lambda c: c.workload), under=True
        ),
    ]


def _by_chunk(cases: Sequence[Compared]) -> list[Compared]:
    return sorted(cases, key=lambda c: c.chunk_bytes or 0)


def _chunk(case: Compared) -> str:
    return show_bytes(case.chunk_bytes) if case.chunk_bytes else "whole layer"


def _operations(compared: Sequence[Compared]) -> list[Section]:
    from sim.report import figures

    timed = [c for c in compared if c.measured.collectives_s and c.group != "resident"]
    shares = [
        figures.Pair(
            case_id(c),
            c.policy,
            comparison_tables.overlap_share(c.measured),
            comparison_tables.overlap_share(c.predicted),
        )
        for c in timed
    ]
    inflated = [figures.Pair(case_id(c), c.policy, m, p) for c, m, p in comparison_tables.inflations(compared)]
    sections = [Section("Operations", _OPERATIONS, comparison_tables.operations_table(compared))]
    if shares:
        what = "part of the collectives' time with copies in flight, %"
        sections += [
            Section("Copies during collectives", _OVERLAP, figures.pairs(shares, what, lambda v: f"{v:.0f} %"), True),
            Section(
                "Collectives slowed by copies",
                "Time of a case's collectives, without waits for peers, over the baseline's: 1 is undisturbed.",
                figures.pairs(inflated, "collectives' time over the baseline's", lambda v: f"{v:.2f}", log=True),
                True,
            ),
        ]
    return sections


_OPERATIONS = """From one more run with events around every operation, which the simulation pays for as well. Each case
counts once, with the median duration of an operation. Collectives count from when their last rank has arrived, which
h200x2-hostpath does not tell. The pieces of a gather count as one operation: which of them
meets a stall is chance. The last column names the worst case of an operation that is far off."""
_OVERLAP = "For how much of the collectives' time a copy is in flight: what yielding policies are to make small."


def _swept(compared: Sequence[Compared]) -> list[Section]:
    """Step time against chunk size for the workload that was measured with most."""
    from sim.report import figures

    found: dict[tuple[str, str], list[Compared]] = {}
    for c in compared:
        if c.group != "resident" and not c.resident_fraction and c.prefetch_layers == 1 and "+" not in c.policy:
            found.setdefault((c.set, c.workload), []).append(c)
    if not found:
        return []
    (name, workload), cases = max(found.items(), key=lambda item: (len(item[1]), _gain(item[1])))
    if len(cases) < 3:
        return []
    resident = [c for c in compared if (c.set, c.workload, c.group) == (name, workload, "resident")]
    points = [figures.Point(c.policy, c.chunk_bytes, 0.0, c.predicted.step_s) for c in cases]
    figure = figures.chunk_sweep(
        points,
        None,
        resident[0].predicted.step_s if resident else None,
        [figures.Point(c.policy, c.chunk_bytes, 0.0, c.measured.step_s) for c in cases],
    )
    text = f"{workload} of {name}: lines are simulated, open markers measured."
    return [Section("Chunk size", text, figure)]


def _gain(cases: Sequence[Compared]) -> float:
    """How much the best of the schedules is faster than copies that yield to nothing."""
    whole = [c.measured.step_s for c in cases if c.policy == "whole_layer"]
    return max(whole, default=0.0) / min(c.measured.step_s for c in cases)


def _choices(compared: Sequence[Compared]) -> list[Section]:
    table = comparison_tables.choices_table(compared)
    text = """The schedule with the shortest simulated step, of those that were measured with the same memory for
    weights (r: resident fraction, k: layers ahead), and what its measured step costs over the best measured one."""
    sections = [Section("Regret of choosing by simulation", text, table)] if table.rows else []
    plans = comparison_tables.plan_table(compared)
    if plans.rows:
        text = f"""{comparison_tables.plan_regret(compared)} At each amount of memory it chooses among all offloaded
        schedules whose simulated peak is no larger. For each workload the amount with the largest regret."""
        sections.append(Section("Regret of plans", text, plans, under=True))
    return sections


def _cross(cross: Sequence[Compared]) -> list[Section]:
    if not cross:
        return []
    text = """Offloaded cases predicted with the profile of another session to a host of the same kind: what to expect
    where nothing was measured on the host itself but its resident step."""
    headers, rows, _ = comparison_tables.errors_table("set by profile", cross, comparison_tables.sessions)
    return [Section("With another session's profile", text, Table(headers[:-1], [row[:-1] for row in rows]))]


def _covered(covered: Sequence[Covered]) -> list[Section]:
    if not covered:
        return []
    text = f"""{comparison_tables.covers(covered)}
    "half width" is that of the {100 * LEVEL:g} % interval; its parts are standard deviations; all are medians,
    relative to the predicted step. profile: the uncertainties of the host's numbers, propagated in one
    case of each kind. kernels: their times' spread between baseline repeats. steps: the spread of the
    case's own. model: the robust deviation of the errors of the set's fitted cases, or of all fitted ones on its path
    (2 GPUs by host memory or NVLink, 4 GPUs, 1 GPU) where it has none."""
    return [Section("How often intervals hold the measurement", text, comparison_tables.coverage_table(covered))]


def _worst(worst: Sequence[Worst]) -> list[Section]:
    if not worst:
        return []
    text = f"""For each kind of host the offloaded case that is predicted worst: {DRAWN_LAYERS} layers of the run with
    events, rank 0, measured above and simulated below, both from the first operation of the first of these layers.
    Hatched: waiting for peers."""
    cases = [
        Section(w.compared.name, comparison_tables.diagnosis(w.compared), _timelines(w), under=True) for w in worst
    ]
    return [Section("Worst cases", text), *cases]


def _timelines(case: Worst) -> Figure:
    from sim.report import figures

    timed = sorted(layers(case.measured))
    first = max((len(timed) - DRAWN_LAYERS) // 2, 0)
    chosen = set(timed[first : first + DRAWN_LAYERS])
    sides = {"measured": case.measured, "simulated": case.simulated}
    windows = {name: window(operations, chosen) for name, operations in sides.items()}
    length = 1.02e-6 * max(end - start for start, end in windows.values())
    return figures.stacked_timelines({name: _spans(ops, windows[name][0]) for name, ops in sides.items()}, length)


def _spans(operations: Sequence[Operation], start: float) -> list[Span]:
    """Operations as spans of rank 0, with `start` (us) as time 0."""
    spans = []
    for op in operations:
        command: Kernel | Copy | Collective
        if op.kind == COPY:
            command = Copy(op.stream, op.name, op.bytes, "", layer=op.layer)
        elif op.kind == COLLECTIVE:
            # which kind it was is not recorded, nor shown
            command = Collective(op.stream, op.name, "all_to_all", op.bytes, layer=op.layer)
        else:
            command = Kernel(op.stream, op.name, layer=op.layer)
        begin, ready, end = ((time - start) * 1e-6 for time in (op.start, op.ready, op.end))
        spans.append(Span(0, command, begin, ready, end, 0.0))
    return spans
