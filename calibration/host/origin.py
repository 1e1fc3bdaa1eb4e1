"""Where, when and how a data set was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from calibration.host.inspection import fingerprint, inspect, now
from sim.datasets.cases import HOST, Origin
from sim.inputs.atomic_files import write_atomically


def write_origin(out: Path) -> None:
    """Write what this host is, the command that runs and its environment to the data set `out`. Raises OSError."""
    host = inspect()
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    origin = Origin(fingerprint=fingerprint(host), date=now(), command=command, environment=dict(host.environment))
    write_atomically(out / HOST, msgspec.json.format(msgspec.json.encode(origin)) + b"\n")
