"""Fit the constants of a profile to measured links and, where links cannot show them, to named cases.

`python -m calibration.fit` prints every fitted number beside the shipped one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from statistics import mean, median
from typing import Any

from calibration.fitting.collectives import LARGE
from calibration.fitting.numbers import Fitted, affine, latency, over, share
from calibration.probes.plan import LONG
from sim.hardware import AloneTime, Profile, load_profile
from sim.machine import SimulatedMachine
from sim.numbers import changed, numbers
from sim.units import Bytes, Seconds
from validation.wan14b import DATASET, LAUNCHES, Case, load_cases

Row = dict[str, Any]


def load_links() -> list[Row]:
    """The rows of links.json."""
    text = (files("validation") / "data" / DATASET / "links.json").read_text()
    rows: list[Row] = json.loads(text)["rows"]
    return rows


def fit(profile: Profile, rows: Sequence[Row], cases: Sequence[Case]) -> dict[str, Fitted]:
    """Every fitted constant by key path, from link rows and, where they cannot show it, from one named case each.

    `profile` gives what the last one, `streams.wait_flag`, is fitted beside: it takes whole simulated steps.
    """
    by_name = {c.name: c for c in cases}
    found = _fit_copies(rows)
    event, start = _chunk_costs(by_name["1950 chunked 4 MiB"], found["h2d.cap"].value, found["h2d.setup"].value)
    for kind in ("all_to_all", "all_reduce", "all_gather"):
        found |= _fit_collective(kind, rows, found["h2d.cap"].value, found["h2d.setup"].value + event)
    taken = found["collectives.all_to_all.overhead"].value * found["collectives.all_to_all.weight"].value
    size, cap = by_name["1950 chunked 4 MiB"].copies[0][0], found["h2d.cap"].value
    return found | {
        "streams.launch_delay": Fitted(
            _launch_delay(by_name["1950 resident"], by_name["1950 whole_layer"]), None, "1950 whole_layer, kernels"
        ),
        "streams.wake": Fitted(_wake(by_name["1950 whole_layer"]) - event, None, "1950 whole_layer, copy to kernel"),
        "streams.event": Fitted(event, None, "1950 chunked 4 MiB, copies beside no collective"),
        "streams.write_flag": Fitted(event, None, "as streams.event: both are semaphore releases"),
        "collectives.all_to_all.copy_start": Fitted(
            start - size * (1 + taken) / cap, None, "1950 chunked 4 MiB, copies beside a2a3"
        ),
        "streams.beside_kernel": Fitted(
            _beside_kernel(by_name["1950 yielding 1 MiB"]), None, "1950 yielding 1 MiB, copies"
        ),
        "streams.wait_flag": Fitted(
            _wait_flag(profile, by_name["1950 yielding 1 MiB"]), None, "1950 yielding 1 MiB, step time"
        ),
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


def alone_times(rows: Sequence[Row], kind: str) -> AloneTime:
    """Time alone by bytes sent per rank, two ranks (an all-reduce sends its buffer, the others half of it)."""
    alone = [r for r in rows if r["kind"] == SHORT[kind] and r.get("mode") == "alone"]
    return AloneTime(
        bytes=tuple(Bytes(_sent(kind, r)) for r in alone),
        seconds=tuple(Seconds(r["us"] * 1e-6) for r in alone),
        source=f"links, {SHORT[kind]} rows alone",
    )


def _sent(kind: str, row: Row) -> int:
    return int(row["bytes"]) if kind == "all_reduce" else int(row["bytes"]) // 2


def _fit_collective(kind: str, rows: Sequence[Row], cap: float, per_copy: float) -> dict[str, Fitted]:
    """`per_copy` is what a copy and its event cost (s) without contention."""
    rows = [r for r in rows if r["kind"] == SHORT[kind]]
    alone = [r for r in rows if r.get("mode") == "alone"]
    late = latency([_sent(kind, r) for r in alone], [r["us"] * 1e-6 for r in alone])
    path = f"collectives.{kind}"
    found = {f"{path}.latency": Fitted(late, None, "links alone")}
    beside = [r for r in rows if r.get("mode") == "with_h2d" and r.get("covered") and r["h2d_during_gbps"]]
    long = [r for r in beside if r["chunk"] >= LONG and r["bytes"] > LARGE]
    if not long:
        return found
    rates = [_sent(kind, r) / (r["us"] * 1e-6 - late) for r in long]
    copies = [r["h2d_during_gbps"] * 1e9 for r in long]
    weight, overhead = share(rates, copies, cap)
    named = "links with_h2d, chunks of 64 MiB and more, collectives over 16 MiB"
    found[f"{path}.weight"] = Fitted(*weight, named)
    found[f"{path}.overhead"] = Fitted(*overhead, named)
    chunked = [r for r in beside if r["chunk"] < LONG and r["bytes"] > LARGE]
    gaps = [r["chunk"] / (r["h2d_during_gbps"] * 1e9) - r["chunk"] / median(copies) - per_copy for r in chunked]
    found[f"{path}.copy_start"] = Fitted(*over(gaps), "links with_h2d, 4 MiB chunks")
    return found


def _launch_delay(resident: Case, whole: Case) -> float:
    """Seconds a launch that kernels are slower while a copy runs at full rate."""
    kernels = ("qkv", "attn", "post")

    slower = sum(median(whole.durations(name)) - median(resident.durations(name)) for name in kernels)
    return slower / sum(LAUNCHES[name] for name in kernels)


def _wake(case: Case) -> float:
    """Seconds from the end of a layer's only copy to its first kernel, which waits for it."""
    ends = [end for _, _, end in case.copies]
    return median(p.start - max(e for e in ends if e <= p.start) for p in case.parts if p.name == "qkv")


