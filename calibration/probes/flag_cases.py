"""Cases of flags in host memory."""

from __future__ import annotations

from collections.abc import Iterator

from calibration.probes.case import Params, ProbeCase, timed_case
from calibration.probes.scales import Scale

PATTERNS = ("host_wait+copy", "host_write+copy+host_write", "kernel+host_write", "kernel+host_wait")
"""Commands of one turn of a train, as those of flags in device memory."""

TURNS = 50
"""How often two streams hand over to each other."""


def host_flag_cases(scale: Scale, gpus: int) -> Iterator[ProbeCase]:
    """What they cost, order and how fast they are heard."""
    params: Params
    for pattern in PATTERNS:
        copied = scale.commands if "copy" in pattern else (0,)
        for size in copied:
            params = {"pattern": pattern, "bytes": size, "count": scale.train, "beside": None}
            params["repeats"] = scale.repeats
            name = f"host_flag/{pattern}" + (f"/{size}" if size else "")
            yield timed_case(name, "commands", params, scale.train * (size / scale.rate + 10e-6))
    for work in ("kernel", "copy"):
        params = {"by": "host_flag", "work": work, "seconds": 0.5e-3, "bytes": scale.copies[-2] // 4}
        params["repeats"] = 2 * scale.repeats
        yield timed_case(f"host_flag/wake/{work}", "wake", params, 1.5e-3)
    yield timed_case("host_flag/order", "host_flag_order", {"repeats": 1}, 0.1)
    for ranks in (1, 2) if gpus > 1 else (1,):
        params = {"ranks": ranks, "count": TURNS, "repeats": scale.repeats}
        yield timed_case(f"host_flag/turns/{ranks}", "host_flag_turns", params, 2 * TURNS * 10e-6)
