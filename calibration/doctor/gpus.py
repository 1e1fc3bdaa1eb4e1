"""GPUs themselves: which they are, who uses them, power and clocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from calibration.doctor.findings import Finding, Severity, names
from calibration.host import Gpu, Host, by_kind

HOT = 85.0
"""GPUs slow down not far above this temperature, C."""

SLOWED: dict[int, tuple[Severity, str]] = {
    0x2: ("note", "clocks are set by hand (application clocks)"),
    0x4: ("note", "at the power cap"),
    0x8: ("warning", "hardware slowdown"),
    0x20: ("warning", "too hot (software slowdown)"),
    0x40: ("warning", "too hot (hardware slowdown)"),
    0x80: ("warning", "power brake: the host cuts the GPU's power"),
}
"""NVML's bits of clock event reasons."""


def check_gpus(host: Host) -> Iterator[Finding]:
    """Which GPUs there are, and whether they are equal and whole."""
    if not host.gpus:
        yield Finding(
            "error",
            "GPUs",
            "none: nvidia-smi is missing or lists none",
            "simulating needs none; to measure, install NVIDIA's driver, or start the container with --gpus all",
        )
        return
    kinds = by_kind(host.gpus, lambda gpu: gpu.name)
    said = [f"{len(gpus)} x {name}" + (f" ({names(gpus)})" if len(kinds) > 1 else "") for name, gpus in kinds.items()]
    drivers = dict.fromkeys(gpu.driver or "unknown" for gpu in host.gpus)
    yield Finding("ok", "GPUs", f"{', '.join(said)}, driver {' / '.join(drivers)}")
    same: dict[str, Callable[[Gpu], Any]] = {
        "names": lambda g: g.name,
        "memories": lambda g: g.memory,
        "PCIe links": lambda g: (g.link_generation_max, g.link_width_max),
        "power limits": lambda g: g.power_limit,
        "highest clocks": lambda g: (g.clock_max, g.memory_clock_max),
        "ECC modes": lambda g: g.ecc,
    }
    if differing := [what for what, of in same.items() if len({of(g) for g in host.gpus}) > 1]:
        yield Finding(
            "warning",
            "GPUs",
            f"they differ in {', '.join(differing)}",
            "a profile describes equal GPUs: choose some with CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER=PCI_BUS_ID",
        )
    if split := [g for g in host.gpus if g.mig]:
        yield Finding("error", "GPUs", f"{names(split)} split into instances (MIG)", "measure on whole GPUs")
    if (chosen := host.environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        seen = f"CUDA_VISIBLE_DEVICES={chosen}"
        yield Finding("note", "GPUs", seen, "measurements use only these GPUs; this report covers all")


def check_processes(host: Host) -> Iterator[Finding]:
    """Who else uses them."""
    for gpu in host.gpus:
        if others := [pid for pid in gpu.processes if pid != os.getpid()]:
            yield Finding(
                "error",
                "other processes",
                f"GPU{gpu.index} is used by {', '.join(map(str, others))}",
                "wait until they end, or choose other GPUs: their kernels and copies would be measured too",
            )


def check_power(host: Host) -> Iterator[Finding]:
    """Power caps, clocks held down, heat, persistence."""
    for gpu in host.gpus:
        limit, default = gpu.power_limit, gpu.power_default
        if limit and default and limit < default:
            seen = f"GPU{gpu.index}: capped at {limit:g} of {default:g} W"
            yield Finding("warning", "power", seen, "compute will be slower; right only if it is to run so")
        for bit, (severity, words) in SLOWED.items():
            if gpu.throttle and gpu.throttle & bit:
                advice = "let it cool, or look at its power and cooling" if severity == "warning" else ""
                yield Finding(severity, "clocks", f"GPU{gpu.index}: {words}", advice)
        if gpu.temperature and gpu.temperature >= HOT:
            yield Finding("warning", "temperature", f"GPU{gpu.index}: {gpu.temperature:g} C", "let it cool")
    if lazy := [g for g in host.gpus if g.persistence is False]:
        advice = "the driver unloads between runs, and the first of each is slow: nvidia-smi -pm 1, as root"
        yield Finding("note", "persistence", f"off on {names(lazy)}", advice)
