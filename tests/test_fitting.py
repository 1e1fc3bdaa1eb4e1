"""Fitting: rows made from a known host give its numbers back; rows that make no sense are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import pytest
from html_reader import Reader
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from calibration.calibrate import RESIDUALS, write
from calibration.fitting import Calibrated, FitError, fit_rows, to_yaml
from calibration.fitting.estimators import undisturbed
from calibration.fitting.profile import fit_plain
from calibration.fitting.selection import Rows
from calibration.fitting.stream_interference import LIKE_MORE, LIKE_NVLINK, LIKE_TWO
from calibration.host import HOST_MEMORY
from calibration.probes.case import ProbeCase
from calibration.probes.plan import plan
from sim import SimulatedMachine
from sim.datasets.probe_rows import RAW, SCHEMA, Journal, Row, Stat
from sim.fluid import caps_now, weighted_max_min
from sim.hardware import CopyClass, Profile, load_profile, to_plain
from sim.hardware.collectives import flows, sent_per_rank, transfer
from sim.hardware.profile_check import contradictions
from sim.hardware.profile_parameters import numbers_by_path
from sim.inputs.config import convert
from sim.program import Collective, Copy, Program, RankBuilder

Plain = dict[str, Any]
Numbers = Mapping[str, float]

MIB = 2**20

# ---- a host of known numbers ---------------------------------------------------------------------------------------


def host(changes: Numbers = {}, nvlink: float = 0.0, gpus: int = 2) -> Profile:  # noqa: B006
    """The shipped host with `changes` by key path; with `nvlink` B/s peers reach each other over links of their own.

    Kinds of collective take latency + bytes / cap alone; `cap` may be changed, and numbers `beside` others be given.
    """
    left = {"cap": 23e9} | dict(changes)
    plain = to_plain(load_profile("h200x2-hostpath"))
    plain["gpus"] = gpus
    cap = left.pop("cap")
    for kind, cls in plain["collectives"].items():
        if cls is None:
            continue
        sizes = [2**15 * 4**k for k in range(8)]
        late = left.get(f"collectives.{kind}.latency", cls["latency"]["value"])
        cls["alone"] |= {"bytes": sizes, "seconds": [late + s / cap for s in sizes]}
        cls["latency"]["value"] = late
    for path, value in left.items():
        at: Plain = plain
        for key in path.split("."):
            at = at.setdefault(key, {"source": "test"})
        at["value"] = value
    link = max(plain["h2d"]["cap"]["value"], plain["d2h"]["cap"]["value"])
    topology = plain["topology"]
    (pcie,) = topology["links"]
    pcie |= {way: {"value": value, "source": "test"} for way, value in (
        ("there", plain["h2d"]["cap"]["value"]), ("back", plain["d2h"]["cap"]["value"]), ("both_ways", 1.64 * link)
    )}  # fmt: skip
    if nvlink:
        topology["nodes"]["nvlink"] = {"kind": "nvswitch"}
        topology["links"] = [
            pcie,
            {"ends": ["gpu{gpu}", "nvlink"], "each_way": {"value": nvlink, "source": "test"}},
        ]
        topology["peers"] = "direct"
    return convert(plain, Profile, "test")


def isolated_seconds(cls: CopyClass, size: int, rate: float = 0.0) -> float:
    """Seconds of a copy at `rate` B/s, its cap unless given."""
    return max(cls.minimum.value, cls.setup.value + size / (rate or cls.cap.value))


class Bench:
    """Answers probe cases as a profile would."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def rows(self, cases: list[ProbeCase]) -> list[Row]:
        made = []
        for case in cases:
            found = getattr(self, f"_{case.kind}")(case.params)
            if found is not None:
                made.append(row(case, found))
        return made

    def _device(self, p: Plain) -> Numbers:
        return {"memory": self.profile.device.memory.value}

    def _device_overhead(self, p: Plain) -> Numbers:
        return {"overhead": 1.25e9}

    def _gemm(self, p: Plain) -> Numbers:
        return {"seconds": 2 * p["m"] * p["n"] * p["k"] / 700e12}

    def _attention(self, p: Plain) -> Numbers:
        return {"seconds": 4 * p["tokens"] ** 2 * p["heads"] * p["head"] / 500e12}

    def _device_copy(self, p: Plain) -> Numbers:
        return {"rate": 4.2e12}

    def _copy(self, p: Plain) -> Numbers:
        if p["directions"] == ["d2d"]:
            return {"d2d": isolated_seconds(self.profile.device_copies, p["bytes"])}
        copies = [self.profile.copy_flow(d, g) for g in range(p["ranks"]) for d in p["directions"]]
        rates = weighted_max_min(copies, self.profile.capacities)
        found = {}
        for direction, rate in zip(p["directions"], rates, strict=False):
            found[direction] = isolated_seconds(self.profile.copy_class(direction), p["bytes"], rate)
        return found

    def _transfer(self, p: Plain) -> Numbers:
        late, spec = transfer(self.profile, p["bytes"], 0, 1, one_way=not p["both"])
        return {"seconds": late + p["bytes"] / spec.cap}

    def _engine(self, p: Plain) -> Numbers:
        """Copies of each train one after the other; those of several streams as many at a time as there are engines."""
        profile = self.profile
        classes = {"h2d": profile.h2d, "d2h": profile.d2h, "d2d": profile.device_copies}
        left, at, ends = list(p["trains"]), 0.0, []
        while left:
            moving = left[: classes[left[0]["direction"]].copies_at_once]
            left = left[len(moving) :]
            at += sum(
                train["count"] * isolated_seconds(classes[train["direction"]], train["bytes"]) for train in moving
            )
            ends += [at] * len(moving)
        return {f"end_{i}": end for i, end in enumerate(ends)} | {
            "alone_0": p["trains"][0]["count"]
            * isolated_seconds(classes[p["trains"][0]["direction"]], p["trains"][0]["bytes"])
        }

    def _pageable(self, p: Plain) -> Numbers:
        held = self.profile.pageable_seconds(p["direction"], p["bytes"])
        ahead = p["bytes"] <= self.profile.pageable.h2d.staging.value
        return {"call": held, "ahead": float(ahead)} if p["busy"] else {"call": held}

    def _peer_copy(self, p: Plain) -> Numbers | None:
        return {"seconds": isolated_seconds(self.profile.p2p, p["bytes"])} if self.profile.p2p else None

    def _host_flag_order(self, p: Plain) -> Numbers:
        return {"as_stated": 1.0}

    def _host_flag_turns(self, p: Plain) -> Numbers:
        return {"seconds": 7e-6}

    def _commands(self, p: Plain) -> Numbers:
        streams = self.profile.streams
        costs = {"event": streams.event, "write": streams.write_flag, "wait": streams.wait_flag}
        costs |= {"host_write": streams.host_flag_write, "host_wait": streams.host_flag_wait}
        parts = p["pattern"].split("+")
        seconds = 5e-6 if "kernel" in parts else self._copy({"directions": ["h2d"], "ranks": 1, **p})["h2d"]
        seconds += sum(costs[part].value for part in parts if part in costs)
        return {"seconds": seconds + (len(parts) * streams.beside_kernel.value if p["beside"] else 0.0)}

    def _wake(self, p: Plain) -> Numbers:
        if p["by"] == "host_flag":
            return {"seconds": self.profile.streams.host_flag_write.value + self.profile.streams.host_flag_wake.value}
        if p["work"] == "kernel":
            return {"seconds": 2e-6}
        return {"seconds": self.profile.streams.wake.value + self.profile.streams.event.value}

    def _issue(self, p: Plain) -> Numbers:
        costs = self.profile.host
        named = {"gemm": costs.kernel, "copy": costs.copy, "collective": costs.collective, "event": costs.event}
        named |= {"device_copy": costs.device_copy or costs.copy, "exchange": costs.point_to_point or costs.collective}
        return {"seconds": named.get(p["call"], costs.memop).value}

    def _depth(self, p: Plain) -> Numbers:
        return {"commands": self.profile.host.queue_depth.value, "full": 1.0}

    def _host_wake(self, p: Plain) -> Numbers:
        return {"blocked": 1e-3 + self.profile.host.wake.value, "polling": 1e-3}

    def _launch(self, p: Plain) -> Numbers:
        delay = self.profile.streams.launch_delay.value if p["direction"] == "h2d" else 0.0
        rate = 0.98 * self.profile.h2d.cap.value
        return {"alone": 4e-3, "beside": 4e-3 + 40 * delay * 0.98, "launches": 40.0, "rate": rate}

    def _collective(self, p: Plain) -> Numbers | None:
        return {"seconds": self._alone(p)}

    def _alone(self, p: Plain) -> float:
        cls = self.profile.collective_class(p["collective"])
        more = cls.latency_per_rank.value * (p["ranks"] - 2)
        return cls.alone.at(sent_per_rank(p["collective"], p["bytes"], p["ranks"])) + more

    def _beside(self, p: Plain) -> Numbers | None:
        """From the simulated machine: collectives on one stream, copies with events on another."""
        if p["direction"] == "d2h":
            return None
        alone = self._alone(p)
        calls, copies = max(2, round(5 * p["chunk"] / 40e9 / alone)), 8
        start, end, ends = 0.0, 1.0, [0.0]
        while ends[-1] < end:  # the copies must outlast the collectives
            copies *= 2
            timeline = SimulatedMachine(self.profile).run(beside_program(p, calls + 1, copies))
            spans = [s for s, _ in timeline.commands(0, Collective)]
            ends = [s.end for s, _ in timeline.commands(0, Copy)]
            start, end = spans[1].start, spans[-1].end
        inside = [t for t in ends if start <= t <= end]
        rate = (len(inside) - 1) * p["chunk"] / (inside[-1] - inside[0])
        return {"seconds": (end - start) / calls, "rate": rate, "alone_seconds": alone}

    def _pair(self, p: Plain) -> Numbers:
        """From the simulated machine: trains of two kinds on two streams."""
        alone, other = self._alone(p), self._alone({**p, "collective": p["other"], "bytes": p["other_bytes"]})
        calls, others = max(2, round(max(p["window"], 4 * other) / alone)), 8
        start, end, ends = 0.0, 1.0, [0.0]
        while ends[-1] < end:  # the others must outlast the collectives
            others *= 2
            timeline = SimulatedMachine(self.profile).run(pair_program(p, calls + 1, others))
            spans = [s for s, c in timeline.commands(0, Collective) if c.stream == "compute"]
            ends = [s.end for s, c in timeline.commands(0, Collective) if c.stream == "other"]
            start, end = spans[1].start, spans[-1].end
        inside = [t for t in ends if start <= t <= end]
        return {
            "seconds": (end - start) / calls,
            "other_seconds": (inside[-1] - inside[0]) / (len(inside) - 1),
            "alone_seconds": alone,
            "other_alone_seconds": other,
        }

    def _crowd(self, p: Plain) -> Numbers:
        """From rates: kernels of 0.1 ms for each 2,000 tokens."""
        seconds = p["tokens"] * 50e-9
        (phase,) = flows(self.profile, p["other"], p["other_bytes"], range(p["ranks"]))
        together = [self.profile.kernel_flow(0, seconds), *(spec for spec, _ in phase.flows)]
        rate, *_ = weighted_max_min(caps_now(together), self.profile.capacities)
        chain = 10 * p["count"] * seconds
        return {"alone": chain, "beside": chain / rate}

    def _sm_copy(self, p: Plain) -> None:
        return None


