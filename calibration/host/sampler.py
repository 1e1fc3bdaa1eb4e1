"""Clocks, power and temperature of GPUs over time."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from statistics import median
from types import TracebackType
from typing import Any

from calibration.host.nvidia_smi import known_fields, mask_of, number_of, query

IDLE = 1
"""The bit of clock event reasons that says that there is nothing to do."""


class Sampler:
    """Samples clocks, power and temperature of all GPUs while its context is active; `summary` gives them."""

    QUERY = ("index", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
    REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
    UNITS = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")

    def __init__(self, period_s: float = 0.2) -> None:
        self._period_s = period_s
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._samples: dict[tuple[str, str], list[float]] = {}
        self.throttled: set[str] = set()
        """Masks of reasons why clocks were held down, in hexadecimal; 0 and idle left out."""
        self.source: str | None = None
        """What is asked: pynvml, nvidia-smi, or None where there is no GPU and nothing is sampled."""

    def __enter__(self) -> Sampler:
        work: Callable[[], None] | None = None
        if poll := self._nvml():
            self.source, work = "pynvml", poll
        elif (program := shutil.which("nvidia-smi")) and (known := known_fields((*self.QUERY, *self.REASONS))):
            self.source, work = "nvidia-smi", self._read
            command = [program, *query((*self.QUERY, *known[len(self.QUERY) :][:1]))]
            command.append(f"--loop-ms={round(self._period_s * 1e3)}")
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if work:
            self._over.clear()
            self._thread = threading.Thread(target=work, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._process:
            self._process.terminate()
            self._process.wait()
        if self._thread:
            self._thread.join()

    def _nvml(self) -> Callable[[], None] | None:
        """What samples through NVML until it is over; None where that cannot be done."""
        try:
            import pynvml

            pynvml.nvmlInit()
            gpus = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except Exception:  # its own errors, or none of its library's functions in an old driver
            return None
        asked: list[Callable[[Any], float]] = [
            lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
            lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
            lambda gpu: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        ]

        def answer(ask: Callable[[Any], float], gpu: Any) -> float | None:
            try:
                return ask(gpu)
            except (pynvml.NVMLError, AttributeError):  # this GPU, or this version of pynvml, does not say
                return None

        def poll() -> None:
            while True:
                for i, gpu in enumerate(gpus):
                    *values, mask = (answer(ask, gpu) for ask in asked)
                    self._take(str(i), values, None if mask is None else int(mask))
                if self._over.wait(self._period_s):
                    break
            pynvml.nvmlShutdown()

        return poll if gpus else None

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.add(line)

    def add(self, line: str) -> None:
        """Take one line of nvidia-smi's answer."""
        cells = [c.strip() for c in line.split(",")]
        if len(cells) >= len(self.QUERY) and cells[0].isdigit():
            self._take(cells[0], [number_of(c) for c in cells[1 : len(self.QUERY)]], mask_of(cells[-1]))

    def _take(self, gpu: str, values: Sequence[float | None], mask: int | None) -> None:
        for name, value in zip(self.UNITS, values, strict=True):
            if value is not None:
                self._samples.setdefault((f"gpu{gpu}", name), []).append(value)
        if mask and mask & ~IDLE:
            self.throttled.add(f"0x{mask:016x}")

    def summary(self) -> dict[str, dict[str, float]]:
        """GPU and quantity -> least, median and most; empty without a GPU."""
        return {
            f"{gpu} {name}": {"min": min(values), "median": median(values), "max": max(values)}
            for (gpu, name), values in sorted(self._samples.items())
        }
