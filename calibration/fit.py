"""Fit the profile h200x2-hostpath to its data set: to measured links and, where links cannot show a number, to cases.

`python -m calibration.fit` prints every fitted number next to the shipped one. `calibrate` fits all other profiles,
from rows of probes; this host was measured before there were any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from calibration.fitting.collectives import RATE_SIZE
from calibration.fitting.estimators import Fitted, affine, latency, median_and_spread, share
from calibration.probes.plan import LONG
from sim.datasets.cases import MeasuredCase, Operation, load_cases
from sim.hardware import IsolatedTimes, Profile, load_profile
from sim.hardware.profile_parameters import changed, numbers_by_path
from sim.inputs.units import Bytes, Seconds
from sim.machine import SimulatedMachine

DATASET = "h200x2-hostpath"
FOLDER = Path(__file__).resolve().parents[1] / "validation" / "data" / DATASET
"""Where the data set comes with the package: its data are read, none of its code."""

RESIDENT, WHOLE, CHUNKED, YIELDING = 0, 1, 2, 5
"""Numbers of the cases that constants are fitted to, all with 1950 tokens a rank: without offload, whole layers, chunks
of 4 MiB, and chunks of 1 MiB that yield."""

Row = dict[str, Any]


def load_links(folder: Path = FOLDER) -> list[Row]:
    """The rows of links.json."""
    rows: list[Row] = json.loads((folder / "links.json").read_text())["rows"]
    return rows


def fit(profile: Profile, rows: Sequence[Row], cases: Sequence[MeasuredCase]) -> dict[str, Fitted]:
    """Every fitted constant by key path, from link rows and, where they cannot show it, from one case each.

    `profile` gives what the last one, `streams.wait_flag`, is fitted with: it takes whole simulated steps.
    """
    found = _fit_copies(rows)
    event, start = _chunk_costs(cases[CHUNKED], found["h2d.cap"].value, found["h2d.setup"].value)
    for kind in ("all_to_all", "all_reduce", "all_gather"):
        found |= _fit_collective(kind, rows, found["h2d.cap"].value, found["h2d.setup"].value + event)
    taken = found["collectives.all_to_all.overhead"].value * found["collectives.all_to_all.weight"].value
    size, cap = _copies(cases[CHUNKED])[0].bytes, found["h2d.cap"].value
    return found | {
        "streams.launch_delay": Fitted(_launch_delay(cases[RESIDENT], cases[WHOLE]), None, "1950 whole_layer, kernels"),
        "streams.wake": Fitted(_wake(cases[WHOLE]) - event, None, "1950 whole_layer, copy to kernel"),
        "streams.event": Fitted(event, None, "1950 chunked 4 MiB, copies beside no collective"),
        "streams.write_flag": Fitted(event, None, "as streams.event: both are semaphore releases"),
        "collectives.all_to_all.copy_start": Fitted(
            start - size * (1 + taken) / cap, None, "1950 chunked 4 MiB, copies beside a2a3"
        ),
        "streams.beside_kernel": Fitted(_beside_kernel(cases[YIELDING]), None, "1950 yielding 1 MiB, copies"),
        "streams.wait_flag": Fitted(_wait_flag(profile, cases[YIELDING]), None, "1950 yielding 1 MiB, step time"),
    }


def _fit_copies(rows: Sequence[Row]) -> dict[str, Fitted]:
    copies = [r for r in rows if r["kind"] == "h2d" and r["bytes"] >= 2**18]
    setup, cap = affine([r["bytes"] for r in copies], [r["us"] * 1e-6 for r in copies])
    smallest = min((r for r in rows if r["kind"] == "h2d"), key=lambda r: (r["bytes"], r["us"]))
    both_ways = next(r for r in rows if r["kind"] == "bidir")
    d2h = max((r for r in rows if r["kind"] == "d2h"), key=lambda r: r["bytes"])
    return {
        "h2d.cap": Fitted(cap, None, "links h2d, 256 KiB and more"),
        "h2d.setup": Fitted(setup, None, "links h2d, 256 KiB and more"),
        "h2d.minimum": Fitted(smallest["us"] * 1e-6, None, "links h2d, 64 KiB"),
        "d2h.cap": Fitted(d2h["gbps"] * 1e9, None, "links d2h, 256 MiB"),
        "d2h.weight": Fitted(both_ways["d2h_gbps"] / both_ways["h2d_gbps"], None, "links bidir"),
        "topology.links[0].both_ways": Fitted(
            (both_ways["d2h_gbps"] + both_ways["h2d_gbps"]) * 1e9, None, "links bidir"
        ),
    }


SHORT = {"all_to_all": "a2a", "all_reduce": "ar", "all_gather": "ag"}


def alone_times(rows: Sequence[Row], kind: str) -> IsolatedTimes:
    """Isolated time by bytes sent per rank, two ranks (an all-reduce sends its buffer, the others half of it)."""
    isolated = [r for r in rows if r["kind"] == SHORT[kind] and r.get("mode") == "alone"]
    return IsolatedTimes(
        bytes=tuple(Bytes(_sent(kind, r)) for r in isolated),
        seconds=tuple(Seconds(r["us"] * 1e-6) for r in isolated),
        source=f"links, {SHORT[kind]} rows alone",
    )


def _sent(kind: str, row: Row) -> int:
    return int(row["bytes"]) if kind == "all_reduce" else int(row["bytes"]) // 2


def _fit_collective(kind: str, rows: Sequence[Row], cap: float, per_copy: float) -> dict[str, Fitted]:
    """`per_copy` is what a copy and its event cost (s) without contention."""
    rows = [r for r in rows if r["kind"] == SHORT[kind]]
    isolated = [r for r in rows if r.get("mode") == "alone"]
    late = latency([_sent(kind, r) for r in isolated], [r["us"] * 1e-6 for r in isolated])
    path = f"collectives.{kind}"
    found = {f"{path}.latency": Fitted(late, None, "links alone")}
    contended = [r for r in rows if r.get("mode") == "with_h2d" and r.get("covered") and r["h2d_during_gbps"]]
    long = [r for r in contended if r["chunk"] >= LONG and r["bytes"] > RATE_SIZE]
    if not long:
        return found
    rates = [_sent(kind, r) / (r["us"] * 1e-6 - late) for r in long]
    copies = [r["h2d_during_gbps"] * 1e9 for r in long]
    weight, overhead = share(rates, copies, cap)
    named = "links with_h2d, chunks of 64 MiB and more, collectives over 16 MiB"
    found[f"{path}.weight"] = Fitted(*weight, named)
    found[f"{path}.overhead"] = Fitted(*overhead, named)
    chunked = [r for r in contended if r["chunk"] < LONG and r["bytes"] > RATE_SIZE]
    gaps = [r["chunk"] / (r["h2d_during_gbps"] * 1e9) - r["chunk"] / median(copies) - per_copy for r in chunked]
    found[f"{path}.copy_start"] = Fitted(*median_and_spread(gaps), "links with_h2d, 4 MiB chunks")
    return found


def _copies(case: MeasuredCase) -> list[Operation]:
    return [op for op in case.operations if op.kind == "Copy"]


def _timed(case: MeasuredCase, name: str) -> list[Operation]:
    """The kernels or collectives of one name, one a layer."""
    return [op for op in case.operations if op.name == name]


def _launch_delay(resident: MeasuredCase, whole: MeasuredCase) -> float:
    """Seconds a launch that kernels are slower while a copy runs at full rate."""
    block = [item["compute"] for item in resident.scenario["workload"]["block"] if "compute" in item]
    launches: dict[str, int] = {kernel["name"]: kernel["launches"] for kernel in block}
    kernels = ("qkv", "attn", "post")  # transposes were not timed apart

    def seconds(case: MeasuredCase, name: str) -> float:
        return median(op.end - op.start for op in _timed(case, name)) * 1e-6

    slower = sum(seconds(whole, name) - seconds(resident, name) for name in kernels)
    return slower / sum(launches[name] for name in kernels)


def _wake(case: MeasuredCase) -> float:
    """Seconds from the end of a layer's only copy to its first kernel, which waits for it."""
    ends = [op.end for op in _copies(case)]
    return median(op.start - max(e for e in ends if e <= op.start) for op in _timed(case, "qkv")) * 1e-6


