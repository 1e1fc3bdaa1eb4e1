"""Every command on the torch machine, in real processes, with bytes that are checked.

Where there are four GPUs it runs on them, otherwise on threads as streams and gloo. What one rank does alone runs on a
GPU if there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from sim.program import (
    COLLECTIVES,
    Collective,
    LayerWeights,
    PointToPoint,
    Program,
    RankBuilder,
    RankProgram,
    Recv,
    Send,
)

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import Execution, Kind, MachineError, TorchMachine  # noqa: E402
from calibration.torch_machine.cpu import CpuDevice  # noqa: E402
from calibration.torch_machine.memory import HostWeights, fill, seed  # noqa: E402

RANKS = 4
MAIN = "compute"


KIND: Kind = "cuda" if torch.cuda.device_count() >= RANKS else "cpu"


@pytest.fixture(scope="module")
def machine() -> Iterator[TorchMachine]:
    with TorchMachine(RANKS, KIND, timeout_s=300) as made:
        yield made


@pytest.fixture(scope="module")
def one_rank() -> Iterator[TorchMachine]:
    with TorchMachine(1, timeout_s=300) as made:
        yield made


class Rank(RankBuilder):
    """A rank between two step events."""

    def __init__(self) -> None:
        super().__init__()
        self.record_step(MAIN)

    def ended(self) -> RankProgram:
        self.record_step(MAIN)
        return self.build()


def program(ranks: Sequence[Rank]) -> Program:
    return Program(tuple(rank.ended() for rank in ranks))


def initial(rank: int, name: str, size: int, kind: Kind = KIND) -> np.ndarray:
    """What a buffer of a rank starts with. Devices of each kind have random numbers of their own."""
    memory = torch.empty(size, dtype=torch.uint8, device=kind)
    fill(memory, 1000 + rank if name == "activations" else seed(rank, name))
    return memory.cpu().numpy().copy()


def digest(content: np.ndarray) -> str:
    return hashlib.sha256(content.tobytes()).hexdigest()


def numbers(content: bytes | np.ndarray) -> np.ndarray:
    """bf16 numbers as float64."""
    raw = torch.frombuffer(bytearray(content), dtype=torch.bfloat16)
    return raw.to(torch.float64).numpy()


def rounded(values: np.ndarray) -> np.ndarray:
    """float64 numbers as the bytes of bf16 ones."""
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint8).numpy()


def moved(kind: str, size: int, members: Sequence[int], before: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """What the collectives that only move bytes leave in the members' buffers."""
    after = {rank: before[rank].copy() for rank in members}
    part = size // (2 * len(members)) * 2
    for place, rank in enumerate(members):
        for other_place, other in enumerate(members):
            if kind == "all_to_all":
                block = before[other][place * part :][:part]
                after[rank][size + other_place * part :][:part] = block
            elif kind == "all_gather":
                after[rank][other_place * part :][:part] = before[other][other_place * part :][:part]
        if kind == "send_recv":
            after[rank][size : 2 * size] = before[members[place - 1]][:size]
    return after


def summed(size: int, members: Sequence[int], before: dict[int, np.ndarray]) -> np.ndarray:
    """The sum of what members have, as float64."""
    return np.sum([numbers(before[rank][:size]) for rank in members], axis=0)


