"""Fitting a hardware profile to raw rows of probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from calibration.fitting.estimators import FitError, Fitted
from calibration.fitting.isolation import isolated_overheads
from calibration.fitting.profile import fit_plain, number
from calibration.fitting.residuals import Residual, residuals
from calibration.fitting.selection import Rows
from sim.datasets.probe_rows import Row
from sim.hardware import Profile, load_profile
from sim.hardware.profile_text import to_yaml
from sim.inputs.config import InputError, convert

__all__ = ["Calibrated", "FitError", "Fitted", "Residual", "fit_rows", "to_yaml"]

USUAL = "h200x2-hostpath"
"""The shipped profile whose value stands in for what was not measured."""


class Calibrated(NamedTuple):
    """A fitted profile, its plain data, how it fits its rows, and the rows that were left out (case: reason)."""

    profile: Profile
    plain: dict[str, Any]
    residuals: list[Residual]
    rejected: dict[str, str]


def fit_rows(
    rows: Sequence[Row], name: str, fingerprint: Mapping[str, str] | None = None, description: str = ""
) -> Calibrated:
    """Fit the profile `name` to `rows`. `fingerprint` says what the host is; as the rows say, unless given.

    Raises:
        FitError: rows are missing or make no sense; says which, and why.
    """
    usable = Rows(rows)
    dates = sorted(row.date for row in usable.all)
    said = {"gpu": usable.gpu, "device": usable.device, "measured": f"{dates[0]} to {dates[-1]}"}
    about = description or f"{usable.gpus} x {usable.gpu}, measured {dates[0][:10]}"
    if usable.device == "cpu":
        about = "a stand-in of CPU threads: its times mean nothing"
    plain = fit_plain(usable, name, about, said | dict(fingerprint or usable.host), load_profile(USUAL))
    profile = _converted(plain, name)
    if lower := isolated_overheads(profile):
        for kind, overhead in lower.items():
            plain["collectives"][kind]["isolated_overhead"] = number(overhead, "")
        profile = _converted(plain, name)
    rejected = {row.case: row.rejected or "" for row in usable.rejected}
    return Calibrated(profile, plain, residuals(usable, profile), rejected)


def _converted(plain: dict[str, Any], name: str) -> Profile:
    try:
        return convert(plain, Profile, name)
    except InputError as error:
        raise FitError(f"the fitted profile is not a valid profile: {error}") from None
