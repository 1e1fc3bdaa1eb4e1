"""What a trace of one rank holds: operations on the GPU with their launches, calls of the host, steps. Times in s."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from typing import NamedTuple

from sim.importers.trace.communication import Exchange, exchange, is_collective
from sim.importers.trace.files import TraceFile
from sim.importers.trace.kineto import Args, Device, Event, number, whole, words
from sim.inputs.config import InputError
from sim.program import HostCopyKind, HostMemory

_GPU = {"kernel": "kernel", "gpu_memcpy": "memcpy", "memcpy": "memcpy", "gpu_memset": "memset", "memset": "memset"}
_HOST = {"cuda_runtime", "cuda_driver", "runtime", "driver", "hip_runtime", "hip_driver", "privateuse1_runtime"}
_COPY = re.compile(r"Memcpy (HtoD|DtoH) \((\w+) -> (\w+)\)")
_AMD_COPY = re.compile(r"Copy(HostToDevice|DeviceToHost)")
_STEP = re.compile(r"ProfilerStep#(\d+)\Z")


class Call(NamedTuple):
    """A call of the host: `start` to `end` on `thread`."""

    start: float
    end: float
    thread: str
    name: str
    correlation: int


class Sync(NamedTuple):
    """What a profiler that was asked for `cuda_sync` says of a wait: which stream waits for which, and its record.

    Streams are None where it does not say; a host that waits for the whole device has neither.
    """

    stream: int | None
    waits_on: int | None
    record: int | None


class Transfer(NamedTuple):
    """A copy between host and GPU; `memory` is None where the trace does not say which the host's is."""

    kind: HostCopyKind
    bytes: int
    memory: HostMemory | None


class Operation(NamedTuple):
    """What a stream of the GPU ran from `start` to `end`; `call` launched it, if that was recorded."""

    start: float
    end: float
    stream: int
    name: str
    call: Call | None
    transfer: Transfer | None
    exchange: Exchange | None

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.end - self.start

    @property
    def issued(self) -> float:
        """When its launch began; its own start where that was not recorded."""
        return self.start if self.call is None else self.call.start


class RankTrace(NamedTuple):
    """The trace of one rank. `operations` are in order of their launches, `calls` by their starts."""

    source: str
    rank: int
    world_size: int
    device: Device
    gpus: int
    """GPUs that the process saw."""
    operations: list[Operation]
    calls: list[Call]
    syncs: dict[int, Sync]
    """Correlation of a wait's call -> what is known of it."""
    steps: list[tuple[float, float]]
    """The profiler's steps, from the host's start of one to its end."""
    left_out: dict[str, int]
    """What was not understood -> how many events."""


