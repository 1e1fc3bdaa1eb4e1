"""Cases of copies on several streams, within a GPU's memory, between GPUs, and of pageable memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calibration.probes.case import Params, ProbeCase, repeats, timed_case
from calibration.probes.scales import Scale

DELAY_S = 1e-3
"""How long after the first copy others are posted while it is in flight; what holds a stream takes as long."""

BUSY_S = 4e-3
"""Length of a kernel that a pageable copy is posted behind, s."""

CHUNKS = 16
"""Copies of a train."""

BETWEEN = ("timed", "nothing", "waits")
"""What is between them: events that take the time, nothing, or flag waits that are satisfied."""

MORE_BETWEEN = ("events", "eventwaits", "writes")
"""The same of one direction: events without time, event waits that are satisfied, and flag writes."""

DEVICE_RATE = 1e12
"""Expected rate of copies within a GPU's memory, B/s."""

PAGEABLE_RATE = 5e9
"""Expected rate of pageable copies, B/s."""


def copy_cases(scale: Scale, gpus: int) -> Iterator[ProbeCase]:
    """All of these."""
    yield from _engines(scale)
    yield from _within(scale)
    yield from _pageable(scale)
    if gpus > 1:
        yield from _peers(scale)


def _train(direction: str, size: int, count: int = 1) -> Params:
    return {"direction": direction, "bytes": size, "count": count}


def _engines(scale: Scale) -> Iterator[ProbeCase]:
    small, *_, long = scale.engines
    chunk = scale.chunk
    for direction in ("h2d", "d2h"):
        for size in scale.engines:
            yield _engine(scale, f"{direction}/2/{size}", [_train(direction, size)] * 2)
        yield _engine(scale, f"{direction}/3/{long}", [_train(direction, long)] * 3)
        for size in (small, chunk):
            trains = [_train(direction, long), _train(direction, size)]
            yield _engine(scale, f"{direction}/{long}/then/{size}", trains, "in_flight")
        for between in BETWEEN:
            train, late = _train(direction, chunk, CHUNKS), _train(direction, small)
            name = f"{direction}/{CHUNKS}x{chunk}/{between}"
            yield _engine(scale, f"{name}/2", [train] * 2, between=between)
            yield _engine(scale, f"{name}/then/{small}", [train | {"count": 2 * CHUNKS}, late], "in_flight", between)
        yield _engine(scale, f"{direction}/held/{chunk}", [_train(direction, chunk)] * 2, "held")
    for between in MORE_BETWEEN:
        trains = [_train("h2d", chunk, CHUNKS)] * 2
        yield _engine(scale, f"h2d/{CHUNKS}x{chunk}/{between}/2", trains, between=between)
    waiting = [_train("h2d", chunk, 2)] * 2
    yield _engine(scale, f"h2d/{long}/then/2x2x{chunk}", [_train("h2d", long), *waiting], "in_flight")
    for size in (small, chunk):
        trains = [_train("h2d", long), _train("d2h", size)]
        yield _engine(scale, f"h2d+d2h/{long}/then/{size}", trains, "in_flight")


def _engine(
    scale: Scale, name: str, trains: Sequence[Params], posted: str = "together", between: str = "timed"
) -> ProbeCase:
    moved = sum(t["bytes"] * t["count"] for t in trains if t["direction"] != "d2d")
    params: Params = {"trains": list(trains), "posted": posted, "between": between, "delay": DELAY_S}
    params["repeats"] = scale.long_repeats if moved > scale.engines[-1] / 8 else scale.repeats
    return timed_case(f"engine/{name}", "engine", params, 2 * moved / scale.rate + 4e-3)


def _sizes(scale: Scale) -> list[int]:
    """Sizes from which a line is fitted."""
    return [size for size in scale.copies if size <= scale.engines[-1]]


def _within(scale: Scale) -> Iterator[ProbeCase]:
    """Isolated, concurrent, and concurrent with copies over the link."""
    small, *_, long = scale.engines
    for size in _sizes(scale):
        count = min(max(round(scale.window_s * DEVICE_RATE / 10 / size), 4), scale.train)
        params: Params = {"directions": ["d2d"], "ranks": 1, "bytes": size, "count": count, "lead": 1, "tail": 0}
        params["repeats"] = scale.repeats
        yield timed_case(f"d2d/train/{size}", "copy", params, count * size / DEVICE_RATE)
    yield _engine(scale, f"d2d/2/{long}", [_train("d2d", long)] * 2)
    for link in ("h2d", "d2h"):
        concurrent = [_train(link, long), _train("d2d", long, CHUNKS)]
        yield _engine(scale, f"{link}+d2d/{long}x{CHUNKS}", concurrent)
        late = [_train(link, long), _train("d2d", small)]
        yield _engine(scale, f"{link}+d2d/{long}/then/{small}", late, "in_flight")


def _pageable(scale: Scale) -> Iterator[ProbeCase]:
    for direction in ("h2d", "d2h"):
        for busy in (0.0, BUSY_S) if direction == "h2d" else (0.0,):
            for size in scale.pageable_behind_kernel if busy else scale.pageable:
                params: Params = {"direction": direction, "bytes": size, "busy": busy, "pool": scale.pageable[-1]}
                params["repeats"] = repeats(scale, size * scale.rate / PAGEABLE_RATE)
                name = f"pageable/{direction}/{'behind' if busy else 'idle'}/{size}"
                yield timed_case(name, "pageable", params, size / PAGEABLE_RATE + busy)


def _peers(scale: Scale) -> Iterator[ProbeCase]:
    for size in _sizes(scale):
        count = min(max(round(scale.window_s * scale.rate / size), 2), scale.train)
        params: Params = {"ranks": 2, "bytes": size, "count": count, "pool": scale.engines[-1]}
        params["repeats"] = scale.long_repeats
        yield timed_case(f"peer/{size}", "peer_copy", params, 3 * count * size / scale.rate)
