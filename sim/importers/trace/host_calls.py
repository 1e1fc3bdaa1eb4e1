"""What the host called in a pass, in order: launches, events, waits of streams, and its own waits.

Runtime events of a trace do not say which stream or event a call is for. A record is taken to be on the stream that was
launched on last; a wait to be of the stream that is launched on next, for the last record of another stream; the wait
of a host for the stream whose work ended when it returned. What times contradict is left out. A profiler that was
asked for `cuda_sync` says all that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from sim.importers.trace.notes import Notes
from sim.importers.trace.operations import Call, Operation
from sim.importers.trace.reference import Reference

SLACK = 2e-6
"""How far times of the host and of the GPU may be apart, s."""
RETURN = 1e-4
"""How long after the end of what it waited for a host goes on, s, at most."""
TAIL = 1e-3
"""How long after a pass's last launch calls of the host still belong to it, s."""


class Step(NamedTuple):
    """A call of the host, or a part of one: `number` is that of a launched operation, or of an event.

    `call` is None where the trace has no call for it. Streams are numbers of the trace.
    """

    kind: Literal["launch", "record", "wait", "synchronise"]
    call: Call | None
    stream: int
    number: int = -1


def steps_of(found: Reference, notes: Notes) -> list[Step]:
    """All that the host called in the pass, in order, with the edges between streams."""
    operations = found.operations
    launched = [Step("launch", op.call, op.stream, number) for number, op in enumerate(operations)]
    calls = _calls_of(found)
    if not any(_is_wait(call.name) for call in calls):
        if len({op.stream for op in operations}) > 1:
            notes.assume("the trace has no waits of streams: they are those that times allow")
        return list(_by_times(found, launched, calls))
    return list(_by_calls(found, launched, calls, notes))


def _calls_of(found: Reference) -> list[Call]:
    """Calls that order streams or hold the host, from the pass's first launch on."""
    starts = [op.call.start for op in found.operations if op.call]
    if not starts:
        return []
    ends = [op.call.end for op in found.operations if op.call]
    first, last = min(starts), max(ends)
    calls = [c for c in found.trace.calls if first <= c.start <= last + TAIL and _orders(c.name)]
    if _waits_between(found, first):
        return calls
    # whoever records a trace waits for the GPU at its end
    return [c for c in calls if c.start <= last or not _of_device(c.name)]


def _waits_between(found: Reference, first: float) -> bool:
    """Whether the host waited for the whole GPU between the pass before and the first launch of this one."""
    if len(found.passes.passes) < 2:
        return False
    before = max((op.call.end for op in found.passes.passes[-2].operations if op.call), default=first)
    return any(before <= c.start <= first and _of_device(c.name) for c in found.trace.calls)


def _of_device(name: str) -> bool:
    return "DeviceSynchronize" in name or "CtxSynchronize" in name


def _orders(name: str) -> bool:
    return "EventRecord" in name or _is_wait(name) or _is_sync(name)


def _is_wait(name: str) -> bool:
    return "StreamWaitEvent" in name


