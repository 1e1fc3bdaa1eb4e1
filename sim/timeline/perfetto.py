"""Timelines as Chrome trace events, which Perfetto and chrome://tracing open."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from sim.inputs import units
from sim.inputs.atomic_files import write_atomically
from sim.program import Communication, Copy, PointToPoint
from sim.timeline import Span, Timeline


def trace_events(timeline: Timeline) -> list[dict[str, Any]]:
    """One process a rank, one thread a stream, one complete event a command (times in us), memory as a counter."""
    events: list[dict[str, Any]] = []
    for number, rank in enumerate(timeline.program.ranks):
        events.append({"ph": "M", "pid": number, "name": "process_name", "args": {"name": f"rank {number}"}})
        for tid, stream in enumerate(rank.streams):
            events.append(
                {"ph": "M", "pid": number, "tid": tid, "name": "thread_name", "args": {"name": f"{stream} stream"}}
            )
        tids = {stream: tid for tid, stream in enumerate(rank.streams)}
        events += [_event(span, tids[span.command.stream]) for span in timeline.drawn(number)]
        for step, (start, end) in enumerate(pairwise(timeline.steps[number])):
            events.append(
                _complete(number, len(tids), f"step {step}", "Step", start, end, {"step_time_s": end - start})
            )
        events.append({"ph": "M", "pid": number, "tid": len(tids), "name": "thread_name", "args": {"name": "steps"}})
        for time, level in timeline.memory(number):
            events.append(
                {"ph": "C", "pid": number, "name": "device memory", "ts": time * 1e6, "args": {"bytes": level}}
            )
    return events


def write_trace(timeline: Timeline, file: Path) -> None:
    """Write the trace as JSON. Raises OSError where the file cannot be written."""
    made_by = {"generator": "chunkflow-sim"}  # by which a later run knows the file again
    document = {"displayTimeUnit": "ms", "otherData": made_by, "traceEvents": trace_events(timeline)}
    write_atomically(file, msgspec.json.encode(document, enc_hook=units.plain))


def _event(span: Span, tid: int) -> dict[str, Any]:
    command = span.command
    args: dict[str, Any] = {"alone_s": span.isolated_time}
    for field in ("step", "layer", "bytes", "kind", "flag", "value", "event", "launches", "group", "peer", "other"):
        if (value := getattr(command, field, None)) is not None and value is not msgspec.UNSET:
            args[field] = value
    if isinstance(command, Communication):
        args["peer_wait_s"] = span.ready - span.start
    if isinstance(command, PointToPoint):
        args["transfers"] = [msgspec.to_builtins(t) for t in command.transfers]
    name = getattr(command, "name", span.kind)
    if isinstance(command, Copy):
        name = f"layer {command.layer} {name}"
    return _complete(span.rank, tid, name, span.kind, span.start, span.end, args)


def _complete(
    pid: int, tid: int, name: str, category: str, start: float, end: float, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "name": name,
        "cat": category,
        "ts": start * 1e6,
        "dur": (end - start) * 1e6,
        "args": args,
    }
