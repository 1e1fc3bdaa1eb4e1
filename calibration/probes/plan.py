"""What is measured: a list of cases as plain data, with the time that each is expected to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calibration.probes.case import Params, ProbeCase, repeats, timed_case
from calibration.probes.copy_cases import copy_cases
from calibration.probes.flag_cases import host_flag_cases
from calibration.probes.scales import CPU, FULL, KIB, MIB, QUICK, Kind, Scale

LONG = 64 * MIB
"""Copies of at least this size (B) show rates: what a copy takes besides its bytes is under 1 % of their time."""

QUEUE = 800
"""Commands that a parked stream is given at most: the driver takes about 1,000 before it blocks the host."""

BLOCK_KERNELS = 10
"""Kernels of a block, of which `count` make a chain."""

COLLECTIVES = ("all_to_all", "all_reduce", "all_gather", "reduce_scatter")

PATTERNS = ("copy", "copy+event", "copy+timed", "wait+copy", "write+copy+write", "wait+write+copy+write")
"""Commands of one turn of a train on a copy stream; "timed" is an event that takes the time."""

KERNEL_PATTERNS = ("kernel", "kernel+event", "kernel+write", "kernel+wait")
"""Commands of one turn of a train on the compute stream."""

CALLS = (
    "gemm",
    "elementwise",
    "triton",
    "copy",
    "device_copy",
    "event",
    "event_wait",
    "write_flag",
    "wait_flag",
    "collective",
    "exchange",
)
"""What host threads issue."""


def plan(gpus: int, quick: bool, device: Kind = "cuda") -> list[ProbeCase]:
    """The cases for `gpus` GPUs (processes on a CPU), in the order in which they are run.

    Raises:
        ValueError: there are none.
    """
    if gpus < 1:
        raise ValueError(f"gpus is {gpus}, at least 1 is needed")
    scale = CPU if device == "cpu" else QUICK if quick else FULL
    cases = [
        *_device(),
        *_compute(scale, device),
        *_copies(scale, gpus),
        *_commands(scale),
        *_host(scale, gpus, device),
        *_interference(scale),
    ]
    if gpus > 1:
        cases += [
            *_collectives(scale, gpus),
            *_contended_collectives(scale, gpus),
            *_stream_interference(scale, gpus),
            *_transfers(scale),
        ]
    if device == "cuda":
        cases += _sm_copies(scale, gpus, quick)
    # last: more streams change how fast a stream of the process hears of another
    cases = [*cases, *copy_cases(scale, gpus), *host_flag_cases(scale, gpus)]
    return [*cases, ProbeCase("device/overhead", "device_overhead", {}, 0.05)]


def listing(cases: Sequence[ProbeCase]) -> list[str]:
    """A line a case with its expected seconds, and one with their sum; starting the processes comes on top."""
    lines = [f"{case.seconds:7.2f} s  {case.name}" for case in cases]
    return [*lines, f"{sum(case.seconds for case in cases):7.1f} s  {len(cases)} cases"]


def rank_counts(gpus: int) -> list[int]:
    """2, 4, 8 ... and all."""
    counts = [n for n in (2, 4, 8, 16) if n < gpus]
    return [*counts, gpus] if gpus > 1 else []


def _device() -> Iterator[ProbeCase]:
    yield ProbeCase("device/memory", "device", {}, 0.05)


def _copies(scale: Scale, gpus: int) -> Iterator[ProbeCase]:
    params: Params
    for ranks in [1, *rank_counts(gpus)]:
        for directions in (["h2d"], ["d2h"], ["h2d", "d2h"]):
            sizes = scale.copies if directions != ["h2d", "d2h"] and ranks in (1, gpus) else scale.copies[-2:]
            for size in sizes:
                # traffic before and after the measured train covers what the streams start and end apart
                single = ranks == 1 and len(directions) == 1
                count = min(max(round(scale.window_s * scale.rate / size), 2), scale.train)
                around = 0 if single else min(max(round(1.5e-3 * scale.rate / size), 1), scale.train)
                params = {"directions": directions, "ranks": ranks, "bytes": size, "count": count}
                params |= {"lead": max(around, 1), "tail": around, "repeats": repeats(scale, count * size)}
                name = f"copy/{'+'.join(directions)}/{ranks}/train/{size}"
                yield timed_case(name, "copy", params, (count + 2 * around) * size * len(directions) / scale.rate)
    for direction in ("h2d", "d2h"):
        for size in scale.copies:
            params = {
                "directions": [direction],
                "ranks": 1,
                "bytes": size,
                "count": 1,
                "lead": 0,
                "tail": 0,
            }
            params["repeats"] = repeats(scale, size)
            yield timed_case(f"copy/{direction}/1/lone/{size}", "copy", params, size / scale.rate)


def _commands(scale: Scale) -> Iterator[ProbeCase]:
    params: Params
    for beside in (None, "kernel"):
        for size in scale.commands:
            for pattern in PATTERNS:
                count = min(scale.train, QUEUE // (pattern.count("+") + 1))
                params = {"pattern": pattern, "bytes": size, "count": count, "beside": beside}
                params["repeats"] = scale.repeats
                name = f"commands/{pattern}/{'beside' if beside else 'alone'}/{size}"
                yield timed_case(name, "commands", params, count * (size / scale.rate + 10e-6))
        for pattern in KERNEL_PATTERNS:
            params = {"pattern": pattern, "bytes": 0, "count": scale.train, "beside": beside}
            params["repeats"] = scale.repeats
            name = f"commands/{pattern}/{'beside' if beside else 'alone'}"
            yield timed_case(name, "commands", params, scale.train * 8e-6)
    for by in ("event", "flag"):
        for work in ("kernel", "copy"):
            params = {"by": by, "work": work, "seconds": 0.5e-3, "bytes": scale.copies[-2] // 4}
            yield timed_case(f"wake/{by}/{work}", "wake", params | {"repeats": 2 * scale.repeats}, 1.5e-3)


def _host(scale: Scale, gpus: int, device: Kind) -> Iterator[ProbeCase]:
    params: Params
    for call in CALLS:
        if not (call in ("collective", "exchange") and gpus == 1) and not (call == "triton" and device == "cpu"):
            params = {"call": call, "count": 32, "repeats": scale.repeats, "bytes": 64 * KIB}
            params["ranks"] = {"collective": gpus, "exchange": 2}.get(call, 1)
            yield timed_case(f"issue/{call}", "issue", params, 2e-3)
    hold = 0.2 if device == "cuda" else 0.05
    for call in ("elementwise", "write_flag", "copy", "write_flag+copy"):
        params = {"call": call, "limit": 5000, "hold_s": hold, "bytes": 4 * KIB, "repeats": 2}
        yield timed_case(f"depth/{call}", "depth", params, hold)
    yield timed_case("host_wake/event", "host_wake", {"seconds": 1e-3, "repeats": 2 * scale.repeats}, 5e-3)


def _compute(scale: Scale, device: Kind) -> Iterator[ProbeCase]:
    params: Params
    peak = 400e12 if device == "cuda" else 1e10
    for m, n, k in scale.gemms:
        count = min(max(round(10e-3 * peak / (2 * m * n * k)), 1), 20)
        params = {"m": m, "n": n, "k": k, "count": count, "repeats": scale.repeats}
        yield timed_case(f"gemm/{m}x{n}x{k}", "gemm", params, count * 2 * m * n * k / peak)
    for backend in ("flash", "cudnn") if device == "cuda" else ("math",):
        for tokens in scale.attention:
            heads, head = (40, 128) if device == "cuda" else (2, 16)
            work = 4 * tokens**2 * heads * head
            count = min(max(round(10e-3 * peak / work), 1), 20)
            params = {
                "backend": backend,
                "tokens": tokens,
                "heads": heads,
                "head": head,
                "count": count,
            }
            params["repeats"] = scale.long_repeats
            yield timed_case(f"attention/{backend}/{tokens}", "attention", params, count * work / peak)
    size = scale.copies[-1]
    yield timed_case(
        "device_copy", "device_copy", {"bytes": size, "count": 8, "repeats": scale.repeats}, 8 * size / 1e12
    )


def _interference(scale: Scale) -> Iterator[ProbeCase]:
    params: Params
    chunk = min(scale.chunks[-1], 16 * MIB)
    for direction in ("h2d", "d2h"):
        for work in ("elementwise", "gemm"):
            m, n, k = scale.gemms[-1]
            count = scale.train * 2 if work == "elementwise" else 12
            seconds = count * (5e-6 if work == "elementwise" else max(2 * m * n * k / 500e12, 50e-6))
            params = {"work": work, "count": count, "m": m, "n": n, "k": k, "direction": direction}
            params |= {"chunk": chunk, "rate": scale.rate, "repeats": scale.repeats}
            yield timed_case(f"launch/{work}/{direction}", "launch", params, 3 * seconds)
    for tokens in scale.blocks:
        params, seconds = _block(scale, tokens)
        params |= {"direction": "h2d", "chunk": chunk, "rate": scale.rate, "repeats": scale.repeats}
        yield timed_case(f"launch/block/{tokens}", "launch", params, 3 * seconds)


def _block(scale: Scale, tokens: int) -> tuple[Params, float]:
    """A chain of blocks, and the seconds that it takes."""
    width, ffn, heads = (5120, 13824, 40) if scale.window_s > 2e-3 else (32, 64, 2)
    flops = tokens * width * (8 * width + 4 * ffn) + 4 * tokens**2 * width
    params: Params = {"work": "block", "count": 4, "tokens": tokens, "width": width, "ffn": ffn, "heads": heads}
    return params, 4 * max(flops / 400e12, 50e-6)


def _collectives(scale: Scale, gpus: int) -> Iterator[ProbeCase]:
    params: Params
    for ranks in rank_counts(gpus):
        for kind in COLLECTIVES:
            for size in scale.collectives:
                count = min(max(round(2 * scale.window_s * scale.rate / size), 2), 30)
                params = {"collective": kind, "ranks": ranks, "bytes": size, "count": count}
                params["repeats"] = repeats(scale, count * size)
                yield timed_case(f"collective/{kind}/{ranks}/{size}", "collective", params, count * size / 25e9 + 2e-3)


def _transfers(scale: Scale) -> Iterator[ProbeCase]:
    """Sends from one rank to another, and with one in reverse at the same time."""
    for size in scale.collectives[1:4]:
        for both in (False, True):
            count = min(max(round(2 * scale.window_s * scale.rate / size), 2), 30)
            params: Params = {"ranks": 2, "bytes": size, "both": both, "count": count}
            params["repeats"] = repeats(scale, count * size)
            name = f"transfer/{'both' if both else 'one'}/{size}"
            yield timed_case(name, "transfer", params, count * size / 20e9 + 2e-3)


def _contended_collectives(scale: Scale, gpus: int) -> Iterator[ProbeCase]:
    for kind in COLLECTIVES:
        main = kind in ("all_to_all", "all_reduce")
        for size in scale.contended_collectives if main else scale.contended_collectives[:1]:
            few = dict.fromkeys((scale.chunks[len(scale.chunks) > 1], _longest(scale)))
            for chunk in scale.chunks if main else few:
                for direction in ("h2d", "d2h") if kind == "all_to_all" and chunk == _longest(scale) else ("h2d",):
                    yield _beside_case(scale, gpus, kind, size, chunk, direction)


def _stream_interference(scale: Scale, gpus: int) -> Iterator[ProbeCase]:
    """The all_gathers of a sharded schedule with collectives, and with kernels, of the compute stream."""
    params: Params
    other: Params = {"other": "all_gather", "other_bytes": scale.contended_collectives[-1], "ranks": gpus}
    window, cover = 2 * scale.window_s, 8
    for kind in ("all_to_all", "all_reduce"):
        for size in scale.contended_collectives:
            params = {"collective": kind, "bytes": size, "window": window, "cover": cover, **other}
            params["repeats"] = scale.long_repeats
            yield timed_case(f"pair/{kind}/{size}/all_gather", "pair", params, 1.5 * cover * window)
    for tokens in scale.blocks:
        params, seconds = _block(scale, tokens)
        params |= {**other, "repeats": scale.long_repeats}
        yield timed_case(f"crowd/block/{tokens}/all_gather", "crowd", params, 4 * seconds)


def _longest(scale: Scale) -> int:
    """Chunks that show rates best: costs of a copy are under 1 % of their time, and many pass in a window."""
    return min(scale.chunks[-1], 64 * MIB)


def _beside_case(scale: Scale, gpus: int, kind: str, size: int, chunk: int, direction: str) -> ProbeCase:
    # several chunks must pass during the collectives for their rate to be seen
    window = max(2 * scale.window_s, 5 * chunk / scale.rate)
    params: Params = {
        "collective": kind,
        "ranks": gpus,
        "bytes": size,
        "window": window,
        "direction": direction,
        "chunk": chunk,
        "events_every": max(round(0.4e-3 * scale.rate / chunk), 1),
        "lead": max(round(1.5e-3 * scale.rate / chunk), 1),
        "copies": max(round(4 * window * scale.rate / chunk), 8),
        "repeats": scale.long_repeats,
    }
    return timed_case(f"beside/{kind}/{size}/{direction}/{chunk}", "beside", params, 4.5 * window)


def _sm_copies(scale: Scale, gpus: int, quick: bool) -> Iterator[ProbeCase]:
    params: Params
    for ctas in (1, 4, 8) if quick else (1, 2, 3, 4, 6, 8):
        params = {"ctas": ctas, "ranks": gpus, "bytes": scale.copies[-1], "collective": "all_to_all"}
        params |= {"size": scale.contended_collectives[0], "count": 3, "repeats": scale.long_repeats}
        yield timed_case(f"sm_copy/{ctas}", "sm_copy", params, 2 * scale.copies[-1] / (min(ctas, 3) * 15e9))
