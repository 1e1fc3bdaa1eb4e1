"""The recorded program of a pass: what its host issued, with the host's own time between calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from sim.hardware import Profile
from sim.importers.trace.blocks import Piece, collective
from sim.importers.trace.host_calls import Step, steps_of
from sim.importers.trace.notes import Notes
from sim.importers.trace.operations import Call, Operation
from sim.importers.trace.reference import Reference
from sim.importers.trace.weights import by_time
from sim.inputs.units import show_bytes
from sim.workloads.recorded import GENERATOR

BLOCKED = 2e-4
"""A call that takes longer than this, s, was blocked: by a full queue, or while a library was loaded."""
LAYER = 2**20
"""Bytes that the copies of a layer have at least."""


def recorded_program(found: Reference, parts: Sequence[Piece], profile: Profile, notes: Notes) -> dict[str, Any]:
    """The recorded program as plain data; `profile` says what calls cost, which is no part of the host's own time."""
    steps = steps_of(found, notes)
    layers = _layers(found, steps)
    operations = [op for step in _with_host_time(found, steps, profile, layers, notes) for op in step]
    sizes: Counter[int] = Counter()
    for number, layer in layers.items():
        moved = found.operations[number].transfer
        assert moved is not None
        sizes[layer] += moved.bytes
    outside = sum(
        op.transfer.bytes
        for number, op in enumerate(found.operations)
        if op.transfer and op.transfer.kind == "h2d" and number not in layers
    )
    notes.find(
        f"copies of {len(sizes)} layers, {show_bytes(sum(sizes.values()))} a pass in {len(layers)} copies"
        + (f", and {show_bytes(outside)} of no layer" if outside else "")
    )
    return {
        "generator": GENERATOR,
        "source": found.trace.source.rsplit("/", 1)[-1],
        "world_size": found.world_size,
        "step_s": found.of.step,
        "compute": stream_name(found, found.compute),
        "outside_bytes": outside,
        "blocks": _blocks(parts, [sizes[layer] for layer in sorted(sizes)], notes),
        "operations": operations,
        "notes": notes.lines(),
    }


def stream_name(found: Reference, stream: int) -> str:
    """What a stream of the trace is called in a program."""
    if stream == found.compute:
        return "compute"
    return f"stream {stream}"


def to_json(program: dict[str, Any]) -> bytes:
    """A recorded program as a file: an operation a line."""
    head = {key: value for key, value in program.items() if key != "operations"}
    lines = b",\n".join(msgspec.json.encode(op) for op in program["operations"])
    return msgspec.json.encode(head)[:-1] + b',\n"operations":[\n' + lines + b"\n]}\n"


def layer_copies(found: Reference) -> dict[int, int]:
    """Number of each copy of a layer's weights in the pass -> its layer."""
    return _layers(found, steps_of(found, Notes()))


def _layers(found: Reference, steps: Sequence[Step]) -> dict[int, int]:
    """Number of each copy of a layer's weights -> its layer: copies in a row, of sizes that come again in the pass."""
    rows: list[list[int]] = []
    open_ = False
    for step in steps:
        if step.kind != "launch":
            continue
        op = found.operations[step.number]
        if op.transfer is None or op.transfer.kind != "h2d":
            open_ = False
            continue
        if open_ and _alike(found.operations[rows[-1][-1]], op):
            rows[-1].append(step.number)
        else:
            rows.append([step.number])
        open_ = True

    def sizes(row: list[int]) -> tuple[int, ...]:
        return tuple(t.bytes for n in row if (t := found.operations[n].transfer))

    often = Counter(map(sizes, rows))
    of_layers = [row for row in rows if often[sizes(row)] > 1 and sum(sizes(row)) >= LAYER]
    return {number: layer for layer, row in enumerate(of_layers) for number in row}


def _alike(one: Operation, other: Operation) -> bool:
    assert one.transfer is not None and other.transfer is not None
    return one.stream == other.stream and one.transfer.memory == other.transfer.memory


