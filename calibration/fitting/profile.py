"""A fitted profile as plain data, every number with its unit, uncertainty and the rows behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from calibration.fitting.collectives import (
    KINDS,
    OPTIONAL,
    CollectivePath,
    Kind,
    collective_path,
    fit_collective,
    peak_host_traffic,
)
from calibration.fitting.compute import fit_device
from calibration.fitting.copies import fit_copies, fit_resources
from calibration.fitting.copy_engines import fit_copy_engines
from calibration.fitting.estimators import Fitted
from calibration.fitting.pageable import fit_pageable
from calibration.fitting.selection import Rows
from calibration.fitting.stream_interference import fit_stream_interference
from calibration.fitting.streams import fit_streams
from calibration.host import HOST_MEMORY
from sim.hardware import Profile
from sim.hardware.profile_text import InOneLine

UNITS = {
    "B/s": (("TB/s", 1e12), ("GB/s", 1e9), ("MB/s", 1e6)),
    "FLOP/s": (("TFLOP/s", 1e12), ("GFLOP/s", 1e9)),
    "s": (("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)),
    "B": (("GB", 1e9), ("MB", 1e6)),
}
"""Units that numbers are written in, largest first."""


def fit_plain(
    rows: Rows, name: str, description: str, fingerprint: Mapping[str, str], fallback: Profile
) -> dict[str, Any]:
    """The profile's plain data. What was not measured has the value of `fallback`. Raises FitError."""
    copies = fit_copies(rows) | fit_copy_engines(rows)
    pageable = fit_pageable(rows, copies)
    streams = fit_streams(rows, copies, fallback)
    shared = fit_resources(rows, copies)
    event = streams["streams.event"].value
    measured = bool(rows.find("collective"))
    path = (
        collective_path(rows, copies, event) if measured else CollectivePath(None, "not measured: no collectives were")
    )
    kinds = {kind: fit_collective(rows, kind, copies, event, path.nvlink is not None) for kind in KINDS}
    device = fit_device(rows)
    interference = fit_stream_interference(rows, kinds, path.nvlink is not None) if measured else None
    if interference:
        device["beside_collective"] = interference.beside_collective
        streams["streams.crowd_delay"] = interference.crowd_delay
    factors = interference.rate_factors if interference else {}
    shown = {k: number(v, _DEVICE.get(k, "")) for k, v in device.items()}
    if re.fullmatch(r"\d+ MiB", reported := fingerprint.get("memory", "")):  # CUDA's own count is less
        shown["memory"] = InOneLine(value=reported, source="nvidia-smi, memory.total")
    return {
        "name": name,
        "description": description,
        "fingerprint": dict(fingerprint),
        "gpus": rows.gpus,
        "device": {"name": rows.gpu} | shown,
        "topology": _topology(shared, path, peak_host_traffic(rows, rows.gpus)),
        "h2d": _class(copies, "h2d"),
        "d2h": _class(copies, "d2h"),
        "collectives": {
            kind: _collective(found, kind, kinds, copies, path) | _plain_factors(factors.get(kind, {}))
            for kind, found in kinds.items()
            if found is not None or kind not in OPTIONAL
        },
        "streams": {k.split(".")[1]: number(v, "s") for k, v in streams.items() if k.startswith("streams.")},
        "host": {
            k.split(".")[1]: number(v, "" if k == "host.queue_depth" else "s")
            for k, v in streams.items()
            if k.startswith("host.")
        }
        | _host_memory(fingerprint),
        **{name: _class(copies, name) for name in ("d2d", "p2p") if f"{name}.cap" in copies},
        **({"pageable": _staged(pageable)} if pageable else {}),
    }


def _host_memory(fingerprint: Mapping[str, str]) -> dict[str, Any]:
    """The host's memory, where its fingerprint says it."""
    if HOST_MEMORY not in fingerprint:
        return {}
    return {"memory": InOneLine(value=fingerprint[HOST_MEMORY], source="/proc/meminfo, or the control group's limit")}


_DEVICE = {"peak_flops": "FLOP/s", "hbm_bandwidth": "B/s", "memory": "B", "overhead": "B"}
_COPIES = {"cap": "B/s", "rate": "B/s", "setup": "s", "minimum": "s", "switch": "s", "staging": "B"}
_COLLECTIVES = {"latency": "s", "latency_per_rank": "s", "copy_start": "s"}


def number(fitted: Fitted, unit: str) -> dict[str, Any]:
    """A number with four digits in a unit that suits it, its uncertainty if it is known, and its source."""
    plain = InOneLine(value=_quantity(fitted.value, unit))
    if fitted.spread is not None:
        plain["uncertainty"] = float(f"{abs(fitted.spread):.2g}")
    plain["source"] = fitted.source
    if fitted.inherited_from:
        plain["inherited_from"] = fitted.inherited_from
    return plain


