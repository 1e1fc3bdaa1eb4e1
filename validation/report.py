"""The validation report: measured against predicted, as tables, as a page, and as the table in docs/modelling.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sim.output import write_atomically
from sim.policies import Chunked, Policy, Resident, WholeLayer, Yielding, label
from sim.run import Result, simulate
from sim.scenario import Scenario
from sim.units import Bytes
from validation.compare import Comparison, Summary, summarise
from validation.wan14b import BISTABLE, DATASET, Case

if TYPE_CHECKING:
    from sim.report.figures import Point

HEADERS = ("case", "measured ms", "predicted ms", "error %", "all-to-all error %", "")

SWEPT = "7800 yielding 16 MiB"
"""The case whose chunk size the report sweeps: the workload where chunk size matters most."""

SIZES = tuple(2**k for k in range(20, 29))
"""Chunk sizes of the sweep, 1 to 256 MiB."""


def rows(comparisons: Iterable[Comparison]) -> list[tuple[str, ...]]:
    """One row a case under `HEADERS`; the all-to-all error is the largest of the four."""
    made: list[tuple[str, ...]] = []
    for c in comparisons:
        errors = [predicted / measured - 1 for op, (measured, predicted) in c.operations.items() if op[:3] == "a2a"]
        worst = max(errors, key=abs)
        remark = "fitted" if c.case.fitted else "bistable" if c.case.name == BISTABLE else ""
        made.append(
            (
                c.case.name,
                f"{c.case.step_time_s * 1e3:.2f}",
                f"{c.predicted_s * 1e3:.2f}",
                f"{100 * c.error:+.2f}",
                f"{100 * worst:+.1f}",
                remark,
            )
        )
    return made


def verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """Sentences on the error of step times, unseen cases apart, and on the choices that the predictions lead to."""
    unseen = [c for c in comparisons if not c.case.fitted]
    said = [_sentence("All offloaded cases", summarise(comparisons)), _sentence("Unseen ones", summarise(unseen))]
    for workload in dict.fromkeys(c.case.workload for c in comparisons):
        mine = {c.case.name.split(" ", 1)[1]: c for c in comparisons if c.case.workload == workload}
        chunks = [f"yielding {size} MiB" for size in (4, 16, 64)]
        measured = min(chunks, key=lambda n: mine[n].case.step_time_s)
        predicted = min(chunks, key=lambda n: mine[n].predicted_s)
        whole = mine["whole_layer"]
        faster = [
            (mine[n].case.step_time_s < whole.case.step_time_s) == (mine[n].predicted_s < whole.predicted_s)
            for n in chunks
        ]
        said.append(
            f"{workload}: the best of 4, 16 and 64 MiB is {measured.removeprefix('yielding ')}, predicted "
            f"{predicted.removeprefix('yielding ')}; faster or slower than whole_layer is right for "
            f"{sum(faster)} of {len(faster)}."
        )
    return said


def _sentence(what: str, errors: Summary) -> str:
    return (
        f"{what}: {errors.cases} cases, absolute step-time error median {100 * errors.median:.2f} %, "
        f"mean {100 * errors.mean:.2f} %, maximum {100 * errors.maximum:.2f} % ({errors.worst})."
    )


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The table and the verdicts for docs/modelling.md."""
    lines = ["| " + " | ".join(HEADERS) + " |", "|---|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(comparisons)]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in verdicts(comparisons))])


def sweep_point(scenario: Scenario) -> tuple[Point, float]:
    """The point of `scenario` for the sweep's figure, and its lower bound (s)."""
    from sim.report.figures import Point

    figures = simulate(scenario).metrics
    policy = scenario.policy
    point = Point(
        label(policy),
        getattr(policy, "chunk_bytes", None),
        getattr(policy, "resident_fraction", 0.0),
        figures["step_time_s"],
        figures["peak_memory_bytes"],
    )
    return point, figures["lower_bound_s"]


def sweep_scenarios(case: Case) -> list[Scenario]:
    """`case` under chunked and yielding with each of `SIZES`, under whole_layer, and resident."""
    sizes = [Bytes(size) for size in SIZES]
    made: list[Policy] = [Resident(), WholeLayer()]
    made += [kind(chunk_bytes=size) for kind in (Chunked, Yielding) for size in sizes]
    return [msgspec.structs.replace(case.scenario, policy=policy) for policy in made]


def write_page(
    file: Path,
    comparisons: Sequence[Comparison],
    sweep: Sequence[tuple[Point, float]],
    result: Result,
) -> None:
    """Write the page: errors, the swept chunk sizes and one timeline. Raises OSError."""
    from sim.report import figures
    from sim.report.html import Section, Table, page

    cases = [
        figures.Case(c.case.name, c.case.workload, c.case.policy, c.case.step_time_s, c.predicted_s, c.case.fitted)
        for c in comparisons
    ]
    points = [p for p, _ in sweep]
    resident = next(p.step_s for p in points if p.policy == "resident")
    swept = next(c for c in comparisons if c.case.name == SWEPT)
    measured = [_measured_point(c.case) for c in comparisons if c.case.workload == swept.case.workload]
    start, end = result.timeline.steps[0][-2:]
    third = start + (end - start) * 0.3
    sections = [
        Section("Predicted against measured", "\n\n".join(verdicts(comparisons)), Table(HEADERS, rows(comparisons))),
        Section("Agreement", "Step time of every case. Bands: 1 % and 5 %.", figures.predicted_against_measured(cases)),
        Section("Errors", "Signed error of the step time, case by case.", figures.error_bars(cases)),
        Section(
            "Chunk size",
            f"{swept.case.workload}: simulated step time against chunk size, with the measured steps on top.",
            figures.chunk_sweep(
                [p for p in points if p.policy != "resident"],
                max(bound for _, bound in sweep),
                resident,
                [p for p in measured if p is not None],
            ),
        ),
        Section(
            "Timeline",
            f"Three layers of the last step of {SWEPT}, rank 0: the gate keeps chunks out of the all-to-alls.",
            figures.timeline(result.timeline, 0, third, end if end - third < 0.06 else third + 0.06),
        ),
    ]
    facts = {
        "profile": result.profile.name,
        "host": result.profile.description,
        "data": f"validation/data/{DATASET}",
        "chunkflow-sim": version("chunkflow-sim"),
    }
    content = page("Predictions against measurements", f"{len(cases)} measured cases", sections, facts)
    write_atomically(file, content)


def _measured_point(case: Case) -> Point | None:
    """The case as a point of the sweep, where it differs from it in nothing but policy and chunk size."""
    from sim.report.figures import Point

    policy = case.scenario.policy
    if isinstance(policy, Resident) or policy.resident_fraction or case.policy.endswith("+drain"):
        return None
    return Point(case.policy, getattr(policy, "chunk_bytes", None), 0.0, case.step_time_s)
