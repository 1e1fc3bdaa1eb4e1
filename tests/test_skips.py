"""Skip connections (HunyuanDiT): what stages send each other, what waits in memory, and which files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import Scenario, simulate
from sim.inputs.config import InputError
from sim.program import Kernel, PointToPoint, Program, Recv, Send
from sim.workloads.model_shapes import load_model

Plain = dict[str, Any]
P, H, L = 1024, 1408, 40
"""Tokens, hidden features and layers of HunyuanDiT at 512 x 512."""
MODELS = Path(__file__).parents[1] / "scenarios" / "models"


def scenario(layout: Plain, world_size: int, **more: Any) -> Scenario:
    workload = {"model": "hunyuandit", "height": 512, "width": 512, "passes_per_step": 1, "steps": 4}
    workload |= {"parallelism": layout} | more
    plain = {"hardware": "l40x8-pcie", "world_size": world_size, "workload": workload, "policy": {"kind": "resident"}}
    return Scenario.from_plain(plain)


def moved(program: Program, rank: int, name: str, kind: type, step: int) -> dict[int, int]:
    """Bytes that a rank sends to or receives from each peer in a step, by calls of this name."""
    found: dict[int, int] = {}
    for c in program.ranks[rank].commands():
        if isinstance(c, PointToPoint) and c.name == name and c.step == step:
            for t in c.transfers:
                if isinstance(t, kind):
                    found[t.peer] = found.get(t.peer, 0) + t.bytes
    return found


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2), st.sampled_from([1, 2]))
def test_a_stage_sends_its_mirror_2_p_h_for_each_of_its_layers(n: int, patches: int, warmup: int, batch: int) -> None:
    """In patches or not, in warm-up or not: L / N x 2 p h, beside 2 p h to the next stage (xDiT's messages)."""
    layout = {"pipeline": n, "patches": patches, "warmup_steps": warmup}
    program = scenario(layout, n, steps=warmup + 3, batch=batch).program()
    for step in range(warmup + 3):
        for stage in range(n):
            mirror, size = n - 1 - stage, L // n * 2 * P * H * batch
            first_half = stage < n // 2
            assert moved(program, stage, "skips", Send, step) == ({mirror: size} if first_half else {})
            assert moved(program, stage, "skips", Recv, step) == ({} if first_half else {mirror: size})
            after = {stage + 1: 2 * P * H * batch} if stage + 1 < n else {}
            assert moved(program, stage, "stage output", Send, step) == after


@settings(max_examples=4, deadline=None)
@given(st.sampled_from([3, 5, 6, 7]), st.sampled_from([1, 4]))
def test_stages_that_mirror_several_others_send_to_each(n: int, patches: int) -> None:
    """Each layer's vectors go to the stage of its mirror, once; a stage that is its own mirror sends nothing."""
    program = scenario({"pipeline": n, "patches": patches}, n).program()
    each = [L // n + (stage < L % n) for stage in range(n)]
    stage_of = [stage for stage, count in enumerate(each) for _ in range(count)]
    for stage in range(n):
        expected: dict[int, int] = {}
        for layer in range(L // 2):
            if stage_of[layer] == stage != stage_of[L - 1 - layer]:
                peer = stage_of[L - 1 - layer]
                expected[peer] = expected.get(peer, 0) + 2 * P * H
        assert moved(program, stage, "skips", Send, 2) == expected


class Memory:
    """The skips of one rank, as its commands use them in their order: who wrote each place, and who reads it."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.wrote: dict[int, int] = {}
        """Byte -> the layer that wrote there last."""
        self.sent: dict[int, list[dict[int, int]]] = {}
        """Peer -> of each message, which layer wrote each byte of it where something starts."""
        self.received: dict[int, tuple[int, int, int]] = {}
        """Peer -> number of the last message, and the bytes from where to where it lies."""
        self.read: list[tuple[int, int | None, int, int]] = []
        """(Layer, peer whose message it reads or None, number of the message, byte of it); of memory: who wrote it."""

    def use(self, c: object) -> None:
        """What a command does."""
        if isinstance(c, PointToPoint) and c.name == "skips":
            [t] = c.transfers
            if isinstance(t, Send):
                inside = {at - t.offset: layer for at, layer in self.wrote.items() if 0 <= at - t.offset < t.bytes}
                self.sent.setdefault(t.peer, []).append(inside)
            else:
                number = self.received.get(t.peer, (-1, 0, 0))[0] + 1
                self.received[t.peer] = number, t.offset, t.offset + t.bytes
        elif isinstance(c, Kernel):
            for m in (m for op in c.ops for m in op.operands() if m.buffer == "skips"):
                self._touch(2 * m.offset, self.first + c.layer, c.name == "skip")

    def _touch(self, at: int, layer: int, writes: bool) -> None:
        came = [(peer, number, at - a) for peer, (number, a, b) in self.received.items() if a <= at < b]
        if writes:
            assert not came
            self.wrote[at] = layer
        elif came:
            [(peer, number, byte)] = came
            self.read.append((layer, peer, number, byte))
        else:
            self.read.append((layer, None, 0, self.wrote[at]))


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 5]), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_each_layer_reads_what_its_mirror_wrote(n: int, patches: int, batch: int) -> None:
    """Wherever it lies on both ranks, in each message."""
    layout = {"pipeline": n, "patches": patches if n > 1 else 1}
    program = scenario(layout, n, layers=12, batch=batch, steps=3).program()
    each = [12 // n + (stage < 12 % n) for stage in range(n)]
    memories = [Memory(sum(each[:rank])) for rank in range(n)]
    for memory, rank in zip(memories, program.ranks, strict=True):
        for c in rank.commands():
            memory.use(c)
    read = [(rank, *entry) for rank, memory in enumerate(memories) for entry in memory.read]
    assert {layer for _, layer, *_ in read} == {layer for layer in range(12) if layer * L // 12 > 20}
    for rank, layer, peer, number, at in read:
        assert (at if peer is None else memories[peer].sent[rank][number][at]) == 11 - layer


def test_stages_of_given_sizes_send_for_as_many_layers() -> None:
    layout = {"pipeline": 4, "patches": 4, "stage_layers": [8, 12, 12, 8]}
    program = scenario(layout, 4).program()
    sent = [moved(program, stage, "skips", Send, 2) for stage in range(4)]
    assert sent == [{3: 8 * 2 * P * H}, {2: 12 * 2 * P * H}, {}, {}]
    layers = [len({c.layer for c in rank.commands() if isinstance(c, Kernel)}) for rank in program.ranks]
    assert layers == [8, 12, 12, 8]


@pytest.mark.parametrize(
    ("layout", "n", "kept"),
    [
        ({}, 1, 19 * 2 * P * H),
        ({"ulysses": 2}, 2, 19 * 2 * P * H // 2),
        ({"pipeline": 2}, 2, 20 * 2 * P * H),
        ({"pipeline": 4, "patches": 4}, 4, 10 * 2 * P * H),
    ],
)
def test_what_layers_take_from_others_waits_in_memory(layout: Plain, n: int, kept: int) -> None:
    """On one rank the 19 layers that something takes; in a pipeline all that a stage sends or receives."""
    for rank in scenario(layout, n).program().ranks:
        assert {b.name: b.bytes for b in rank.buffers}["skips"] == kept


def test_skips_make_a_pipeline_of_patches_slower() -> None:
    """Published of HunyuanDiT: pipelines of 4 and 8 are behind others for the additional sends."""
    large: Plain = {"height": 2048, "width": 2048, "batch": 2, "layers": 8}
    alone = simulate(scenario({}, 1, **large)).metrics["step_time_s"]
    found = simulate(scenario({"pipeline": 4, "patches": 4}, 4, **large)).metrics["step_time_s"]
    assert 1.1 * alone / 4 < found < 1.5 * alone / 4


def test_a_block_with_a_skip_projects_twice_the_features() -> None:
    program = scenario({}, 1).program()
    flops = [c.flops for c in program.ranks[0].commands() if isinstance(c, Kernel) and c.name == "skip_linear"]
    assert flops == [2 * P * 2 * H * H] * 19 * 4


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    repeat: 21", "    repeat: 19\n  - kind: cross\n    repeat: 2\n    skip: true", "blocks[1].skip"),
        ("    vectors: 1\n    skip", "    vectors: 0\n    skip", "blocks[1].vectors"),
        ("  context: 1024", "  context: 0", "transformer.context"),
    ],
)
def test_skips_from_nowhere_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (MODELS / "hunyuandit.yaml").read_text()
    assert old in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_model(str(file))
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["skip: true", "vectors: 2"])
def test_keys_of_cross_blocks_are_refused_elsewhere(tmp_path: Path, key: str) -> None:
    text = (MODELS / "flux.1-dev.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("    repeat: 38", f"    repeat: 38\n    {key}"))
    with pytest.raises(InputError, match=r"blocks\[1\]\..*expected kind cross"):
        load_model(str(file))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([20, 20], "expected 4 numbers"),
        ([10, 10, 20, 0], "expected 4 numbers"),
        ([10, 10, 10, 11], "are 41 layers, expected 40"),
    ],
)
def test_stages_of_other_layers_than_the_model_s_are_refused(sizes: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        scenario({"pipeline": 4, "patches": 4, "stage_layers": sizes}, 4)
    assert "workload.parallelism.stage_layers" in str(caught.value)