def of_file(trace: TraceFile) -> RankTrace:
    """What a trace holds. Raises `InputError` where nothing in it ran on a GPU."""
    document, source = trace.document, trace.source
    base = min((ts for e in document.events if e.ph == "X" and (ts := number(e.ts)) is not None), default=0.0)
    left_out: Counter[str] = Counter()
    gpu: list[tuple[Event, str, float, float]] = []
    calls: dict[int, Call] = {}
    described: dict[int, Args] = {}
    sided: dict[str, list[tuple[float, float, Args]]] = defaultdict(list)
    steps: list[tuple[float, float]] = []
    syncs: dict[int, Sync] = {}
    for event in document.events:
        if event.ph != "X":
            continue
        category, name = words(event.cat).lower(), words(event.name)
        ts, length = number(event.ts), number(event.dur)
        if ts is None or length is None or length < 0:
            if category in _GPU or category in _HOST:
                left_out["events without a time"] += 1
            continue
        start, end = (ts - base) * 1e-6, (ts - base + length) * 1e-6
        if category in _GPU:
            gpu.append((event, _GPU[category], start, end))
        elif category in _HOST:
            correlation = whole(event.args.correlation) if event.args else None
            made = Call(start, end, words(event.tid), name, -1 if correlation is None else correlation)
            calls[made.correlation if made.correlation >= 0 else -2 - len(calls)] = made
        elif category == "cuda_sync" and event.args:
            if (correlation := whole(event.args.correlation)) is not None:
                ids = (event.args.stream, event.args.waits_on_stream, event.args.record_correlation)
                syncs[correlation] = Sync(*(n if (n := whole(value)) is not None and n >= 0 else None for value in ids))
        elif name == "record_param_comms" and event.args:
            if (external := whole(event.args.external)) is not None:
                described[external] = event.args
            sided[words(event.tid)].append((start, end, event.args))
        elif category == "user_annotation" and _STEP.match(name):
            steps.append((start, end))
    if not gpu:
        raise InputError(source, "", "is a trace in which nothing ran on a GPU: profile with ProfilerActivity.CUDA")
    device, gpu = _one_device(gpu, left_out)
    for rows in sided.values():
        rows.sort(key=lambda row: row[0])
    operations = []
    for event, kind, start, end in gpu:
        args, name = event.args or Args(), words(event.name)
        correlation = whole(args.correlation)
        call = None if correlation is None else calls.get(correlation)
        met = None
        if kind == "kernel" and is_collective(name):
            about = args if args.collective is not None else _about(args, call, described, sided)
            met = exchange(name, about, document.distributed)
        stream = whole(args.stream)
        stream = (whole(event.tid) or 0) if stream is None else stream
        transfer = _transfer(name, args) if kind == "memcpy" else None
        operations.append(Operation(start, end, stream, name, call, transfer, met))
    operations.sort(key=lambda op: (op.issued, op.start))
    info = document.distributed
    about_device = next((d for d in document.devices if d.id == device), Device(device))
    rank = info.rank if info and info.rank is not None and info.rank >= 0 else 0
    world = info.world_size if info and info.world_size is not None and info.world_size > 0 else None
    sizes = [op.exchange.size for op in operations if op.exchange and op.exchange.size]
    ranks = [max(op.exchange.ranks) + 1 for op in operations if op.exchange and op.exchange.ranks]
    if world is None:
        world = max([*sizes, *ranks, rank + 1])
    steps.sort()
    ordered = sorted(calls.values())
    return RankTrace(
        source, rank, world, about_device, len(document.devices), operations, ordered, syncs, steps, dict(left_out)
    )


def _one_device(
    gpu: list[tuple[Event, str, float, float]], left_out: Counter[str]
) -> tuple[int, list[tuple[Event, str, float, float]]]:
    """The GPU that ran most, and its operations."""
    times: defaultdict[int, float] = defaultdict(float)
    for event, _, start, end in gpu:
        times[_device(event)] += end - start
    chosen = max(times, key=lambda device: (times[device], -device))
    mine = [row for row in gpu if _device(row[0]) == chosen]
    if len(mine) < len(gpu):
        left_out["operations of other GPUs than the one that ran most"] += len(gpu) - len(mine)
    return chosen, mine


def _device(event: Event) -> int:
    found = whole(event.args.device) if event.args else None
    return (whole(event.pid) or 0) if found is None else found


def _about(
    args: Args,
    call: Call | None,
    described: dict[int, Args],
    sided: dict[str, list[tuple[float, float, Args]]],
) -> Args | None:
    """The host side of a collective whose kernel says nothing: by its id, or by when it was launched."""
    external = whole(args.external)
    if external is not None and external in described:
        return described[external]
    if call is None:
        return None
    rows = sided.get(call.thread, [])
    at = bisect_right(rows, call.start, key=lambda row: row[0]) - 1
    return rows[at][2] if at >= 0 and call.start <= rows[at][1] else None


def _transfer(name: str, args: Args) -> Transfer | None:
    """The copy that crosses the link to the host, if it is one; others are work of the GPU."""
    size = whole(args.bytes)
    if size is None or size <= 0:
        return None
    if found := _COPY.match(name):
        down = found[1] == "HtoD"
        memory = (found[2] if down else found[3]).lower()
        known: HostMemory | None = "pinned" if memory == "pinned" else "pageable" if memory == "pageable" else None
        return Transfer("h2d" if down else "d2h", size, known)
    if found := _AMD_COPY.search(name):
        return Transfer("h2d" if found[1] == "HostToDevice" else "d2h", size, None)
    return None
