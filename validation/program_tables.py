"""The table of programs of every kind of command, measured and predicted."""

from __future__ import annotations

from sim.datasets.program_rows import PROGRAMS
from sim.hardware import load_profile
from validation.datasets import DATA
from validation.error_statistics import errors
from validation.markdown import table
from validation.programs import compare_programs
from validation.step_statistics import short


def program_sets() -> tuple[str, ...]:
    """Names of data sets with measured programs."""
    return tuple(sorted(file.parent.name for file in DATA.glob(f"*/{PROGRAMS}")))


def programs() -> str:
    """Each program's commands in a step, without the kernel that leads it, measured and predicted."""
    rows, found = [], {}
    for name in program_sets():
        for c in compare_programs(DATA / name, load_profile(name)):
            measured, predicted = (1e3 * (step - c.lead_s) for step in (c.row.step_s, c.predicted_s))
            spread = f"{100 * c.row.spread:.1f}"
            rows.append(
                (short(name), c.row.case, f"{measured:.3f}", spread, f"{predicted:.3f}", f"{100 * c.error:+.1f}")
            )
            found[f"{name} {c.row.case}"] = c.error
    summed = errors(found)
    said = (
        f"{summed.cases} programs: median error {100 * summed.median:.1f} %, 95th percentile {100 * summed.p95:.1f} %, "
        f"largest {100 * summed.max:.1f} %."
    )
    header = ("session", "program", "measured ms", "spread %", "predicted ms", "error %")
    return f"{said}\n\n{table(header, rows, 2)}"
