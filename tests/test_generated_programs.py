"""What holds of the timelines of programs of all commands."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from interleavings import Use, explore, uses
from strategies import NEVER_FULL, changes, programs, scaled, tiny_profile
from timeline_checks import TIE, by_command, check_order
from valid_programs import KINDS, Act, emitted, placed_on

import sim.machine.simulated
from sim.fluid import Fabric
from sim.hardware import Profile
from sim.machine import DeadlockError, SimulatedMachine
from sim.program import (
    Collective,
    Command,
    Copy,
    HostAdd,
    HostWait,
    HostWaitEvent,
    PointToPoint,
    Program,
    RankProgram,
    RecordEvent,
    Recv,
    Send,
    WaitFlag,
    WriteFlag,
    instrument,
)
from sim.timeline import Span, Timeline

hosts = changes(**{f"{kind}__engines": 1.0 for kind in ("h2d", "d2h")}) | st.just({})
"""Costs and contention, but kinds of collective that slow each other."""


def run(program: Program, drawn: Any = None, profile: Profile | None = None) -> Timeline:
    return SimulatedMachine(profile or tiny_profile(4, drawn or {})).run(program)


def intervals(timeline: Timeline, rank: int) -> list[tuple[object, float, float, float, float]]:
    """What a rank runs and when, in an order that does not depend on other ranks."""
    streams = timeline.program.ranks[rank].streams
    spans = sorted(timeline.of(rank), key=lambda s: (streams.index(s.command.stream), s.end))  # sort is stable
    return [(type(s.command), s.start, s.ready, s.end, s.isolated_time) for s in spans]


def check_same(one: Iterable[Any], other: Iterable[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a[0] == b[0]
        assert a[1:] == pytest.approx(b[1:], rel=1e-9, abs=1e-9)


# ---- order ---------------------------------------------------------------------------------------------------------


@given(programs(placed=True), hosts)
def test_streams_are_fifo_and_waits_end_after_what_they_wait_for(program: Program, drawn: Any) -> None:
    timeline = run(program, drawn)
    check_order(timeline)
    written: dict[tuple[object, str], list[tuple[int, float]]] = {}
    for span in timeline.spans:
        if isinstance(span.command, WriteFlag):
            owner = "host" if span.command.on_host else span.rank
            written.setdefault((owner, span.command.flag), []).append((span.command.value, span.end))
    for span in timeline.spans:
        if isinstance(span.command, WaitFlag) and not span.command.holds(0):
            values = written["host" if span.command.on_host else span.rank, span.command.flag]
            assert min(end for value, end in values if span.command.holds(value)) <= span.end


@given(programs(), hosts)
def test_host_threads_issue_after_what_they_wait_for(program: Program, drawn: Any) -> None:
    timeline = run(program, drawn)
    for number, rank in enumerate(program.ranks):
        spans = by_command(timeline, number)
        recorded = {s.command.event: s.end for s in spans.values() if isinstance(s.command, RecordEvent)}
        for thread in rank.threads:
            now = 0.0
            for command in thread:
                if isinstance(command, HostWaitEvent):
                    now = max(now, recorded[command.event])
                elif id(command) in spans:
                    assert spans[id(command)].end >= now - TIE
                    if not isinstance(command, Copy) or command.kind != "d2h" or command.other is msgspec.UNSET:
                        continue
                    if rank.host_memory[command.other].memory == "pageable":
                        now = max(now, spans[id(command)].end)


@pytest.mark.parametrize(("way", "returned"), [("d2h", 5.0), ("h2d", 4.0)])
def test_a_staged_copy_holds_its_host_thread(way: str, returned: float) -> None:
    # 20 B at 4 B/s; one to the GPU returns when all but 4 B are through, the driver having taken those in 1 s before
    program = emitted([act("pageable", who=(0,), way=way, size=20), act("kernel", who=(0,), stream="s1")], 1)
    (start,) = (s.start for s in run(program).spans if s.kind == "Kernel")
    assert start == pytest.approx(returned + (way == "h2d"))


@given(programs(), hosts)
def test_no_two_commands_use_the_same_bytes_at_once(program: Program, drawn: Any) -> None:
    used: list[tuple[Span, Use]] = [
        (span, use) for span in run(program, drawn).spans for use in uses(program.ranks[span.rank], span.rank, span.command)
    ]  # fmt: skip
    for (a, use), (b, other) in itertools.combinations(used, 2):
        if a is not b and use.conflicts(other):
            assert a.end <= b.start + TIE or b.end <= a.start + TIE


@given(programs(), hosts)
def test_ranks_meet(program: Program, drawn: Any) -> None:
    """A collective starts to move when its last rank is there, and both sides of a transfer end together."""
    calls: dict[Any, list[Span]] = {}
    count: dict[Any, int] = {}
    for span in run(program, drawn).spans:
        if isinstance(span.command, Collective):
            key = span.rank, span.command.communicates_on
            count[key] = count.get(key, -1) + 1
            calls.setdefault((span.command.communicates_on, count[key]), []).append(span)
        elif isinstance(span.command, PointToPoint):
            calls.setdefault(span.command.name, []).append(span)
    for met in calls.values():
        if isinstance(met[0].command, Collective):
            assert len(met) == len(met[0].command.members(program.world_size))
            assert len({s.ready for s in met}) == 1
            assert met[0].ready == max(s.start for s in met)
        else:
            peers = {s.rank: s for s in met}
            for s in met:
                assert isinstance(s.command, PointToPoint)
                for t in s.command.transfers:
                    assert s.end > peers[t.peer].start or s.end == peers[t.peer].start
                    assert s.ready >= peers[t.peer].start


# ---- bytes ---------------------------------------------------------------------------------------------------------


class Kept(Fabric):
    """A fabric that can be found afterwards."""

    last: Fabric

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        Kept.last = self


def crossed(program: Program) -> dict[str, float]:
    """Bytes that each GPU's link to the host carries, as in nccl-tests' doc/PERFORMANCE.md."""
    found: dict[str, float] = {f"{a}>{b}": 0.0 for g in range(4) for a, b in ((f"gpu{g}", "host"), ("host", f"gpu{g}"))}
    for rank, part in enumerate(program.ranks):
        gpu = program.gpus[rank]
        up, down = f"gpu{gpu}>host", f"host>gpu{gpu}"
        for c in part.commands():
            if isinstance(c, Copy):
                found[up] += c.bytes * (c.kind in ("d2h", "p2p"))
                found[down] += c.bytes * (c.kind == "h2d")
                if c.kind == "p2p":
                    found[f"host>gpu{program.gpus[c.peer]}"] += c.bytes  # type: ignore[index]
            elif isinstance(c, PointToPoint):
                for t in c.transfers:
                    found[up if isinstance(t, Send) else down] += t.bytes
            elif isinstance(c, Collective):
                n = len(c.members(program.world_size))
                share = {"send_recv": float(n > 1), "all_reduce": 2 * (n - 1) / n}.get(c.kind, (n - 1) / n)
                found[up] += share * c.bytes
                found[down] += share * c.bytes
    return found


@given(programs(placed=True), changes(collective__overhead=1.0, collective__isolated_overhead=1.0))
def test_all_bytes_cross_the_links_and_none_twice(program: Program, drawn: Any) -> None:
    profile = tiny_profile(4, drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sim.machine.simulated, "Fabric", Kept)
        run(program, profile=profile)
    moved = dict(zip(profile.resource_names, Kept.last.moved, strict=True))
    expected = crossed(program)
    assert {name: moved[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-6)


# ---- symmetry ------------------------------------------------------------------------------------------------------


@given(programs(alike=True), changes())
def test_ranks_that_do_the_same_on_a_symmetric_host_take_the_same_time(program: Program, drawn: Any) -> None:
    timeline = run(program, drawn)
    for rank in range(1, program.world_size):
        check_same(intervals(timeline, rank), intervals(timeline, 0))


@given(programs(), changes(), st.data())
def test_it_does_not_matter_where_ranks_sit_on_a_symmetric_host(program: Program, drawn: Any, data: Any) -> None:
    gpus = data.draw(st.permutations(range(4)))[: program.world_size]
    here, there = run(program, drawn), run(placed_on(program, gpus), drawn)
    for rank in range(program.world_size):
        check_same(intervals(there, rank), intervals(here, rank))


def uneven(links: tuple[float, ...]) -> Profile:
    """Four GPUs whose links to the host carry `links` B/s each way."""

    def limit(value: float) -> dict[str, object]:
        return {"value": value, "source": "test"}

    nodes = {"memory": {"kind": "memory"}, "host": {"kind": "root_complex"}}
    ends = [{"ends": ["host", f"gpu{g}"], "each_way": limit(rate)} for g, rate in enumerate(links)]
    wide = {"ends": ["memory", "host"], "each_way": limit(NEVER_FULL)}
    return tiny_profile(4, {}, {"nodes": nodes, "links": [wide, *ends]})


@given(programs(4), st.permutations(range(4)), st.permutations([1.0, 2.0, 4.0, 8.0]))
def test_ranks_have_the_links_of_their_gpus(program: Program, gpus: list[int], links: list[float]) -> None:
    there = run(placed_on(program, gpus), profile=uneven(tuple(links)))
    here = run(program, profile=uneven(tuple(links[gpu] for gpu in gpus)))
    for rank in range(4):
        check_same(intervals(there, rank), intervals(here, rank))


def act(kind: str, **given: Any) -> Act:
    plain = Act(kind, (0, 1), 1, "s0", "s1", 8, 1.0, 1, "all_reduce", "h2d")
    return plain._replace(**given)


@pytest.mark.parametrize("kind", ["h2d", "d2h", "pinned", "push", "ring", "transfer", "collective"])
def test_a_rank_that_moves_to_a_slower_gpu_takes_longer(kind: str) -> None:
    program = emitted([act(kind)], 2)
    profile = uneven((8.0, 8.0, 8.0, 1.0))
    fast, same, slow = (run(placed_on(program, gpus), profile=profile) for gpus in ((0, 1), (2, 1), (3, 1)))
    assert intervals(fast, 0) == intervals(same, 0)
    assert max(s.end for s in slow.of(0)) > 2 * max(s.end for s in fast.of(0))


# ---- time ----------------------------------------------------------------------------------------------------------


@given(programs(placed=True), changes())
def test_the_same_program_takes_the_same_time_bit_for_bit(program: Program, drawn: Any) -> None:
    again = msgspec.json.decode(msgspec.json.encode(program), type=Program)
    assert again.hash == program.hash
    assert run(program, drawn) == run(again, drawn)


@given(programs(), changes(), st.sampled_from([0.25, 2.0, 1024.0]))
def test_slower_hosts_stretch_time(program: Program, drawn: Any, factor: float) -> None:
    profile = tiny_profile(4, drawn)
    once, slow = run(program, profile=profile), run(scaled(program, factor), profile=scaled(profile, factor))
    for rank in range(program.world_size):
        expected = [(kind, *(factor * time for time in times)) for kind, *times in intervals(once, rank)]
        for a, b in zip(intervals(slow, rank), expected, strict=True):
            assert a[0] == b[0]
            assert a[1:] == pytest.approx(b[1:], rel=1e-9, abs=1e-9 * factor)


# ---- standstill ----------------------------------------------------------------------------------------------------


def without(program: Program, rank: int, command: Command) -> Program:
    """The program whose `rank` lacks `command`."""
    part = program.ranks[rank]
    threads = tuple(tuple(c for c in thread if c is not command) for thread in part.threads)
    changed = msgspec.structs.replace(part, threads=threads)
    return msgspec.structs.replace(program, ranks=(*program.ranks[:rank], changed, *program.ranks[rank + 1 :]))


@given(programs(), st.data())
def test_a_standstill_says_who_waits_for_what(program: Program, data: Any) -> None:
    wanted: list[tuple[int, Command, str]] = [
        (rank, c, f"rank {rank} stream {w.stream!r} waits for flag {c.flag!r} to be ")
        for rank, part in enumerate(program.ranks)
        for c in part.commands()
        if isinstance(c, WriteFlag) and not c.on_host
        for w in part.commands()
        if isinstance(w, WaitFlag) and w.flag == c.flag
    ]
    wanted += [
        (rank, c, f"waits for counter {c.counter!r} to be at least 1")
        for rank, part in enumerate(program.ranks)
        for c in part.commands()
        if isinstance(c, HostAdd) and any(isinstance(w, HostWait) and w.counter == c.counter for w in part.commands())
    ]
    assume(wanted)
    rank, command, said = data.draw(st.sampled_from(wanted))
    with pytest.raises(DeadlockError) as caught:
        run(without(program, rank, command))
    assert str(caught.value).startswith("deadlock at ")
    assert said in str(caught.value)
    assert f"\n  rank {rank} " in str(caught.value)


# ---- instrumented --------------------------------------------------------------------------------------------------


@given(programs(placed=True), hosts)
def test_an_instrumented_program_keeps_its_order(program: Program, drawn: Any) -> None:
    found = instrument(program)
    assert found.program.gpus == program.gpus
    timeline = run(found.program, drawn)
    check_order(timeline)
    for rank, (before, after) in enumerate(zip(program.ranks, found.program.ranks, strict=True)):
        assert msgspec.structs.replace(after, threads=before.threads) == before
        known = {c.event for c in before.commands() if isinstance(c, RecordEvent)}
        for old, new in zip(before.threads, after.threads, strict=True):
            assert [c for c in new if not isinstance(c, RecordEvent) or c.event in known] == list(old)
        spans = by_command(timeline, rank)
        recorded = {s.command.event: s.end for s in spans.values() if isinstance(s.command, RecordEvent)}
        for command, start, end in found.brackets[rank]:
            span = spans[id(command)]
            assert recorded[start] <= span.start <= span.end <= recorded[end]


# ---- what is drawn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
@pytest.mark.parametrize("launches", [1, 4])
def test_every_act_makes_a_program(kind: str, launches: int) -> None:
    for ranks in (1, 2, 4):
        everyone = tuple(range(ranks))
        program = emitted([act(kind, who=everyone, launches=launches, shift=max(ranks // 2, 1))] * 2, ranks)
        timeline = run(program)
        check_order(timeline)
        assert len(timeline.steps) == ranks


@given(programs(2))
def test_programs_that_are_drawn_go_wrong_in_no_interleaving(program: Program) -> None:
    found = explore(program.ranks, eager=True, limit=300)
    assert found.conflict is None
    assert not explore(program.ranks, eager=False, limit=300).stuck


def test_all_sides_of_a_program_are_drawn() -> None:
    one = emitted([act(kind) for kind in sorted(set(KINDS))], 2)
    kinds = {type(c) for part in one.ranks for c in part.commands()}
    assert {k.__name__ for k in kinds} == {
        *("Kernel", "Copy", "Collective", "PointToPoint", "RecordEvent", "WaitEvent", "WriteFlag", "WaitFlag"),
        *("HostWaitEvent", "HostAdd", "HostWait", "HostAcquire", "HostRelease"),
    }
    copies = [(c, part) for part in one.ranks for c in part.commands() if isinstance(c, Copy)]
    assert {c.kind for c, _ in copies} == {"h2d", "d2h", "d2d", "p2p"}
    assert {memory_of(part, c) for c, part in copies} == {"", "pinned", "pageable", "shared"}
    transfers = [t for part in one.ranks for c in part.commands() if isinstance(c, PointToPoint) for t in c.transfers]
    assert {type(t) for t in transfers} == {Send, Recv}


def memory_of(part: RankProgram, copy: Copy) -> str:
    if copy.other is msgspec.UNSET or copy.kind not in ("h2d", "d2h"):
        return ""
    buffer = part.host_memory[copy.other]
    return "shared" if buffer.shared else buffer.memory
