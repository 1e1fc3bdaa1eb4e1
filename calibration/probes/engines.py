"""Copies on several streams of one GPU at once: whether its copy engines serve them together or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from calibration.probes.case import Params
from calibration.probes.context import Context, Measured
from calibration.torch_machine.device import Call, Event, Stream


class _Seen(NamedTuple):
    """When a train began, and when each of its copies ended (or the last one, if only that was timed), s."""

    start: float
    ends: list[float]


def engine(context: Context, params: Params, background_scale: int) -> Measured:
    """Trains of copies, each on a stream of its own.

    `trains`: direction, bytes and count of each. `between` the copies of a train: see `_around`; the last copy always
    has an event. `posted`: all "together"; the later ones "in_flight", `delay` s after the first; or "held": all
    together, but the first stream waits for an event that comes after `delay` s.
    Quantities of train i: "alone_i" s by itself; with the others "start_i", "first_i" and "end_i", s from the first
    start of all to its start and to the ends of its first and last timed copy. Equal trains that are posted together
    are numbered in the order in which they end. "posted": when those in flight were. "switches": the share of copies
    which end next after one of another stream, while several streams have some left.
    """
    trains, posted = list(params["trains"]), params["posted"]
    if posted == "in_flight":
        trains[0] = trains[0] | {"count": trains[0]["count"] * background_scale}
    if posted != "together":
        context.device.stream("compute").run(context.device.spin(params["delay"]))()
    samples: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        samples.setdefault(name, []).append(value)

    for repeat in range(params["repeats"] + 1):
        isolated = {}
        for i, train in enumerate(trains):
            if train not in trains[:i]:
                [seen], _ = _posted(context, [train], params | {"posted": "together"})
                isolated[i] = seen.ends[-1] - seen.start
        found, released = _posted(context, trains, params)
        if repeat == 0:
            continue  # first touch of the memory
        if posted == "together" and all(train == trains[0] for train in trains):
            found = sorted(found, key=lambda seen: seen.ends[-1])
        for i, seconds in isolated.items():
            note(f"alone_{i}", seconds)
        origin = min(seen.start for seen in found)
        for i, seen in enumerate(found):
            note(f"start_{i}", seen.start - origin)
            note(f"first_{i}", seen.ends[0] - origin)
            note(f"end_{i}", seen.ends[-1] - origin)
        if posted == "in_flight":
            note("posted", released - origin)
        note("switches", switches([seen.ends for seen in found]))
    too_short = ""
    if posted == "in_flight" and not 0 < median(samples["posted"]) < median(samples["end_0"]):
        too_short = "the first train was not in flight when the others were posted"
    return Measured(samples, too_short)


def switches(ends: Sequence[Sequence[float]]) -> float:
    """The share of ends that are followed by one of another train, until only one train has some left."""
    order = sorted((at, i) for i, train in enumerate(ends) for at in train)
    last = sorted(max(train) for train in ends)[-2:][0]
    pairs = [(i, j) for (at, i), (_, j) in pairwise(order) if at < last]
    return sum(i != j for i, j in pairs) / len(pairs) if pairs else 0.0


def _around(context: Context, stream: Stream, between: str, event: Event) -> tuple[list[Call], list[Call]]:
    """What a stream has before and behind each copy; `event` has been recorded before any copy begins."""
    match between:
        case "events":  # without time; "timed" ones are looked at, and are made elsewhere
            return [], [stream.record(context.device.event(False))]
        case "eventwaits":
            return [stream.wait(event)], []
        case "waits":  # of flags, satisfied
            return [stream.wait_flag("probe", 0)], []
        case "writes":
            return [stream.write_flag("probe", 0)], [stream.write_flag("probe", 0)]
        case _:
            return [], []


def _posted(context: Context, trains: Sequence[Params], params: Params) -> tuple[list[_Seen], float]:
    """What each of `trains` saw, and when those that were blocked or posted late were released, s."""
    device, between, posted = context.device, params["between"], params["posted"]
    compute, ready, release = device.stream("compute"), device.event(False), context.event()
    # enqueued first: an event that has no record yet holds nobody
    work: dict[str, list[Call]] = {"compute": [compute.record(ready)]}
    if posted != "together":
        work["compute"] += [compute.run(device.spin(params["delay"])), compute.record(release)]
    events = []
    for i, train in enumerate(trains):
        stream = device.stream(f"copies {i}")
        start, ends = context.event(), []
        calls: list[Call] = []
        if (posted == "in_flight" and i) or (posted == "held" and not i):
            calls.append(stream.wait(release))
        calls.append(stream.record(start))
        copies = context.copies(stream, train["direction"], train["bytes"], train["count"])
        for number, copy in enumerate(copies, 1):
            before, behind = _around(context, stream, between, ready)
            calls += [*before, copy, *behind]
            if between == "timed" or number == len(copies):
                ends.append(context.event())
                calls.append(stream.record(ends[-1]))
        work[f"copies {i}"] = calls
        events.append((start, ends))
    context.run_behind_gate(work)
    seen = [_Seen(start.time(), [end.time() for end in ends]) for start, ends in events]
    return seen, release.time() if posted != "together" else 0.0
