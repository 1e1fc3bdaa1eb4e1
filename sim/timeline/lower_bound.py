"""What no schedule with the same copies, in as many slots, can beat: a floor of the step."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from itertools import groupby
from operator import itemgetter

import msgspec

from sim.fluid import FlowSpec
from sim.hardware import Profile, collectives
from sim.program import Collective, Communication, Copy, CopyKind, Kernel, Program, RankProgram, Send
from sim.timeline.composed import least_held
from sim.timeline.floor_terms import (
    Segment,
    Turn,
    chain_floor,
    collective_segments,
    kernel_segment,
    overlap_floor,
    rest_rate,
)
from sim.timeline.sections import Sections
from sim.timeline.spans import Repeat, Span, Timeline

_Way = tuple[str, CopyKind, int | None]
"""A copy's stream, kind and peer."""
ROUNDING = 1e-9
"""A floor that is above the step by no more than this share is the step: sums of many times are rounded."""


def lower_bound(timeline: Timeline, profile: Profile, rank: int = 0, sections: Sections | None = None) -> float:
    """A floor of the steps shown, s a step: the largest of

    - the isolated kernels and collectives of `rank`, one after the other on each stream (of a collective that copies
      make, the bytes of those at their demand cap);
    - those of the stream on which steps end, and what copies of weights cost them where they cost least
      (`sim.timeline.floor_terms`);
    - the chain of layers, their copies at the demand cap, and the slots that layers leave to copies;
    - its copied bytes at their demand cap, on each stream, and of all streams for each direction's copy engines;
    - for each resource, what all ranks' copies and collectives take of it, at its capacity.

    The steps' copies count as far as they can have run inside them: before a run has settled, a step may find layers
    prefetched that it does not prefetch again. Collectives count if they ran inside them. Where the last period is not
    as long as the one before, or on all ranks, and too short to have moved all of its copies, resources, engines and
    overlaps count what has surely moved within it. A chain that is longer than the steps shown does not count: they
    still used what had been prefetched.
    """
    sections = sections or Sections.of(timeline, rank)
    assert sections is not None, "a repeat crosses the start of the steps shown: expand the timeline"
    return _Floor(timeline, profile, rank, sections).seconds()


