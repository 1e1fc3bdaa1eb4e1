"""Fit the profile h200x8-hostpath to measured links of 8 GPUs.

`python -m calibration.fit_h200x8` prints the profile's YAML; with `--rows`, every measured row next to what the shipped
profile makes of it, as Markdown.

The rows say: a GPU's link, a root domain of four GPUs, and one memory behind both domains each bind somewhere. Isolated
copies give their capacities. Isolated collectives are faster than those capacities allow for bytes that take as much as
copied ones, so their buffers mostly stay in the processor's cache (`isolated_overhead`). With copies they take
more than copied bytes; how much depends on the number of ranks (`contention_by_ranks`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from calibration.fitting.estimators import Fitted, median_and_spread
from calibration.fitting.profile import number
from sim.fluid import rates_together
from sim.hardware import CollectiveClass, IsolatedTimes, PageableCopies, Profile, load_profile
from sim.hardware.collectives import isolated_time, sent_per_rank
from sim.hardware.profile_text import to_yaml
from sim.inputs.units import write_bytes
from sim.machine import SimulatedMachine
from sim.program import Collective, CollectiveKind, Copy, HostCopyKind, Program, RankBuilder
from sim.timeline import Timeline

NAME = "h200x8-hostpath"
BASE = "h200x4-hostpath-20261121d"
"""What was not measured is as there."""

KINDS: dict[str, CollectiveKind] = {"a2a": "all_to_all", "ar": "all_reduce", "ag": "all_gather"}
CHUNK = 16 * 2**20
"""Bytes of a copy that runs during collectives."""
LARGE = 16 * 2**20
"""Collectives over this size (B) show what they take."""
DOMAIN = 4
"""GPUs of a root domain."""
REMARKS = f"""Eight H200 whose collectives go through host memory, one virtual machine, 2026-11-21. Sources name
rows of validation/data/{NAME}/links.json. `python -m calibration.fit_h200x8` writes this file."""

Row = dict[str, Any]
Plain = dict[str, Any]


def load_rows() -> list[Row]:
    """The rows of links.json."""
    rows: list[Row] = json.loads(
        (Path(__file__).resolve().parents[1] / "validation" / "data" / NAME / "links.json").read_text()
    )["rows"]
    return rows


class Copies(NamedTuple):
    """Rates of copies, B/s on each GPU, by the number of GPUs that copy at once; `both` is (down, up)."""

    h2d: dict[int, float]
    both: dict[int, tuple[float, float]]


class Host(NamedTuple):
    """Capacities, B/s: a GPU's link one way and both ways, a root domain's, the memory's and what a write costs it."""

    link: float
    pair: float
    domain: float
    domain_pair: float
    memory: float
    write_cost: float


def fit_host(rows: Sequence[Row]) -> tuple[Host, Copies]:
    """The host's resources from isolated copies."""
    h2d = {r["k"]: r["gbps"] * 1e9 for r in rows if r["kind"] == "h2d"}
    both = {r["k"]: (r["h2d"] * 1e9, r["d2h"] * 1e9) for r in rows if r["kind"] == "bidir"}
    memory = 8 * h2d[8]
    down, up = both[8]
    host = Host(
        link=max(h2d[1], h2d[2]),
        pair=sum(both[1]),
        # two GPUs get more of a domain than four: what lies between is as wrong for either
        domain=sqrt(2 * h2d[2] * DOMAIN * h2d[4]),
        domain_pair=sqrt(2 * sum(both[2]) * DOMAIN * sum(both[4])),
        memory=memory,
        write_cost=(memory - 8 * down) / (8 * up),
    )
    return host, Copies(h2d, both)


def fit() -> Plain:
    """The profile's plain data."""
    rows, base = load_rows(), load_profile(BASE)
    host, copies = fit_host(rows)
    collectives = {kind: _collective(rows, short, base, host) for short, kind in KINDS.items()}
    weight = median(up / down for down, up in copies.both.values())
    cap = Fitted(host.link, None, "h2d, k = 2")
    return {
        "name": NAME,
        "description": "8 H200 on two root domains, collectives by host memory; links measured, the rest as 4 GPUs",
        "like": BASE,
        "fingerprint": {
            "gpu": "8 x NVIDIA H200",
            "link": "PCIe Gen5 x16",
            "measured": "2026-11-21, a virtual machine; CPU, NUMA placement and clocks were not recorded",
            "torch": "2.11.0",
            "environment": "NCCL_P2P_DISABLE=1",
            "evidence": f"links measured; commands, kernels and small collectives as {BASE}",
        },
        "gpus": 8,
        "topology": _topology(host),
        "h2d": {"cap": number(cap, "B/s")},
        "d2h": {
            "cap": number(cap._replace(source="taken as h2d"), "B/s"),
            "weight": number(Fitted(weight, None, "bidir, k = 1, 2, 4, 8: median of d2h over h2d"), ""),
        },
        "collectives": collectives | {"reduce_scatter": None},
        "pageable": {direction: _staged(getattr(base.pageable, direction)) for direction in ("h2d", "d2h")},
    }