def _chunk_costs(case: MeasuredCase, cap: float, setup: float) -> tuple[float, float]:
    """(cost of an event, time of a chunk during an all-to-all less its costs), s, from copies with two events each."""
    event = (median(_periods(case, _idle(case))) - setup - _copies(case)[0].bytes / cap) / 2
    # a2a0 to a2a2 hold a transpose too: only a2a3 is known to be a collective throughout
    return event, median(_periods(case, _windows(case, "a2a3"))) - setup - 2 * event


def _windows(case: MeasuredCase, *names: str) -> list[tuple[float, float]]:
    """(Start, end) of the operations of these names, us."""
    return [(op.start, op.end) for name in names for op in _timed(case, name)]


def _idle(case: MeasuredCase) -> list[tuple[float, float]]:
    """(Start, end) of what lies between a layer's last kernel and the first of the next one, us."""
    computed = [op for op in case.operations if op.kind != "Copy"]
    return [(a.end, b.start) for a, b in pairwise(computed) if a.layer != b.layer]


def _periods(case: MeasuredCase, windows: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds from copy to copy of equal size, for those well inside one of `windows`: 20 us behind its start."""
    return [
        (b.start - a.start) * 1e-6
        for a, b in pairwise(_copies(case))
        if a.bytes == b.bytes and any(start + 20 < a.start and b.start < end for start, end in windows)
    ]


def _beside_kernel(case: MeasuredCase) -> float:
    """Extra seconds a command while a kernel runs, from gated copies with two events each: four commands a chunk."""
    return (mean(_periods(case, _windows(case, "qkv", "attn", "post"))) - mean(_periods(case, _idle(case)))) / 4


def _wait_flag(profile: Profile, case: MeasuredCase) -> float:
    """Seconds of a satisfied flag wait at which the simulated step time is the measured one."""
    from scipy.optimize import brentq

    program = case.load_scenario().program()

    def error(microseconds: float) -> float:
        waiting = changed(profile, {"streams.wait_flag": lambda _: microseconds * 1e-6})
        return median(SimulatedMachine(waiting).run(program).step_times()[2:]) / case.step_time_s - 1

    return float(brentq(error, 0, 10, xtol=0.05)) * 1e-6


def main() -> None:
    """Print every fitted number next to the shipped one."""
    profile = load_profile(DATASET)
    shipped = numbers_by_path(profile)
    for path, found in fit(profile, load_links(), load_cases(FOLDER)).items():
        shown = f"± {100 * found.spread:.1f} %" if found.spread is not None else ""
        print(f"{path:38s} {found.value:.4g} {shown:10s} shipped {shipped[path].value:.4g}  {found.source}")


if __name__ == "__main__":
    main()
