"""Sections of a page about one step: why it takes as long as it does, and its timeline."""

from __future__ import annotations

from collections.abc import Iterator

from sim.program import Kernel
from sim.report import figures
from sim.report.html import Section
from sim.timeline import Timeline
from sim.timeline.critical_path import CAUSE_LABELS, Waterfall

SMALL = 0.0005
"""Causes below this share of the step are one part of the waterfall together."""
DRAWN_LAYERS = 3
"""How many layers the closer view of a timeline shows."""


def why(fall: Waterfall, start: str, end: str, title: str = "Why") -> Section:
    """From the baseline, called `start`, to the step called `end`: what its critical path is longer by."""
    text = f"From the step with all weights resident ({start}) to {end}: what the critical path is longer by."
    small = SMALL * fall.step_s
    parts = [(CAUSE_LABELS[cause], s) for cause, s in fall.parts if abs(s) >= small]
    rest = sum(s for _, s in fall.parts if abs(s) < small)
    if abs(rest) >= small / 10:
        parts.append(("all others", rest))
    if not parts:
        return Section(title, f"{text} Nothing.")
    return Section(title, text, figures.waterfall(parts, (start, fall.resident_s), (end, fall.step_s)))


def timelines(timeline: Timeline, rank: int = 0) -> Iterator[Section]:
    """The last step of a run on one rank, and some layers in its middle, closer."""
    bounds = timeline.steps[rank]
    start, end = bounds[-2:]
    last = len(bounds) - 2
    yield Section("Timeline", _TIMELINE.format(step=last), figures.timeline(timeline, rank, start, end))
    runs: list[tuple[int, float, float]] = []
    for span, kernel in sorted(timeline.commands(rank, Kernel), key=lambda one: one[0].start):
        if kernel.step != last or kernel.layer < 0:
            continue
        if runs and runs[-1][0] == kernel.layer:
            runs[-1] = (kernel.layer, runs[-1][1], span.end)
        else:
            runs.append((kernel.layer, span.start, span.end))
    middle = runs[(len(runs) - DRAWN_LAYERS) // 2 :][:DRAWN_LAYERS]
    if len(runs) > DRAWN_LAYERS and middle[0][1] < middle[-1][2]:
        figure = figures.timeline(timeline, rank, middle[0][1], middle[-1][2])
        yield Section(f"Layers {', '.join(str(n) for n, _, _ in middle)}", "", figure, under=True)


_TIMELINE = """Step {step}, the last one, on rank 0: its streams, and its device memory below. Shades alternate from
layer to layer. Hatched: beyond the isolated time, and waiting for peers. Adjacent commands too narrow to be seen are
merged."""
