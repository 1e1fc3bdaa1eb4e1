"""Collectives: isolated, with copies by a DMA engine, and with copies by SMs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from calibration.probes.context import Context, Measured
from calibration.torch_machine.device import Call, Event, Stream
from sim.program import HostCopyKind

Params = dict[str, Any]

MAX_QUEUED_COPIES = 400
"""Copies that are enqueued before the collectives may start, at most: a full queue would block the host."""

MIN_SAMPLES = 3
"""Repeats in which the background must have been long enough."""

MAX_TRAIN = 300
"""Collectives in a measured train."""

MAX_BACKGROUND = 200
"""Concurrent collectives in the background, each with an event."""

MIN_BACKGROUND = 4
"""A train lasts at least this many isolated times of the background's collectives: two must end while it runs."""


def collective(context: Context, params: Params, background_scale: int) -> Measured:
    """`count` collectives back to back, after one that brings the ranks together. "seconds" of one."""
    _rehearse(context, params)
    return Measured({"seconds": [_alone(context, params, params["count"]) for _ in range(params["repeats"])]})


def transfer(context: Context, params: Params, background_scale: int) -> Measured:
    """`count` sends from rank 0 to rank 1 back to back, each with one in reverse if `both`. "seconds" of one."""
    stream = context.device.stream("compute")
    call = stream.run(context.transfer(params["bytes"], params["both"]))
    call()
    context.device.synchronize()
    samples = []
    for _ in range(params["repeats"]):
        calls, (start, end) = _row(context, stream, call, params["count"])
        context.run_behind_gate({"compute": calls}, 2)
        samples.append((end.time() - start.time()) / params["count"])
    return Measured({"seconds": samples})


def _train(context: Context, params: Params, count: int) -> tuple[list[Call], tuple[Event, Event]]:
    """One collective and `count` more between two events."""
    stream = context.device.stream("compute")
    size = int(params.get("size") or params["bytes"])
    return _row(context, stream, stream.run(context.collective(params["collective"], size, params["ranks"])), count)


def _row(context: Context, stream: Stream, call: Call, count: int) -> tuple[list[Call], tuple[Event, Event]]:
    """`call`, which brings the ranks together, and `count` more between two events."""
    start, end = context.event(), context.event()
    return [call, stream.record(start), *[call] * count, stream.record(end)], (start, end)


def _alone(context: Context, params: Params, count: int) -> float:
    """Seconds of one of `count` collectives."""
    context.refresh()
    calls, (start, end) = _train(context, params, count)
    context.run_behind_gate({"compute": calls}, params["ranks"])
    return (end.time() - start.time()) / count


def _rehearse(context: Context, params: Params) -> None:
    """Make connections and load kernels, which must not be done while a stream is parked."""
    for call in _train(context, params, 1)[0]:
        call()
    context.device.synchronize()


def beside(context: Context, params: Params, background_scale: int) -> Measured:
    """A train of collectives, `window` s long when isolated, during copies of `chunk` bytes.

    Quantities: "seconds" of one collective, "rate" of the copies meanwhile, B/s; "alone_seconds" of a collective in
    the same train without copies, run in turn with the other.
    """
    chunk, direction = params["chunk"], params["direction"]
    _rehearse(context, params)
    for call in context.copies(context.device.stream(direction), direction, chunk, 1):
        call()
    count = min(
        max(round(params["window"] / context.all_reduce_max(_alone(context, params, 2), params["ranks"])), 2), MAX_TRAIN
    )
    total = params["lead"] + background_scale * params["copies"]
    samples: dict[str, list[float]] = {"seconds": [], "rate": [], "alone_seconds": []}
    too_short = ""
    for _ in range(params["repeats"]):
        samples["alone_seconds"].append(_alone(context, params, count))
        calls, (start, end) = _train(context, params, count)
        marks, copies = _marked(context, direction, chunk, total, params["events_every"])
        context.run_behind_gate(
            {"compute": calls}, params["ranks"], _enqueue_copies(copies, min(2 * params["lead"], MAX_QUEUED_COPIES))
        )
        passed = [(m.time(), done) for m, done in marks]
        inside = [(at, done) for at, done in passed if start.time() <= at <= end.time()]
        if passed[0][0] > start.time() or passed[-1][0] < end.time():
            too_short = "the copies did not run from before the first to after the last collective"
        elif len(inside) < 3:
            too_short = f"only {max(len(inside) - 1, 0)} groups of copies ended while the collectives ran"
        else:
            (first, before), (last, after) = inside[0], inside[-1]
            samples["seconds"].append((end.time() - start.time()) / count)
            samples["rate"].append((after - before) * chunk / (last - first))
    return _measured(samples, too_short)