def _quantity(value: float, unit: str) -> float | str:
    if unit == "":
        return float(f"{value:.4g}")
    name, factor = next(((n, f) for n, f in UNITS[unit] if value >= f), UNITS[unit][-1])
    return f"{float(f'{value / factor:.4g}'):.10g} {name}"


def _class(copies: Mapping[str, Fitted], direction: str) -> dict[str, Any]:
    keys = ("cap", "weight", "setup", "minimum", "engines", "switch")
    found = {key: copies[f"{direction}.{key}"] for key in keys if f"{direction}.{key}" in copies}
    return {key: number(fitted, _COPIES.get(key, "")) for key, fitted in found.items()}


def _staged(pageable: Mapping[str, Fitted]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for path, fitted in pageable.items():
        _, direction, key = path.split(".")
        shown = number(fitted, _COPIES[key])
        if key == "staging":  # whole bytes, as a size that the driver chose
            shown["value"] = f"{round(fitted.value)} B"
        plain.setdefault(direction, {})[key] = shown
    return plain


_MEMORY = ("out_of", "into", "through")
"""What copies share at the memory."""


def _topology(resources: Mapping[str, Fitted], path: CollectivePath, peers: float) -> dict[str, Any]:
    """GPUs at one memory, and at NVLink if collectives use it.

    `peers` is what isolated collectives move into host memory and out of it, B/s. Where that is more than copies can
    move, collectives are taken to go through the processor's cache, and not to use what limits copies.
    """
    memory: dict[str, Any] = {"kind": "memory"}
    cost = resources.get("write_cost")
    for key in _MEMORY:
        if (limit := resources.get(key)) is not None:
            memory[key] = number(limit, "B/s")
            taken = (1 + (cost.value if cost else 1.0)) if key == "through" else 1
            if path.nvlink is None and peers * taken > limit.value:
                memory[key]["carries"] = "copies"
    if cost is not None:
        memory["write_cost"] = number(cost, "")
    resource_of = {"there": "down", "back": "up", "both_ways": "duplex"}
    pcie = {key: number(resources[f"gpu{{gpu}}.{name}"], "B/s") for key, name in resource_of.items()}
    plain: dict[str, Any] = {
        "nodes": {"memory": memory},
        "links": [{"ends": ["memory", "gpu{gpu}"], "kind": "PCIe", **pcie}],
        "peers": "host",
    }
    if path.nvlink is not None:
        plain["nodes"]["nvlink"] = {"kind": "nvswitch"}
        nvlink = number(Fitted(path.nvlink, None, path.why), "B/s")
        plain["links"].append({"ends": ["gpu{gpu}", "nvlink"], "kind": "NVLink", "each_way": nvlink})
        plain["peers"] = "direct"
    return plain


def _collective(
    found: Kind | None, kind: str, kinds: Mapping[str, Kind | None], copies: Mapping[str, Fitted], path: CollectivePath
) -> dict[str, Any]:
    """A kind's plain data; one that was not measured has the values of another that was, or of a copy."""
    if found is not None:
        numbers, source = found.numbers, f"{found.source}; peers: {path.why}"
        sizes, seconds = found.bytes, found.seconds
    elif (other := next((k for k, f in kinds.items() if f is not None), None)) is not None:
        like = kinds[other]
        assert like is not None
        source = f"not measured: as {other}"
        numbers = {k: Fitted(v.value, v.spread, source) for k, v in like.numbers.items()}
        sizes, seconds = like.bytes, like.seconds
    else:
        source = "collectives were not measured: as a copy, after 20 us"
        values = {"latency": 20e-6, "latency_per_rank": 0.0, "weight": 1.0, "overhead": 1.0, "copy_start": 0.0}
        numbers = {k: Fitted(v, None, source) for k, v in values.items()}
        sizes = [2**20, 2**28]
        seconds = [20e-6 + size / copies["h2d.cap"].value for size in sizes]
    curves = found.by_ranks if found is not None else {}
    tables = {n: _table(*curve, f"collective/{kind}/{n}") for n, curve in curves.items()}
    return {
        "alone": _table(sizes, seconds, source),
        **{k: number(v, _COLLECTIVES.get(k, "")) for k, v in numbers.items()},
        **({"alone_by_ranks": tables} if tables else {}),
    }


def _plain_factors(factors: Mapping[str, Fitted]) -> dict[str, Any]:
    return {"beside": {other: number(value, "") for other, value in factors.items()}} if factors else {}


def _table(sizes: list[int], seconds: list[float], source: str) -> dict[str, Any]:
    return {"bytes": sizes, "seconds": [float(f"{t:.7g}") for t in seconds], "source": source}
