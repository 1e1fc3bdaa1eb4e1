"""A case of a plan as plain data, and the time that it is expected to take."""

from __future__ import annotations

from typing import Any

import msgspec

from calibration.probes.scales import Scale

Params = dict[str, Any]


class ProbeCase(msgspec.Struct, frozen=True):
    """One case: its unique name ("group/..."), the probe that runs it, the probe's parameters, expected seconds."""

    name: str
    kind: str
    params: Params
    seconds: float

    @property
    def group(self) -> str:
        """The first part of the name; clocks and power are sampled around a group."""
        return self.name.split("/")[0]

    @property
    def ranks(self) -> int:
        """GPUs that take part."""
        return int(self.params.get("ranks", 1))


def repeats(scale: Scale, size: float) -> int:
    """How often a case that moves `size` bytes is repeated."""
    return scale.long_repeats if size > 0.02 * scale.rate else scale.repeats


def timed_case(name: str, kind: str, params: Params, once: float) -> ProbeCase:
    """`once` is the device time of one repeat, s; a rehearsal and about 4 ms of host time a repeat come on top."""
    return ProbeCase(name, kind, params, round(0.02 + (int(params.get("repeats", 1)) + 1) * (once + 4e-3), 3))