def _blocks(parts: Sequence[Piece], sizes: Sequence[int], notes: Notes) -> list[dict[str, Any]]:
    """Blocks whose weights are what was copied: in order where there are as many copies as layers, else by share."""
    kept = [part for part in parts if part.block]
    layers = sum(part.run.repeat for part in kept if part.run.repeat > 1)
    each: list[int] = []
    if layers and layers == len(sizes):
        at = 0
        for part in kept:
            count = part.run.repeat if part.run.repeat > 1 else 0
            each.append(sum(sizes[at : at + count]) // max(count, 1))
            at += count
    else:
        each = by_time(sum(sizes), kept, notes)
    return [
        {"repeat": part.run.repeat, "layer_bytes": size // 2 * 2, "block": part.block}
        for part, size in zip(kept, each, strict=True)
    ]


def _with_host_time(
    found: Reference, steps: Sequence[Step], profile: Profile, layers: dict[int, int], notes: Notes
) -> list[list[dict[str, Any]]]:
    issued: list[list[dict[str, Any]]] = []
    costs = profile.host
    behind = _end_before(found, steps)
    owed = 0.0
    """What calls took longer than the profile says, s: negative where they took less."""
    before: int | None = None
    for step in steps:
        entry = _entry(found, step, layers, before, notes)
        if step.kind == "launch":
            before = step.number
        call = step.call
        host = 0.0
        if call is not None:
            if behind is not None:
                host = max(call.start - behind, 0.0) + owed
                owed = min(host, 0.0)
                host = max(host, 0.0)
            behind = max(behind or 0.0, call.end)
            cost = {"copy": costs.copy, "collective": costs.collective, "kernel": costs.kernel}.get(
                entry["op"], costs.event
            )
            pageable = entry.get("memory") == "pageable"
            if pageable:
                extra = _staging(found.operations[step.number], call, profile)
                if extra > 0:
                    entry["staging_s"] = _short(extra)
            elif step.kind != "synchronise":
                took = call.end - call.start
                owed += (took if took < BLOCKED else float(cost.value)) - float(cost.value)
        if host > 0:
            entry["host_s"] = _short(host)
        issued.append([entry])
    return issued


def _end_before(found: Reference, steps: Sequence[Step]) -> float | None:
    """When the last call before the pass returned, s; None where that is not in the trace."""
    first = next((step.call for step in steps if step.call), None)
    if first is None or len(found.passes.passes) < 2:
        return None
    ends = [op.call.end for op in found.passes.passes[-2].operations if op.call and op.call.end <= first.start]
    return max(ends, default=None)


def _entry(found: Reference, step: Step, layers: dict[int, int], before: int | None, notes: Notes) -> dict[str, Any]:
    stream = stream_name(found, step.stream)
    if step.kind in ("record", "wait"):
        return {"op": step.kind, "stream": stream, "event": step.number}
    if step.kind == "synchronise":
        return {"op": "synchronise", "stream": stream}
    op = found.operations[step.number]
    if op.transfer is not None:
        memory = op.transfer.memory
        if memory is None:
            notes.assume("host memory of copies, which the trace does not name, is pinned")
            memory = "pinned"
        entry = {"op": "copy", "stream": stream, "kind": op.transfer.kind, "bytes": op.transfer.bytes, "memory": memory}
        return entry | ({"layer": layers[step.number]} if step.number in layers else {})
    if (met := found.met.get(step.number)) is not None:
        return {"op": "collective", "stream": stream} | collective(found, met, notes)
    same = before is not None and found.operations[before].stream == op.stream
    gap = found.gaps[step.number] if same else 0.0
    return {"op": "kernel", "stream": stream, "name": op.name[:60], "seconds": _short(op.seconds + gap)}


def _staging(op: Operation, call: Call, profile: Profile) -> float:
    """How much longer a pageable copy took than the profile says, s, without the wait for its stream."""
    assert op.transfer is not None
    began = (
        max(call.start, op.start) if op.transfer.kind == "d2h" or op.start - call.start > BLOCKED * 10 else call.start
    )
    return call.end - began - profile.pageable_seconds(op.transfer.kind, op.transfer.bytes)


def _short(seconds: float) -> float:
    return float(f"{seconds:.4g}")
