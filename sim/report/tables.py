"""Tables on the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from sim.hardware import Profile, is_session
from sim.inputs.units import show_bytes, show_seconds
from sim.policies import describe, describe_plain
from sim.report.profile_rows import ANOTHER_TOPOLOGY, rows_of
from sim.report.profile_rows import shown as shown_value
from sim.report.terminal import only_words_wrap, say, show, styled, table
from sim.run import Result
from sim.scenario import Scenario
from sim.sweeps.evaluation import Figures
from sim.timeline.critical_path import CAUSE_LABELS, LABEL_FOOTNOTES, Waterfall
from sim.timeline.metrics import ONCE, fit, fit_host, shown
from sim.workloads.model_shapes import NO_SOURCE
from sim.workloads.named import Model, block_bytes, parameters

if TYPE_CHECKING:
    from sim.analysis.explain import Explanation
    from sim.datasets.cases import MeasuredCase
    from sim.hardware.profile_check import Check
    from sim.sweeps.results_file import Row


def print_run(name: str, result: Result) -> None:
    """Whether the peak memory fits the card, then the figures of one simulation."""
    print_figures(name, result.scenario, result.profile, Figures.of(result))


def print_figures(name: str, scenario: Scenario, profile: Profile, figures: Figures) -> None:
    """What `print_run` does, of a run whose timeline is not there."""
    metrics = figures.metrics
    fits, sentence = fit(metrics)
    say(styled(sentence, "" if fits else "bold red"))
    if host := fit_host(metrics, scenario.world_size):
        say(styled(f"host memory: {host}", "bold red" if metrics["fits_host_memory"] is False else ""))
    title = f"{name} on {profile.name}: {describe(scenario.policy)}"
    made = table("rank 0", "", "of a step", title=title)
    made.add_column("of the last step, unless said", style="dim")
    step = metrics["step_time_s"]
    for key, label, value, remark in shown(metrics):
        if key.endswith("_s"):
            made.add_row(label, show_seconds(value), "" if key in ONCE else share(value, step), remark)
        else:
            made.add_row(label, show_bytes(value), "", remark)
    show(made)
    if figures.decided:
        say(f"{scenario.policy.kind} chose: {figures.decided}")
    if figures.steps:
        say(figures.steps)


def share(part: float, whole: float, sign: str = "") -> str:
    """A part in per cent; nothing where the whole is 0 or so short that the quotient leaves a float's range."""
    share = 100 * part / whole if whole else math.inf
    return f"{share:{sign}.1f} %" if math.isfinite(share) else ""


def print_waterfall(fall: Waterfall) -> None:
    """What adds up from the resident step to this one."""
    made = table("critical path", "", "share", title="why: from the resident step to this one")
    made.add_column("", style="dim")
    made.add_row("resident step", show_seconds(fall.resident_s), share(fall.resident_s, fall.step_s))
    for cause, seconds in fall.parts:
        if abs(seconds) >= 0.0005 * fall.step_s:
            sign = "-" if seconds < 0 else "+"
            cells = f"{sign} {show_seconds(abs(seconds))}", share(seconds, fall.step_s, "+")
            made.add_row(f"  {CAUSE_LABELS[cause]}", *cells, LABEL_FOOTNOTES.get(cause, ""))
    made.add_row("this step", show_seconds(fall.step_s), share(fall.step_s, fall.step_s), style="bold")
    show(made)


def print_trace(name: str, sentences: Sequence[str], notes: Sequence[str], fall: Waterfall) -> None:
    """What a trace says of its pass: in words, what was found in it, and the waterfall."""
    say(styled(name, "bold"))
    for sentence in sentences:
        say(f"- {sentence}")
    for note in notes:
        say(styled(f"  {note}", "dim"))
    print_waterfall(fall)


def print_explanation(name: str, explanation: Explanation) -> None:
    """What binds, in words; the waterfall; the variants that were tried."""
    say(styled(name, "bold"))
    for sentence in explanation.sentences:
        say(f"- {sentence}")
    made = table("variant", "step time", "change", "peak memory", "change", title="variants, each changed in one thing")
    made.add_column("", style="dim")
    for change in explanation.changes:
        memory = ("-" if change.memory_bytes < 0 else "+") + show_bytes(abs(change.memory_bytes))
        made.add_row(
            change.words,
            show_seconds(change.step_s),
            share(-change.gain_s, change.step_s + change.gain_s, "+"),
            show_bytes(change.peak_memory_bytes),
            memory if change.memory_bytes else "same",
            "" if change.fits_memory else "does not fit",
        )
    print_waterfall(explanation.waterfall)
    if explanation.changes:
        show(only_words_wrap(made))


