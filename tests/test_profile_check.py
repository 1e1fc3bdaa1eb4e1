"""The isolated time of a collective, and profiles whose tables their resources do not allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, changes, program, tiny_profile, trees

from sim.analysis.first_order import layer_time
from sim.hardware import IsolatedTimes, Profile, load_profile, shipped, to_plain
from sim.hardware.collectives import isolated_time, sent_per_rank
from sim.hardware.profile_check import check_profile, contradictions, summaries
from sim.hardware.profile_parameters import changed, numbers_by_path
from sim.inputs.units import Bytes, Seconds
from sim.machine import SimulatedMachine
from sim.program import Collective, CollectiveKind, RankBuilder
from sim.workloads.explicit import CollectiveOp, Layer

kinds = st.sampled_from(KINDS)
sizes = st.integers(1, 4096)


def isolated_times(profile: Profile, kind: CollectiveKind, size: int, ranks: int) -> tuple[float, float]:
    """(s of a collective that all ranks come to at once, s that the timeline says it takes alone)."""
    builders = [RankBuilder() for _ in range(ranks)]
    for rank in builders:
        rank.record_step("s")
        rank.collective("s", "x", kind, size)
        rank.record_step("s")
    timeline = SimulatedMachine(profile).run(program(*builders))
    [(first, _)] = timeline.commands(0, Collective)
    # a rank may have its own bytes before others have theirs
    return max(
        s.end for rank in range(ranks) for s, _ in timeline.commands(rank, Collective)
    ) - first.ready, first.isolated_time


# ---- one isolated time ---------------------------------------------------------------------------------------------


@given(changes(host__kernel=0.0), kinds, sizes, st.integers(1, 4), st.sampled_from([None, 0.25, 1.0]))
def test_the_isolated_time_is_the_machines(
    drawn: dict[str, float], kind: CollectiveKind, size: int, ranks: int, isolated: float | None
) -> None:
    if isolated is not None:
        drawn = drawn | {"collective.isolated_overhead": isolated * drawn.get("collective.overhead", 1.0)}
    profile = tiny_profile(ranks, drawn)
    expected = isolated_time(profile, kind, size, range(ranks))
    assert isolated_times(profile, kind, size, ranks) == pytest.approx((expected, expected), rel=1e-9)


@given(trees(), kinds, sizes, st.sampled_from([2, 3]))
def test_the_isolated_time_is_the_machines_on_any_topology(
    topology: dict[str, Any], kind: CollectiveKind, size: int, ranks: int
) -> None:
    profile = tiny_profile(3, {}, topology)
    expected = isolated_time(profile, kind, size, range(ranks))
    assert isolated_times(profile, kind, size, ranks) == pytest.approx((expected, expected), rel=1e-9)


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("kind", KINDS)
def test_first_order_theory_and_the_machine_take_the_same_isolated_time(name: str, kind: CollectiveKind) -> None:
    profile = load_profile(name)
    ranks, size = min(profile.gpus, 8), 80 * 2**20
    if ranks > 1:
        expected = isolated_time(profile, kind, size, range(ranks))
        block = (CollectiveOp(kind=kind, bytes=Bytes(size)),)
        assert layer_time(profile, Layer(Bytes(2), block), ranks, 0).isolated == pytest.approx(expected, rel=1e-9)
        assert isolated_times(profile, kind, size, ranks) == pytest.approx((expected, expected), rel=1e-9)


def test_a_resource_that_is_too_narrow_makes_it_longer_than_the_table() -> None:
    profile = tiny_profile(2, {"collective.cap": 8.0, "collective.latency": 0.5, "collective.overhead": 2.0})
    # 16 B of 32 are sent, at 8 B/s by the table; the link takes 2 B for each, both ways at once
    assert profile.collectives.all_to_all.alone.at(16) == 0.5 + 2
    assert isolated_time(profile, "all_to_all", 32, range(2)) == 0.5 + 4


def test_copies_double_what_a_byte_takes_where_the_profile_says_so() -> None:
    profile = tiny_profile(2, {"collective.overhead": 2.0, "collective.isolated_overhead": 1.0})
    assert isolated_time(profile, "all_to_all", 32, range(2)) == 2
    builders = [RankBuilder() for _ in range(2)]
    for number, rank in enumerate(builders):
        rank.buffer("w", 64, "slot")
        rank.record_step("s")
        rank.collective("s", "x", "all_to_all", 32)
        rank.record_step("s")
        if number == 0:
            rank.copy("copies", "c", 8, "w")
    timeline = SimulatedMachine(profile).run(program(*builders))
    # beside the copy a collective's byte takes two of the links: 2 a + c = 8 on the way into GPU 0, with a = c, so the copy
    # has its 8 B after 3 s; pairs have moved 8 B into GPU 0 and 12 into GPU 1 by then, and go on with 8 B/s each
    [(span, _)] = timeline.commands(0, Collective)
    assert span.end == pytest.approx(3 + 8 / 8)


def test_a_byte_never_takes_more_alone_than_beside_copies() -> None:
    profile = tiny_profile(2, {"collective.overhead": 2.0, "collective.isolated_overhead": 3.0})
    assert isolated_time(profile, "all_to_all", 32, range(2)) == 4


@pytest.mark.parametrize("factor", [0.5, 1.05])
def test_every_share_of_a_profile_may_change_by_itself(factor: float) -> None:
    profile = load_profile("h200x8-hostpath")
    paths = [path for path in numbers_by_path(profile) if path.startswith("collectives.") and "overhead" in path]
    assert "collectives.all_reduce.contention_by_ranks[8].isolated_overhead" in paths
    for path in paths:
        other = changed(profile, {path: lambda value: factor * value})
        kind: Any = path.split(".")[1]
        assert isolated_time(other, kind, 2**22, range(8)) >= isolated_time(profile, kind, 2**22, range(8)) * 0.999


# ---- profiles against themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_no_shipped_profile_contradicts_itself(name: str) -> None:
    assert summaries(check_profile(load_profile(name))) == []


def with_rows(rows: dict[int, float], overhead: float = 1.0) -> Profile:
    """Two GPUs at links of 1e9 B/s each way, and a table of bytes sent -> seconds for all-to-alls."""
    profile = tiny_profile(2, {"down": 1e9, "up": 1e9, "all_to_all.overhead": overhead})
    times = IsolatedTimes(tuple(map(Bytes, rows)), tuple(map(Seconds, rows.values())), "test")
    far = IsolatedTimes((Bytes(1), Bytes(2)), (Seconds(1.0), Seconds(2.0)), "test")
    cls = msgspec.structs.replace(profile.collectives.all_to_all, alone=times)
    slow = {k: msgspec.structs.replace(getattr(profile.collectives, k), alone=far) for k in KINDS if k != "all_to_all"}
    return msgspec.structs.replace(
        profile, collectives=msgspec.structs.replace(profile.collectives, all_to_all=cls, **slow)
    )


@pytest.mark.parametrize(
    ("sent", "seconds", "allowed"),
    [
        pytest.param(2**19, 2**19 / 1e9, 0.02, id="from a buffer of 1 MiB on: 2 %"),
        pytest.param(2**19 - 1, (2**19 - 1) / 1e9, 0.10, id="smaller: 10 %"),
        pytest.param(10_000, 10e-6, 0.50, id="or 5 us"),
    ],
)
def test_tolerance_by_buffer_size(sent: int, seconds: float, allowed: float) -> None:
    for off, wrong in ((0.99 * allowed, False), (1.01 * allowed, True)):
        found = contradictions(with_rows({sent: seconds}, 1 + off))
        assert bool(found) is wrong
        for check in found:
            assert (check.table, check.kind, check.ranks, check.buffer) == (
                "collectives.all_to_all.alone", "all_to_all", 2, 2 * sent
            )  # fmt: skip
            assert check.error == pytest.approx(off)
            assert set(check.bottlenecks) == {"gpu0>host", "host>gpu1", "gpu1>host", "host>gpu0"}


def test_a_contradiction_is_reported_with_both_times_and_its_bottleneck() -> None:
    """1 MiB sent at 1e9 B/s takes 1049 us, twice that by the resources; the worst row of the table is named."""
    profile = with_rows({2**19: 2**19 / 1e9, 2**20: 2**20 / 1e9 / 1.5}, 2.0)
    [said] = summaries(check_profile(profile))
    assert said == (
        "collectives.all_to_all.alone: 2 rows contradict the resources; worst: all_to_all of 2097152 B on 2 ranks, "
        "table: 699 us, from resources: 2,097 us (+200.0 %); bottleneck: host>gpu0, gpu0>host, host>gpu1, gpu1>host"
    )


def test_tables_of_more_ranks_are_checked_and_those_of_more_than_there_are_not() -> None:
    profile = tiny_profile(3)
    table = IsolatedTimes((Bytes(2**20), Bytes(2**21)), (Seconds(2**17), Seconds(2**18)), "test")
    quick = msgspec.structs.replace(table, seconds=(Seconds(2**15), Seconds(2**16)))
    cls = msgspec.structs.replace(profile.collectives.all_gather, alone_by_ranks={3: quick, 4: quick})
    profile = msgspec.structs.replace(profile, collectives=msgspec.structs.replace(profile.collectives, all_gather=cls))
    assert {(c.table, c.ranks) for c in contradictions(profile)} == {("collectives.all_gather.alone_by_ranks[3]", 3)}


def hierarchical(quick: float) -> Profile:
    """Four GPUs in two domains; the tables of two and of four ranks promise `quick` times what the links give."""
    topology = to_plain(tiny_profile(4))["topology"] | {"domains": [[0, 1], [2, 3]]}
    profile = tiny_profile(4, {}, topology)
    classes = {}
    for kind in KINDS:
        given = profile.collective_class(kind)
        tables = []
        for ranks in (2, 4):
            took = [isolated_time(profile, kind, size * 2**22, range(ranks)) / quick for size in (1, 2)]
            sent = [Bytes(round(sent_per_rank(kind, size * 2**22, ranks))) for size in (1, 2)]
            tables.append(IsolatedTimes(tuple(sent), tuple(map(Seconds, took)), "test"))
        classes[kind] = msgspec.structs.replace(
            given, alone=tables[0], alone_by_ranks={3: tables[1], 4: tables[1]}, algorithm="hierarchical"
        )
    return msgspec.structs.replace(profile, collectives=msgspec.structs.replace(profile.collectives, **classes))


def test_tables_of_one_phase_of_several_are_not_of_the_whole() -> None:
    assert contradictions(hierarchical(1.0)) == ()
    found = contradictions(hierarchical(2.0))
    # two ranks fill one domain: one phase, but for the all_reduce, which crosses its domain twice; three ranks fill none
    assert {(c.table, c.ranks) for c in found} == {
        (f"collectives.{kind}.alone", 2) for kind in KINDS if kind != "all_reduce" and kind != "send_recv"
    } | {("collectives.send_recv." + table, n) for table, n in (("alone", 2), ("alone_by_ranks[4]", 4))}
    assert all(c.bottlenecks for c in found)


def test_profiles_of_one_content_are_checked_once() -> None:
    one, same = (load_profile("h200x2-hostpath") for _ in range(2))
    assert check_profile(one) is check_profile(same)
    assert check_profile(msgspec.structs.replace(one, gpus=1)) is not check_profile(one)


def test_the_command_checks_a_profile(chunkflow: Command, tmp_path: Path) -> None:
    good = chunkflow("hardware", "h200x8-hostpath", "--check")
    assert good.returncode == 0
    assert "collectives.all_reduce.alone_by_ranks[8]" in good.stdout
    plain: dict[str, Any] = to_plain(load_profile("h200x8-hostpath"))
    for link in plain["topology"]["links"]:
        if link["both_ways"] and link["kind"] == "":
            link["both_ways"]["value"] = 60e9
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(plain))
    bad = chunkflow("hardware", "narrow.yaml", "--check", cwd=tmp_path)
    assert bad.returncode == 1
    assert "collectives.all_to_all.alone_by_ranks[4]: " in bad.stderr
    assert "memory-root0" in bad.stderr
    listed = chunkflow("hardware", "narrow.yaml", "--check", "--json", cwd=tmp_path)
    assert listed.returncode == 1
    said = json.loads(listed.stdout)
    assert {row["table"] for row in said["rows"] if row["contradicts"]} == {
        text.split(": ")[0] for text in said["contradictions"]
    }
    none = chunkflow("hardware", "--check")
    assert (none.returncode, "--check is for one profile" in none.stderr) == (2, True)