def _staged(copies: PageableCopies) -> Plain:
    """As in the profile that this one is like, said here, too."""
    taken = {
        key: number(Fitted(value.value, None, value.source), unit)
        for key, value, unit in (("rate", copies.rate, "B/s"), ("setup", copies.setup, "s"))
    }
    staging = number(Fitted(0.0, None, copies.staging.source), "") | {"value": write_bytes(copies.staging.value)}
    return taken | {"staging": type(taken["rate"])(staging)}


def _topology(host: Host) -> Plain:
    def domain(first: int) -> list[Plain]:
        root, taken = f"root{first // DOMAIN}", "" if first == 0 else "; taken as root0"
        each = Fitted(host.domain, None, f"h2d, k = 2 and 4: 111 and 103 GB/s in all, between them{taken}")
        both = Fitted(host.domain_pair, None, f"bidir, k = 2 and 4: 121 and 114 GB/s in all, between them{taken}")
        link = Fitted(host.link, None, "h2d, k = 2: a copy alone fills the link")
        pair = Fitted(host.pair, None, "bidir, k = 1")
        gpus = list(range(first, first + DOMAIN))
        return [
            {"ends": ["memory", root], "each_way": number(each, "B/s"), "both_ways": number(both, "B/s")},
            {"ends": [root, "gpu{gpu}"], "gpus": gpus, "kind": "PCIe Gen5 x16"}
            | {"each_way": number(link, "B/s"), "both_ways": number(pair, "B/s")},
        ]

    through = number(Fitted(host.memory, None, "h2d, k = 8"), "B/s")
    cost = number(Fitted(host.write_cost, None, "bidir, k = 8: 63 GB/s down and 69 up fill what reads alone fill"), "")
    return {
        "nodes": {
            "memory": {"kind": "memory", "through": through, "write_cost": cost},
            "root0": {"kind": "root_complex"},
            "root1": {"kind": "root_complex"},
        },
        "links": [*domain(0), *domain(DOMAIN)],
        "peers": "host",
        "domains": [list(range(DOMAIN)), list(range(DOMAIN, 2 * DOMAIN))],
    }


def _collective(rows: Sequence[Row], short: str, base: Profile, host: Host) -> Plain:
    kind = KINDS[short]
    cls = base.collective_class(kind)
    tables = {k: _table(rows, short, k, cls) for k in (2, 4, 8)}
    shares = {k: _contention(rows, short, k, cls, base, host, tables[k]) for k in (2, 4, 8)}
    return {
        "alone": tables[2],
        **shares[2],
        "alone_by_ranks": {k: tables[k] for k in (4, 8)},
        "contention_by_ranks": {k: shares[k] for k in (4, 8)},
    }


def _of(rows: Sequence[Row], short: str, k: int, contended: bool) -> list[Row]:
    return [r for r in rows if r["kind"] == short and r["k"] == k and r["bg"] == int(contended) and r["covered"]]


def _table(rows: Sequence[Row], short: str, k: int, cls: CollectiveClass) -> Plain:
    """Isolated times; below the smallest row as those of `cls`, with bytes as much slower as that row has them."""
    measured = [(round(sent_per_rank(KINDS[short], r["bytes"], k)), r["us"] * 1e-6) for r in _of(rows, short, k, False)]
    like, others = (cls.alone_by_ranks[4], 4) if k > 2 else (cls.alone, 2)
    first, seconds = measured[0]
    late, like_late = cls.latency_of(k), cls.latency_of(others)
    longer = (seconds - late) / (like.at(first) - like_late)
    rows_of_like = zip(like.bytes, like.seconds, strict=True)
    small = [(int(b), late + (float(s) - like_late) * longer) for b, s in rows_of_like if b < 0.75 * first]
    table = [*small, *measured]
    said = f"below {first} B as {others} ranks of {BASE}, but bytes take {longer:.3f} times as long"
    return {
        "bytes": [b for b, _ in table],
        "seconds": [float(f"{s:.6g}") for _, s in table],
        "source": f"{short}, k = {k}, bg = 0, by bytes that a rank sends; {said}",
    }


def _contention(
    rows: Sequence[Row], short: str, k: int, cls: CollectiveClass, base: Profile, host: Host, table: Plain
) -> Plain:
    """Weight and overhead with which large collectives and concurrent copies move as measured."""
    late = cls.latency_of(k)
    weights, overheads = [], []
    for row in _of(rows, short, k, True):
        if row["bytes"] <= LARGE:
            continue
        rate = sent_per_rank(KINDS[short], row["bytes"], k) / (row["us"] * 1e-6 - late)
        start = base.h2d.setup.value + cls.copy_start.value
        copy = CHUNK / (CHUNK / (row["h2d_during"] * 1e9) - start)
        weights.append(rate / copy)
        overheads.append(
            max(((host.domain_pair / k - copy) / (2 * rate)), 0.0)
            if k <= DOMAIN
            else (host.memory / k - copy) / ((1 + host.write_cost) * rate)
        )
    full = "a root domain" if k <= DOMAIN else "the memory"
    where = f"{short}, k = {k}, bg = 1, large ones"
    isolated_times = IsolatedTimes(tuple(table["bytes"]), tuple(table["seconds"]), "")
    isolated = min(1.0, median_and_spread(overheads)[0], 0.999 * _room(isolated_times, k, late, host))
    return {
        "weight": number(Fitted(*median_and_spread(weights), where), ""),
        "overhead": number(Fitted(*median_and_spread(overheads), f"{where}: {full} is full"), ""),
        "isolated_overhead": number(
            Fitted(isolated, None, f"the most with which {short}, k = {k}, bg = 0 is as fast"), ""
        ),
    }


