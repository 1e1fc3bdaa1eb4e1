"""What a timeline means: step time, traffic, overlap, inflation, memory, and a lower bound for the same copies.

Figures are of the last step and rank 0, or means over the last period of steps that differ (`sim.timeline.settling`);
definitions are in docs/modelling.md. All seconds and bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import median
from typing import TypedDict, cast

from sim.hardware import Profile
from sim.inputs.units import show_bytes
from sim.program import Copy, Kernel, RecordEvent, WaitEvent
from sim.timeline import Intervals, Sections, Span, Timeline, clip, union
from sim.timeline.lower_bound import lower_bound
from sim.timeline.memory_components import Weights, components, pinned_buffers

SCHEMA_VERSION = 1

LEFT_OUT = "CUDA context, NCCL buffers, text encoder and VAE"
"""What takes device memory as well, and is in no peak."""


class Metrics(TypedDict):
    """The metrics of a run, s and bytes; the same keys as `run --json` prints."""

    schema_version: int
    step_time_s: float
    step_times_s: list[float]
    settled: bool
    """Whether each step takes as long as the one before."""
    period_steps: int
    """In how many steps they repeat; 0 where they do not."""
    step_time_spread_s: float
    """Between the shortest and the longest of the steps that the figures are means of."""
    simulated_steps: int
    peak_memory_bytes: int
    memory_bytes: dict[str, int]
    """The peak by component."""
    pinned_memory_bytes: int
    """Host memory that all ranks together pin, at least: weights that are copied, and buffers that blocks name."""
    h2d_bytes_per_step: int
    """Of all weights that are copied to the GPU, from pinned or pageable memory."""
    h2d_busy_s: float
    h2d_uncovered_s: float
    collective_time_s: float
    collective_inflation_s: float
    skew_s: float
    contention_s: float
    h2d_collective_overlap_s: float
    exposed_prefetch_s: float
    block_copy_bytes_per_step: int
    """Of copies that blocks name, both directions, and of weights that go back; in no figure of weights that come."""
    block_copy_s: float
    request_time_s: float
    """What runs once, and as many steps as were asked for."""
    before_s: float
    after_s: float
    lower_bound_s: float
    device_memory_bytes: int
    fits_memory: bool
    host_memory_bytes: int | None
    fits_host_memory: bool | None
    """None where the profile does not say how much memory the host has."""


SHOWN = {
    "step_time_s": ("step time", "median of all steps but the first"),
    "lower_bound_s": ("lower bound", "no schedule with these copies takes less"),
    "exposed_prefetch_s": ("wait for prefetch", "compute stream idle until prefetched weights are there"),
    "collective_time_s": ("collectives", "on all streams, peer wait included"),
    "collective_inflation_s": ("  inflation", "beyond their isolated time"),
    "contention_s": ("  of it contention", "slowed by other traffic"),
    "skew_s": ("  of it skew", "waiting for peers"),
    "h2d_busy_s": ("H2D busy", "a copy in flight"),
    "h2d_uncovered_s": ("  not under kernels", "copy in flight, no kernel running"),
    "h2d_collective_overlap_s": ("  under collectives", "copy and collective at once"),
    "h2d_bytes_per_step": ("H2D bytes a step", "per GPU"),
    "block_copy_s": ("other copies", "named by blocks, or weights that go back, in flight"),
    "block_copy_bytes_per_step": ("  bytes a step", "per GPU, both directions"),
    "before_s": ("before the steps", "once a request"),
    "after_s": ("after the steps", "once a request"),
    "request_time_s": ("request", "what runs once, and the steps asked for"),
    "peak_memory_bytes": (
        "peak memory",
        f"whole run; weights, slots, activations, collective buffers; without {LEFT_OUT}",
    ),
}
"""What a reader is shown of the figures, of rank 0: the name of each, and what it means."""
_COPIES, _ONCE = ("block_copy_bytes_per_step",), ("before_s", "after_s")
_SHOWN_IF = dict.fromkeys(("block_copy_s", *_COPIES), _COPIES) | dict.fromkeys(("request_time_s", *_ONCE), _ONCE)
"""What is shown only where one of other figures is not 0."""
ONCE = ("request_time_s", *_ONCE)
"""Figures that are not of a step."""
_SHOWN_OF_MEANS = {
    "step_time_s": "mean of the last steps, which are not alike",
    "lower_bound_s": "no schedule with these copies takes less in the mean",
}
"""What it means instead where steps differ."""


def is_mean(figures: Metrics) -> bool:
    """Whether the step time is the mean of steps that differ: of two steps, it is the last one's."""
    return not figures["settled"] and figures["simulated_steps"] > 2