def pair_program(p: Plain, calls: int, others: int) -> Program:
    """As the probe `pair` does it."""
    builder = RankBuilder()
    builder.buffer("sent", p["bytes"], "collective")
    builder.buffer("other sent", p["other_bytes"], "collective")
    builder.record_step("compute")
    for _ in range(calls):
        builder.collective("compute", "call", p["collective"], p["bytes"], writes=("sent",))
    builder.record_step("compute")
    builder.thread()
    for _ in range(others):
        builder.collective("other", "call", p["other"], p["other_bytes"], writes=("other sent",))
    return Program((builder.build(),) * p["ranks"])


def beside_program(p: Plain, calls: int, copies: int) -> Program:
    """As the probe `beside` does it."""
    builder = RankBuilder()
    builder.buffer("slot", p["chunk"], "slot")
    builder.buffer("sent", p["bytes"], "collective")
    builder.record_step("copy")
    for number in range(copies):
        builder.copy("copy", "chunk", p["chunk"], "slot")
        if (number + 1) % p["events_every"] == 0:
            builder.record("copy")
    builder.thread()  # a full queue of copies holds its host thread
    for _ in range(calls):
        builder.collective("compute", "call", p["collective"], p["bytes"], writes=("sent",))
    builder.record_step("compute")
    return Program((builder.build(),) * p["ranks"])