GROUPS: dict[str, list[tuple[int, ...] | None]] = {
    "all": [None],
    "all, named": [(0, 1, 2, 3)],
    "all, shuffled": [(3, 1, 0, 2)],
    "pairs": [(0, 1), (2, 3)],
    "pairs across, one of them reversed": [(0, 2), (3, 1)],
    "three, turned": [(2, 0, 3)],
    "one alone": [(1,), (3, 0)],
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_collectives_of_groups_move_and_add_what_they_must(
    machine: TorchMachine, groups: list[tuple[int, ...] | None]
) -> None:
    size, room, at = 120, 2 * 120 + 9, 2
    ranks = [Rank() for _ in range(RANKS)]
    group_of: dict[int, tuple[int, ...] | None] = {}
    for group in groups:
        for rank in range(RANKS) if group is None else group:
            group_of[rank] = group
            for kind in COLLECTIVES:
                ranks[rank].buffer(kind, room, "collective", static=True)
                ranks[rank].collective(MAIN, kind, kind, size, writes=(kind,), offset=at, group=group)
    execution = machine.execute(program(ranks), keep=COLLECTIVES)
    for rank, result in enumerate(execution.ranks):
        if rank not in group_of:
            assert result.digests == {}
            continue
        members = group_of[rank] or tuple(range(RANKS))
        for kind in ("all_to_all", "all_gather", "send_recv"):
            before = {r: initial(r, kind, room)[at:] for r in members}
            expected = np.concatenate([initial(rank, kind, room)[:at], moved(kind, size, members, before)[rank]])
            assert result.digests[kind] == digest(expected), kind
        for kind in ("all_reduce", "reduce_scatter"):
            before = {r: initial(r, kind, room)[at:] for r in members}
            part = size // (2 * len(members)) * 2
            own = slice(0, size) if kind == "all_reduce" else slice(members.index(rank) * part, None)
            own = slice(own.start, size if kind == "all_reduce" else own.start + part)
            got = np.frombuffer(result.contents[kind], np.uint8)
            untouched = initial(rank, kind, room)
            total = summed(size, members, before)[own.start // 2 : own.stop // 2]
            if len(members) <= 2:  # one addition, rounded once
                untouched[at + own.start : at + own.stop] = rounded(total)
                assert result.digests[kind] == digest(untouched), kind
                continue
            # gloo adds rank after rank and rounds each time, in an order of its own
            scale = np.sum([np.abs(numbers(before[r][own])) for r in members], axis=0)
            assert np.all(
                np.abs(numbers(got[at + own.start : at + own.stop]) - total) <= scale * 2.0**-8 * len(members)
            )
            if kind == "all_reduce":
                assert len({execution.ranks[r].contents[kind][at : at + size] for r in members}) == 1


def test_overlapping_groups_on_two_streams(machine: TorchMachine) -> None:
    """Pairs one way on the compute stream, pairs the other way on one of its own: as tensor beside Ulysses ranks."""
    size = 64
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        rank.buffer("a", 2 * size, "collective", static=True)
        rank.buffer("b", 2 * size, "collective", static=True)
        rows, columns = (number // 2 * 2, number // 2 * 2 + 1), (number % 2, number % 2 + 2)
        for _ in range(3):
            rank.collective(MAIN, "rows", "all_to_all", size, writes=("a",), group=rows)
            rank.wait("side", rank.record(MAIN))
            rank.collective("side", "columns", "all_to_all", size, writes=("b",), group=columns)
            rank.wait(MAIN, rank.record("side"))
    execution = machine.execute(program(ranks), instrumented=True)
    for number, result in enumerate(execution.ranks):
        rows, columns = (number // 2 * 2, number // 2 * 2 + 1), (number % 2, number % 2 + 2)
        for name, members in (("a", rows), ("b", columns)):
            before = {r: initial(r, name, 2 * size) for r in members}
            assert result.digests[name] == digest(moved("all_to_all", size, members, before)[number])
        for name, members in (("rows", rows), ("columns", columns)):
            calls = [[s for s, c in execution.timeline.commands(r, Collective) if c.name == name] for r in members]
            for turn in zip(*calls, strict=True):
                last = max(span.start for span in turn)
                assert [span.ready for span in turn] == [min(last, span.end) for span in turn]


def test_a_collective_of_all_ranks_on_a_communicator_of_its_own_is_the_same(machine: TorchMachine) -> None:
    def run(communicator: str | None) -> Execution:
        ranks = [Rank() for _ in range(RANKS)]
        for rank in ranks:
            rank.buffer("b", 160, "collective", static=True)
            for kind in ("all_to_all", "all_gather", "send_recv", "all_reduce", "reduce_scatter"):
                rank.collective(MAIN, kind, kind, 80, writes=("b",), communicator=communicator)
        return machine.execute(program(ranks))

    plain, own = run(None), run("other")
    assert [r.digests for r in plain.ranks] == [r.digests for r in own.ranks]


def test_sends_and_receives_in_a_ring_run_together(machine: TorchMachine) -> None:
    """Both ways round a ring, two to the same peer, of odd sizes at odd places; then back on another communicator."""
    room = 301
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        after, before = (number + 1) % RANKS, (number - 1) % RANKS
        rank.buffer("activations", room, "activations", static=True)
        rank.buffer("got", room, "collective", static=True)
        rank.point_to_point(
            MAIN,
            "both ways",
            Send(after, 7, "activations", 1),
            Send(after, 50, "activations", 100),
            Send(before, 33, "activations", 200),
            Recv(before, 7, "got", 3),
            Recv(before, 50, "got", 11),
            Recv(after, 33, "got", 101),
        )
        rank.wait("side", rank.record(MAIN))
        rank.point_to_point(
            "side", "back", Send(before, 50, "got", 11), Recv(after, 50, "activations", 251), communicator="ring"
        )
        rank.wait(MAIN, rank.record("side"))
    execution = machine.execute(program(ranks), instrumented=True)
    for number, result in enumerate(execution.ranks):
        after, before = (number + 1) % RANKS, (number - 1) % RANKS
        there = {r: initial(r, "activations", room) for r in range(RANKS)}
        got = initial(number, "got", room)
        got[3:10] = there[before][1:8]
        got[11:61] = there[before][100:150]
        got[101:134] = there[after][200:233]
        mine = there[number]
        mine[251:301] = there[number][100:150]  # what came from here and has gone back
        assert result.digests == {"activations": digest(mine), "got": digest(got)}
    for rank in range(RANKS):
        spans = execution.timeline.commands(rank, PointToPoint)
        assert [c.name for _, c in spans] == ["both ways", "back"]
        for span, command in spans:
            peers = {t.peer for t in command.transfers}
            others = [
                s.start
                for p in peers
                for s, c in execution.timeline.commands(p, PointToPoint)
                if c.name == command.name
            ]
            assert span.ready == pytest.approx(min(max(span.start, *others), span.end))


def test_a_pipeline_of_ranks_that_do_different_things(machine: TorchMachine) -> None:
    """Each rank gets what the one before has, twice, and the first sends a second one before the first has gone on."""
    size = 1001
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        rank.buffer("activations", 2 * size, "activations", static=True)
        for half in range(2):
            if number:
                rank.point_to_point(MAIN, "get", Recv(number - 1, size, "activations", half * size))
            if number + 1 < RANKS:
                rank.point_to_point(MAIN, "give", Send(number + 1, size, "activations", half * size))
    execution = machine.execute(program(ranks))
    expected = digest(initial(0, "activations", 2 * size))
    assert [r.digests["activations"] for r in execution.ranks[1:]] == [expected] * 3
    assert execution.ranks[0].output == expected


@pytest.mark.parametrize("memory", ["pinned", "pageable"])
def test_copies_between_host_and_device(machine: TorchMachine, memory: str) -> None:
    size = 5003
    ranks = [Rank() for _ in range(RANKS)]
    for rank in ranks:
        rank.buffer("activations", size, "activations", static=True)
        rank.buffer("other", size, "scratch", static=True)
        rank.host_buffer("in", size, memory)
        rank.host_buffer("out", size, memory)
        rank.copy(MAIN, "down", 1001, "activations", kind="h2d", offset=3, other="in", other_offset=2001)
        rank.copy(MAIN, "inside", 2000, "other", kind="d2d", offset=1, other="activations", other_offset=2)
        rank.copy(MAIN, "up", 1500, "other", kind="d2h", offset=1, other="out", other_offset=77)
        rank.copy(MAIN, "nowhere", 100, "other", kind="d2h")
        rank.copy(MAIN, "from anywhere", 10, "other", kind="h2d", offset=4000)
    execution = machine.execute(program(ranks))
    for number, result in enumerate(execution.ranks):
        mine, out = initial(number, "activations", size), np.zeros(size, np.uint8)
        mine[3:1004] = initial(number, "in", size)[2001:3002]
        other = initial(number, "other", size)
        other[1:2001] = mine[2:2002]
        out[77:1577] = other[1:1501]
        other[4000:4010] = initial(number, "", 100)[:10]  # memory of the size of the largest copy that names none
        assert result.digests == {"activations": digest(mine), "other": digest(other), "out": digest(out)}


def test_copies_into_the_memory_of_peers(machine: TorchMachine) -> None:
    """Each rank writes its place into all others, who read what has come after a collective."""
    part = 1003
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        rank.buffer("activations", part, "activations", static=True)
        rank.buffer("all", RANKS * part, "collective", static=True)
        rank.buffer("meet", 8, "collective", static=True)
        rank.buffer("seen", RANKS * part, "scratch", static=True)
        for peer in range(RANKS):
            place = {"other": "all", "other_offset": number * part, "peer": peer}
            if peer != number:
                rank.copy(MAIN, f"to {peer}", part, "activations", kind="p2p", **place)
        rank.collective(MAIN, "meet", "all_reduce", 8, writes=("meet",))
        rank.copy(MAIN, "look", RANKS * part, "seen", kind="d2d", other="all")
    execution = machine.execute(program(ranks))
    for number, result in enumerate(execution.ranks):
        expected = initial(number, "all", RANKS * part)
        for peer in range(RANKS):
            if peer != number:
                expected[peer * part :][:part] = initial(peer, "activations", part)
        assert result.digests["all"] == result.digests["seen"] == digest(expected)


def relay(values: Sequence[int], size: int = 4097) -> list[Rank]:
    """Rank 0 and 1 hand a shared buffer to and fro, each with a flag of its own; the others do nothing."""
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks[:2]):
        rank.buffer("activations", size, "activations", static=True)
        rank.buffer("got", size, "scratch", static=True)
        rank.host_buffer("mail", size, shared=True)
        mine = rank.sequence(f"of {number}")
        for value in values:
            if number == 0:
                rank.copy("up", "put", size, "activations", kind="d2h", other="mail")
                rank.write_flag("up", mine, value, memory="host")
                rank.wait_flag("up", "of 1", value, memory="host", test="at_least")
            else:
                rank.wait_flag("down", "of 0", value, memory="host", test="at_least")
                rank.copy("down", "get", size, "got", kind="h2d", other="mail")
                rank.write_flag("down", mine, value, memory="host")
        rank.wait(MAIN, rank.record("up" if number == 0 else "down"))
    return ranks


def test_a_shared_buffer_goes_to_and_fro_by_flags(machine: TorchMachine) -> None:
    first = machine.execute(program(relay([1, 3, 7])), instrumented=True)
    again = machine.execute(program(relay([1, 3])))  # flags and shared memory start anew
    expected = digest(initial(0, "activations", 4097))
    for execution in (first, again):
        assert execution.ranks[0].digests["mail"] == execution.ranks[1].digests["mail"] == expected
        assert execution.ranks[1].digests["got"] == expected
        assert execution.ranks[2].digests == {}


def test_turns_go_round_past_the_largest_value(machine: TorchMachine) -> None:
    """Each rank waits for the turn of the one before and writes its own; values wrap around after 2^32 - 1."""
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        for value in (2**31 - 1, 2**32 - 2, 2**32 - 1, 0, 1, 2):
            if number:
                rank.wait_flag(MAIN, f"turn {number - 1}", value, memory="host", test="at_least")
            rank.write_flag(MAIN, f"turn {number}", value, memory="host")
            rank.wait_flag(MAIN, f"turn {RANKS - 1}", value, memory="host", test="at_least")
    machine.execute(program(ranks))


def test_at_least_is_cyclic() -> None:
    """A wait for 1 is not over while the word is just below 2^32, nor at 2^31 + 1, which is behind 1."""
    device, word = CpuDevice(), torch.tensor([-1], dtype=torch.int32)
    device.use_host_flags({"turn": word.view(torch.uint8)})
    waiting, writing, ended = device.stream("waiting"), device.stream("writing"), device.event(timed=False)
    waiting.wait_flag("turn", 1, "at_least", "host")()
    waiting.record(ended)()
    for value in (0, 2**31 + 1, 2**32 - 3):
        writing.write_flag("turn", value, "host")()
        while not writing.idle():
            pass
        assert device.flag_now("turn", "host") == value
        assert not ended.done()
    writing.write_flag("turn", 2**31, "host")()
    ended.synchronize()
    assert int(word) == -(2**31)
    device.synchronize()
    device.close()


def test_a_host_flag_that_equals(machine: TorchMachine) -> None:
    """Any rank's stream may write, and both memories have words of the same name."""
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        rank.write_flag(MAIN, "turn", 77)
        rank.wait_flag(MAIN, "turn", number, memory="host")
        rank.wait_flag(MAIN, "turn", 77)
        rank.write_flag(MAIN, "turn", (number + 1) % RANKS, memory="host")
    machine.execute(program(ranks))


def test_memory_of_a_pageable_copy_may_be_used_again_at_once(machine: TorchMachine) -> None:
    """What follows on the host thread comes after a copy to pageable memory: here it brings the bytes back."""
    size = 100_003
    ranks = [Rank() for _ in range(RANKS)]
    for rank in ranks:
        rank.buffer("activations", size, "activations", static=True)
        rank.buffer("back", 2 * size, "scratch", static=True)
        rank.host_buffer("bounce", size, "pageable")
        for half in range(2):
            rank.kernel("up", "work", seconds=0.01)
            rank.copy("up", "up", size, "activations", kind="d2h", other="bounce")
            rank.copy("down", "down", size, "back", kind="h2d", offset=half * size, other="bounce")
            rank.copy("down", "next", size, "activations", kind="d2d", other="back", other_offset=half * size)
            rank.wait("up", rank.record("down"))
        rank.wait(MAIN, rank.record("down"))
    execution = machine.execute(program(ranks))
    for number, result in enumerate(execution.ranks):
        mine = initial(number, "activations", size)
        assert result.digests["bounce"] == result.digests["activations"] == digest(mine)
        assert result.digests["back"] == digest(np.concatenate([mine, mine]))


def test_the_work_of_a_host_passes_before_what_it_issues_next(one_rank: TorchMachine) -> None:
    rank = Rank()
    rank.buffer("a", 100, "activations", static=True)
    rank.host_wait(rank.record(MAIN))
    rank.host_work("hook", 0.03)
    rank.kernel(MAIN, "k", seconds=0.0, writes=("a",))
    (step,) = one_rank.run(program([rank])).step_times()
    assert step >= 0.03  # the thread was busy that long, whatever the machine


def test_one_rank_alone(one_rank: TorchMachine) -> None:
    """All that needs no peer: each copy, host flags on both sides of 2^32, and a group of one."""
    size = 3001
    rank = Rank()
    rank.buffer("activations", size, "activations", static=True)
    rank.buffer("got", size, "scratch", static=True)
    rank.buffer("c", 200, "collective", static=True)
    for name, memory in (("in", "pinned"), ("from", "pageable"), ("out", "pageable"), ("up", "pinned")):
        rank.host_buffer(name, size, memory)
    rank.host_buffer("both", size, shared=True)
    rank.copy(MAIN, "pinned", 1000, "activations", kind="h2d", offset=1, other="in", other_offset=7)
    rank.copy(MAIN, "pageable", 1000, "activations", kind="h2d", offset=1001, other="from")
    rank.copy(MAIN, "within", 2500, "got", kind="d2d", offset=100, other="activations")
    rank.copy(MAIN, "to pageable", size, "got", kind="d2h", other="out")
    rank.copy(MAIN, "to pinned", size, "got", kind="d2h", other="up")
    for value in (2**31 - 1, 2**32 - 2, 0, 3):
        rank.write_flag(MAIN, "there", value, memory="host")
        rank.wait_flag("side", "there", value, memory="host", test="at_least")
        rank.write_flag("side", "back", value, memory="host")
        rank.wait_flag(MAIN, "back", value, memory="host", test="at_least")
    rank.copy(MAIN, "to shared", size, "got", kind="d2h", other="both")
    rank.copy(MAIN, "from shared", size, "activations", kind="h2d", other="both")
    for kind in COLLECTIVES:
        rank.collective(MAIN, kind, kind, 100, writes=("c",), group=(0,))
    rank.wait(MAIN, rank.record("side"))
    result = one_rank.execute(program([rank]), instrumented=True).ranks[0]
    there = {name: initial(0, name, size, one_rank.kind) for name in ("activations", "got", "in", "from")}
    there["activations"][1:1001] = there["in"][7:1007]
    there["activations"][1001:2001] = there["from"][:1000]
    there["got"][100:2600] = there["activations"][:2500]
    collective = initial(0, "c", 200, one_rank.kind)
    collective[100:] = collective[:100]
    got = digest(there["got"])
    assert result.digests == dict.fromkeys(["activations", "got", "out", "up", "both"], got) | {"c": digest(collective)}


def test_a_copy_from_pageable_memory_takes_its_bytes_when_it_is_issued(machine: TorchMachine) -> None:
    """Its stream is busy for long after the same memory has got other bytes."""
    size = 20_001
    ranks = [Rank() for _ in range(RANKS)]
    for rank in ranks:
        rank.buffer("activations", size, "activations", static=True)
        rank.buffer("got", size, "scratch", static=True)
        rank.host_buffer("bounce", size, "pageable")
        rank.kernel("down", "work", seconds=0.2)
        rank.copy("down", "down", size, "got", kind="h2d", other="bounce")
        rank.copy("up", "up", size, "activations", kind="d2h", other="bounce")
        rank.wait(MAIN, rank.record("down"))
    for number, result in enumerate(machine.execute(program(ranks)).ranks):
        assert result.digests["got"] == digest(initial(number, "bounce", size))
        assert result.digests["bounce"] == digest(initial(number, "activations", size))


@pytest.mark.parametrize("resident", [0, 1001, 5000])
def test_weights_go_on_from_rank_to_rank(machine: TorchMachine, resident: int) -> None:
    """Rank 0 loads a layer into its slot and the next ones get it over links, whatever part of it is resident."""
    size = 9002
    moved = size - resident
    weights = (LayerWeights(100, 100, 0), LayerWeights(size, resident, 100))
    ranks = [Rank() for _ in range(RANKS)]
    for number, rank in enumerate(ranks):
        rank.buffer("resident", 100 + resident, "weights", static=True)
        rank.buffer("slot", moved, "slot", static=True)
        rank.host_buffer("seen", size)
        if number == 0:
            rank.copy(MAIN, "load", moved, "slot", layer=1)
        else:
            rank.point_to_point(MAIN, "get", Recv(number - 1, moved, "slot"), layer=1)
        if number + 1 < RANKS:
            rank.point_to_point(MAIN, "give", Send(number + 1, moved, "slot"), layer=1)
        if resident:
            rank.copy(MAIN, "see", resident, "resident", kind="d2h", offset=100, other="seen", layer=1)
        rank.copy(MAIN, "see", moved, "slot", kind="d2h", other="seen", other_offset=resident, layer=1)
        rank.record_step(MAIN)
    execution = machine.execute(Program(tuple(rank.build(weights) for rank in ranks)))
    layer = HostWeights(CpuDevice(), [100, size]).layers[1] if KIND == "cpu" else None
    expected = {r.digests["seen"] for r in execution.ranks}
    assert len(expected) == 1
    assert layer is None or expected == {digest(layer.numpy())}
    assert all(r.landed for r in execution.ranks)


def test_results_are_of_when_all_ranks_have_ended(machine: TorchMachine) -> None:
    """Rank 0 does nothing, while a peer writes its memory, and what they share, in its own time."""
    size = 1000
    ranks = [Rank() for _ in range(RANKS)]
    for rank in ranks:
        rank.buffer("activations", size, "activations", static=True)
        rank.host_buffer("mail", size, shared=True)
    ranks[1].kernel(MAIN, "work", seconds=0.3)
    ranks[1].copy(MAIN, "to 0", size, "activations", kind="p2p", other="activations", peer=0)
    ranks[1].copy(MAIN, "to all", size, "activations", kind="d2h", other="mail")
    results = machine.execute(program(ranks)).ranks
    sent = digest(initial(1, "activations", size))
    assert results[0].digests["activations"] == results[0].output == sent
    assert {r.digests["mail"] for r in results} == {sent}


UNSUPPORTED: dict[str, str] = {
    "writes 2 buffers": "collective 'c' writes 2 buffers, expected 1",
    "too small": "works in 200 bytes from byte 0 of buffer 'b', which has 150",
    "odd": "adds numbers from byte 1 on",
    "resident": "uses buffer 'slot', which holds layers' weights, without saying of which layer",
    "peer": "copy 'far' writes buffer 'slot' of rank 1, which holds layers' weights",
    "no layer": "copy 'w' brings weights of layer 3, but there are 0 layers",
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_cannot_run_says_why(machine: TorchMachine, case: str) -> None:
    ranks = [Rank() for _ in range(RANKS)]
    weights: tuple[LayerWeights, ...] = ()
    for rank in ranks:
        rank.buffer("b", 150, "collective")
        match case:
            case "writes 2 buffers":
                rank.buffer("b2", 150, "collective")
                rank.collective(MAIN, "c", "all_reduce", 8, writes=("b", "b2"))
            case "too small":
                rank.collective(MAIN, "c", "all_to_all", 100, writes=("b",))
            case "odd":
                rank.collective(MAIN, "c", "all_reduce", 8, writes=("b",), offset=1)
            case "resident":
                weights = (LayerWeights(8, 0, 0),)
                rank.buffer("slot", 8, "slot", static=True)
                rank.copy(MAIN, "w", 8, "slot", layer=0)
                rank.copy(MAIN, "out", 8, "slot", kind="d2h")
            case "no layer":
                rank.copy(MAIN, "w", 8, "b", layer=3)
    if case == "peer":
        weights = (LayerWeights(8, 0, 0),)
        ranks[1].buffer("slot", 8, "slot", static=True)
        ranks[1].copy(MAIN, "w", 8, "slot", layer=0)
        for rank, transfer in ((ranks[1], Send(0, 8, "b")), (ranks[0], Recv(1, 8, "b"))):
            rank.point_to_point(MAIN, "after", transfer)
        ranks[0].copy(MAIN, "far", 8, "b", kind="p2p", other="slot", peer=1)
    for rank in ranks:
        rank.record_step(MAIN)
    with pytest.raises(MachineError) as caught:
        machine.run(Program(tuple(rank.build(weights) for rank in ranks)))
    assert UNSUPPORTED[case] in str(caught.value)


def test_results_do_not_depend_on_the_run(machine: TorchMachine) -> None:
    """The same program twice, and with events around its commands, leaves the same bytes."""

    def made() -> Program:
        ranks = relay([5, 6])
        for rank in ranks:
            rank.buffer("r", 64, "collective", static=True)
            rank.collective(MAIN, "sum", "all_reduce", 64, writes=("r",))
        return program(ranks)

    runs = [machine.execute(made(), instrumented=number == 1) for number in range(3)]
    found = [[r.digests for r in run.ranks] for run in runs]
    assert found[0] == found[1] == found[2]
    assert len({r.digests["r"] for r in runs[0].ranks}) == 1  # a buffer that is added up whole