def _room(isolated_times: IsolatedTimes, ranks: int, late: float, host: Host) -> float:
    """The largest overhead with which `ranks` that move as `isolated_times` says fill no resource."""
    rate = max(b / (s - late) for b, s in zip(isolated_times.bytes, isolated_times.seconds, strict=True))
    domain = min(ranks, DOMAIN) * 2 * rate
    memory = ranks * (1 + host.write_cost) * rate
    return min(host.domain_pair / domain, host.domain / (domain / 2), host.memory / memory, host.pair / (2 * rate))


class Compared(NamedTuple):
    """A row's quantity, measured and by the profile; seconds, or B/s where `unit` says so."""

    row: Row
    quantity: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Simulated / measured - 1."""
        return self.simulated / self.measured - 1


def compare(profile: Profile, rows: Sequence[Row]) -> Iterator[Compared]:
    """What `profile` makes of every row; rows with copies are simulated command by command."""
    for row in rows:
        kind, k = row["kind"], row["k"]
        if kind in ("h2d", "bidir"):
            names: tuple[HostCopyKind, ...] = ("h2d",) if kind == "h2d" else ("h2d", "d2h")
            flows = [profile.copy_flow(name, gpu) for gpu in range(k) for name in names]
            rates = rates_together(flows, profile.capacities)
            for name, rate in zip(names, rates, strict=False):
                yield Compared(row, f"{name} rate", row["gbps" if kind == "h2d" else name] * 1e9, rate)
        elif not row["bg"]:
            yield Compared(row, "time", row["us"] * 1e-6, isolated_time(profile, KINDS[kind], row["bytes"], range(k)))
        else:
            seconds, rate = _contended(profile, row)
            yield Compared(row, "time", row["us"] * 1e-6, seconds)
            yield Compared(row, "h2d rate", row["h2d_during"] * 1e9, rate)


CALLS = 6
"""Collectives that are simulated one behind the other; the first is not counted."""


def _contended(profile: Profile, row: Row) -> tuple[float, float]:
    """(s of a collective, B/s of the copies) of a train of collectives during a train of copies on every rank."""
    copies = round(2 * CALLS * row["us"] * 1e-6 * row["h2d_during"] * 1e9 / CHUNK) + 4
    program = _trains(row, copies)
    timeline = SimulatedMachine(profile).run(program)
    calls = [span for span, _ in timeline.commands(0, Collective)]
    start, end = calls[0].end, calls[-1].end
    return (end - start) / (CALLS - 1), _moved(timeline, start, end) / (end - start)


def _trains(row: Row, copies: int) -> Program:
    ranks = []
    for _ in range(row["k"]):
        rank = RankBuilder()
        rank.buffer("weights", CHUNK, "slot")
        rank.record_step("compute")
        for _ in range(CALLS):
            rank.collective("compute", row["kind"], KINDS[row["kind"]], row["bytes"])
        rank.record_step("compute")
        rank.thread()
        for _ in range(copies):
            rank.copy("copies", "chunk", CHUNK, "weights")
        ranks.append(rank.build())
    return Program(tuple(ranks))


def _moved(timeline: Timeline, start: float, end: float) -> float:
    """Bytes that rank 0 copied between `start` and `end`, s."""
    moved = 0.0
    for span, copy in timeline.commands(0, Copy):
        inside = min(span.end, end) - max(span.start, start)
        moved += copy.bytes * max(inside, 0.0) / (span.end - span.start)
    return moved


def table(found: Sequence[Compared]) -> str:
    """Every row next to the profile's, as Markdown."""
    lines = ["| row | quantity | measured | profile | error |", "|---|---|---|---|---|"]
    for c in found:
        size = f" {c.row['bytes'] >> 20} MiB" if "bytes" in c.row else ""
        beside = " beside copies" if c.row.get("bg") else ""
        scale, unit = (1e-9, "GB/s") if c.quantity.endswith("rate") else (1e6, "us")
        values = f"{c.measured * scale:,.1f} {unit} | {c.simulated * scale:,.1f} {unit} | {100 * c.error:+.1f} %"
        lines.append(f"| {c.row['kind']}, {c.row['k']} GPUs{size}{beside} | {c.quantity} | {values} |")
    return "\n".join(lines)


def main() -> None:
    """Print the fitted profile, or with `--rows` how the shipped one fits."""
    if "--rows" in sys.argv[1:]:
        print(table(list(compare(load_profile(NAME), load_rows()))))
    else:
        print(to_yaml(fit(), REMARKS), end="")


if __name__ == "__main__":
    main()