def shown(figures: Metrics) -> Iterator[tuple[str, str, float, str]]:
    """Key, name, value (s, or B where the key does not end in `_s`) and meaning of each figure in `SHOWN`."""
    values = cast(Mapping[str, float], figures)
    other = _SHOWN_OF_MEANS if is_mean(figures) else {}
    if not figures["settled"] and not other:
        other = {"step_time_s": "the last step"}
    for key, (name, meaning) in SHOWN.items():
        if key not in _SHOWN_IF or any(values[part] for part in _SHOWN_IF[key]):
            yield key, name, values[key], other.get(key, meaning)


def fit(figures: Metrics) -> tuple[bool, str]:
    """Whether the peak memory of every rank fits its GPU, and a sentence that says so."""
    peak, there = show_bytes(figures["peak_memory_bytes"]), show_bytes(figures["device_memory_bytes"])
    if figures["fits_memory"]:
        return True, f"memory: the peak of {peak} fits the GPU's {there}, before {LEFT_OUT}"
    what = (
        f"the peak of {peak}"
        if figures["peak_memory_bytes"] > figures["device_memory_bytes"]
        else "another rank's peak"
    )
    return False, f"memory: DOES NOT FIT: {what}, before {LEFT_OUT}, exceeds the GPU's {there}"


def fit_host(figures: Metrics, ranks: int) -> str:
    """What is pinned in host memory, and whether it fits, in a sentence; nothing where nothing is."""
    pinned = figures["pinned_memory_bytes"]
    if not pinned:
        return ""
    all_of_them = show_bytes(pinned)
    words = f"every rank pins {show_bytes(pinned / ranks)}: {ranks} ranks need {all_of_them}"
    words = words if ranks > 1 else f"{all_of_them} are pinned in host memory"
    there = figures["host_memory_bytes"]
    if there is None:
        return f"{words}; how much the host has is not known (`host.memory` of the profile)"
    return f"{words}{' of' if figures['fits_host_memory'] else ', which DOES NOT FIT:'} the host's {show_bytes(there)}"


def metrics(
    timeline: Timeline, profile: Profile, rank: int = 0, steps: int | None = None, weights: Weights | None = None
) -> Metrics:
    """The figures that `run --json` prints, for `rank`. A request has so many `steps`; all of them unless given.

    `weights` says what the program does not: without it none count as pinned, and none as those of phases.
    """
    rank = timeline.simulated_as(rank)
    times, shown = timeline.step_times(rank), timeline.simulated_shown
    start, end = timeline.window(rank)
    sections = Sections.of(timeline, rank)
    assert sections is not None, "a repeat crosses the start of the steps shown: expand the timeline"
    copies, others = _copies(timeline, rank)
    before, after = timeline.once(rank)
    in_flight = union((s.ready, s.end) for s, _ in copies)
    kernels = union((s.start, s.end) for s, _ in timeline.commands(rank, Kernel))
    communications = timeline.communications(rank)
    calls = [s for s, c in communications if c.step in shown]
    communicating = union((s.start, s.end) for s, _ in communications)
    skew = sections.sum((s, s.ready - s.start) for s in calls) / len(shown)
    # where a collective's own flows share a link, one of them can be faster while a copy slows another
    inflated = ((s, s.end - s.ready - s.isolated_time) for s in calls if s.isolated_time >= 0)
    contention = sections.sum((s, max(seconds, 0.0)) for s, seconds in inflated) / len(shown)
    lasting = [times[step] for step in timeline.shown]
    busy = sections.measure(in_flight)
    settled = timeline.period == 1
    parts = components(timeline, rank, weights)
    pinned = (0 if weights is None else weights.pinned) + pinned_buffers(timeline.program)
    there = profile.host_memory
    return {
        "schema_version": SCHEMA_VERSION,
        "step_time_s": median(times[1:] or times) if settled else (end - start) / len(shown),
        "step_times_s": times,
        "settled": settled,
        "period_steps": timeline.period,
        "step_time_spread_s": max(lasting) - min(lasting),
        "simulated_steps": len(times),
        "peak_memory_bytes": sum(parts.values()),
        "memory_bytes": parts,
        "pinned_memory_bytes": pinned,
        "h2d_bytes_per_step": int(sections.sum((s, c.bytes) for s, c in copies if c.step in shown)) // len(shown),
        "h2d_busy_s": busy / len(shown),
        "h2d_uncovered_s": (busy - sections.overlap(in_flight, kernels)) / len(shown),
        "collective_time_s": sections.measure(communicating) / len(shown),
        "collective_inflation_s": skew + contention,
        "skew_s": skew,
        "contention_s": contention,
        "h2d_collective_overlap_s": sections.overlap(in_flight, communicating) / len(shown),
        "exposed_prefetch_s": sections.measure(_exposed(timeline, rank)) / len(shown),
        "block_copy_bytes_per_step": int(sections.sum((s, c.bytes) for s, c in others if c.step in shown))
        // len(shown),
        "block_copy_s": sections.measure(union((s.ready, s.end) for s, _ in others)) / len(shown),
        "request_time_s": before + sum(times[:steps]) + after,
        "before_s": before,
        "after_s": after,
        "lower_bound_s": lower_bound(timeline, profile, rank, sections),
        "device_memory_bytes": profile.memory_of(timeline.program.gpus),
        "fits_memory": all(
            _fits(timeline, rank, profile.memory_of([timeline.program.gpus[rank]])) for rank in timeline.simulated_ranks
        ),
        "host_memory_bytes": there,
        "fits_host_memory": None if there is None else pinned <= there,
    }