class _Floor:
    """The terms of one floor, s of all steps shown."""

    def __init__(self, timeline: Timeline, profile: Profile, rank: int, sections: Sections) -> None:
        self.timeline, self.profile, self.rank, self.sections = timeline, profile, rank, sections
        self.flows = timeline.flows_on(profile)
        self.program: Program = timeline.program
        self.own: RankProgram = timeline.program.ranks[rank]
        self.gpu = timeline.program.gpus[rank]
        self.shown, self.window = timeline.simulated_shown, (sections.start, sections.end)
        shown, bounds = timeline.shown, timeline.window(rank)
        self.lasts = bounds[1] - bounds[0]
        begins = shown.start - len(shown)
        self.settled = begins >= 0 and all(
            math.isclose(steps[stop] - steps[start], self.lasts, rel_tol=1e-9)
            for steps in timeline.steps
            for start, stop in ((begins, shown.start), (shown.start, shown.stop))
        )
        composed = {id(whole.call) for whole in self.own.composed_collectives}
        inside = [
            (s, c)
            for s, c in timeline.communications(rank)
            if c.step in self.shown and self.window[0] <= s.start and s.end <= self.window[1]
        ]
        self.calls = [(s, c) for s, c in inside if id(c) not in composed]
        self.held = list(least_held(timeline, profile, rank, [s for s, _ in inside]))
        self.kernels = [(s, k) for s, k in timeline.commands(rank, Kernel) if k.step in self.shown]
        self.copied = {r: _copied(timeline, profile, r, self.shown, sections) for r in timeline.simulated_ranks}
        self._specs: dict[tuple[int, CopyKind, int | None], FlowSpec] = {}

    def seconds(self) -> float:
        """The largest term, s a step."""
        chain = self._chain()
        terms = [
            self._proved(*self._shared()),
            self._proved(*(self._engines(surely) for surely in (False, True))),
            self._proved(*self._overlap()),
            chain if chain <= self.lasts else 0.0,
            *self._streams(),
        ]
        found = max(0.0, *terms)
        if self.lasts < found <= self.lasts * (1 + ROUNDING):
            found = self.lasts
        return found / len(self.shown)

    def _proved(self, most: float, surely: float) -> float:
        """The floor by all copies of the steps; by those that surely ran in them, where those can have been fewer."""
        return surely if most > self.lasts and not self.settled else most

    def _streams(self) -> Iterator[float]:
        """Each stream's kernels and collectives; each stream's copies."""
        isolated: dict[str, float] = {}
        for stream, seconds in self.held:
            isolated[stream] = isolated.get(stream, 0.0) + seconds
        for span, command in (*self.calls, *self.kernels):
            weighted = self.sections.weight(span) * span.isolated_time
            isolated[command.stream] = isolated.get(command.stream, 0.0) + weighted
        yield from isolated.values()
        copied: dict[str, float] = {}
        for (stream, kind, peer), (most, _) in self.copied[self.rank].items():
            copied[stream] = copied.get(stream, 0.0) + most / self._flow(self.rank, kind, peer).cap
        yield from copied.values()

    def _flow(self, rank: int, kind: CopyKind, peer: int | None) -> FlowSpec:
        key = rank, kind, peer
        if key not in self._specs:
            gpus = self.program.gpus
            self._specs[key] = self.profile.copy_flow(kind, gpus[rank], None if peer is None else gpus[peer])
        return self._specs[key]

    def _engines(self, surely: bool) -> float:
        """The copies of each direction, as many at once as it has engines."""
        busy: dict[CopyKind, float] = {}
        for (_, kind, peer), amounts in self.copied[self.rank].items():
            engines = self.profile.copy_class(kind, self.gpu).copies_at_once
            seconds = amounts[surely] / self._flow(self.rank, kind, peer).cap / engines
            busy[kind] = busy.get(kind, 0.0) + seconds
        return max(busy.values(), default=0.0)

    def _shared(self) -> tuple[float, float]:
        """What all ranks take of each resource: with all copies, and with those that surely ran."""
        capacities, gpus = self.flows.capacities, self.program.gpus
        both = [0.0] * len(capacities), [0.0] * len(capacities)
        for rank, copied in self.copied.items():
            for (_, kind, peer), amounts in copied.items():
                spec = self.flows.copy(kind, gpus[rank], None if peer is None else gpus[peer])
                for resource, multiplier in spec.route:
                    for taken, amount in zip(both, amounts, strict=True):
                        taken[resource] += multiplier * amount
        moved: dict[Hashable, list[tuple[FlowSpec, float]]] = {}
        for span, call in self.calls:
            what = (call.kind, call.bytes, call.group) if isinstance(call, Collective) else call.transfers
            if what not in moved:
                moved[what] = list(self._moved(call))
            weight = self.sections.weight(span)
            for spec, size in moved[what]:
                for resource, multiplier in spec.route:
                    for taken in both:
                        taken[resource] += weight * multiplier * size
        most, least = (max(t / c for t, c in zip(of, capacities, strict=True)) for of in both)
        return most, least

    def _moved(self, call: Communication) -> Iterator[tuple[FlowSpec, float]]:
        """The flows of a collective, or of the sends and receives of the rank, and the bytes of each."""
        if isinstance(call, Collective):
            for phase in self.flows.collective(call.kind, call.bytes, call.communicates_on[0]):
                yield from ((spec, part.size) for spec, part in phase.flows)
            return
        for t in call.transfers:
            ends = (self.rank, t.peer) if isinstance(t, Send) else (t.peer, self.rank)
            source, target = (self.program.gpus[end] for end in ends)
            yield collectives.transfer(self.profile, t.bytes, source, target)[1], float(t.bytes)

    def _overlap(self) -> tuple[float, float]:
        """The stream on which steps end, with the copies of weights beside it: all of them, and what surely ran."""
        stream = self.own.step_stream()
        weights = self.own.weight_streams
        most, least = (
            sum(
                amounts[surely]
                for (on, kind, _), amounts in self.copied[self.rank].items()
                if kind == "h2d" and on in weights
            )
            for surely in (False, True)
        )
        segments: list[Segment] = []
        kernels: dict[tuple[float, int], Segment] = {}
        for span, kernel in self.kernels:
            if kernel.stream == stream:
                key = span.isolated_time, kernel.launches
                if key not in kernels:
                    kernels[key] = kernel_segment(self.profile, self.gpu, *key)
                segments += self._often(span, kernels[key])
        segments += [Segment(seconds, 0.0, math.inf) for on, seconds in self.held if on == stream]
        known: dict[Hashable, list[Segment]] = {}
        for span, call in self.calls:
            if call.stream != stream:
                continue
            if not isinstance(call, Collective):
                segments += self._often(span, Segment(span.isolated_time, 0.0, math.inf))
                continue
            what = call.kind, call.bytes, call.communicates_on[0]
            if what not in known:
                known[what] = list(collective_segments(self.flows, *what, self.rank))
            segments += self._often(span, *known[what])
        rate = rest_rate(self.profile, self.gpu)
        return overlap_floor(segments, most, rate), overlap_floor(segments, least, rate)

    def _often(self, span: Span, *segments: Segment) -> list[Segment]:
        """The segments of a span, as often as it stands for one."""
        return list(segments) * self.sections.weight(span)

    def _chain(self) -> float:
        """The chain of slots of the first step shown, as often as steps are shown."""
        slots = sum(buffer.kind == "slot" for buffer in self.own.buffers)
        if not slots:
            return 0.0
        return len(self.shown) * chain_floor(list(self._turns()), slots)

    def _turns(self) -> Iterator[Turn]:
        """The layers of a step as they run, each with its copy; none where copies are not of one layer each."""
        step, stream = self.shown.start, self.own.step_stream()
        slots = {buffer.name for buffer in self.own.buffers if buffer.kind == "slot"}
        copies: list[tuple[tuple[int, str], float]] = []
        for _, copy in self.timeline.commands(self.rank, Copy):
            if copy.step == step and copy.brings_weights and copy.kind == "h2d":
                seconds = copy.bytes / self._flow(self.rank, "h2d", None).cap
                key = copy.layer, copy.buffer
                if copies and copies[-1][0] == key:
                    copies[-1] = key, copies[-1][1] + seconds
                else:
                    copies.append((key, seconds))
        on_it = [(s, c) for s, c in (*self.kernels, *self.calls) if c.step == step and c.stream == stream]
        on_it.sort(key=lambda pair: (pair[0].start, pair[0].end))
        spans = self.timeline.spans
        repeated = {id(span.command): r for r in self.sections.repeats for span in spans[slice(*r.spans)]}
        turns: list[Turn] = []
        repeats: list[Repeat | None] = []
        executed: list[tuple[int, str | None]] = []
        for span, command in on_it:
            layer, seconds = command.layer, span.isolated_time
            slot = None  # not known before the first kernel
            if isinstance(command, Kernel):
                slot = next((name for name in command.reads if name in slots), "")
            if not executed or executed[-1][0] != layer or (slot is not None and executed[-1][1] not in (None, slot)):
                executed.append((layer, slot))
                turns.append(Turn(0.0, 0.0, 0.0))
                repeats.append(repeated.get(id(command)))
            whole = turns[-1].whole
            if isinstance(command, Kernel):
                executed[-1] = layer, slot
                turns[-1] = Turn(0.0, whole + seconds, whole + seconds)
            elif whole:  # what comes before the first kernel may come before the weights
                turns[-1] = turns[-1]._replace(whole=whole + seconds)
        if [layer for layer, slot in executed if slot] != [layer for (layer, _), _ in copies]:
            return
        waiting = iter(copies)
        turns = [
            turn._replace(copy=next(waiting)[1]) if slot else turn
            for turn, (_, slot) in zip(turns, executed, strict=True)
        ]
        for repeat, part in groupby(zip(repeats, turns, strict=True), key=itemgetter(0)):
            yield from [turn for _, turn in part] * (1 if repeat is None else 1 + repeat.copies)


