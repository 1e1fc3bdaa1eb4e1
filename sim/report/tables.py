"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.hardware import AloneTime, Profile
from sim.models import Model, block_bytes, parameters
from sim.policies import describe, describe_plain
from sim.report.numbers import numbers
from sim.run import Result
from sim.units import show_bytes, show_seconds
from sim.why import NOTES, WORDS, Waterfall

if TYPE_CHECKING:
    from sim.explain import Explanation
    from sim.ledger import Row
    from validation.measured import MeasuredCase
    from validation.published import Outcome
    from validation.run import Validation

_RUN_ROWS = (
    ("step time", "step_time_s", "median of all steps but the first"),
    ("lower bound", "lower_bound_s", "no schedule on this host is faster"),
    ("wait for prefetch", "exposed_prefetch_s", "compute stream idle until prefetched weights are there"),
    ("collectives", "collective_time_s", "on all streams, peer wait included"),
    ("  inflation", "collective_inflation_s", "beyond their time alone"),
    ("  of it contention", "contention_s", "slowed by other traffic"),
    ("  of it skew", "skew_s", "waiting for peers"),
    ("H2D busy", "h2d_busy_s", "a copy in flight"),
    ("  not under kernels", "h2d_uncovered_s", "copy in flight, no kernel running"),
    ("  under collectives", "h2d_collective_overlap_s", "copy and collective at once"),
    ("H2D bytes a step", "h2d_bytes_per_step", "per GPU"),
    ("peak memory", "peak_memory_bytes", "weights, slots, activations, collective buffers"),
)


def table(*columns: str, title: str | None = None) -> Table:
    """A table in the house style; columns after the first are right-aligned."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left", no_wrap=not i)
    return made


def show(*tables: Table) -> None:
    """Print tables to standard output."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    for made in tables:
        console.print(made)


def print_run(name: str, result: Result) -> None:
    """The figures of one simulation."""
    policy = describe(result.scenario.policy)
    made = table("rank 0", "", "share", title=escape(f"{name} on {result.profile.name}: {policy}"))
    made.add_column("of the last step, unless said", style="dim")
    step = result.metrics["step_time_s"]
    figures = cast(Mapping[str, float], result.metrics)
    for label, key, remark in _RUN_ROWS:
        value = figures[key]
        if key.endswith("_s"):
            made.add_row(label, show_seconds(value), f"{100 * value / step:.1f} %" if step else "", remark)
        else:
            made.add_row(label, show_bytes(value), "", remark)
    show(made)


def print_waterfall(fall: Waterfall) -> None:
    """The way from the resident step to this one."""
    made = table("critical path", "", "share", title="why: from the resident step to this one")
    made.add_column("", style="dim")
    made.add_row("resident step", show_seconds(fall.resident_s), _share(fall.resident_s, fall.step_s))
    for cause, seconds in fall.parts:
        if abs(seconds) >= 0.0005 * fall.step_s:
            sign = "-" if seconds < 0 else "+"
            cells = f"{sign} {show_seconds(abs(seconds))}", _share(seconds, fall.step_s, "+")
            made.add_row(f"  {WORDS[cause]}", *cells, NOTES.get(cause, ""))
    made.add_row("this step", show_seconds(fall.step_s), "100.0 %", style="bold")
    show(made)


def _share(part: float, whole: float, sign: str = "") -> str:
    return f"{100 * part / whole:{sign}.1f} %" if whole else ""


def print_explanation(name: str, explanation: Explanation) -> None:
    """What binds, in words; the waterfall; the variants that were tried."""
    console = Console()
    console.print(f"[bold]{escape(name)}[/]")
    for sentence in explanation.sentences:
        console.print(f"- {escape(sentence)}", highlight=False)
    made = table("variant", "step time", "change", "peak memory", "change", title="variants, each changed in one thing")
    made.add_column("", style="dim")
    for change in explanation.changes:
        memory = ("-" if change.memory_bytes < 0 else "+") + show_bytes(abs(change.memory_bytes))
        made.add_row(
            escape(change.words),
            show_seconds(change.step_s),
            _share(-change.gain_s, change.step_s + change.gain_s, "+"),
            show_bytes(change.peak_memory_bytes),
            memory if change.memory_bytes else "same",
            "" if change.fits_memory else "does not fit",
        )
    print_waterfall(explanation.waterfall)
    if explanation.changes:
        show(made)


def print_sweep(name: str, rows: Sequence[Row]) -> None:
    """One line a point: its values, step time, floor, wait for prefetch and memory; then why points failed."""
    axes = list(rows[0].values)
    made = table(*axes, "step time", "lower bound", "wait for prefetch", "peak memory", title=f"sweep of {name}")
    fastest = min((r.figures["step_time_s"] for r in rows if not r.error), default=None)
    for row in rows:
        cells = [_value(axis, row.values[axis]) for axis in axes]
        if row.error:
            made.add_row(*cells, "[red]failed")
            continue
        step, floor, exposed = (row.figures[k] for k in ("step_time_s", "lower_bound_s", "exposed_prefetch_s"))
        shown = [show_seconds(step), show_seconds(floor), show_seconds(exposed)]
        made.add_row(
            *cells, *shown, show_bytes(row.figures["peak_memory_bytes"]), style="bold" if step == fastest else None
        )
    show(made)
    for row in rows:
        if row.error:
            at = ", ".join(f"{axis}={_value(axis, v)}" for axis, v in row.values.items() if v is not None)
            Console().print(f"failed: {at}: {row.error}", markup=False, highlight=False, soft_wrap=True)