def row(case: ProbeCase, found: Numbers, **changes: Any) -> Row:
    stats = {name: Stat(float(value), 0.01, 5) for name, value in found.items()}
    made = Row(
        schema=SCHEMA, case=case.name, kind=case.kind, params=dict(case.params), device="cuda", gpu="NVIDIA H200",
        date="2026-01-01T00:00:00+00:00", seconds=0.1, ranks=[stats] * case.ranks,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


@pytest.fixture(scope="module")
def measured() -> list[Row]:
    return Bench(host()).rows(plan(2, quick=True))


# ---- round trips ---------------------------------------------------------------------------------------------------

EXACT = (
    "streams.event", "streams.wait_flag", "streams.write_flag", "streams.wake", "streams.beside_kernel",
    "streams.launch_delay", "host.kernel", "host.copy", "host.collective", "host.event", "host.memop", "host.wake",
    "host.queue_depth", "h2d.cap", "d2h.cap", "h2d.minimum", "d2h.minimum", "h2d.setup", "d2h.setup",
)  # fmt: skip
"""Key paths that come back within 1 %."""


def assert_found(calibrated: Calibrated, truth: Profile, close: Numbers) -> None:
    paths = dict.fromkeys(EXACT, 0.01) | dict(close)
    found, true = numbers_by_path(calibrated.profile), numbers_by_path(truth)
    off = {p: found[p].number.value / true[p].number.value - 1 for p in paths}
    assert {p: e for p, e in off.items() if abs(e) > paths[p]} == {}


# the share of a collective must stay below its rate alone: otherwise nothing shows what its weight is
def costs(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda v: float(f"{v:.4g}"))


BESIDE = ("all_to_all.beside.all_gather", "all_reduce.beside.all_gather", "all_gather.beside.all_to_all", "all_gather.beside.all_reduce")  # fmt: skip
"""Collectives beside those of another communicator."""

HOSTS = st.fixed_dictionaries(
    {
        "cap": costs(21e9, 24e9),
        "h2d.cap": costs(45e9, 58e9),
        "d2h.cap": costs(45e9, 58e9),
        "h2d.setup": costs(1e-6, 4e-6),
        "d2h.setup": costs(1e-6, 4e-6),
        "collectives.all_to_all.weight": costs(0.2, 0.4),
        "collectives.all_to_all.overhead": costs(1.0, 1.4),
        "collectives.all_reduce.weight": costs(0.3, 0.5),
        "collectives.all_reduce.overhead": costs(1.1, 1.4),
        "collectives.all_to_all.latency": costs(10e-6, 40e-6),
        "collectives.all_to_all.copy_start": costs(5e-6, 30e-6),
        "streams.event": costs(0.5e-6, 4e-6),
        "streams.wait_flag": costs(0.5e-6, 4e-6),
        "streams.write_flag": costs(0.5e-6, 4e-6),
        "streams.wake": costs(3e-6, 20e-6),
        "streams.launch_delay": costs(0.5e-6, 4e-6),
        "host.queue_depth": st.integers(500, 2000).map(float),
        "device.beside_collective": costs(1.0, 1.4),
        "streams.crowd_delay": costs(1e-6, 60e-6),
        # both together must leave room on the link: otherwise it shows what they are slowed to
        **{f"collectives.{path}": costs(0.4, 0.65) for path in BESIDE},
    }
)


def routes(profile: Profile) -> list[list[str]]:
    """h2d and d2h of GPU 0, and from it to GPU 1, by the names of resources."""
    graph = profile.graph
    return [[graph.names[r] for r, _ in way] for way in (graph.copy(0, "h2d"), graph.copy(0, "d2h"), graph.peer(0, 1))]


@settings(max_examples=15, phases=[Phase.generate])
@given(HOSTS)
def test_the_numbers_of_a_host_come_back(changes: Numbers) -> None:
    truth = host(changes)
    calibrated = fit_rows(Bench(truth).rows(plan(2, quick=False)), "found")
    contended = {f"collectives.{k}.{n}": 0.04 for k in ("all_to_all", "all_reduce") for n in ("weight", "overhead")}
    contended |= {"collectives.all_to_all.copy_start": 0.15, "collectives.all_to_all.latency": 0.05}
    # a collective goes at its full rate while the other one has not begun to move
    contended |= {
        "device.beside_collective": 0.01,
        "streams.crowd_delay": 0.1,
        **{f"collectives.{path}": 0.06 for path in BESIDE},
    }
    assert_found(calibrated, truth, contended)
    assert routes(calibrated.profile) == routes(truth)
    off = [abs(r.error) for r in calibrated.residuals if r.probe in ("copy", "commands", "collective", "beside")]
    assert median(off) < 1
    assert max(off) < 6


@settings(max_examples=4, phases=[Phase.generate])
@given(st.floats(100e9, 400e9))
def test_peers_that_copies_do_not_slow_have_links_of_their_own(rate: float) -> None:
    overheads = {f"collectives.{kind}.overhead": 1.0 for kind in ("all_to_all", "all_reduce", "all_gather")}
    truth = host({"cap": rate} | overheads, rate)
    calibrated = fit_rows(Bench(truth).rows(plan(2, quick=True)), "found")
    assert routes(calibrated.profile)[-1] == ["gpu0>nvlink", "nvlink>gpu1"]
    capacity = calibrated.profile.topology.links[1].each_way
    assert capacity is not None
    assert capacity.value == pytest.approx(rate, rel=0.01)
    assert "copies move" in capacity.source
    assert calibrated.profile.collectives.all_to_all.weight.value == 1


def test_a_capacity_shared_by_all_gpus_is_fitted() -> None:
    truth = host(gpus=4)
    rows = []
    for found in Bench(truth).rows(plan(4, quick=True)):
        if found.kind == "copy" and found.params["ranks"] == 4 and found.params["directions"] == ["h2d"]:
            slow = {"h2d": Stat(found.params["bytes"] / 25e9, 0.0, 5)}
            found = msgspec.structs.replace(found, ranks=[slow] * 4)
        rows.append(found)
    profile = fit_rows(rows, "found").profile
    capacities = dict(zip(profile.resource_names, profile.capacities, strict=True))
    assert capacities["memory.out"] == pytest.approx(100e9, rel=1e-3)
    h2d, _, peer = routes(profile)
    assert "memory.out" in h2d
    assert "memory.out" in peer
    assert "memory.in" not in capacities


def late(r: Row, factor: float, *quantities: str) -> Row:
    """`r` with `quantities`, or all, larger by `factor`."""
    ranks = [
        {q: Stat(s.median * (factor if q in (quantities or rank) else 1), s.spread, s.repeats) for q, s in rank.items()}
        for rank in r.ranks
    ]
    return msgspec.structs.replace(r, ranks=ranks)


def caps(profile: Profile) -> tuple[float, float]:
    return profile.h2d.cap.value, profile.d2h.cap.value


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("directions", [["h2d"], ["d2h"], ["h2d", "d2h"]], ids="+".join)
@pytest.mark.parametrize("size", [64 * MIB, 256 * MIB])
def test_one_disturbed_row_changes_no_link_and_adds_no_shared_capacity(
    size: int, directions: list[str], ranks: int
) -> None:
    rows = Bench(host(gpus=4)).rows(plan(4, quick=True))
    way = {"directions": directions, "ranks": ranks, "bytes": size}
    [slow] = [r for r in rows if r.kind == "copy" and way.items() <= r.params.items() and r.params["count"] > 1]
    good = fit_rows(rows, "found").profile
    found = fit_rows([late(r, 1.04) if r is slow else r for r in rows], "found").profile
    assert found.resource_names == good.resource_names
    assert found.capacities == pytest.approx(good.capacities, rel=2e-3)
    assert caps(found) == pytest.approx(caps(good), rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "seconds", "kept"),
    [
        ((1, 2, 3, 4), (2.0, 3.0, 4.0, 5.0), (True, True, True, True)),
        ((1, 2, 3, 4), (2.0, 3.0, 8.0, 5.0), (True, True, False, True)),
        ((1, 2, 2, 4), (2.0, 3.0, 8.0, 5.0), (True, True, False, True)),
        ((2, 2, 2), (3.0, 3.0, 4.0), (True, True, True)),
        ((1, 2, 3), (3.0, 2.0, 1.0), (True, True, True)),
        ((1, 2, 3), (1.0, 5.0, 9.0), (True, True, True)),
        ((0, 1, 2, 3), (1e-3, 1.0, 2.0, 3.0), (True, True, True, True)),
        ((0, 1, 2, 3), (9.0, 1.0, 2.0, 3.0), (True, True, True, True)),
    ],
    ids=["line", "late", "one size twice", "one size", "falling", "below 0", "near 0", "through 0"],
)
def test_rows_above_the_line_of_the_fastest_were_late(
    sizes: tuple[float, ...], seconds: tuple[float, ...], kept: tuple[bool, ...]
) -> None:
    """Of two rows of one size no line goes, and of lines that reach 0 at a row's size none is a link's."""
    assert tuple(undisturbed(sizes, seconds)) == kept


