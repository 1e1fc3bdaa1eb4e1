"""Figures of a run: attainment of deadlines, latencies, utilisation, why requests were late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sim.serving.jobs import Request
from sim.serving.serve import UNLIMITED, Served

SCHEMA_VERSION = 1
REASONS = ("queue", "preempted", "slow step", "contention", "switching")
"""Why a request was late (`Request.reason`)."""
PERCENTILES = (50, 90, 95, 99)
PARTS = ("queued", "paused", "switching", "isolated", "contention")
"""What a latency consists of."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in ascending order, by linear interpolation between the two nearest; 0 where there are none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 50)
    2.5
    """
    if not ordered:
        return 0.0
    at = (len(ordered) - 1) * percent / 100.0
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def figures(served: Served) -> dict[str, Any]:
    """What `serve --json` prints of one run: plain data; times in s."""
    prepared, requests = served.prepared, served.requests
    makespan = served.makespan
    capacity = prepared.gpus * makespan
    classes = {}
    for name, cls in prepared.classes.items():
        mine = [request for request in requests if request.cls is cls]
        classes[name] = {
            **_of(mine),
            "utilisation": served.busy.get(name, 0.0) / capacity if capacity else 0.0,
            "step_time_s": {str(degree): cls.step(degree) for degree in cls.degrees},
            "isolated_latency_s": {str(degree): cls.latency(degree) for degree in cls.degrees},
            "deadline_s": cls.allowance() * float(prepared.scenario.deadline_scale),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "scheduler": prepared.scenario.scheduler.kind,
        "gpus": prepared.gpus,
        "seed": served.seed,
        "rate_per_s": len(requests) / float(prepared.scenario.duration) if not prepared.rate else prepared.rate,
        **_of(requests),
        "makespan_s": makespan,
        "utilisation": sum(served.busy.values()) / capacity if capacity else 0.0,
        "peak_memory_bytes": max(served.peak_memory),
        "memory_bytes": None if prepared.memory == UNLIMITED else prepared.memory,
        "classes": classes,
    }


def _of(requests: Sequence[Request]) -> dict[str, Any]:
    count = len(requests)
    latencies = sorted(request.latency for request in requests)
    reasons = Counter(request.reason() for request in requests)
    found: dict[str, Any] = {
        "requests": count,
        "attainment": sum(request.met for request in requests) / count if count else 1.0,
        "latency_mean_s": sum(latencies) / count if count else 0.0,
    }
    found |= {f"latency_p{percent}_s": percentile(latencies, percent) for percent in PERCENTILES}
    found["mean_s"] = {part: sum(getattr(r, part) for r in requests) / count if count else 0.0 for part in PARTS}
    found["missed"] = {reason: reasons[reason] for reason in REASONS}
    return found
