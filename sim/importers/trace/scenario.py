"""Traces to a scenario and the profile that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sim.hardware import load_profile, profile_file
from sim.importers.trace.blocks import Piece, pieces
from sim.importers.trace.files import read_traces
from sim.importers.trace.findings import explained, sentences
from sim.importers.trace.notes import Notes
from sim.importers.trace.operations import of_file
from sim.importers.trace.rates import changed_profile, fitted, nearest
from sim.importers.trace.recorded import BLOCKED, recorded_program, to_json
from sim.importers.trace.reference import Reference, reference
from sim.importers.trace.sizes import with_sizes
from sim.importers.trace.weights import weights_of
from sim.inputs.config import InputError
from sim.inputs.units import show_bytes
from sim.timeline.intervals import clip, measure, union

STEPS = 4
REPLAYED_STEPS = 3


class Imported(NamedTuple):
    """A scenario as plain data, the profile beside it (None where one was given), what is to be said of both.

    `step_s` is the reference: the trace's last complete pass without the wait at its first collective, s.
    """

    scenario: dict[str, Any]
    profile: dict[str, Any] | None
    program: bytes | None
    """A recorded program as a file; None of a resident run."""
    notes: Notes
    step_s: float


def read(paths: Sequence[Path], notes: Notes) -> Reference:
    """The pass that traces are imported by. Raises `InputError`."""
    return reference([of_file(trace) for trace in read_traces(paths)], notes)


def import_trace(paths: Sequence[Path], output: Path, hardware: str | None, weights: str | None) -> Imported:
    """The scenario of traces of one run; `output` is where it will be.

    Raises:
        InputError: traces cannot be read or do not belong together, or no profile fits.
    """
    notes = Notes()
    found = read(paths, notes)
    offloaded = found.offloaded
    changes = program = None
    if hardware is None:
        like, base = nearest(found)
        name = f"{output.stem}.hardware.yaml"
        per_launch = None if offloaded else _per_launch(found)
        changes = fitted(found, like, base, f"{output.stem}-host", notes, per_launch)
        profile = changed_profile(like, changes)
        notes.find(f"the nearest shipped profile is {like}; {name} is that with the trace's rates")
        named = name
    else:
        profile = load_profile(hardware)
        if profile.gpus < found.world_size:
            problem = f"has {profile.gpus} GPUs, but the trace is of {found.world_size} ranks"
            raise InputError("--hardware", hardware, problem)
        file = profile_file(hardware)
        named = hardware if not Path(hardware).exists() else str(file.resolve())
    found = with_sizes(found, profile, notes)
    parts = pieces(found, notes)
    if offloaded and weights is not None:
        notes.assume(f"--weights {weights} is not used: the trace's copies say what is copied")
    findings = sentences(explained(found, notes))
    for sentence in findings:
        notes.find(sentence)
    if offloaded:
        program = to_json(recorded_program(found, parts, profile, notes) | {"findings": findings})
        scenario = _head(found, named) | {
            "workload": {"program": f"{output.stem}.program.json", "steps": REPLAYED_STEPS},
            "policy": {"kind": "replay"},
        }
    else:
        scenario = _resident(found, parts, named, weights, notes)
    return Imported(scenario, changes, program, notes, found.of.step)


def _head(found: Reference, hardware: str) -> dict[str, Any]:
    return {"hardware": hardware, "world_size": found.world_size}


def _resident(
    found: Reference, parts: Sequence[Piece], hardware: str, weights: str | None, notes: Notes
) -> dict[str, Any]:
    known = None if weights is None else weights_of(weights, found, parts, notes)
    blocks = []
    for number, part in enumerate(parts):
        if not part.block:
            continue
        size, tensors = known.layers[number] if known else (0, 0)
        entry: dict[str, Any] = {"repeat": part.run.repeat, "layer_bytes": size}
        blocks.append(entry | ({"tensors": tensors} if tensors else {}) | {"block": part.block})
    layers = [f"{p.run.repeat} x {p.run.length} operations" for p in parts if p.run.repeat > 1]
    notes.find(f"layers: {', '.join(layers)}" if layers else "no layers: nothing in the pass repeats")
    outside = {"outside_bytes": known.outside} if known and known.outside else {}
    if copied := found.host_bytes():
        notes.leave_out(f"copies between host and GPU of {show_bytes(copied)} a pass")
    return _head(found, hardware) | {
        "workload": {"steps": STEPS} | outside | {"blocks": blocks},
        "policy": {"kind": "resident"},
    }


def _per_launch(found: Reference) -> float | None:
    """What the host takes from one launch to the next, s: the least mean of all passes.

    Without what it was held for: waits for the GPU, and calls that a full queue blocked.
    """
    held = [(c.start, c.end) for c in found.trace.calls if c.end - c.start > BLOCKED]
    means = []
    for pass_ in found.passes.passes:
        starts = sorted(op.call.start for op in pass_.operations if op.call is not None)
        if len(starts) > 1:
            busy = starts[-1] - starts[0] - measure(clip(union(held), starts[0], starts[-1]))
            means.append(busy / (len(starts) - 1))
    return min(means) if means else None