def _chunk_costs(case: Case, cap: float, setup: float) -> tuple[float, float]:
    """(cost of an event, time of a chunk beside an all-to-all less its costs), s, from copies with two events each."""
    event = (median(_periods(case, {"idle"})) - setup - case.copies[0][0] / cap) / 2
    # a2a0 to a2a2 hold a transpose too: only a2a3 is known to be a collective throughout
    return event, median(_periods(case, {"a2a3"})) - setup - 2 * event


def _periods(case: Case, names: set[str]) -> list[float]:
    """Seconds from copy to copy of equal size, for those well inside an operation of `names`."""
    windows = [(p.start + 20e-6, p.end) for p in case.parts if p.name in names]
    return [
        b[1] - a[1]
        for a, b in pairwise(case.copies)
        if a[0] == b[0] and any(start < a[1] and b[1] < end for start, end in windows)
    ]


def _beside_kernel(case: Case) -> float:
    """Extra seconds a command beside a kernel, from gated copies with two events each: four commands a chunk."""
    return (mean(_periods(case, {"qkv", "attn", "post"})) - mean(_periods(case, {"idle"}))) / 4


def _wait_flag(profile: Profile, case: Case) -> float:
    """Seconds of a satisfied flag wait at which the simulated step time is the measured one."""
    from scipy.optimize import brentq

    program = case.scenario.program()

    def error(microseconds: float) -> float:
        waiting = changed(profile, {"streams.wait_flag": lambda _: microseconds * 1e-6})
        return median(SimulatedMachine(waiting).run(program).step_times()[2:]) / case.step_time_s - 1

    return float(brentq(error, 0, 10, xtol=0.05)) * 1e-6


def main() -> None:
    """Print every fitted number beside the shipped one."""
    profile = load_profile(DATASET)
    shipped = numbers(profile)
    for path, (value, spread, rows) in fit(profile, load_links(), load_cases()).items():
        shown = f"± {100 * spread:.1f} %" if spread is not None else ""
        print(f"{path:38s} {value:.4g} {shown:10s} shipped {shipped[path].value:.4g}  {rows}")


if __name__ == "__main__":
    main()
