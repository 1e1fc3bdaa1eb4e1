"""The shipped profiles of measured hosts are what today's fit makes of the rows measured there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from calibration.fitting import fit_rows
from sim.datasets.probe_rows import RAW, load_rows
from sim.hardware import load_profile
from sim.inputs.units import plain
from validation.datasets import DATA, probed_sets

OTHER = ("device.memory.", "fingerprint.")
"""What is of nvidia-smi and of host.json where the rows do not say it."""


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths and values."""
    if isinstance(data, dict | list | tuple):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from leaves(value, f"{path}{key}.")
    else:
        yield path, data


@pytest.mark.parametrize("name", probed_sets())
def test_a_shipped_profile_is_the_fit_to_its_rows(name: str) -> None:
    fitted, shipped = (
        {path: value for path, value in leaves(msgspec.to_builtins(p, enc_hook=plain)) if not path.startswith(OTHER)}
        for p in (fit_rows(load_rows(DATA / name / RAW), name).profile, load_profile(name))
    )
    assert len(fitted) > 200
    assert fitted.keys() == shipped.keys()
    for path, value in fitted.items():
        expected = pytest.approx(shipped[path], rel=1e-6) if isinstance(value, float) else shipped[path]
        assert value == expected, path