def test_one_row_is_enough_for_a_link_capacity() -> None:
    rows = Bench(host()).rows(plan(2, quick=True))
    rows = [late(r, 1.02) if r.kind == "copy" and r.params["bytes"] != 64 * MIB else r for r in rows]
    found = fit_rows(rows, "found").profile
    assert caps(found) == pytest.approx(caps(host()), rel=2e-3)
    assert not {"memory.out", "memory.in", "memory.through"} & set(found.resource_names)


def test_more_ranks_add_to_the_latency() -> None:
    truth = host({"collectives.all_to_all.latency_per_rank": 3e-6}, gpus=4)
    rows = [r for r in Bench(truth).rows(plan(4, quick=True)) if r.kind != "beside"]
    found = fit_rows(rows, "found").profile.collectives.all_to_all
    assert found.latency_per_rank.value == pytest.approx(3e-6, rel=0.02)


def test_a_profile_of_one_gpu_names_what_was_not_measured() -> None:
    calibrated = fit_rows(Bench(host(gpus=1)).rows(plan(1, quick=True)), "one")
    assert calibrated.profile.gpus == 1
    assert "not measured" in calibrated.profile.collectives.all_to_all.alone.source
    assert_found(calibrated, host(), {})


KERNELS = ("device.beside_collective", "streams.crowd_delay")
KEPT = {f"collectives.{path}": 0.5 + i / 100 for i, path in enumerate(BESIDE)}


