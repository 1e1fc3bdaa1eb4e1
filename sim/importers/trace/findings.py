"""What a trace says of its pass, in sentences with the milliseconds of each; all follow from its breakdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sim.importers.trace.breakdown import AFTER_SYNC, LAUNCHES, Breakdown, breakdown
from sim.importers.trace.notes import Notes
from sim.importers.trace.operations import Operation
from sim.importers.trace.passes import Pass
from sim.importers.trace.recorded import layer_copies
from sim.importers.trace.reference import Reference
from sim.inputs.units import show_bytes
from sim.timeline.critical_path import Waterfall

MIN_SHARE = 0.01
"""Share of a pass from which a finding is told."""


class Finding(NamedTuple):
    """What costs so many seconds of a pass."""

    seconds: float
    words: str


class Explained(NamedTuple):
    """Causes of a measured pass, what adds up to it, and findings, largest first.

    `step_s` is what it takes without the wait at its first collective, s.
    """

    step_s: float
    breakdown: Breakdown
    waterfall: Waterfall
    findings: list[Finding]
    notes: Notes


def explained(found: Reference, notes: Notes) -> Explained:
    """Where the last complete pass went."""
    of = breakdown(found, found.of)
    kept = ("compute", "collective_alone")
    resident = sum(of.causes[c] for c in kept)
    parts = tuple((c, s) for c, s in of.causes.items() if c not in kept and s != 0.0)
    findings = sorted(_findings(found, of), key=lambda f: -f.seconds)
    least = MIN_SHARE * found.of.step
    told = [f for f in findings if f.seconds >= least]
    return Explained(found.of.step, of, Waterfall(resident, parts, of.seconds), told, notes)


def sentences(of: Explained) -> list[str]:
    """The findings as sentences."""
    step = of.step_s * 1e3
    return [f"{_ms(f.seconds)} of {step:.0f} ms: {f.words}" for f in of.findings]


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _findings(found: Reference, of: Breakdown) -> Iterator[Finding]:
    operations = found.operations
    weights = layer_copies(found)
    outside = [op for n, op in enumerate(operations) if op.transfer and n not in weights]
    for kind in ("d2h", "h2d"):
        copies = [op for op in outside if op.transfer and op.transfer.kind == kind and op.transfer.memory == "pageable"]
        if copies and of.pageable[kind] > 0:
            yield Finding(of.pageable[kind], _pageable(found, of, kind, copies, outside))
    layered = [op for n, op in enumerate(operations) if n in weights]
    if slow := [op for op in layered if op.transfer and op.transfer.memory == "pageable"]:
        seconds = max(of.pageable["h2d"], 0.0)
        size = show_bytes(sum(op.transfer.bytes for op in slow if op.transfer))
        yield Finding(seconds, f"weights of layers, {size}, come from pageable memory, while the host waits")
    if of.causes["exposed_h2d"]:
        count = len(layered) or sum(1 for op in operations if op.transfer)
        yield Finding(of.causes["exposed_h2d"], f"the GPU waits for copies of weights ({count} copies a pass)")
    if of.causes["collective_contention"]:
        words = "copies slow collectives" + _slowed(found)
        yield Finding(of.causes["collective_contention"], words)
    if (late := of.causes["skew"] - found.of.peer_wait) > 0:
        wait = f", besides {_ms(found.of.peer_wait)} ms at the first one" if found.of.peer_wait > 1e-4 else ""
        yield Finding(late, f"collectives wait for peers{wait}")
    syncs = [c for c in found.trace.calls if "Synchronize" in c.name and _in(found.of, c.start)]
    if of.idle[AFTER_SYNC]:
        times = f" ({len(syncs)} times a pass)" if syncs else ""
        words = f"the GPU is idle until the host, which had waited for it{times}, has launched again"
        yield Finding(of.idle[AFTER_SYNC], words)
    if of.idle[LAUNCHES]:
        count = sum(1 for op in operations if op.transfer is None)
        yield Finding(of.idle[LAUNCHES], f"the GPU is idle while the host launches {count} kernels (launch-bound)")
    if of.causes["stream_overhead"]:
        yield Finding(of.causes["stream_overhead"], "gaps between operations that had been launched in time")


def _in(pass_: Pass, time: float) -> bool:
    return min(op.issued for op in pass_.operations) <= time <= max(op.end for op in pass_.operations)


def _pageable(found: Reference, of: Breakdown, kind: str, copies: list[Operation], outside: list[Operation]) -> str:
    """What copies of pageable memory are, as far as their sizes tell it."""

    def sizes(of_kind: str) -> Counter[int]:
        return Counter(op.transfer.bytes for op in outside if op.transfer and op.transfer.kind == of_kind)

    total = sum(op.transfer.bytes for op in copies if op.transfer)
    rate = total / of.pageable[kind] / 1e9
    same = sizes("h2d") == sizes("d2h")
    what = "weights of no block are" if same else "data of no block is"
    direction = "copied back to pageable memory" if kind == "d2h" else "brought from pageable memory"
    every = " in every pass" if len(found.passes.passes) > 1 and _in_all(found, copies) else ""
    over = _range(found, lambda b: b.pageable[kind])
    return f"{what} {direction}{every} ({len(copies)} copies, {show_bytes(total)} at {rate:.2g} GB/s{over})"


def _in_all(found: Reference, copies: list[Operation]) -> bool:
    wanted = Counter(op.transfer for op in copies)
    return all(
        not wanted - Counter(op.transfer for op in pass_.operations if op.transfer) for pass_ in found.passes.passes
    )


def _range(found: Reference, of: Callable[[Breakdown], float]) -> str:
    """How much it is in other passes."""
    passes = found.passes.passes[-8:]
    if len(passes) < 2:
        return ""
    values = [of(breakdown(found, pass_)) for pass_ in passes]
    return f"; {_ms(min(values))} to {_ms(max(values))} ms in {len(values)} passes"


def _slowed(found: Reference) -> str:
    """By how much copies slow collectives of the same bytes."""
    with_copies = [m.seconds for m in found.met.values() if not m.alone]
    kinds = {(m.kind, m.bytes) for m in found.met.values() if not m.alone}
    without = [m.seconds for m in found.met.values() if m.alone and (m.kind, m.bytes) in kinds]
    if not with_copies or not without:
        return ""
    factor = sum(with_copies) / len(with_copies) / (sum(without) / len(without))
    return f", which take {factor:.2g} times as long beside them"
