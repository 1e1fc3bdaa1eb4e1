"""The torch machine when ranks die, wait for ever or are told nonsense: an error in time, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sim.machine import DeadlockError
from sim.program import Program, RankBuilder, Recv, Send

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import MachineError, TorchMachine, check_ranks  # noqa: E402

MAIN = "compute"
SHARED = Path("/dev/shm")


def started() -> list[int]:
    """Processes of ranks that this process has started."""
    return [p.pid for p in multiprocessing.active_children() if p.pid]


def left_over(before: set[str]) -> set[str]:
    """Files in shared memory that were not there before, of no other program's."""
    return {name for name in shared_names() - before if not name.startswith(("sem.", "nccl-"))}


def shared_names() -> set[str]:
    """All files in shared memory."""
    return {path.name for path in SHARED.iterdir()}


def holding(rank: int) -> RankBuilder:
    """Rank 1 works for a minute with shared memory mapped; rank 0's stream waits for its flag."""
    builder = RankBuilder()
    builder.record_step(MAIN)
    builder.buffer("activations", 1 << 16, "activations", static=True)
    builder.host_buffer("mail", 1 << 16, shared=True)
    mine = builder.sequence(f"of {rank}")
    if rank:
        builder.kernel(MAIN, "work", seconds=60.0)
        builder.write_flag(MAIN, mine, 1, memory="host")
    else:
        builder.wait_flag(MAIN, "of 1", 1, memory="host", test="at_least")
        builder.copy(MAIN, "put", 1 << 16, "activations", kind="d2h", other="mail")
    builder.record_step(MAIN)
    return builder


@pytest.mark.parametrize("victim, delay", [(0, 0.0), (1, 0.2), (0, 1.1), (1, 1.1)])
def test_a_rank_that_is_killed_ends_the_run_and_is_named(victim: int, delay: float) -> None:
    """At any time: while it prepares, while its stream waits for a host flag, while the other's does."""
    before = shared_names()
    known = set(started())
    with TorchMachine(2, "cpu", timeout_s=50) as machine:
        processes = sorted(set(started()) - known)
        killer = threading.Timer(delay, os.kill, (processes[victim], signal.SIGKILL))
        killer.start()
        with pytest.raises(MachineError) as caught:
            machine.run(Program((holding(0).build(), holding(1).build())))
        assert str(caught.value) == f"the process of rank {victim} has died: SIGKILL"
        assert machine.closed
        with pytest.raises(MachineError, match="the machine is closed"):
            machine.run(Program((holding(0).build(), holding(1).build())))
    assert set(started()) == known
    assert left_over(before) == set()


def exchanging_for_ever(rank: int) -> RankBuilder:
    """Ranks meet so often that the one that is left is surely in a collective, which then fails there."""
    builder = RankBuilder()
    builder.record_step(MAIN)
    builder.buffer("b", 1 << 20, "collective", static=True)
    builder.kernel(MAIN, "work", seconds=1e-3)
    for _ in range(3000):
        builder.collective(MAIN, "sum", "all_reduce", 1 << 20, writes=("b",))
        builder.kernel(MAIN, "work", seconds=5e-3)
    builder.record_step(MAIN)
    return builder


@pytest.mark.parametrize("victim", [0, 1])
def test_the_rank_that_was_killed_is_named_not_the_one_that_missed_it(victim: int) -> None:
    known = set(started())
    with TorchMachine(2, "cpu", timeout_s=50) as machine:
        processes = sorted(set(started()) - known)
        killer = threading.Timer(2.0, os.kill, (processes[victim], signal.SIGKILL))
        killer.start()
        with pytest.raises(MachineError) as caught:
            machine.run(Program((exchanging_for_ever(0).build(), exchanging_for_ever(1).build())))
        assert str(caught.value) == f"the process of rank {victim} has died: SIGKILL"


PARENT = """
import sys
from sim.program import Program
from calibration.torch_machine import TorchMachine
from test_torch_survival import holding
import multiprocessing
if __name__ == "__main__":
    machine = TorchMachine(2, "cpu", timeout_s=50)
    print(*[p.pid for p in multiprocessing.active_children()], flush=True)
    machine.run(Program((holding(0).build(), holding(1).build())))
"""


def test_nothing_is_left_when_all_processes_are_killed(tmp_path: Path) -> None:
    before = shared_names()
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    parent = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    time.sleep(1.0)  # not for the assertion to hold: to kill them in the middle of the run
    for pid in (parent.pid, *children):
        os.kill(pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert left_over(before) == set()


def deadlock(patience: int, *ranks: RankBuilder) -> str:
    with TorchMachine(len(ranks), "cpu", timeout_s=patience) as machine, pytest.raises(DeadlockError) as caught:
        machine.run(Program(tuple(rank.build() for rank in ranks)))
    return str(caught.value)


def test_a_deadlock_says_which_flag_is_what() -> None:
    """The flag that nobody has written in time, the event behind it, and the copy that the queue still holds."""

    def rank() -> RankBuilder:
        builder = RankBuilder()
        builder.record_step(MAIN)
        builder.write_flag("other", "go", 3, memory="host")
        builder.wait(MAIN, builder.record("other"))
        builder.wait_flag(MAIN, "go", 2**32 - 5, memory="host", test="equal")
        builder.write_flag(MAIN, "go", 2**32 - 5, memory="host")
        builder.record_step(MAIN)
        return builder

    for patience in (4, 30):  # a busy machine may still be preparing
        said = deadlock(patience, rank())
        if "preparing" not in said and "event 0" not in said:
            break
    assert said == (
        f"rank 0 has not ended after {patience} s: stream 'compute' has not reached event 2, "
        "it waits for host flag 'go' to be 4294967291 (it is 3)"
    )


def test_a_deadlock_says_what_each_rank_waits_for() -> None:
    """Rank 0 waits on its host for an event behind a receive; rank 1 for a flag of its own, before it sends."""
    first, second = RankBuilder(), RankBuilder()
    for builder in (first, second):
        builder.record_step(MAIN)
        builder.buffer("activations", 64, "activations", static=True)
    first.point_to_point(MAIN, "get", Recv(1, 64, "activations"))
    first.host_wait(first.record(MAIN))
    second.write_flag("other", "go", 2)
    second.wait_flag(MAIN, "go", 1)
    second.point_to_point(MAIN, "give", Send(0, 64, "activations"))
    second.write_flag(MAIN, "go", 1)
    for builder in (first, second):
        builder.record_step(MAIN)
    for patience in (4, 30):
        said = deadlock(patience, first, second)
        if "preparing" not in said and "event 0" not in said:
            break
    parts = sorted(said.splitlines())
    assert parts == [
        f"rank 0 has not ended after {patience} s: host thread 0 waits for event 1; stream 'compute' has not reached "
        "event 1, it waits for 'get' from rank 1",
        f"rank 1 has not ended after {patience} s: stream 'compute' has not reached event 1, it waits for flag 'go' to "
        "be 1 (it is 2), or later for 'give' to rank 0",
    ]


def test_placements_are_of_the_machine() -> None:
    with pytest.raises(MachineError, match=r"placement \[1\] places 1 ranks, the machine has 2"):
        TorchMachine(2, "cpu", placement=(1,))
    with TorchMachine(1, "cpu", timeout_s=60, placement=(3,)) as machine:  # a CPU takes no notice
        builder = RankBuilder()
        builder.record_step(MAIN)
        builder.record_step(MAIN)
        assert len(machine.run(Program((builder.build(),), placement=(5,))).steps[0]) == 2
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="need as many GPUs"):
            check_ranks(1, "cuda", (2,))