def beside_collectives(rows: list[Row], like: str, *missing: str) -> tuple[Numbers, Numbers]:
    """What collectives do to each other and to kernels: as measured, and as on the shipped host `like`.

    Without the rows of kinds, or cases, `missing`.
    """
    kept = [r for r in rows if not {r.kind, r.case} & set(missing)]
    found = {
        p: e.number
        for p, e in numbers_by_path(fit_rows(kept, "found").profile).items()
        if ".beside." in p or p in KERNELS
    }
    sources = {p: e.number.source for p, e in numbers_by_path(load_profile(like)).items()}
    for path, number in found.items():
        assert number.inherited_from in ("", like)
        assert number.source == sources[path] or not number.inherited_from
    known = {p: n.value for p, n in found.items() if not n.inherited_from}
    return known, {p: n.value for p, n in found.items() if n.inherited_from}


def on(name: str, *paths: str) -> Numbers:
    """Numbers of a shipped profile."""
    found = numbers_by_path(load_profile(name))
    return {path: found[path].value for path in paths}


def test_unmeasured_interference_is_inherited_from_a_similar_host() -> None:
    rows = Bench(host({**dict.fromkeys(KEPT, 0.6), KERNELS[0]: 1.1, KERNELS[1]: 20e-6})).rows(plan(2, quick=True))
    known, unknown = beside_collectives(rows, LIKE_TWO)
    assert known == pytest.approx({**dict.fromkeys(KEPT, 0.6), KERNELS[0]: 1.1, KERNELS[1]: 20e-6}, rel=0.05)
    assert unknown == {}
    assert beside_collectives(rows, LIKE_TWO, "pair", "crowd") == ({}, on(LIKE_TWO, *KEPT, *KERNELS))
    assert beside_collectives(rows, LIKE_TWO, "pair") == ({p: known[p] for p in KERNELS}, on(LIKE_TWO, *KEPT))
    assert beside_collectives(rows, LIKE_TWO, "crowd") == ({p: known[p] for p in KEPT}, on(LIKE_TWO, *KERNELS))
    [lost] = [r.case for r in rows if r.kind == "pair" and r.params["collective"] == "all_reduce"]
    left, filled = beside_collectives(rows, LIKE_TWO, lost)
    assert filled == on(LIKE_TWO, *(p for p in KEPT if "all_reduce" in p))
    assert left == {p: v for p, v in known.items() if "all_reduce" not in p}


