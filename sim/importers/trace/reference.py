"""The pass that an import takes: what ran on which stream, what was queued, and what collectives take without peers.

Of several ranks the first one's pass is taken; a collective then lasts as long as on the rank that came last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from sim.importers.trace.notes import Notes
from sim.importers.trace.operations import Operation, RankTrace
from sim.importers.trace.passes import Pass, Passes, passes_of
from sim.inputs.config import InputError
from sim.inputs.units import show_bytes, show_seconds
from sim.program import CollectiveKind

QUEUED_GAP = 20e-6
"""Longest gap, s, between operations of which the later one was launched in time: the GPU's own, no wait."""
OVERLAP = 0.05
"""Share of a collective beside copies up to which it counts as uncontended."""


OFFLOADED = 0.01
"""Share of a pass that copies between host and GPU take from which it counts as offloaded."""


class Met(NamedTuple):
    """A collective of the pass: its kind and bytes as they are taken, its group, its time without the wait (s).

    `alone`: hardly any copy ran beside it. `known`: the trace tells its bytes.
    """

    kind: CollectiveKind
    bytes: int
    group: tuple[int, ...] | None
    seconds: float
    alone: bool
    known: bool


class Reference(NamedTuple):
    """The last complete pass of the first rank, with what an import needs of it.

    `gaps`: for each operation the idle time of the GPU before it although it was launched, s. `met`: the collective
    that an operation is, by its number; `compute`: the number of the compute stream.
    """

    trace: RankTrace
    passes: Passes
    world_size: int
    operations: list[Operation]
    gaps: list[float]
    met: dict[int, Met]
    compute: int

    @property
    def of(self) -> Pass:
        """The pass."""
        return self.passes.last

    def host_bytes(self) -> int:
        """Bytes that copies move between host and GPU in the pass."""
        return sum(op.transfer.bytes for op in self.operations if op.transfer)

    @property
    def offloaded(self) -> bool:
        """Whether copies between host and GPU take a share of the pass that counts."""
        return sum(op.seconds for op in self.operations if op.transfer) >= OFFLOADED * self.of.seconds > 0


def reference(ranks: Sequence[RankTrace], notes: Notes) -> Reference:
    """The pass that is taken. Raises `InputError` where ranks do not belong together."""
    first, *others = sorted(ranks, key=lambda trace: trace.rank)
    _check(first, others)
    passes = passes_of(first)
    if not any(op.seconds > 0 for op in passes.last.operations):
        raise InputError(first.source, "", "has no operation of the GPU that takes any time")
    of_others = [passes_of(trace).last for trace in others]
    pass_ = passes.last
    operations = pass_.operations
    times: defaultdict[int, float] = defaultdict(float)
    for op in operations:
        if op.exchange is None and op.transfer is None:
            times[op.stream] += op.seconds
    compute = max(times, key=lambda stream: (times[stream], -stream)) if times else operations[0].stream
    found = Reference(first, passes, max(first.world_size, len(ranks)), operations, _gaps(operations), {}, compute)
    found.met.update(_met(found, of_others, notes))
    _say(found, len(ranks), notes)
    return found


def _check(first: RankTrace, others: Sequence[RankTrace]) -> None:
    seen = {first.rank: first.source}
    for trace in others:
        if trace.rank in seen:
            raise InputError(trace.source, "distributedInfo.rank", f"is {trace.rank}, as in {seen[trace.rank]}")
        if trace.world_size != first.world_size:
            problem = f"is {trace.world_size}, but {first.source} has {first.world_size}: give traces of one run"
            raise InputError(trace.source, "distributedInfo.world_size", problem)
        seen[trace.rank] = trace.source