def _is_sync(name: str) -> bool:
    return name.endswith(("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "CtxSynchronize"))


def _by_calls(found: Reference, launched: Sequence[Step], calls: Sequence[Call], notes: Notes) -> Iterator[Step]:
    """Steps in the order of calls; a record is kept only if something waits for it."""
    row = sorted(
        [*((s.call.start if s.call else found.operations[s.number].start, 0, s) for s in launched)]
        + [(c.start, 1, c) for c in calls],
        key=lambda item: item[:2],
    )
    follows: list[Operation | None] = [None] * len(row)
    coming: Operation | None = None
    for place in range(len(row) - 1, -1, -1):
        follows[place] = coming
        if isinstance(row[place][2], Step):
            coming = found.operations[row[place][2].number]  # type: ignore[union-attr]
    told = found.trace.syncs
    streams = {s.record: s.waits_on for s in told.values() if s.record is not None and s.waits_on is not None}
    last: Operation | None = None
    ends: dict[int, float] = {}
    records: list[tuple[int, int, float]] = []
    """(event, stream, when what was launched there before ended)."""
    by_call: dict[int | None, tuple[int, int, float]] = {}
    """Correlation of a record's call -> its record."""
    steps: list[Step] = []
    waited: set[int] = set()
    dropped = 0
    for place, (_, _, item) in enumerate(row):
        if isinstance(item, Step):
            last = found.operations[item.number]
            ends[last.stream] = max(ends.get(last.stream, 0.0), last.end)
            steps.append(item)
        elif "EventRecord" in item.name:
            stream = streams.get(item.correlation, None if last is None else last.stream)
            if stream is not None:
                records.append((len(records), stream, ends.get(stream, 0.0)))
                by_call[item.correlation] = records[-1]
                steps.append(Step("record", item, stream, records[-1][0]))
        elif _is_wait(item.name):
            after, sync = follows[place], told.get(item.correlation)
            if sync is not None and sync.stream is not None and sync.record in by_call:
                waited.add(by_call[sync.record][0])
                steps.append(Step("wait", item, sync.stream, by_call[sync.record][0]))
                continue
            if after is None:
                continue
            event = next((r for r in reversed(records[-16:]) if r[1] != after.stream), None)
            if event is None:
                continue
            if after.start < event[2] - SLACK:
                dropped += 1
                continue
            waited.add(event[0])
            steps.append(Step("wait", item, after.stream, event[0]))
        else:
            steps += [Step("synchronise", item, stream) for stream in _awaited(item, found, ends, last)]
    if dropped:
        notes.leave_out(f"{dropped} waits of streams whose events cannot be told")
    return (step for step in steps if step.kind != "record" or step.number in waited)


def _awaited(call: Call, found: Reference, ends: dict[int, float], last: Operation | None) -> list[int]:
    """The streams that a waiting host waits for."""
    if not ends or last is None:
        return []
    sync = found.trace.syncs.get(call.correlation)
    named = None if sync is None else sync.waits_on if sync.waits_on is not None else sync.stream
    if named is not None:
        return [named] if named in ends else []
    if _of_device(call.name):
        return sorted(ends)
    over = {stream: end for stream, end in ends.items() if end <= call.end + SLACK}
    held = {stream: end for stream, end in over.items() if end >= call.end - RETURN}
    if held:
        return [max(held, key=lambda stream: held[stream])]
    return [last.stream] if last.stream in over else []


def _by_times(found: Reference, launched: Sequence[Step], calls: Sequence[Call]) -> Iterator[Step]:
    """Steps with an event between each collective and the compute stream, where times allow it."""
    syncs = [c for c in calls if _is_sync(c.name)]
    ends: dict[int, float] = {}
    event = 0
    pending: list[tuple[int, float, int]] = []
    """(stream, end, event) of work on other streams that the compute stream has not waited for."""
    for step in launched:
        op = found.operations[step.number]
        while syncs and syncs[0].start <= op.issued:
            sync = syncs.pop(0)
            for stream in _awaited(sync, found, ends, op):
                yield Step("synchronise", sync, stream)
        if op.stream == found.compute:
            for other in [p for p in pending if p[1] <= op.start + SLACK]:
                yield Step("wait", None, op.stream, other[2])
                pending.remove(other)
        elif op.transfer is None and ends.get(found.compute, 0.0) <= op.start + SLACK and found.compute in ends:
            yield Step("record", None, found.compute, event)
            yield Step("wait", None, op.stream, event)
            event += 1
        yield step
        ends[op.stream] = max(ends.get(op.stream, 0.0), op.end)
        if op.stream != found.compute:
            yield Step("record", None, op.stream, event)
            pending = [p for p in pending if p[0] != op.stream] + [(op.stream, op.end, event)]
            event += 1
