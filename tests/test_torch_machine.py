"""The torch machine on a CPU: real threads as streams, real gloo collectives, real arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tiny_models import tiny

from sim.machine import DeadlockError, SimulatedMachine
from sim.policies import Policy, build
from sim.program import Collective, Copy, Kernel, Program, RankBuilder, instrument
from sim.scenario import Scenario
from sim.workloads.named import load_model

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import MachineError, TorchMachine  # noqa: E402
from calibration.torch_machine.cpu import CpuDevice  # noqa: E402
from calibration.torch_machine.fair_lock import FairLock  # noqa: E402
from calibration.torch_machine.memory import HostWeights, Memory  # noqa: E402
from calibration.torch_machine.operations import build as build_operation  # noqa: E402

MODELS = {
    "cross": "wan2.1-1.3b",
    "joint": "cogvideox-5b",
    "double and single": "flux.1-dev",
    "packed": "hunyuanvideo",
    "last": "sd3.5-large",
    "gated, without bias": "flux.2-dev",
}


POLICIES: list[dict[str, Any]] = [
    {"kind": "whole_layer"},
    {"kind": "whole_layer", "issue": "after_compute", "resident_fraction": 0.37},
    {"kind": "whole_layer", "prefetch_layers": 0},
    {"kind": "whole_layer", "quiesce": True, "resident_layers": [0]},
    {"kind": "chunked", "chunk_bytes": "7001 B", "resident_fraction": 0.123, "prefetch_layers": 2},
    {"kind": "yielding", "chunk_bytes": "5 KiB"},
    {"kind": "yielding", "chunk_bytes": "5 KiB", "drain": True, "resident_fraction": 0.9},
    {"kind": "yielding", "chunk_bytes": "16 KiB", "window": "launch", "resident_layers": [1]},
    {"kind": "yielding", "chunk_bytes": "16 KiB", "window": "kernel", "resident_fraction": 0.5},
    {"kind": "sharded"},
    {"kind": "sharded", "chunk_bytes": "3001 B", "resident_fraction": 0.123, "prefetch_layers": 2},
    {"kind": "sharded", "chunk_bytes": "8 KiB", "store": "device", "prefetch_layers": 0},
]


def policy_of(plain: dict[str, Any]) -> Policy:
    return scenario(EXPLICIT, plain).policy


def scenario(workload: dict[str, Any], policy: dict[str, Any], world_size: int = 2) -> Scenario:
    return Scenario.from_plain(
        {"hardware": "h200x2-hostpath", "world_size": world_size, "workload": workload, "policy": policy}
    )


EXPLICIT: dict[str, Any] = {
    "layers": 3,
    "layer_bytes": 3_000_002,
    "steps": 2,
    "activation_bytes": 64,
    "block": [
        {"compute": {"name": "a", "seconds": "1 ms", "launches": 2}},
        {"collective": {"kind": "all_to_all", "bytes": 1002}},
        {"compute": {"name": "b", "seconds": "1 ms"}},
        {"collective": {"kind": "all_reduce", "bytes": 64}},
        {"collective": {"kind": "all_gather", "bytes": 64}},
        {"collective": {"kind": "reduce_scatter", "bytes": 64}},
        {"collective": {"kind": "send_recv", "bytes": 64}},
    ],
}


@pytest.fixture(scope="module")
def machine() -> Iterator[TorchMachine]:
    with TorchMachine(2, "cpu", timeout_s=300) as made:
        yield made


@pytest.fixture(scope="module")
def one_rank() -> Iterator[TorchMachine]:
    with TorchMachine(1, "cpu", timeout_s=300) as made:
        yield made


@pytest.mark.parametrize("parallelism", ["ulysses", "tensor"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_every_policy_computes_what_resident_does(machine: TorchMachine, model: str, parallelism: str) -> None:
    workload = tiny(model, parallelism)[0]
    expected = machine.execute(build(workload, policy_of({"kind": "resident"}), 2))
    assert all(r.finite for r in expected.ranks)
    for plain in POLICIES:
        execution = machine.execute(build(workload, policy_of(plain), 2))
        assert [r.output for r in execution.ranks] == [r.output for r in expected.ranks], plain
        assert all(r.landed for r in execution.ranks), plain


@pytest.mark.parametrize("parallelism", ["ulysses", "tensor"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_a_batch_is_the_same_bits_under_every_policy(machine: TorchMachine, model: str, parallelism: str) -> None:
    workload = tiny(model, parallelism, steps=1, batch=3)[0]
    expected = machine.execute(build(workload, policy_of({"kind": "resident"}), 2))
    assert all(r.finite for r in expected.ranks)
    for plain in (POLICIES[4], POLICIES[6], POLICIES[10]):
        execution = machine.execute(build(workload, policy_of(plain), 2))
        assert [r.output for r in execution.ranks] == [r.output for r in expected.ranks], plain
        assert all(r.landed for r in execution.ranks), plain


def test_outputs_depend_on_every_step(machine: TorchMachine) -> None:
    """Equal outputs mean something: another step gives another output."""
    policy = policy_of({"kind": "resident"})
    one, two = (machine.execute(build(tiny("wan2.1-1.3b", steps=n)[0], policy, 2)).ranks[0].output for n in (1, 2))
    assert one != two


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: "-".join(str(v) for v in p.values()))
def test_both_machines_run_the_same_program(machine: TorchMachine, policy: dict[str, Any]) -> None:
    case = scenario(EXPLICIT, policy)
    program = instrument(case.program()).program
    simulated = SimulatedMachine(case.profile()).run(program)
    execution = machine.execute(case.program(), instrumented=True)
    measured = execution.timeline
    assert measured.program.hash == simulated.program.hash
    assert all(r.landed for r in execution.ranks)
    assert len(measured.steps[0]) == len(simulated.steps[0]) == EXPLICIT["steps"] + 1
    for rank in range(2):
        for kind in (Kernel, Copy, Collective):
            ours = [c for _, c in measured.commands(rank, kind)]
            assert sorted(map(msgspec.json.encode, ours)) == sorted(
                msgspec.json.encode(c) for _, c in simulated.commands(rank, kind)
            )
        on_stream: dict[str, float] = {}
        for span in measured.of(rank):
            assert span.start <= span.ready <= span.end
            assert span.start >= on_stream.get(span.command.stream, 0.0)
            on_stream[span.command.stream] = span.start
        for span, kernel in measured.commands(rank, Kernel):
            assert span.end - span.start >= 0.9 * (kernel.seconds or 0.0)


def test_a_collective_starts_when_the_last_rank_has_come(machine: TorchMachine) -> None:
    def rank(seconds: float) -> Any:
        builder = RankBuilder()
        builder.record_step("compute")
        builder.kernel("compute", "work", seconds=seconds)
        builder.buffer("b", 64, "collective")
        builder.collective("compute", "sum", "all_reduce", 64, writes=("b",))
        builder.record_step("compute")
        return builder.build()

    timeline = machine.execute(Program((rank(0.0), rank(0.2))), instrumented=True).timeline
    early, late = (timeline.commands(r, Collective)[0][0] for r in (0, 1))
    # rank 1 works before it comes; on a busy machine rank 0 may come later still
    assert early.ready == pytest.approx(max(early.start, late.start))
    assert late.ready == pytest.approx(max(early.start, late.start))


@pytest.mark.parametrize("model", ["wan2.1-1.3b", "hunyuanvideo"])
def test_ranks_together_compute_what_one_does_alone(model: str) -> None:
    """Ulysses over two ranks is attention over the whole sequence: what is exchanged comes to its place."""
    local, hidden, text = 12, 64, 8
    whole = Ranks(build(tiny(model, world_size=1, steps=1)[0], policy_of({"kind": "resident"}), 1))
    halves = Ranks(build(tiny(model, steps=1)[0], policy_of({"kind": "resident"}), 2))
    words = text if model == "hunyuanvideo" else 0
    full = whole.hidden(0, 2 * local + words, hidden)
    for rank in range(2):
        mine = halves.hidden(rank, local + words, hidden)
        mine[:local] = full[rank * local : (rank + 1) * local]
        mine[local:] = full[2 * local :]
        if not words:  # cross-attention: the text follows the hidden vectors
            halves.after(rank, local * hidden, text * hidden).copy_(whole.after(0, 2 * local * hidden, text * hidden))
        else:
            halves.after(rank, (local + words) * hidden, 32).copy_(whole.after(0, (2 * local + words) * hidden, 32))
    whole.run()
    halves.run()
    for rank in range(2):
        mine = halves.hidden(rank, local + words, hidden).float()
        assert torch.equal(mine[:local], full[rank * local : (rank + 1) * local].float())
        assert torch.equal(mine[local:], full[2 * local :].float())


@pytest.mark.parametrize("parallelism", ["ulysses", "tensor"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_a_sample_of_a_batch_is_what_it_is_alone(model: str, parallelism: str) -> None:
    """The kept matrices of each sample (hidden vectors, text, conditioning) begin and end as those of a batch of 1."""
    batch, resident = 3, policy_of({"kind": "resident"})
    together = Ranks(build(tiny(model, parallelism, steps=1, batch=batch)[0], resident, 2))
    local, hidden, text = 12 if parallelism == "ulysses" else 24, 64, 8
    cross = load_model(model).blocks[0].kind == "cross"
    kept = [(local + (0 if cross else text)) * hidden, *([text * hidden] if cross else []), 32]
    kept = kept if load_model(model).transformer.modulation else kept[:-1]
    samples = [Ranks(build(tiny(model, parallelism, steps=1)[0], resident, 2)) for _ in range(batch)]

    def pairs() -> Iterator[tuple[Any, Any]]:
        """(of the batch, of the sample alone) for every sample, rank and kept matrix."""
        for number, alone in enumerate(samples):
            for rank in range(2):
                start = 0
                for elements in kept:
                    theirs = together.after(rank, batch * start + number * elements, elements, exact=True)
                    yield theirs, alone.after(rank, start, elements, exact=True)
                    start += -(-elements // 128) * 128

    for ours, single in pairs():
        single.copy_(ours)
    before = [ours.clone() for ours, _ in pairs()]
    together.run()
    for alone in samples:
        alone.run()
    for ours, single in pairs():
        assert torch.equal(ours, single)
    changed = [not torch.equal(ours, old) for (ours, _), old in zip(pairs(), before, strict=True)]
    assert changed == ([True] + [False] * (len(kept) - 1)) * 2 * batch


class Ranks:
    """Ranks of one program, run in one thread, so that a test can lay out their activations."""

    def __init__(self, program: Program) -> None:
        device = CpuDevice()
        self.program = program.ranks[0]
        host = HostWeights(device, [w.bytes for w in self.program.weights])
        # large enough that what is exchanged counts beside the hidden vectors it is added to
        host.memory.view(torch.bfloat16).normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
        self.memories = [Memory(device, self.program, host, rank) for rank in range(program.world_size)]
        for memory in self.memories:
            memory.randomise()

    def after(self, rank: int, offset: int, elements: int, exact: bool = False) -> Any:
        """Activations of `rank` from an element on, in whole places of 128 unless `exact`."""
        start = offset if exact else -(-offset // 128) * 128
        return self.memories[rank].buffers["activations"].view(torch.bfloat16)[start : start + elements]

    def hidden(self, rank: int, rows: int, columns: int) -> Any:
        """The hidden vectors of `rank`, which come first."""
        return self.after(rank, 0, rows * columns).view(rows, columns)

    def run(self) -> None:
        for command in self.program.commands():
            if isinstance(command, Kernel):
                for memory in self.memories:
                    for op in command.ops:
                        build_operation(op, memory.views(command.layer, None), on_gpu=False)()
            elif isinstance(command, Collective):
                buffers = [m.buffers[command.writes[0]].view(torch.bfloat16) for m in self.memories]
                size, ranks = command.bytes // 2, len(buffers)
                if command.kind == "all_reduce":
                    total = torch.stack([b[:size].double() for b in buffers]).sum(0)
                    for buffer in buffers:
                        buffer[:size] = total
                    continue
                part = size // ranks
                for i, buffer in enumerate(buffers):
                    for j, other in enumerate(buffers):
                        if command.kind == "all_to_all":
                            buffer[size + j * part :][:part] = other[i * part :][:part]
                        else:
                            assert command.kind == "all_gather"
                            buffer[j * part :][:part] = other[j * part :][:part]


def test_a_deadlock_says_who_waits() -> None:
    builder = RankBuilder()
    builder.record_step("compute")
    builder.write_flag("other", "go", 2)
    builder.wait_flag("compute", "go", 1)
    builder.write_flag("compute", "go", 1)
    builder.record_step("compute")
    for patience in (1, 10, 100):  # a busy machine may need more than a second to come to the wait
        with TorchMachine(1, "cpu", timeout_s=patience) as machine, pytest.raises(DeadlockError) as caught:
            machine.run(Program((builder.build(),)))
        if "event 0" not in str(caught.value) and "preparing" not in str(caught.value):
            break
    assert f"rank 0 has not ended after {patience} s: stream 'compute' has not reached event 1" in str(caught.value)


def test_a_program_that_cannot_run_is_reported(one_rank: TorchMachine) -> None:
    unknown = scenario({**EXPLICIT, "block": [{"compute": {"name": "mm", "flops": 1e9}}]}, {"kind": "resident"}, 1)
    with TorchMachine(1, "cpu") as machine, pytest.raises(MachineError, match="'mm' gives FLOP and bytes"):
        machine.run(unknown.program())
    with pytest.raises(MachineError, match="2 ranks, the machine 1"):
        one_rank.run(scenario(EXPLICIT, {"kind": "resident"}).program())
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="need as many GPUs"):
            TorchMachine(2, "cuda")


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_weights_are_found_wherever_the_cut_runs(fraction: float) -> None:
    """What a kernel sees as a layer's weights is the layer's own bytes, resident or copied."""
    policy = policy_of({"kind": "chunked", "chunk_bytes": "1 KiB", "resident_fraction": fraction})
    program = build(tiny("wan2.1-1.3b")[0], policy, 1).ranks[0]
    device = CpuDevice()
    host = HostWeights(device, [w.bytes for w in program.weights])
    memory = Memory(device, program, host, 0)
    for layer in range(2):
        slot = f"slot{layer}" if fraction < 1 else None
        for command in program.commands():
            if isinstance(command, Copy) and command.layer == layer:
                target, source = memory.landing(f"slot{layer}", layer, command.offset, command.bytes)
                target.copy_(source)
        assert torch.equal(memory.layer(layer, slot), host.layers[layer])
        kernels = [c for c in program.commands() if isinstance(c, Kernel) and c.layer == layer]
        for matrix in {m for k in kernels for op in k.ops for m in op.operands() if m.buffer == "weights"}:
            seen = memory.views(layer, slot).of(matrix).flatten()
            expected = host.layers[layer].view(torch.bfloat16)[matrix.offset :][: matrix.rows * matrix.columns]
            assert torch.equal(seen.view(torch.uint8), expected.view(torch.uint8))
    page = device.granule
    resident = sum(w.resident for w in program.weights)
    slots = sum(b.bytes for b in program.buffers if b.kind == "slot")
    assert resident + slots <= memory.mapped_bytes <= resident + slots + page * (len(program.weights) + 2)
    del seen
    memory.close()


def test_a_fair_lock_is_given_in_the_order_of_asking() -> None:
    import threading

    lock, order = FairLock(), []
    lock.acquire()

    def take(n: int) -> None:
        lock.acquire()
        order.append(n)
        lock.release()

    threads = []
    for n in range(5):
        threads.append(threading.Thread(target=take, args=(n,)))
        threads[-1].start()
        while lock.contenders < n + 2:
            pass
    lock.release()
    for thread in threads:
        thread.join()
    assert order == list(range(5))