def _gaps(operations: Sequence[Operation]) -> list[float]:
    """Idle time before each operation that had been launched when the one before it on the GPU ended."""
    gaps = [0.0] * len(operations)
    behind = float("-inf")
    for number in sorted(range(len(operations)), key=lambda i: operations[i].start):
        op = operations[number]
        gap = op.start - behind
        if op.transfer is None and 0 < gap <= QUEUED_GAP and (op.call is None or op.call.end <= behind):
            gaps[number] = gap
        if op.transfer is None:
            behind = max(behind, op.end)
    return gaps


def _met(found: Reference, others: Sequence[Pass], notes: Notes) -> dict[int, Met]:
    exchanges = [(i, op) for i, op in enumerate(found.operations) if op.exchange]
    theirs = [[op for op in other.operations if op.exchange] for other in others]
    copies = sorted((op.start, op.end) for op in found.operations if op.transfer)
    met: dict[int, Met] = {}
    alike: defaultdict[object, list[float]] = defaultdict(list)
    seconds: dict[int, float] = {}
    for place, (number, op) in enumerate(exchanges):
        durations = [op.seconds]
        durations += [t[place].seconds for t in theirs if len(t) == len(exchanges)]
        seconds[number] = min(durations)
        alike[op.exchange[:2] if op.exchange else None].append(seconds[number])
    if exchanges:  # its wait for the peer is none of the pass
        number, op = min(exchanges, key=lambda item: item[1].start)
        seconds[number] = max(seconds[number] - found.of.peer_wait, 0.0)
    for number, op in exchanges:
        about = op.exchange
        assert about is not None
        if about.size == 1 or found.world_size == 1:
            notes.assume(f"{about.name} of one rank is a kernel: nothing crosses a link")
            continue
        kind = about.kind
        if kind is None:
            notes.assume(f"{op.name.partition('(')[0]} does not say which collective it is: taken as an all_reduce")
            kind = "all_reduce"
        if about.name.lower().startswith(("broadcast", "barrier", "gather", "scatter", "reduce")) and kind not in (
            "reduce_scatter",
        ):
            notes.assume(f"{about.name} is taken as {kind} of as many bytes")
        group = _group(about.ranks, about.size, found, notes)
        beside = sum(max(0.0, min(end, op.end) - max(start, op.start)) for start, end in copies)
        met[number] = Met(
            kind, about.bytes or 0, group, seconds[number], beside <= OVERLAP * op.seconds, about.bytes is not None
        )
    return met


def _group(ranks: tuple[int, ...] | None, size: int | None, found: Reference, notes: Notes) -> tuple[int, ...] | None:
    """The ranks that take part; None if all do."""
    world = found.world_size
    if size is None or size == world:
        return None
    if ranks is not None and len(ranks) == size and max(ranks) < world and found.trace.rank in ranks:
        return ranks
    start = found.trace.rank // size * size
    notes.assume(f"a group of {size} ranks whose members are not told is ranks {start} to {start + size - 1}")
    return tuple(range(start, min(start + size, world)))


def _say(found: Reference, ranks: int, notes: Notes) -> None:
    trace, pass_ = found.trace, found.of
    device = trace.device.name or "an unnamed GPU"
    notes.find(
        f"rank {trace.rank} of {found.world_size} on {device}" + (f", traces of {ranks} ranks" if ranks > 1 else "")
    )
    notes.find(found.passes.how)
    wait = f" without {show_seconds(pass_.peer_wait)} for which its first collective waited for a peer"
    notes.find(f"the last complete pass takes {show_seconds(pass_.step)}" + wait * (pass_.peer_wait > 1e-6))
    sizes: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in found.met.values():
        sizes[one.kind, one.bytes].append(one.seconds)
    for (kind, size), times in sorted(sizes.items()):
        of = show_bytes(size) if size else "unknown size"
        notes.find(f"{len(times)} {kind} of {of}, {show_seconds(median(times))} each")
    if ranks < found.world_size:
        notes.assume("all ranks do the same at the same time" + f", as rank {trace.rank} does" * (ranks == 1))
    for what, count in trace.left_out.items():
        notes.leave_out(f"{count} {what}")
