"""Calibration: look at the host, probe it, fit a profile, and write profile, raw rows and residuals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from calibration.fitting import Calibrated, FitError, fit_rows, to_yaml
from calibration.fitting.page import residual_page
from calibration.probes import ProbeCase, plan, run
from calibration.probes.runner import Progress
from sim.datasets.probe_rows import RAW, Row, RowError, load_rows
from sim.hardware.profile_check import check_profile, summaries
from sim.inputs.atomic_files import write_atomically
from sim.inputs.config import InputError

if TYPE_CHECKING:
    from calibration.torch_machine import Kind

RESIDUALS = "residuals.html"
"""The page of residuals in a calibration's folder."""


class Written(NamedTuple):
    """What a calibration found, and the files that it wrote."""

    calibrated: Calibrated
    profile: Path
    raw: Path
    residuals: Path
    contradictions: tuple[str, ...]
    """Tables of the profile that its resources do not allow, in words: see `sim.hardware.profile_check`."""
    stand_in: bool
    """Whether CPU threads were measured in place of GPUs: the profile's times mean nothing."""


def dry_run(quick: bool = False, gpus: int | None = None, kind: Kind | None = None) -> list[ProbeCase]:
    """The cases that `calibrate` would run here, each with the seconds that it is expected to take."""
    from calibration.torch_machine import devices

    found, count = devices()
    chosen = kind or found
    return plan(gpus or (count if chosen == found else 1), quick, chosen)


def calibrate(
    out: Path,
    name: str,
    quick: bool = False,
    progress: Progress = lambda case, row: None,
    gpus: int | None = None,
    kind: Kind | None = None,
) -> Written:
    """Measure this host and write `name`.yaml, raw.jsonl and residuals.html into the folder `out`.

    A run that was cut off resumes when rerun. `progress` is called before each case with None and after it with its
    row. `gpus`: how many GPUs (processes on a CPU) to use; all there are, unless given. `kind` is "cuda" or "cpu", what
    there is unless given; a CPU stands in for GPUs where only the procedure is to be tried.

    Raises:
        MachineError, ProbeError: the probes cannot be run.
        InputError: `out` holds raw rows that cannot be read, another run is writing to them, or `name` cannot name a
            file.
        FitError: the rows make no sense; they stay where they are.
        OSError: a file cannot be written.
    """
    check_name(name)
    cases = dry_run(quick, gpus, kind)
    rows = run(cases, out, progress, kind)
    return write(rows, out, name)


def refit(out: Path, name: str, fingerprint: Mapping[str, str] | None = None) -> Written:
    """Fit anew to the raw rows in `out`, and write as `calibrate` does.

    `fingerprint` says what the host is; as the rows say, unless given.

    Raises:
        InputError: the rows cannot be read or make no sense, or `name` cannot name a file.
        OSError: a file cannot be written.
    """
    check_name(name)
    rows = load_rows(out / RAW)
    try:
        return write(rows, out, name, fingerprint)
    except FitError as error:
        raise RowError(str(out / RAW), "", str(error)) from None


def write(rows: Sequence[Row], out: Path, name: str, fingerprint: Mapping[str, str] | None = None) -> Written:
    """Fit `rows` and write the profile and the page. Raises FitError, OSError."""
    calibrated = fit_rows(rows, name, fingerprint)
    about = calibrated.profile.description
    sources = f"Sources name rows of {RAW}; {RESIDUALS} shows how well the numbers fit them."
    remarks = f"Written by chunkflow-sim.\n{about}. {sources}"
    said = tuple(summaries(check_profile(calibrated.profile)))
    stand_in = any(row.device == "cpu" for row in rows)
    written = Written(calibrated, out / f"{name}.yaml", out / RAW, out / RESIDUALS, said, stand_in)
    profile, page = to_yaml(calibrated.plain, remarks), residual_page(calibrated, rows)
    write_atomically(written.profile, profile)
    write_atomically(written.residuals, page)
    return written


def check_name(name: str) -> None:
    """Raise InputError for what cannot name a file next to the others."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise InputError(
            "--name", name, "expected up to 100 letters, digits, '.', '_' and '-', the first no '.' or '-'"
        )