def print_sweep(name: str, rows: Sequence[Row]) -> None:
    """One line a point: its values, step time, floor, wait for prefetch and memory; then why points failed."""
    axes = list(rows[0].values)
    made = table(
        *axes, "step time", "lower bound", "wait for prefetch", "peak memory", "fits", title=f"sweep of {name}"
    )
    fastest = min((r.metrics["step_time_s"] for r in rows if not r.error), default=None)
    for row in rows:
        cells = [_value(axis, row.values[axis]) for axis in axes]
        if row.error:
            made.add_row(*cells, styled("failed", "red"))
            continue
        step, floor, exposed = (row.metrics[k] for k in ("step_time_s", "lower_bound_s", "exposed_prefetch_s"))
        shown = [show_seconds(step), show_seconds(floor), show_seconds(exposed)]
        shown.append(show_bytes(row.metrics["peak_memory_bytes"]))
        fits = styled("yes", "") if row.metrics["fits_memory"] else styled("NO", "bold red")
        made.add_row(*cells, *shown, fits, style="bold" if step == fastest else None)
    show(made)
    if unsettled := sum(row.metrics.get("period_steps", 1) != 1 for row in rows if not row.error):
        said = (
            f"{unsettled} of {len(rows)} points have steps that do not settle to one length: their figures are means."
        )
        say(said)
    for row in rows:
        if row.error:
            at = ", ".join(f"{axis}={_value(axis, v)}" for axis, v in row.values.items() if v is not None)
            passing = " (tried again by the next run)" if row.failure == "environment" else ""
            say(f"failed: {at}: {row.error}{passing}")


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
    from sim.datasets.cases import workload_key

    made = table(
        "policy", "chunk", "resident", "step", "spread %", "events %", "peak memory", "simulated %", "same output"
    )
    outputs: dict[str, tuple[str, ...]] = {}
    for case in cases:
        policy = case.load_scenario().policy
        chunk = policy.chunk_bytes
        cells = [
            policy.label() + "+copy_engine" * case.by_copy_engines,
            show_bytes(chunk) if chunk else "",
            f"{policy.resident_fraction:g}",
        ]
        if case.error:
            made.add_row(*cells, case.error)
            continue
        expected = outputs.setdefault(workload_key(case), case.output)
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


def print_profiles(profiles: Iterable[Profile]) -> None:
    """One line a profile: hosts by their plain names first, then measurement sessions."""
    shown = list(profiles)
    for title, sessions in (("hardware profiles", False), ("measurement sessions", True)):
        made = table("profile", "GPUs", "H2D", title=title)
        made.add_column("", style="dim")
        for p in shown:
            if is_session(p.name) is sessions:
                made.add_row(p.name, str(p.gpus), f"{p.h2d.cap.value / 1e9:.1f} GB/s", p.description)
        show(made)


def print_profile(profile: Profile) -> None:
    """Every number of a profile with its source."""
    made = table("number", "value", title=f"{profile.name}: {profile.description}")
    made.add_column("source", style="dim")
    for path, value, source, _ in rows_of(profile):
        made.add_row(path, shown_value(value), source)
    show(made)
    if profile.kept:
        print_kept(profile)


def print_kept(profile: Profile) -> None:
    """What a profile inherits from the one that it is like."""
    made = table("inherited", "from", title="inherited from another profile")
    made.add_column("", style="dim")
    for kept in profile.kept:
        made.add_row(kept.key, kept.profile, ANOTHER_TOPOLOGY if kept.another_topology else "")
    show(made)


def print_check(profile: Profile, checks: Sequence[Check]) -> None:
    """Tables of isolated times against simulated ones: the worst row of each, and how many contradict."""
    made = table(
        "table", "rows", "largest error", title=f"{profile.name}: isolated collectives, simulated against tables"
    )
    made.add_column("", style="dim")
    for name in dict.fromkeys(check.table for check in checks):
        rows = [check for check in checks if check.table == name]
        worst = max(rows, key=lambda check: abs(check.error))
        wrong = sum(check.contradicts for check in rows)
        said = f"{wrong} contradict the resources" if wrong else ""
        made.add_row(name, str(len(rows)), f"{100 * worst.error:+.2f} %", said)
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


def _as_yaml(value: object) -> str:
    """A value as a file gives it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def print_model(model: Model) -> None:
    """The shapes of a model with their sources."""
    made = table("shape", "value", title=f"{model.name}: {model.description}")
    made.add_column("source", style="dim")
    for group, plain in msgspec.to_builtins(model).items():
        for i, part in enumerate(plain if isinstance(plain, (list, tuple)) else [plain]):
            if isinstance(part, dict):
                path = f"{group}[{i}]" if isinstance(plain, (list, tuple)) else group
                for j, (key, value) in enumerate((k, v) for k, v in part.items() if k != "source"):
                    made.add_row(f"{path}.{key}", _as_yaml(value), "" if j else part["source"])
    show(made)
    sizes = zip(model.blocks, block_bytes(model), strict=True)
    blocks = ", ".join(f"{shape.repeat} {shape.kind} of {size / 1e6:.1f} MB" for shape, size in sizes)
    published = model.parameters.published
    said = "none published" if published is None else f"{published:,} published"
    say(f"Counted from these shapes: {parameters(model):,} parameters ({said}); blocks in bf16: {blocks}.")
    passes, attention = model.guidance.passes, model.ulysses.cross_attention
    taken = []
    if passes == 1 and model.guidance.source == NO_SOURCE:
        taken.append("1 pass a step (`guidance.passes`; 2 where guidance runs a second one)")
    if not attention and model.ulysses.source == NO_SOURCE and any(b.kind == "cross" for b in model.blocks):
        taken.append("no all-to-all of a cross-attention (`ulysses.cross_attention`; 4 where Ulysses divides it)")
    if taken:
        say(f"Taken, as the file does not say: {'; '.join(taken)}.")