def test_hosts_of_four_gpus_and_of_nvlink_inherit_from_their_own_kind() -> None:
    four = Bench(host(gpus=4)).rows(plan(4, quick=True))
    assert beside_collectives(four, LIKE_MORE, "pair", "crowd") == ({}, on(LIKE_MORE, *KEPT, *KERNELS))
    overheads = {f"collectives.{kind}.overhead": 1.0 for kind in ("all_to_all", "all_reduce", "all_gather")}
    rows = Bench(host({"cap": 200e9} | overheads, 200e9)).rows(plan(2, quick=True))
    assert beside_collectives(rows, LIKE_NVLINK, "pair", "crowd") == ({}, on(LIKE_NVLINK, *KEPT, *KERNELS))
    assert beside_collectives(rows, LIKE_NVLINK)[1] == {}


def test_one_chain_of_kernels_gives_the_cost_of_a_launch(measured: list[Row]) -> None:
    [short, _] = [r.case for r in measured if r.kind == "crowd"]
    left = [r for r in measured if r.case != short]
    known, _ = beside_collectives(left, LIKE_TWO)
    assert known[KERNELS[0]] == 1
    assert known[KERNELS[1]] == pytest.approx((19.843e-3 - 16.384e-3) / 40, rel=1e-3)  # 40 kernels of 8,192 tokens


def test_rate_factors_leave_latencies_out(measured: list[Row]) -> None:
    # small collectives, of which much is latency, at half their rate
    def small(r: Row) -> Row:
        times = {}
        for name, kind in (("", r.params["collective"]), ("other_", r.params["other"])):
            latency = host().collective_class(kind).latency.value
            times |= {f"{name}alone_seconds": latency + 20e-6, f"{name}seconds": latency + 40e-6}
        return msgspec.structs.replace(r, ranks=[{q: Stat(s, 0.0, 5) for q, s in times.items()}] * len(r.ranks))

    found = numbers_by_path(fit_rows([small(r) if r.kind == "pair" else r for r in measured], "found").profile)
    assert {path: found[path].value for path in KEPT} == pytest.approx(dict.fromkeys(KEPT, 0.5), rel=0.05)


@pytest.mark.parametrize(("factor", "kept"), [(1e3, 0.01), (0.05, 1.0)])
def test_rate_factors_are_clamped_to_0_01_and_1(factor: float, kept: float, measured: list[Row]) -> None:
    rows = [late(r, factor, "seconds", "other_seconds") if r.kind == "pair" else r for r in measured]
    found = numbers_by_path(fit_rows(rows, "found").profile)
    assert {path: found[path].value for path in KEPT} == dict.fromkeys(KEPT, kept)


def test_collectives_never_make_kernels_faster(measured: list[Row]) -> None:
    rows = [late(r, 0.9, "beside") if r.kind == "crowd" else r for r in measured]
    assert fit_rows(rows, "found").profile.device.beside_collective.value == 1


OPTIONAL = {
    "commands": "streams.event",
    "wake": "streams.wake",
    "launch": "streams.launch_delay",
    "issue": "host.kernel",
    "depth": "host.queue_depth",
    "host_wake": "host.wake",
    "beside": "collectives.all_to_all.weight",
    "gemm": "device.compute_efficiency",
    "device_copy": "device.hbm_efficiency",
}


@pytest.mark.parametrize("kind", OPTIONAL)
def test_a_missing_probe_has_a_fallback_that_says_so(kind: str, measured: list[Row]) -> None:
    profile = fit_rows([r for r in measured if r.kind != kind], "found").profile
    at: Any = profile
    for key in OPTIONAL[kind].split("."):
        at = getattr(at, key)
    assert "not measured" in at.source or at.inherited_from == "h200x2-hostpath"


