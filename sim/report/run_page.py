"""The pages of one scenario: what `run` and `explain` found, its timeline, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from sim.analysis.explain import Explanation
from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import show_bytes, show_seconds
from sim.policies import describe
from sim.report.html import Badge, Cell, Section, Table, page
from sim.report.step_sections import timelines, why
from sim.report.tables import share
from sim.report.theme import signed
from sim.run import Result
from sim.timeline import settling
from sim.timeline.critical_path import CAUSE_GROUPS, CAUSE_LABELS, WEIGHT_COPIES, Waterfall
from sim.timeline.metrics import ONCE, fit, fit_host, shown

WORTH = 0.0005
"""Differences below this share of a step are none."""


def write_run(file: Path, name: str, result: Result, fall: Waterfall) -> None:
    """Write the page of a run. Raises OSError."""
    memory = [fit(result.metrics)[1], fit_host(result.metrics, result.scenario.world_size)]
    words = [finding(result, fall), *map(_sentence, filter(None, memory)), settling.words(result.timeline)]
    sections = [Section("Finding", _paragraphs(words)), *_step(result, fall), _figures(result)]
    _write(file, name, result, fall, sections)


def write_explanation(file: Path, name: str, result: Result, explanation: Explanation) -> None:
    """Write the page of an explanation. Raises OSError."""
    fall = explanation.waterfall
    sections = [Section("Finding", _paragraphs([finding(result, fall), *explanation.sentences[1:]]))]
    sections += [*_variants(explanation), *_step(result, fall), _figures(result)]
    _write(file, name, result, fall, sections)


def finding(result: Result, fall: Waterfall) -> str:
    """What a run shows, in one sentence."""
    step, resident = fall.step_s, fall.resident_s
    longer = step - resident
    words = f"A step takes {show_seconds(step)}"
    if abs(longer) < WORTH * step:
        than = "as long as with all weights resident" if result.metrics["h2d_bytes_per_step"] else "nothing is copied"
        words += f": {than}"
    else:
        more = "longer" if longer > 0 else "less"
        words += f", {100 * abs(longer) / resident:.1f} % {more} than with all weights resident" if resident else ""
        cause, most = max(_beyond(fall).items(), key=lambda part: part[1], default=("", 0.0))
        if longer > 0 and most >= WORTH * step:
            words += f", most of it by {cause} ({show_seconds(most)})"
    peak, there = (show_bytes(result.metrics[key]) for key in ("peak_memory_bytes", "device_memory_bytes"))
    memory = f"fits into {there}" if result.metrics["fits_memory"] else f"does not fit into {there}"
    return f"{words}; its peak memory of {peak} {memory}."


def _beyond(fall: Waterfall) -> dict[str, float]:
    """Parts of a waterfall, s, with copies less what of the work runs meanwhile: what waiting for weights adds."""
    waits = CAUSE_GROUPS[WEIGHT_COPIES]
    found = {"waiting for weights": sum(s for cause, s in fall.parts if cause in (*waits, "hidden"))}
    return found | {CAUSE_LABELS[cause]: s for cause, s in fall.parts if cause not in (*waits, "hidden")}


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _paragraphs(words: Sequence[str]) -> str:
    return "\n\n".join(filter(None, words))


def _step(result: Result, fall: Waterfall) -> list[Section]:
    return [why(fall, "all resident", "this schedule"), *timelines(result.timeline)]


def _figures(result: Result) -> Section:
    step = result.metrics["step_time_s"]
    rows: list[tuple[Cell, ...]] = []
    for key, label, value, remark in shown(result.metrics):
        if key.endswith("_s"):
            rows.append((label, show_seconds(value), "" if key in ONCE else share(value, step), remark))
        else:
            rows.append((label, show_bytes(value), "", remark))
    return Section("Figures", "Of rank 0 and the last step, unless said.", Table(("", "", "of a step", ""), rows))


def _variants(explanation: Explanation) -> list[Section]:
    if not explanation.changes:
        return []
    rows: list[tuple[Cell, ...]] = []
    for change in explanation.changes:
        before = change.step_s + change.gain_s
        rows.append(
            (
                change.words,
                show_seconds(change.step_s),
                signed(-100 * change.gain_s / before, "%") if before else "",
                show_bytes(change.peak_memory_bytes),
                Badge("yes", "plain") if change.fits_memory else Badge("no", "bad"),
            )
        )
    headers = ("variant", "step time", "change", "peak memory", "fits")
    return [Section("What would help", "Each changed in one thing, and simulated.", Table(headers, rows))]


def _write(file: Path, name: str, result: Result, fall: Waterfall, sections: Sequence[Section]) -> None:
    metrics, profile = result.metrics, result.profile
    facts: Mapping[str, str] = {
        "step": show_seconds(metrics["step_time_s"]),
        "all resident": show_seconds(fall.resident_s),
        "lower bound": show_seconds(metrics["lower_bound_s"]),
        "peak memory": show_bytes(metrics["peak_memory_bytes"]),
        "host": profile.name,
        "GPUs": str(result.scenario.world_size),
        "chunkflow-sim": version("chunkflow-sim"),
    }
    subtitle = f"{describe(result.scenario.policy)}, on {profile.description}"
    write_atomically(file, page(name, subtitle, sections, facts))
