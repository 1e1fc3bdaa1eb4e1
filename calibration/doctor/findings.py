"""What was looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from calibration.host import Gpu

Severity = Literal["ok", "note", "warning", "error"]

SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "error")
"""From harmless to what makes measuring impossible or its numbers wrong."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was seen and, unless all is well, what to do."""

    severity: Severity
    topic: str
    seen: str
    advice: str = ""


def names(gpus: Iterable[Gpu]) -> str:
    """GPU0, GPU1 ..."""
    return ", ".join(f"GPU{gpu.index}" for gpu in gpus)
