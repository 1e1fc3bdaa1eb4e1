"""Where the time of a measured pass went: causes that sum to it, by what the GPU and the host did at each moment.

A moment in which kernels run is compute; else one of a collective, which is split by how long others of its bytes take
that no copy slows; else of a copy; else the GPU is idle, and what the host did says why.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from sim.importers.trace.operations import Call, Operation
from sim.importers.trace.passes import Pass
from sim.importers.trace.reference import OVERLAP, QUEUED_GAP, Reference
from sim.timeline.critical_path import CAUSES
from sim.timeline.intervals import Intervals, clip, measure, overlap, union

AFTER_SYNC = "after a synchronisation"
LAUNCHES = "launches"


AHEAD = 8
"""Launches after a synchronisation until a gap is no longer put down to it."""


class Breakdown(NamedTuple):
    """Seconds of a pass by cause, as of simulated steps; they sum to `seconds`.

    `pageable` is that of copies of pageable memory by direction, the host's part of them included; `idle` says what the
    GPU waited for the host for: after the host had synchronised, or for launches.
    """

    seconds: float
    causes: dict[str, float]
    pageable: dict[str, float]
    idle: dict[str, float]


def breakdown(found: Reference, pass_: Pass) -> Breakdown:
    """The causes of one pass of the reference's trace."""
    operations = pass_.operations
    end = max(op.end for op in operations)
    begin = end - pass_.seconds
    kernels = union([(op.start, op.end) for op in operations if op.transfer is None and op.exchange is None])
    exchanges = sorted((op for op in operations if op.exchange), key=lambda op: op.start)
    copies = [op for op in operations if op.transfer]
    total = dict.fromkeys(CAUSES, 0.0)
    total["compute"] = measure(clip(kernels, begin, end))
    covered = kernels
    for cause, seconds in _collectives(exchanges, copies, kernels).items():
        total[cause] += seconds
    covered = union([*covered, *((op.start, op.end) for op in exchanges)])
    pageable = dict.fromkeys(("h2d", "d2h"), 0.0)
    calls = {(op.call.start, op.call.end): op for op in copies if op.call and _is_pageable(op)}
    for kind in ("d2h", "h2d"):
        # the host is held until such a copy is complete, also while it stages and gets new pages
        busy = [(op.start, max(op.end, op.call.end if op.call else op.end)) for op in copies if _is_pageable(op, kind)]
        busy += [call for call, op in calls.items() if op.transfer and op.transfer.kind == kind and kind == "h2d"]
        pageable[kind], covered = _add(busy, covered, begin, end)
        total["exposed_copy"] += pageable[kind]
    pinned = [(op.start, op.end) for op in copies if not _is_pageable(op) and op.transfer and op.transfer.kind == "h2d"]
    total["exposed_h2d"], covered = _add(pinned, covered, begin, end)
    back = [(op.start, op.end) for op in copies if not _is_pageable(op) and op.transfer and op.transfer.kind == "d2h"]
    seconds, covered = _add(back, covered, begin, end)
    total["exposed_copy"] += seconds
    idle = _idle(found, operations, _gaps(covered, begin, end))
    total["stream_overhead"] = idle.pop("")
    total["host_issue"] = sum(idle.values())
    return Breakdown(pass_.seconds, total, pageable, idle)


def _is_pageable(op: Operation, kind: str | None = None) -> bool:
    return op.transfer is not None and op.transfer.memory == "pageable" and kind in (None, op.transfer.kind)


def _collectives(exchanges: Sequence[Operation], copies: Sequence[Operation], kernels: Intervals) -> dict[str, float]:
    """Seconds of collectives under no kernel: as long as alone, waiting for peers, and slowed by copies."""
    moving = union([(op.start, op.end) for op in copies])
    beside = [overlap([(op.start, op.end)], moving) > OVERLAP * op.seconds for op in exchanges]
    alike: defaultdict[object, list[float]] = defaultdict(list)
    for op, shared in zip(exchanges, beside, strict=True):
        if not shared and op.exchange:
            alike[op.exchange[:2]].append(op.seconds)
    found = dict.fromkeys(("collective_alone", "skew", "collective_contention"), 0.0)
    behind = float("-inf")
    for number, (op, shared) in enumerate(zip(exchanges, beside, strict=True)):
        start = max(op.start, behind)
        behind = max(behind, op.end)
        shown = max(op.end - start, 0.0)
        shown -= overlap([(start, max(op.end, start))], kernels)
        assert op.exchange is not None
        alone = median(alike[op.exchange[:2]]) if alike[op.exchange[:2]] else op.seconds
        isolated = min(alone, shown)
        found["collective_alone"] += isolated
        kind = op.exchange[:2]
        pairs = zip(exchanges, beside, strict=True)
        others = [o.seconds for o, s in pairs if s == shared and o.exchange and o.exchange[:2] == kind]
        late = max(min(op.seconds - median(others), shown - isolated), 0.0) if number == 0 else 0.0
        found["skew"] += late
        found["collective_contention" if shared else "skew"] += shown - isolated - late
    return found


def _add(busy: Iterable[tuple[float, float]], covered: Intervals, begin: float, end: float) -> tuple[float, Intervals]:
    """Seconds of `busy` that nothing covers, and what covers then."""
    before = measure(clip(covered, begin, end))
    after = union([*covered, *busy])
    return measure(clip(after, begin, end)) - before, after


def _gaps(covered: Intervals, begin: float, end: float) -> Intervals:
    gaps, at = [], begin
    for a, b in clip(covered, begin, end):
        if a > at:
            gaps.append((at, a))
        at = max(at, b)
    return [*gaps, (at, end)] if at < end else gaps


def _idle(found: Reference, operations: Sequence[Operation], gaps: Intervals) -> dict[str, float]:
    """Idle seconds of the GPU: "" where the next operation had been launched, else what the host had done."""
    syncs = sorted(c.end for c in found.trace.calls if "Synchronize" in c.name and c.end - c.start > QUEUED_GAP)
    starts = sorted(operations, key=lambda op: op.start)
    places = [op.start for op in starts]
    launches = sorted(op.call.start for op in operations if op.call)
    idle = {"": 0.0, AFTER_SYNC: 0.0, LAUNCHES: 0.0}
    for a, b in gaps:
        at = bisect_right(places, b - 1e-9)
        call: Call | None = starts[at].call if at < len(starts) else None
        if b - a <= QUEUED_GAP and (call is None or call.end <= a):
            idle[""] += b - a
            continue
        # no kernel was waiting: has the host come back from a wait since, so that it could not have been ahead?
        last = bisect_right(syncs, b)
        since = syncs[last - 1] if last else float("-inf")
        issued = bisect_right(launches, a) - bisect_right(launches, since)
        after = last > 0 and (since >= a or issued <= AHEAD)
        idle[AFTER_SYNC if after else LAUNCHES] += b - a
    return idle