def test_noisy_launch_rows_get_little_weight(measured: list[Row]) -> None:
    def noisy(r: Row) -> Row:
        found = {k: Stat(s.median * (1.05 if k == "beside" else 1), 0.05, 5) for k, s in r.ranks[0].items()}
        return msgspec.structs.replace(r, case="launch/block/noisy", ranks=[found])

    block, other = (r for r in measured if r.case.startswith("launch/block"))
    clear = {name: Stat(s.median, 0.001, 5) for name, s in block.ranks[0].items()}
    rows = [r for r in measured if r not in (block, other)] + [
        msgspec.structs.replace(block, ranks=[clear]),
        noisy(block),
    ]
    delay = fit_rows(rows, "found").profile.streams.launch_delay
    assert delay.value == pytest.approx(host().streams.launch_delay.value, rel=0.05)


def test_a_launch_beside_copies_is_longer_by_its_delay(measured: list[Row]) -> None:
    found = [r for r in fit_rows(measured, "found").residuals if r.probe == "launch"]
    assert found
    assert [r.fitted for r in found] == pytest.approx([r.measured for r in found], rel=1e-3)


def test_kernels_of_both_kinds_are_held_against_the_efficiency_of_their_own(measured: list[Row]) -> None:
    slower = [late(row, 2.0) if row.kind == "attention" else row for row in measured]
    before, after = (
        {(r.case, r.quantity): r for r in fit_rows(rows, "found").residuals} for rows in (measured, slower)
    )
    gemms, attention = ([k for k in before if k[0].startswith(kind)] for kind in ("gemm", "attention"))
    assert gemms and attention
    assert [after[k].fitted for k in gemms] == pytest.approx([before[k].fitted for k in gemms])
    assert [after[k].fitted for k in attention] == pytest.approx([2 * before[k].fitted for k in attention])


def test_one_gpu_shares_no_memory_with_others() -> None:
    """However slow its large copies were: what a GPU alone gets is its link's."""
    rows = Bench(host(gpus=1)).rows(plan(1, quick=True))
    rows = [late(r, 1.2) if r.kind == "copy" and r.params["bytes"] >= 64 * MIB else r for r in rows]
    found = fit_rows(rows, "one").profile
    assert not [name for name in found.resource_names if name.startswith("memory") and "gpu" not in name]


def test_isolated_overhead_is_fitted_where_isolated_times_need_it() -> None:
    # two ranks that send 23 GB/s each fill a link of 90 GB/s both ways with an overhead of 1.97 already
    truth = host({"collectives.all_to_all.overhead": 2.2, "collectives.all_to_all.weight": 0.3, "cap": 23e9})
    rows = Bench(truth).rows(plan(2, quick=True))
    table = {k: v.alone for k in ("all_to_all", "all_reduce") if (v := truth.collective_class(k)) is not None}  # type: ignore[arg-type]
    times = {k: t.at for k, t in table.items()}
    kept = []
    for found in rows:  # alone as the table says, beside copies as the overhead has it
        if found.kind == "collective" and found.params["collective"] in times:
            sent = sent_per_rank(found.params["collective"], found.params["bytes"], found.params["ranks"])
            seconds = {"seconds": Stat(times[found.params["collective"]](sent), 0.01, 5)}
            found = msgspec.structs.replace(found, ranks=[seconds] * len(found.ranks))
        kept.append(found)
    calibrated = fit_rows(kept, "found")
    overhead = calibrated.profile.collectives.all_to_all.isolated_overhead
    assert overhead is not None
    assert overhead.value == 1
    assert "an overhead of" in overhead.source
    assert calibrated.profile.collectives.all_reduce.isolated_overhead is None
    assert contradictions(calibrated.profile) == ()


def test_fitted_memory_is_that_of_nvidia_smi(measured: list[Row]) -> None:
    said = {"gpu": "2 x NVIDIA H200", "memory": "143771 MiB"}
    memory = fit_rows(measured, "found", said).profile.device.memory
    assert (memory.value, memory.source) == (143771 * MIB, "nvidia-smi, memory.total")
    two = fit_rows(measured, "found", said | {"memory": "143771 MiB / 81559 MiB"}).profile.device.memory
    assert two.source == "device/memory"


def test_sources_name_timed_events_and_wakes_behind_kernels(measured: list[Row]) -> None:
    streams = fit_rows(measured, "found").profile.streams
    assert streams.event.source.endswith("us with timing")
    assert "2.00 us in wake/event/kernel" in streams.wake.source


def test_an_unmeasured_kind_has_the_numbers_of_another(measured: list[Row]) -> None:
    rows = [r for r in measured if r.params.get("collective") != "all_gather"]
    found = fit_rows(rows, "found").profile.collectives
    assert found.all_gather.alone.seconds == found.all_to_all.alone.seconds
    assert found.all_gather.weight.source == "not measured: as all_to_all"


def test_rejected_rows_are_left_out_and_named(measured: list[Row]) -> None:
    wrong = next(r for r in measured if r.case.startswith("copy/h2d/1/train"))
    nonsense = [{"h2d": Stat(1.0, 0.0, 5)}]
    bad = msgspec.structs.replace(wrong, case="copy/h2d/1/train/7", rejected="not covered", ranks=nonsense)
    calibrated = fit_rows([*measured, bad], "found")
    assert calibrated.rejected == {"copy/h2d/1/train/7": "not covered"}
    assert calibrated.profile == fit_rows(measured, "found").profile


