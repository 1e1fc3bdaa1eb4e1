"""Probes: small measurements of a host's GPUs from which a hardware profile is fitted.

`plan` says what will be measured and for how long, `run` measures it and appends a row per case to a folder's
raw.jsonl. One process a GPU; on a machine without GPUs the same probes run on the CPU at tiny sizes.
"""

from calibration.probes.case import ProbeCase
from calibration.probes.plan import listing, plan
from calibration.probes.runner import ProbeError, run

__all__ = [
    "ProbeCase",
    "ProbeError",
    "listing",
    "plan",
    "run",
]