def print_experiments(titles: Mapping[str, str]) -> None:
    """One line an experiment."""
    made = table("experiment", "", title="experiments")
    for name, title in titles.items():
        made.add_row(name, title)
    show(made)


def _value(axis: str, value: object) -> str:
    if value is None:
        return "-"
    return show_bytes(value) if axis.endswith("bytes") and isinstance(value, int) else describe_plain(value)


def print_measured(cases: Sequence[MeasuredCase]) -> None:
    """Measured cases, a line each."""
    made = table(
        "policy", "chunk", "resident", "step", "spread %", "events %", "peak memory", "simulated %", "same output"
    )
    outputs: dict[str, tuple[str, ...]] = {}
    for case in cases:
        policy = case.load_scenario().policy
        chunk = policy.chunk_bytes
        cells = [
            policy.label(),
            show_bytes(chunk) if chunk else "",
            f"{policy.resident_fraction:g}",
        ]
        if case.error:
            made.add_row(*cells, escape(case.error))
            continue
        expected = outputs.setdefault(str((case.scenario["workload"], case.scenario["world_size"])), case.output)
        peak = max(case.memory_bytes)
        made.add_row(
            *cells,
            show_seconds(case.step_time_s),
            f"{100 * case.spread:.2f}",
            f"{100 * case.event_overhead:+.1f}",
            show_bytes(peak),
            f"{100 * (case.simulated_memory_bytes / peak - 1):+.1f}" if peak else "",
            "yes" if case.output == expected else "NO",
        )
    show(made)


def print_validation(validation: Validation, with_cases: bool) -> None:
    """Measured against predicted: each case if wanted, errors by group, policy and host, the verdict on the bounds."""
    from validation import summary

    offloaded = [c for c in validation.compared if c.group != "resident"]
    groups = {  # with as many columns as fit on a line
        "Cases": (summary.cases_table(validation.compared, validation.covered), 9 if validation.covered else 8),
        "Operations": (summary.operations_table(validation.compared), 7),
        "What a choice by simulation costs": (summary.choices_table(validation.compared), 6),
        "Errors of step times": (summary.errors_table("set and group", validation.compared, summary.group), 6),
        "By policy": (summary.errors_table("policy", offloaded, lambda c: c.policy), 6),
        "With another visit's profile": (summary.errors_table("set by profile", validation.cross, summary.visits), 6),
        "Measurements inside their intervals": (summary.coverage_table(validation.covered), 9),
        "Bounds": (summary.bounds_table(validation.judged), 6),
    }
    for title, (content, columns) in groups.items():
        if content.rows and (with_cases or title != "Cases"):
            made = table(*content.headers[:columns], title=title)
            for row in content.rows:
                made.add_row(*(getattr(cell, "text", None) or str(cell) for cell in row[:columns]))
            show(made)
            if title == "Operations":
                Console().print(escape(summary.operations_note(validation.compared)), highlight=False)
    if validation.covered:
        Console().print(summary.covers(validation.covered), highlight=False)
    Console().print(summary.verdict(validation.judged), highlight=False)


def print_published(outcomes: Sequence[Outcome]) -> None:
    """Published figures beside their predictions, a table a case, and what was fitted."""
    from validation.published import HEADERS, cells, verdicts

    for outcome in outcomes:
        made = table(*HEADERS[1:], title=outcome.case.name)
        for row in outcome.rows:
            made.add_row(*cells(row)[1:])
        show(made)
    for sentence in verdicts(outcomes):
        Console().print(escape(sentence), soft_wrap=True)


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar with the remaining time on standard error, where that is a terminal; yields its setter."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def print_profiles(profiles: Iterable[Profile]) -> None:
    """One line a profile."""
    made = table("profile", "GPUs", "H2D", title="hardware profiles")
    made.add_column("", style="dim")
    for profile in profiles:
        made.add_row(profile.name, str(profile.gpus), f"{profile.h2d.cap.value / 1e9:.1f} GB/s", profile.description)
    show(made)


def print_profile(profile: Profile) -> None:
    """Every number of a profile with its source."""
    made = table("number", "value", title=f"{profile.name}: {profile.description}")
    made.add_column("source", style="dim")
    for path, value, source, _ in numbers(profile):
        if isinstance(value, AloneTime):
            shown = f"{len(value.bytes)} rows"
        elif isinstance(value, tuple):
            shown = ", ".join(map(str, value))
        else:
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        made.add_row(path, shown, source)
    show(made)


def print_models(models: Iterable[Model]) -> None:
    """One line a model."""
    made = table("model", "blocks", "parameters", "block, bf16", title="models")
    made.add_column("", style="dim")
    for model in models:
        repeats = " + ".join(str(b.repeat) for b in model.blocks)
        sizes = " / ".join(f"{size / 1e6:.1f}" for size in block_bytes(model))
        made.add_row(model.name, repeats, f"{parameters(model) / 1e9:.2f} B", f"{sizes} MB", model.description)
    show(made)


def print_model(model: Model) -> None:
    """The shapes of a model with their sources."""
    made = table("shape", "value", title=f"{model.name}: {model.description}")
    made.add_column("source", style="dim")
    for group, plain in msgspec.to_builtins(model).items():
        for i, part in enumerate(plain if isinstance(plain, (list, tuple)) else [plain]):
            if isinstance(part, dict):
                path = f"{group}[{i}]" if isinstance(plain, (list, tuple)) else group
                for j, (key, value) in enumerate((k, v) for k, v in part.items() if k != "source"):
                    made.add_row(f"{path}.{key}", str(value), "" if j else part["source"])
    show(made)