# ---- nonsense ------------------------------------------------------------------------------------------------------


def changed(rows: list[Row], start: str, change: Callable[[Row], Row | None]) -> list[Row]:
    made = [change(r) if r.case.startswith(start) else r for r in rows]
    return [r for r in made if r is not None]


def scaled(*factors: float) -> Callable[[Row], Row]:
    """Every quantity times a factor a rank."""

    def change(r: Row) -> Row:
        ranks = [
            {name: Stat(s.median * f, s.spread, s.repeats) for name, s in rank.items()}
            for rank, f in zip(r.ranks, factors, strict=False)
        ]
        return msgspec.structs.replace(r, ranks=ranks)

    return change


def without(r: Row) -> None:
    return None


NONSENSE = {
    "no rows": ("", without, "no usable rows"),
    "no copies": ("copy/h2d/1/train", without, "copy/h2d/1/train: 0 usable rows, at least 3"),
    "negative time": ("copy/h2d/1/train/1048576", scaled(-1.0), "h2d is -.*expected more than 0"),
    "zero time": ("collective/all_to_all/2/1048576", scaled(0.0, 0.0), "expected more than 0"),
    "shrinking time": ("copy/h2d/1/train/67108864", scaled(0.1), "less than the"),
    "shrinking collective": ("collective/all_reduce/2/41943040", scaled(0.1, 0.1), "all_reduce.*less than the"),
    "ranks disagree": ("collective/all_to_all/2/4194304", scaled(1.0, 2.5), "ranks disagree more than twofold"),
    "negative cost": ("commands/copy/alone", scaled(1.5), "cannot be negative"),
    "negative setup": ("copy/h2d/1/train/262144", scaled(0.1), "setup|less than|a line"),
    "no quantity": ("host_wake", lambda r: msgspec.structs.replace(r, ranks=[{}]), "not every rank has 'blocked'"),
    "two GPUs": ("gemm", lambda r: msgspec.structs.replace(r, gpu="other"), "more than one GPU"),
}


@pytest.mark.parametrize(("start", "change", "said"), NONSENSE.values(), ids=NONSENSE.keys())
def test_rows_that_no_profile_explains_are_refused(start: str, change: Any, said: str, measured: list[Row]) -> None:
    with pytest.raises(FitError, match=said):
        fit_rows(changed(measured, start, change), "found")


# ---- what is written -----------------------------------------------------------------------------------------------


def test_the_written_profile_loads_and_names_its_sources(measured: list[Row], tmp_path: Path) -> None:
    with Journal(tmp_path / RAW) as journal:
        for found in measured:
            journal.append(found)
    written = write(measured, tmp_path, "new-host")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["new-host.yaml", RAW, RESIDUALS]
    assert load_profile(str(written.profile)) == written.calibrated.profile
    assert written.contradictions == ()
    text = written.profile.read_text()
    assert "# 2 x NVIDIA H200" in text
    assert "{value: 55.35 GB/s, uncertainty: 0.01, source:" in text


def test_the_page_shows_every_residual(measured: list[Row], tmp_path: Path) -> None:
    lost = msgspec.structs.replace(measured[0], case="device/lost", rejected="because")
    sampled = msgspec.structs.replace(
        measured[0], case="sampled/copy", kind="sampled", ranks=[], sampled={"GPU 0 clock": {"least": 345.0}}
    )
    written = write([*measured, lost, sampled], tmp_path, "new-host")
    read = Reader(written.residuals.read_text())
    assert [u for u in read.loads if not u.startswith(("#", "data:"))] == []
    assert len(read.data) == 2
    for wanted in (*(r.case for r in written.calibrated.residuals), "device/lost", "because", "GPU 0 clock"):
        assert wanted in read.text


def test_yaml_keeps_small_and_large_numbers(measured: list[Row]) -> None:
    plain = fit_rows(measured, "found").plain
    text = to_yaml(plain, "two\nlines")
    assert text.startswith("# two\n# lines\nname: found\n")
    assert plain["streams"]["beside_kernel"]["value"] == "128 ns"
    assert plain["device"]["memory"]["value"] == "150.8 GB"
    assert plain["device"]["overhead"]["value"] == "1.25 GB"
    assert plain["device"]["overhead"]["source"].startswith("device/overhead: CUDA's context and NCCL")


def test_the_hosts_memory_is_what_its_fingerprint_says(measured: list[Row]) -> None:
    rows, name = Rows(measured), "found"
    fallback = load_profile("h200x2-hostpath")
    plain = fit_plain(rows, name, "x", {"gpu": "x", HOST_MEMORY: "131072 MiB"}, fallback)
    assert plain["host"]["memory"]["value"] == "131072 MiB"
    assert "memory" not in fit_plain(rows, name, "x", {"gpu": "x"}, fallback)["host"]