def _copied(
    timeline: Timeline, profile: Profile, rank: int, steps: range, sections: Sections
) -> dict[_Way, tuple[float, float]]:
    """Bytes copied for `steps` each way: at most what can have moved in their time, and what surely did."""
    start, end = sections.start, sections.end
    wanted: dict[_Way, float] = {}
    within: dict[_Way, tuple[float, float]] = {}
    caps: dict[CopyKind, float] = {}
    weights = sections.weights
    for span, copy in timeline.commands(rank, Copy):
        _, _, began, _, ended, _ = span  # most of what a floor takes is spent here
        wants = copy.step in steps
        if not wants and (began >= end or ended <= start):
            continue
        kind = copy.kind
        key = copy.stream, kind, None if copy.peer is msgspec.UNSET else copy.peer
        weight = weights.get(id(span), 1)
        if wants:
            wanted[key] = wanted.get(key, 0.0) + weight * copy.bytes
        inside = (ended if ended < end else end) - (began if began > start else start)
        if inside > 0:
            if kind not in caps:
                caps[kind] = profile.copy_class(kind).cap.value
            cap = caps[kind]
            outside = ended - began - inside
            most, least = within.get(key, (0.0, 0.0))
            within[key] = (
                most + weight * min(copy.bytes, cap * inside),
                least + weight * max(copy.bytes - cap * outside, 0.0),
            )
    return {
        key: (min(size, within.get(key, (0.0, 0.0))[0]), min(size, within.get(key, (0.0, 0.0))[1]))
        for key, size in wanted.items()
    }