_Copies = list[tuple[Span, Copy]]


def _copies(timeline: Timeline, rank: int) -> tuple[_Copies, _Copies]:
    """Copies that bring weights to the GPU, from whatever memory, and all others that are no parts of collectives."""
    program = timeline.program.ranks[rank]
    filled = {buffer.name for buffer in program.buffers if buffer.kind in ("weights", "slot")}
    parts, weights, others = program.composed_streams, _Copies(), _Copies()
    for span, copy in timeline.commands(rank, Copy):
        if copy.brings_weights:
            weights.append((span, copy))
        elif not program.composed_collectives or (copy.stream not in parts and copy.kind in ("h2d", "d2h")):
            (weights if copy.kind == "h2d" and copy.buffer in filled else others).append((span, copy))
    return weights, others


def _fits(timeline: Timeline, rank: int, memory: int) -> bool:
    """Whether the peak of `rank` is at most `memory` bytes."""
    # all buffers at once are more than any peak: most ranks need no walk through the timeline
    return (
        sum(buffer.bytes for buffer in timeline.program.ranks[rank].buffers) <= memory
        or max(level for _, level in timeline.memory(rank)) <= memory
    )


def _exposed(timeline: Timeline, rank: int) -> Intervals:
    """When the compute stream waits for an event of a copy stream, or is idle because its host thread waits for one.

    A host thread that is blocked by another thread (a counter, a lock) waits for the one that issues the copies.
    """
    program = timeline.program.ranks[rank]
    prefetched = prefetch_events(timeline, rank)
    compute = program.step_stream()
    waits = [(s, c.event) for s, c in timeline.commands(rank, WaitEvent) if c.stream == compute]
    waiting = [(s.start, s.end) for s, event in waits if event in prefetched]
    thread = program.feeders().get(compute)
    blocked = union(
        (h.start, h.end)
        for h in timeline.host
        if h.rank == rank and h.thread == thread and (h.by is not None or h.event in prefetched)
    )
    if blocked:
        busy = union((s.start, s.end) for s in timeline.of(rank) if s.command.stream == compute)
        dry = [(a, b) for (_, a), (b, _) in pairwise(busy)]
        waiting += [(max(a, c), min(b, d)) for a, b in dry for c, d in clip(blocked, a, b)]
    return union(waiting)


def prefetch_events(timeline: Timeline, rank: int) -> set[int]:
    """Events recorded on streams that fill slots: to wait for one is to wait for a prefetch."""
    program = timeline.program.ranks[rank]
    streams = program.gather_streams() | program.weight_streams
    return {c.event for _, c in timeline.commands(rank, RecordEvent) if c.stream in streams}