def concurrent_collectives(context: Context, params: Params, background_scale: int) -> Measured:
    """A train of collectives and concurrent ones, of kind `other`, of another communicator.

    The train is `window` s long when isolated, or longer where few of the others would end meanwhile.
    Quantities: "seconds" of one collective and "other_seconds" of one of the others meanwhile; "alone_seconds" and
    "other_alone_seconds" of each in a train of its own, run in turn with both.
    """
    ranks, device = params["ranks"], context.device
    stream = device.stream("other")
    call = stream.run(context.collective(params["other"], params["other_bytes"], ranks, other=True))
    _rehearse(context, params)
    call()
    device.synchronize()
    once = context.all_reduce_max(_others(context, call, 2, ranks), ranks)
    count, total = trains(params, background_scale, context.all_reduce_max(_alone(context, params, 2), ranks), once)
    names = ("seconds", "other_seconds", "alone_seconds", "other_alone_seconds")
    samples: dict[str, list[float]] = {name: [] for name in names}
    too_short = ""
    for _ in range(params["repeats"]):
        samples["alone_seconds"].append(_alone(context, params, count))
        samples["other_alone_seconds"].append(_others(context, call, max(total // 2, 2), ranks))
        calls, (start, end) = _train(context, params, count)
        marks = [context.event() for _ in range(total + 1)]
        others = [c for mark in marks for c in (call, stream.record(mark))]
        # the others' first event comes before the compute stream waits for it
        context.run_behind_gate({"other": others, "compute": [device.stream("compute").wait(marks[0]), *calls]}, ranks)
        inside = [at for at in (mark.time() for mark in marks) if start.time() <= at <= end.time()]
        if marks[-1].time() < end.time():
            too_short = "the other collectives ended before the last collective"
        elif len(inside) < 2:
            too_short = "fewer than two of the other collectives ended while the collectives ran"
        else:
            samples["seconds"].append((end.time() - start.time()) / count)
            samples["other_seconds"].append((inside[-1] - inside[0]) / (len(inside) - 1))
    return _measured(samples, too_short)


def trains(params: Params, background_scale: int, isolated: float, once: float) -> tuple[int, int]:
    """How many collectives, `isolated` s each, and how many of the concurrent ones, `once` s each."""
    window = max(params["window"], MIN_BACKGROUND * once)
    total = min(max(round(background_scale * params["cover"] * window / once), 5), MAX_BACKGROUND)
    return min(max(round(window / isolated), 2), MAX_TRAIN), total


def _others(context: Context, call: Call, count: int, ranks: int) -> float:
    """Seconds of one of `count` calls on the other stream."""
    calls, (start, end) = _row(context, context.device.stream("other"), call, count)
    context.run_behind_gate({"other": calls}, ranks)
    return (end.time() - start.time()) / count


def _measured(samples: dict[str, list[float]], too_short: str) -> Measured:
    """What was measured; repeats with too short a background have no samples, and a few others suffice."""
    enough = len(samples["seconds"]) >= MIN_SAMPLES
    return Measured({k: v for k, v in samples.items() if v}, "" if enough else too_short)


def _marked(
    context: Context, direction: HostCopyKind, chunk: int, count: int, every: int
) -> tuple[list[tuple[Event, int]], list[Call]]:
    """`count` copies with an event before the first and after every `every`; the events with the copies before them."""
    stream = context.device.stream(direction)
    first = context.event()
    marks, calls = [(first, 0)], [stream.record(first)]
    for number, call in enumerate(context.copies(stream, direction, chunk, count), 1):
        calls.append(call)
        if number % every == 0:
            mark = context.event()
            marks.append((mark, number))
            calls.append(stream.record(mark))
    return marks, calls


def _enqueue_copies(copies: Sequence[Call], lead: int) -> Callable[[Callable[[], None]], None]:
    """Enqueue `copies`, and open the gate when `lead` of them are: a full queue then drains by itself."""

    def enqueue(open_gate: Callable[[], None]) -> None:
        for number, call in enumerate(copies):
            if number == lead:
                open_gate()
            call()
        open_gate()

    return enqueue


def sm_copy(context: Context, params: Params, background_scale: int) -> Measured:
    """A kernel of `ctas` programs that reads pinned host memory, isolated and during collectives.

    Quantities: "copy_alone" and "copy_beside" B/s, and with several ranks "seconds" and "alone_seconds" of a
    collective. The contended copy is timed whole and is covered by collectives only in part: its rate is derived.
    """
    from calibration.probes.kernels import sm_copy as kernel

    size = params["bytes"]
    device, host = context.random("h2d device", size)[:size], context.pinned("h2d", size)[:size]
    stream = context.device.stream("h2d")
    call = stream.run(lambda: kernel(device, host, params["ctas"]))
    call()
    count = max(params["count"] // background_scale, 1)  # the copy cannot be longer: the collectives are shorter
    if params["ranks"] > 1:
        _rehearse(context, params)
    samples: dict[str, list[float]] = {"copy_alone": [], "seconds": [], "alone_seconds": [], "copy_beside": []}
    too_short = ""
    for _ in range(params["repeats"]):
        begin, done = context.event(), context.event()
        copying = [stream.record(begin), call, stream.record(done)]
        context.run_behind_gate({"h2d": copying}, params["ranks"])
        copy_s = done.time() - begin.time()
        samples["copy_alone"].append(size / copy_s)
        if params["ranks"] == 1:
            continue
        samples["alone_seconds"].append(_alone(context, params, count))
        calls, (start, end) = _train(context, params, count)
        context.run_behind_gate({"h2d": copying, "compute": calls}, params["ranks"])
        if begin.time() > start.time() or done.time() < end.time():
            too_short = "the copy did not run from before the first to after the last collective"
            continue
        beside_s = end.time() - start.time()
        rest_s = done.time() - begin.time() - beside_s
        samples["seconds"].append(beside_s / count)
        samples["copy_beside"].append(size * (1 - rest_s / copy_s) / beside_s)
    return _measured(samples, too_short)
