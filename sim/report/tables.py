"""Tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import msgspec

from sim import policies, units
from sim.hardware import AloneTime, Profile
from sim.metrics import SHOWN, fit
from sim.models import Model, block_bytes, parameters
from sim.report.numbers import numbers
from sim.report.terminal import say, show, styled, table
from sim.run import Result
from sim.units import show_bytes, show_seconds
from sim.why import WORDS, Waterfall

if TYPE_CHECKING:
    from sim.explain import Explanation
    from sim.ledger import Row
    from validation.measured import MeasuredCase
    from validation.published import Outcome
    from validation.run import Validation


def print_run(name: str, result: Result) -> None:
    """Whether the peak memory fits the card, then the figures of one simulation."""
    fits, sentence = fit(result.metrics)
    say(styled(sentence, "" if fits else "bold red"))
    made = table("", "", "of a step", title=f"{name} on {result.profile.name}: {_policy(result.scenario.policy)}")
    made.add_column("", style="dim")
    step = result.metrics["step_time_s"]
    figures = cast(Mapping[str, float], result.metrics)
    for key, (label, remark) in SHOWN.items():
        value = figures[key]
        if key.endswith("_s"):
            made.add_row(label, show_seconds(value), _share(value, step), remark)
        else:
            made.add_row(label, show_bytes(value), "", remark)
    show(made)


def _share(part: float, whole: float, sign: str = "") -> str:
    """A part in per cent; nothing where the whole is 0 or so short that the quotient leaves a float's range."""
    share = 100 * part / whole if whole else math.inf
    return f"{share:{sign}.1f} %" if math.isfinite(share) else ""


def print_waterfall(fall: Waterfall) -> None:
    """The way from the resident step to this one."""
    made = table("critical path", "", "share", title="why: from the resident step to this one")
    made.add_row("resident step", show_seconds(fall.resident_s), _share(fall.resident_s, fall.step_s))
    for cause, seconds in fall.parts:
        if abs(seconds) >= 0.0005 * fall.step_s:
            sign = "-" if seconds < 0 else "+"
            made.add_row(f"  {WORDS[cause]}", f"{sign} {show_seconds(abs(seconds))}", _share(seconds, fall.step_s, "+"))
    made.add_row("this step", show_seconds(fall.step_s), _share(fall.step_s, fall.step_s), style="bold")
    show(made)


def print_explanation(name: str, explanation: Explanation) -> None:
    """What binds, in words; the waterfall; the neighbours that were tried."""
    say(styled(name, "bold"))
    for sentence in explanation.sentences:
        say(f"- {sentence}")
    made = table("with", "step time", "change", "memory", title="neighbours, each changed in one thing")
    for change in explanation.changes:
        memory = ("-" if change.memory_bytes < 0 else "+") + show_bytes(abs(change.memory_bytes))
        faster = _share(-change.gain_s, change.step_s + change.gain_s, "+")
        made.add_row(change.words, show_seconds(change.step_s), faster, memory)
    print_waterfall(explanation.waterfall)
    show(made)


def _policy(policy: object) -> str:
    plain = msgspec.to_builtins(policy, enc_hook=units.plain)
    shown = [
        f"{k} {show_bytes(v) if k.endswith('bytes') else v}" for k, v in plain.items() if k != "kind" and v is not None
    ]
    return ", ".join([plain["kind"], *shown])


def print_sweep(name: str, rows: Sequence[Row]) -> None:
    """One line a point: its values, step time, floor, exposed prefetch and memory; then why points failed."""
    axes = list(rows[0].values)
    made = table(*axes, "step time", "lower bound", "exposed", "peak memory", "fits", title=f"sweep of {name}")
    fastest = min((r.figures["step_time_s"] for r in rows if not r.error), default=None)
    for row in rows:
        cells = [_value(axis, row.values[axis]) for axis in axes]
        if row.error:
            made.add_row(*cells, styled("failed", "red"))
            continue
        step, floor, exposed = (row.figures[k] for k in ("step_time_s", "lower_bound_s", "exposed_prefetch_s"))
        shown = [show_seconds(step), show_seconds(floor), show_seconds(exposed)]
        shown.append(show_bytes(row.figures["peak_memory_bytes"]))
        fits = styled("yes", "") if row.figures["fits_memory"] else styled("NO", "bold red")
        made.add_row(*cells, *shown, fits, style="bold" if step == fastest else None)
    show(made)
    for row in rows:
        if row.error:
            at = ", ".join(f"{axis}={value}" for axis, value in row.values.items() if value is not None)
            say(f"failed: {at}: {row.error}")


def print_experiments(titles: Mapping[str, str]) -> None:
    """One line an experiment."""
    made = table("experiment", "", title="experiments")
    for name, title in titles.items():
        made.add_row(name, title)
    show(made)


def _value(axis: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(str(v) if k == "kind" else f"{k} {_value(k, v)}" for k, v in value.items())
    return show_bytes(value) if axis.endswith("bytes") and isinstance(value, int) else str(value)


def print_measured(cases: Sequence[MeasuredCase]) -> None:
    """Measured cases, a line each."""
    made = table(
        "policy", "chunk", "resident", "step", "spread %", "events %", "peak memory", "simulated %", "same output"
    )
    outputs: dict[str, tuple[str, ...]] = {}
    for case in cases:
        policy = case.load_scenario().policy
        chunk = getattr(policy, "chunk_bytes", None)
        cells = [
            policies.label(policy),
            show_bytes(chunk) if chunk else "",
            f"{getattr(policy, 'resident_fraction', 1.0):g}",
        ]
        if case.error:
            made.add_row(*cells, case.error)
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
        "Operations": (summary.operations_table(validation.compared), 8),
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
    if validation.covered:
        say(summary.covers(validation.covered))
    say(summary.verdict(validation.judged))


def print_published(outcomes: Sequence[Outcome]) -> None:
    """Published figures beside their predictions, a table a case, and what was fitted."""
    from validation.published import HEADERS, cells, verdicts

    for outcome in outcomes:
        made = table(*HEADERS[1:], title=outcome.case.name)
        for row in outcome.rows:
            made.add_row(*cells(row)[1:])
        show(made)
    for sentence in verdicts(outcomes):
        say(sentence)


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
