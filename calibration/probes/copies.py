"""Copies between pinned host memory and devices: trains in one or both directions, on one or several GPUs at once."""

from __future__ import annotations

from statistics import median
from typing import Any

from calibration.probes.context import Context, Measured

Params = dict[str, Any]


def copy(context: Context, params: Params, background_scale: int) -> Measured:
    """`count` copies back to back between others that are not measured.

    Quantities: "h2d" and "d2h", s a copy. A lone copy has nothing before or after it but the two events.
    """
    size, count, ranks = params["bytes"], params["count"], params["ranks"]
    directions = params["directions"]
    tail = min(params["tail"] * background_scale, 300)
    samples: dict[str, list[float]] = {direction: [] for direction in directions}
    ends, lasts = [], []
    for repeat in range(params["repeats"] + 1):
        work, opened, bounds = {}, {}, {}
        for direction in directions:
            stream = context.device.stream(direction)
            opened[direction] = context.event()
            bounds[direction] = start, end, last = context.event(), context.event(), context.event()
            work[direction] = [
                stream.record(opened[direction]),
                *context.copies(stream, direction, size, params["lead"]),
                stream.record(start),
                *context.copies(stream, direction, size, count),
                stream.record(end),
                *context.copies(stream, direction, size, tail),
                stream.record(last),
            ]
        context.run_behind_gate(work, ranks)
        if repeat == 0:
            continue  # first touch of the memory
        for direction, (start, end, _) in bounds.items():
            samples[direction].append((end.time() - start.time()) / count)
        ends.append(max(end.time() - opened[d].time() for d, (_, end, _) in bounds.items()))
        lasts.append(min(last.time() - opened[d].time() for d, (_, _, last) in bounds.items()))
    window = (median(ends), median(lasts)) if ranks > 1 or len(directions) > 1 else None
    return Measured(samples, window=window)
