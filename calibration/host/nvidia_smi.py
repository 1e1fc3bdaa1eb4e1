"""What nvidia-smi prints."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from functools import cache

from calibration.host.facts import Gpu
from calibration.host.shell import run
from sim.importers.nvidia_topo import Matrix, MatrixError, numa_of, read_matrix
from sim.importers.text_lines import lines_of
from sim.inputs.config import InputError

GPU_FIELDS = (
    "index", "name", "uuid", "pci.bus_id", "pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current",
    "pcie.link.width.max", "power.limit", "power.default_limit", "power.draw", "clocks.sm", "clocks.max.sm",
    "temperature.gpu", "persistence_mode", "memory.total", "driver_version", "clocks.mem", "clocks.max.mem",
    "ecc.mode.current", "mig.mode.current", "clocks_event_reasons.active", "clocks_throttle_reasons.active",
)  # fmt: skip
"""What nvidia-smi is asked of each GPU; the last has two names, the older one for drivers before 535."""


def parse_gpus(listed: str, busy: str, fields: Sequence[str] = GPU_FIELDS) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's lists of `fields` and of (uuid, pid) of processes."""
    users: dict[str, list[int]] = {}
    for row in _rows(busy, 2):
        if row[1].isdigit():
            users.setdefault(row[0], []).append(int(row[1]))
    gpus = []
    for row in _rows(listed, len(fields)):
        said = dict.fromkeys(GPU_FIELDS, "") | dict(zip(fields, row, strict=True))
        if not said["index"].isdigit():
            continue

        def number(field: str, said: dict[str, str] = said) -> float | None:
            try:
                return float(said[field])
            except ValueError:
                return None

        def whole(field: str, said: dict[str, str] = said) -> int | None:
            return int(said[field]) if said[field].isdigit() else None

        def enabled(field: str, said: dict[str, str] = said) -> bool | None:
            return {"Enabled": True, "Disabled": False}.get(said[field])

        reasons = [mask_of(said[f"clocks_{name}_reasons.active"]) for name in ("event", "throttle")]
        gpus.append(
            Gpu(
                index=int(said["index"]),
                name=said["name"],
                uuid=_said(said["uuid"]),
                bus=_said(said["pci.bus_id"]),
                link_generation=whole("pcie.link.gen.current"),
                link_generation_max=whole("pcie.link.gen.max"),
                link_width=whole("pcie.link.width.current"),
                link_width_max=whole("pcie.link.width.max"),
                power_limit=number("power.limit"),
                power_default=number("power.default_limit"),
                power=number("power.draw"),
                clock=number("clocks.sm"),
                clock_max=number("clocks.max.sm"),
                temperature=number("temperature.gpu"),
                persistence=enabled("persistence_mode"),
                memory=number("memory.total"),
                memory_clock=number("clocks.mem"),
                memory_clock_max=number("clocks.max.mem"),
                ecc=enabled("ecc.mode.current"),
                mig=enabled("mig.mode.current"),
                throttle=next((mask for mask in reasons if mask is not None), None),
                driver=_said(said["driver_version"]),
                processes=tuple(users.get(said["uuid"], ())),
            )
        )
    return tuple(gpus)


def parse_topology(text: str, gpus: int) -> tuple[tuple[tuple[str, ...], ...], tuple[int | None, ...]]:
    """(how each GPU reaches each, NUMA node of each) from `nvidia-smi topo -m`; empty where it says nothing."""
    matrix = _matrix(text, gpus)
    if matrix is None:
        return (), ()
    return _between(matrix), tuple(numa_of(matrix, gpu) for gpu in matrix.gpus)


def parse_peers(text: str, gpus: int) -> tuple[tuple[str, ...], ...]:
    """Whether each GPU may read each, from `nvidia-smi topo -p2p r`; empty where it says nothing."""
    matrix = _matrix(text, gpus)
    return () if matrix is None else _between(matrix)


def _matrix(text: str, gpus: int) -> Matrix | None:
    """The matrix of as many GPUs; None where there is none."""
    try:
        matrix = read_matrix(lines_of(text.encode(errors="replace"), "nvidia-smi"))
    except (MatrixError, InputError):
        return None
    return matrix if len(matrix.gpus) == gpus and all(gpu in matrix.affinity for gpu in matrix.gpus) else None


def _between(matrix: Matrix) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(matrix.cells[a, b] for b in matrix.gpus) for a in matrix.gpus)


def query(fields: Sequence[str]) -> tuple[str, str]:
    """Arguments that ask for `fields` of each GPU."""
    return f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"


@cache
def known_fields(fields: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `fields` that this nvidia-smi knows: for one that it does not, it refuses the whole question."""
    known = list(fields)
    while known:
        wrong = re.search(r'Field "([^"]+)" is not a valid', run("nvidia-smi", *query(known), failing=True))
        if wrong is None or wrong[1] not in known:
            break
        known.remove(wrong[1])
    return tuple(known)


def _rows(text: str, columns: int) -> Sequence[list[str]]:
    rows = ([c.strip() for c in row] for row in csv.reader(io.StringIO(text)))
    return [row for row in rows if len(row) == columns]


def _said(cell: str) -> str | None:
    return None if cell.strip("[]") in {"", "N/A", "Not Supported", "Unknown Error"} else cell


def number_of(cell: str) -> float | None:
    """The number in a cell; None where there is none."""
    try:
        return float(cell)
    except ValueError:
        return None


def mask_of(cell: str) -> int | None:
    """The bits in a cell, in hexadecimal; None where there are none."""
    return int(cell, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", cell) else None
