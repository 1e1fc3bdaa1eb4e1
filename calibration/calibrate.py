"""Calibration: look at the host, probe it, fit a profile, and write profile, raw rows and residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from calibration.fitting import Calibrated, fit_rows, to_yaml
from calibration.fitting.page import residual_page
from calibration.probes import RAW, ProbeCase, Row, load_rows, plan, run
from calibration.probes.runner import Progress
from calibration.probes.scales import Kind
from sim.output import write_atomically

RESIDUALS = "residuals.html"
"""The page of residuals in a calibration's folder."""


class Written(NamedTuple):
    """What a calibration found, and the files that it wrote."""

    calibrated: Calibrated
    profile: Path
    raw: Path
    residuals: Path


def dry_run(quick: bool = False, gpus: int | None = None) -> list[ProbeCase]:
    """The cases that `calibrate` would run here, each with the seconds that it is expected to take."""
    kind, found = detect()
    return plan(gpus or found, quick, kind)


def detect() -> tuple[Kind, int]:
    """("cuda", number of GPUs), or ("cpu", 1) where there are none."""
    from calibration.torch_machine import devices

    kind, gpus = devices()
    return ("cuda", gpus) if kind == "cuda" else ("cpu", 1)


def calibrate(
    out: Path,
    name: str,
    quick: bool = False,
    progress: Progress = lambda case, row: None,
    gpus: int | None = None,
) -> Written:
    """Measure this host and write `name`.yaml, raw.jsonl and residuals.html into the folder `out`.

    A run that was cut off goes on where it was. `progress` is called before each case with None and after it with its
    row. `gpus`: how many GPUs (processes on a CPU) to use; all there are, unless given.

    Raises:
        ProbeError: the probes cannot be run.
        RowError: `out` holds raw rows that cannot be read.
        FitError: the rows make no sense; they stay where they are.
        OSError: a file cannot be written.
    """
    cases = dry_run(quick, gpus)
    rows = run(cases, out, progress)
    return write(rows, out, name)


def refit(out: Path, name: str, fingerprint: Mapping[str, str] | None = None) -> Written:
    """Fit anew to the raw rows in `out`, and write as `calibrate` does. Raises RowError, FitError, OSError.

    `fingerprint` says what the host is; as the rows say, unless given.
    """
    return write(load_rows(out / RAW), out, name, fingerprint)


def write(rows: Sequence[Row], out: Path, name: str, fingerprint: Mapping[str, str] | None = None) -> Written:
    """Fit `rows` and write the profile and the page. Raises FitError, OSError."""
    calibrated = fit_rows(rows, name, fingerprint)
    about = calibrated.profile.description
    remarks = f"{about}. Sources name rows of {RAW}; {RESIDUALS} shows how well the numbers fit them."
    written = Written(calibrated, out / f"{name}.yaml", out / RAW, out / RESIDUALS)
    write_atomically(written.profile, to_yaml(calibrated.plain, remarks))
    write_atomically(written.residuals, residual_page(calibrated, rows))
    return written
