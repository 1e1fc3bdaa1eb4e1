"""The device: its rooflines and efficiencies."""

from __future__ import annotations

from typing import NamedTuple

from calibration.fitting.estimators import Fitted
from calibration.fitting.selection import Rows
from sim.datasets.probe_rows import Row


class Datasheet(NamedTuple):
    """What the vendor says: dense bf16 FLOP/s and memory bandwidth B/s."""

    flops: float
    bandwidth: float


DATASHEETS = {
    "H200": Datasheet(989e12, 4.8e12),
    "H100 80GB HBM3": Datasheet(989e12, 3.35e12),
    "H100 PCIe": Datasheet(756e12, 2.0e12),
    "H100 NVL": Datasheet(835e12, 3.9e12),
    "A100-SXM4-80GB": Datasheet(312e12, 2.039e12),
    "A100-SXM4-40GB": Datasheet(312e12, 1.555e12),
    "A100 80GB PCIe": Datasheet(312e12, 1.935e12),
    "L40S": Datasheet(362e12, 0.864e12),
}
"""By what a GPU's name holds."""


def flops(row: Row) -> float:
    """Floating-point operations of a gemm or attention row."""
    p = row.params
    if row.kind == "gemm":
        return float(2 * p["m"] * p["n"] * p["k"])
    return float(4 * p["tokens"] ** 2 * p["heads"] * p["head"])


def fit_device(rows: Rows) -> dict[str, Fitted]:
    """`device` by key path; efficiencies are relative to the datasheet, or to the best row where there is none."""
    gemms, moved, attention = rows.find("gemm"), rows.find("device_copy"), rows.find("attention")
    sheet = next((s for name, s in DATASHEETS.items() if name in rows.gpu), None)
    gemm = _best(rows, gemms)
    peak = sheet.flops if sheet else gemm[0] if gemm else 1e12
    bandwidth = sheet.bandwidth if sheet else rows.value(moved[0], "rate") if moved else 1e12
    said = "vendor datasheet" if sheet else "no datasheet is known: the best measured row"
    memory = rows.find("device")
    found = {
        "peak_flops": Fitted(peak, None, f"{said}, dense bf16"),
        "hbm_bandwidth": Fitted(bandwidth, None, said),
        "memory": Fitted(rows.value(memory[0], "memory"), None, memory[0].case)
        if memory
        else Fitted(80e9, None, "not measured: assumed"),
    }
    if taken := rows.find("device_overhead"):
        most = max(of["overhead"].median for of in taken[0].ranks if "overhead" in of)
        found["overhead"] = Fitted(most, None, f"{taken[0].case}: CUDA's context and NCCL, the largest of the ranks")
    if gemm:
        found["compute_efficiency"] = Fitted(gemm[0] / peak, rows.spread(gemms, "seconds"), gemm[1])
    else:
        found["compute_efficiency"] = Fitted(0.75, None, "not measured: assumed")
    if moved:
        rate = rows.value(moved[0], "rate")
        where = f"{moved[0].case}: {rate / 1e12:.2f} TB/s read and written"
        found["hbm_efficiency"] = Fitted(rate / bandwidth, rows.spread(moved, "rate"), where)
    else:
        found["hbm_efficiency"] = Fitted(0.9, None, "not measured: assumed")
    best = _best(rows, attention)
    if best:
        found["attention_efficiency"] = Fitted(best[0] / peak, rows.spread(attention, "seconds"), best[1])
    return found


def _best(rows: Rows, found: list[Row]) -> tuple[float, str] | None:
    """The highest FLOP/s of `found` and its row: what large, well-shaped work reaches."""
    if not found:
        return None
    rate, case = max((flops(row) / rows.value(row, "seconds"), row.case) for row in found)
    return rate, f"{case}: {rate / 1e12:.4g} TFLOP/s"
