"""Programs of every command on both machines: the same commands in the same order, and the same standstills."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sim.datasets.program_cases import ProgramCase, cases
from sim.hardware import load_profile
from sim.machine import DeadlockError, SimulatedMachine
from sim.program import Collective, Copy, Kernel, PointToPoint, Program, RankBuilder, Recv, Send, instrument
from sim.timeline import Timeline

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import TorchMachine  # noqa: E402

MAIN = "compute"
RANKS = 4
LARGE = 16 << 20
"""Programs that copy more than so many bytes at once are left out: a CPU takes its time."""


def is_small(case: ProgramCase) -> bool:
    commands = [c for rank in case.build(steps=1).ranks for c in rank.commands()]
    return sum(getattr(c, "bytes", 0) for c in commands) <= LARGE


SMALL = [case for case in cases(2) if is_small(case)]


@pytest.fixture(scope="module")
def machine() -> Iterator[TorchMachine]:
    with TorchMachine(2, "cpu", timeout_s=300) as made:
        yield made


@pytest.fixture(scope="module")
def alone() -> Iterator[TorchMachine]:
    with TorchMachine(1, "cpu", timeout_s=300) as made:
        yield made


@pytest.fixture(scope="module")
def four() -> Iterator[TorchMachine]:
    with TorchMachine(RANKS, "cpu", timeout_s=300) as made:
        yield made


def on_streams(timeline: Timeline) -> dict[tuple[int, str], list[str]]:
    """Names of what ran on each stream of each rank, in order."""
    found: dict[tuple[int, str], list[str]] = {}
    for rank in range(timeline.program.world_size):
        for span in sorted(timeline.of(rank), key=lambda s: (s.start, s.end)):
            if isinstance(span.command, Kernel | Copy | Collective | PointToPoint):
                found.setdefault((rank, span.command.stream), []).append(span.command.name)
    return found


def check_rendezvous(timeline: Timeline) -> None:
    """What ranks meet at is not ready before all that take part have started it, nor ended before."""
    for rank in range(timeline.program.world_size):
        for kind in (Collective, PointToPoint):
            for span, command in timeline.commands(rank, kind):
                same = [
                    s.start
                    for r in range(timeline.program.world_size)
                    for s, c in timeline.commands(r, kind)
                    if (c.name, c.step, c.communicates_on) == (command.name, command.step, command.communicates_on)
                    and takes_part(r, rank, command)
                ]
                assert span.end >= span.ready >= min(max(same), span.end) - 1e-9


def takes_part(other: int, rank: int, command: Collective | PointToPoint) -> bool:
    """Whether `other` is one that `command` of `rank` meets."""
    if isinstance(command, Collective):
        return other in command.members(RANKS)
    return other == rank or other in {t.peer for t in command.transfers}


def run_on_both(program: Program, machine: TorchMachine, profile: str) -> tuple[Timeline, Timeline]:
    measured = machine.execute(program, instrumented=True).timeline
    simulated = SimulatedMachine(load_profile(profile)).run(instrument(program).program)
    assert measured.program.hash == simulated.program.hash
    assert on_streams(measured) == on_streams(simulated)
    assert [len(s) for s in measured.steps] == [len(s) for s in simulated.steps]
    return measured, simulated


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_both_machines_run_the_same_commands(case: ProgramCase, machine: TorchMachine, alone: TorchMachine) -> None:
    run_on_both(case.build(steps=2), machine if case.ranks == 2 else alone, "h200x2-hostpath")


def test_both_machines_know_groups_and_rings(four: TorchMachine) -> None:
    """Pairs, pairs across, three in another order, a ring and a pipeline, on streams of their own."""
    ranks = []
    for number in range(RANKS):
        rank = RankBuilder()
        rank.record_step(MAIN)
        for name in "abcd":
            rank.buffer(name, 512, "collective", static=True)
        row, column = (number // 2 * 2, number // 2 * 2 + 1), (number % 2, number % 2 + 2)
        after, before = (number + 1) % RANKS, (number - 1) % RANKS
        rank.kernel(MAIN, "work", seconds=2e-3 * number)
        rank.collective(MAIN, "row", "all_to_all", 256, writes=("a",), group=row)
        rank.wait("side", rank.record(MAIN))
        rank.collective("side", "column", "all_gather", 256, writes=("b",), group=column)
        if number != 1:
            rank.collective("side", "three", "send_recv", 256, writes=("b",), group=(3, 0, 2))
        ring = Send(after, 99, "c", 1), Recv(before, 99, "c", 200)
        rank.point_to_point(MAIN, "ring", *ring)
        if number:
            rank.point_to_point(MAIN, f"to {number}", Recv(number - 1, 512, "d"), communicator="pipe")
        if number + 1 < RANKS:
            rank.point_to_point(MAIN, f"to {number + 1}", Send(number + 1, 512, "d"), communicator="pipe")
        rank.wait(MAIN, rank.record("side"))
        rank.record_step(MAIN)
        ranks.append(rank.build())
    for timeline in run_on_both(Program(tuple(ranks)), four, "h200x4-hostpath-20261121d"):
        check_rendezvous(timeline)


def flag_that_never_comes(memory: str) -> RankBuilder:
    rank = RankBuilder()
    rank.record_step(MAIN)
    rank.write_flag("other", "go", 2, memory=memory)
    rank.wait(MAIN, rank.record("other"))
    rank.wait_flag(MAIN, "go", 7, memory=memory)
    rank.write_flag(MAIN, "go", 7, memory=memory)
    rank.record_step(MAIN)
    return rank


def counter_that_never_comes() -> RankBuilder:
    rank = RankBuilder()
    rank.record_step(MAIN)
    rank.host_wait_counter("done", least=1)
    rank.host_add("done", 1)
    rank.record_step(MAIN)
    return rank


STANDSTILLS: dict[str, tuple[Callable[[], RankBuilder], str]] = {
    "device flag": (lambda: flag_that_never_comes("device"), "stream 'compute'|flag 'go' to be 7|2"),
    "host flag": (lambda: flag_that_never_comes("host"), "stream 'compute'|host flag 'go' to be 7|2"),
    "counter": (counter_that_never_comes, "host thread 0|counter 'done'"),
}


@pytest.mark.parametrize("rank, said", STANDSTILLS.values(), ids=STANDSTILLS.keys())
def test_both_machines_say_who_waits_for_what(rank: Callable[[], RankBuilder], said: str) -> None:
    program = Program((rank().build(),))
    with pytest.raises(DeadlockError) as simulated:
        SimulatedMachine(load_profile("h200x2-hostpath")).run(program)
    for patience in (4, 30):  # a busy machine may still be preparing
        with TorchMachine(1, "cpu", timeout_s=patience) as machine, pytest.raises(DeadlockError) as measured:
            machine.run(program)
        if "preparing" not in str(measured.value) and "event 0" not in str(measured.value):
            break
    for part in ("rank 0", *said.split("|")):
        assert part in str(simulated.value)
        assert part in str(measured.value)
