"""What the whole run is, by the layers that were simulated."""

from __future__ import annotations

from collections.abc import Sequence

from sim.machine import Marked
from sim.machine.snapshot import Snapshot
from sim.program import Collective, Copy
from sim.shortcuts.hosts import Piece
from sim.shortcuts.repeats import Found
from sim.timeline import Repeat, Timeline


def each_step_whole(run: Marked, of_layers: Sequence[Found], left: int, steps: int) -> bool:
    """Whether every step but the first has, with the repeats, as many commands as in the whole run; of one, that one.

    What a repeat copies may be for the next step: then the repeat of the same layers one step before must be so, too.
    """
    ahead: dict[tuple[int, str], set[int]] = {}
    for number, (first, last, _) in enumerate(of_layers):
        region = number % sum(found.first < left for found in of_layers)
        for span in run.timeline.spans[run.states[first].spans : run.states[last].spans]:
            if isinstance(span.command, Copy | Collective):
                known = ahead.setdefault((region, span.command.stream), {0} if steps == 1 else set())
                known.add(span.command.step - first // left)
    return all(len(later) == 1 for later in ahead.values())


def pieces(
    states: Sequence[Snapshot], places: Sequence[int], stop: int, of_layers: Sequence[Found], of_steps: Found | None
) -> list[Piece]:
    """What the whole run issues: pieces of a thread, whose layers begin at `places` and which ends at `stop`."""
    pieces: list[Piece] = []
    shift = 0.0

    def play(at: int, end: int, repeats: Sequence[Found]) -> None:
        nonlocal shift
        for repeat in repeats:
            pieces.append(Piece(at, places[repeat.last], shift))
            for _ in range(repeat.copies):
                shift += states[repeat.last].time - states[repeat.first].time
                pieces.append(Piece(places[repeat.first], places[repeat.last], shift))
            at = places[repeat.last]
        pieces.append(Piece(at, end, shift))

    if of_steps is None:
        play(0, stop, of_layers)
        return pieces
    begin, end = places[of_steps.first], places[of_steps.last]
    early = [f for f in of_layers if f.first < of_steps.last]
    play(0, end, early)
    for _ in range(of_steps.copies):
        shift += states[of_steps.last].time - states[of_steps.first].time
        play(begin, end, early)
    play(end, stop, of_layers[len(early) :])
    return pieces


def lengthened(run: Marked, of_layers: Sequence[Found], of_steps: Found | None) -> Timeline:
    """The timeline of the whole run: all its steps, and the spans that were simulated."""
    repeats = []
    for first, last, copies in of_layers:
        a, b = run.states[first], run.states[last]
        repeats.append(Repeat(a.time, b.time, (a.spans, b.spans), copies))

    def later(time: float) -> float:
        return time + sum(r.copies * (r.end - r.start) for r in repeats if r.end <= time)

    steps = [[later(time) for time in times] for times in run.timeline.steps]
    if of_steps is not None:
        lasts = later(run.states[of_steps.last].time) - later(run.states[of_steps.first].time)
        for times in steps:
            times[2:] = [times[1] + n * lasts for n in range(1, of_steps.copies + 1)] + [
                time + of_steps.copies * lasts for time in times[2:]
            ]
    return run.timeline._replace(
        steps=tuple(map(tuple, steps)), repeats=tuple(repeats), simulated_steps=run.timeline.steps
    )
