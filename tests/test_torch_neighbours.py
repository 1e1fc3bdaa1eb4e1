"""Exchanges in phases, values first and patch pipelines on the torch machine: four ranks on gloo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tiny_models import tiny

from sim import Scenario
from sim.policies import Resident, build
from sim.program import Collective, Copy, PointToPoint, Program
from sim.program.ops import Attention
from sim.workloads.block_items import Compute, Op
from sim.workloads.block_setup import Setup
from sim.workloads.exchanges import PLAIN, ExchangeForm
from sim.workloads.layouts import Layout
from sim.workloads.model_blocks import block
from sim.workloads.stages import divided
from sim.workloads.workload import Workload

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import TorchMachine  # noqa: E402
from calibration.torch_machine.cpu import CpuDevice  # noqa: E402
from calibration.torch_machine.memory import HostWeights, Memory  # noqa: E402
from calibration.torch_machine.operations import build as build_operation  # noqa: E402

pytestmark = pytest.mark.slow
FORMS = {
    "phases": ExchangeForm(levels=(2,)),
    "values first": ExchangeForm(v_first=True),
    "both": ExchangeForm(levels=(2,), v_first=True),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[TorchMachine]:
    with TorchMachine(4, "cpu", timeout_s=120) as made:
        yield made


def hidden(machine: TorchMachine, model: str, exchange: ExchangeForm, memory: int) -> list[bytes]:
    """The hidden vectors of each rank after two steps, of a program whose activations take `memory` bytes."""
    workload, setup = tiny(model, world_size=4, exchange=exchange)
    program = build(workload._replace(activation_bytes=memory), Resident(), 4)
    done = machine.execute(program, keep=("activations",))
    assert all(rank.finite for rank in done.ranks)
    return [rank.contents["activations"][: setup.rows * 64 * 2] for rank in done.ranks]


@pytest.mark.parametrize("model", ["flux.1-dev", "wan2.1-1.3b"])
def test_exchanges_in_phases_and_values_first_give_the_plain_run_s_results(machine: TorchMachine, model: str) -> None:
    memory = max(tiny(model, world_size=4, exchange=form)[0].activation_bytes for form in (PLAIN, *FORMS.values()))
    plain = hidden(machine, model, PLAIN, memory)
    assert len(set(plain)) == 4  # ranks have tokens of their own: equal results would say nothing
    for name, form in FORMS.items():
        assert hidden(machine, model, form, memory) == plain, name


def test_a_patch_pipeline_runs_to_its_end_on_gloo(machine: TorchMachine) -> None:
    """All that the program says, in two stages of two ranks each; sends go on beside the next patch."""
    workload = {"model": "pixart-xl-2", "height": 64, "width": 64, "steps": 3, "layers": 4, "passes_per_step": 1}
    layout = {"pipeline": 2, "ulysses": 2, "patches": 2}
    plain = {"hardware": "l40x8-pcie", "world_size": 4, "policy": {"kind": "resident"}}
    program: Program = Scenario.from_plain({**plain, "workload": {**workload, "parallelism": layout}}).program()
    done = machine.execute(program, instrumented=True)
    for number, rank in enumerate(program.ranks):
        kinds = (Collective, PointToPoint, Copy)
        expected = sorted(c.name for c in rank.commands() if isinstance(c, kinds))
        assert sorted(s.command.name for s in done.timeline.of(number) if isinstance(s.command, kinds)) == expected
        assert len(done.timeline.step_times(number)) == 3


class OneByOne:
    """A patch pipeline in one thread, patch after patch and stage after stage, with keys and values kept by hand.

    Patch m attends to what patches up to m have in this step, and to what later ones had in the step before. A stage
    that `takes` hidden vectors of the one that mirrors it gets those of the same patch.
    """

    def __init__(self, program: Program, whole: Workload, setup: Setup, takes: Sequence[bool]) -> None:
        self.whole, self.setup, self.takes = whole, setup, takes
        device = CpuDevice()
        self.memories = []
        for number, rank in enumerate(program.ranks):
            host = HostWeights(device, [w.bytes for w in rank.weights])
            self.memories.append(Memory(device, rank, host, number))
            self.memories[-1].randomise()
        self.kept: dict[tuple[int, int], list[Any]] = {}
        """Stage and place (a patch, or -1 for the text) -> its keys and its values."""

    def run(self, steps: int) -> None:
        patches = self.setup.layout.patches
        for step in range(steps):
            for patch in range(patches) if step else [None]:
                behind: list[Any] = []
                for stage, memory in enumerate(self.memories):
                    form = 0 if patch is None else 1 if patch == 0 else 2
                    rows = self.setup._replace(patch=patch is not None, with_text=form != 2).rows
                    if self.takes[stage]:
                        memory.buffers["skips"][: rows * 128] = behind[len(self.memories) - 1 - stage]
                    self._block(stage, self.whole.layers[stage].blocks[form], patch)
                    behind.append(memory.buffers["activations"][: rows * 128].clone())
                    if stage + 1 < len(self.memories):
                        after = self.memories[stage + 1].buffers["activations"]
                        after[: rows * 128] = memory.buffers["activations"][: rows * 128]

    def _block(self, stage: int, block: Sequence[Op], patch: int | None) -> None:
        memory = self.memories[stage]
        views = memory.views(0, None)
        tokens, image = self.setup._replace(patch=True).local, self.setup.tokens
        for op in (op for entry in block if isinstance(entry, Compute) for op in entry.ops):
            if isinstance(op, Attention) and op.k.rows == self.setup.cached_rows:
                both = [views.of(m) for m in (op.k, op.v)]
                if patch is None:
                    for place in range(self.setup.layout.patches):
                        self.kept[stage, place] = [m[place * tokens :][:tokens].clone() for m in both]
                    self.kept[stage, -1] = [m[image:].clone() for m in both]
                else:
                    self.kept[stage, patch] = [m[:tokens].clone() for m in both]
                    if patch == 0:
                        self.kept[stage, -1] = [m[image:].clone() for m in both]
                    for number, m in enumerate(both):
                        m[:] = torch.cat([self.kept[stage, p][number] for p in (*range(self.setup.layout.patches), -1)])
            build_operation(op, views, on_gpu=False)()


@pytest.mark.parametrize(("model", "patches"), [("flux.1-dev", 4), ("cogvideox-5b", 3), ("hunyuandit", 4)])
def test_four_stages_of_patches_give_what_patches_one_by_one_give(
    machine: TorchMachine, model: str, patches: int
) -> None:
    """One-step-stale keys and values, and nothing older, newer or of another layer, however the stages overlap."""
    whole, setup = tiny(model, Layout(pipeline=4, patches=patches), 4, steps=3)
    patch_setups = [setup._replace(patch=True, with_text=text) for text in (True, False)]
    layers = []
    shapes = sorted((setup.model.blocks * 4)[:4], key=lambda shape: shape.skip is True)
    for shape in shapes:
        layer, *others = (block(each, shape).layer for each in (setup, *patch_setups))
        layers.append(layer._replace(others=tuple(other.block for other in others)))
    takes = tuple(shape.skip is True for shape in shapes)
    whole = whole._replace(layers=tuple(layers))
    program = build(divided(whole, setup, takes=takes), Resident(), 4)
    done = machine.execute(program, keep=("activations", "kv_cache"))
    expected = OneByOne(program, whole, setup, takes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the machine's ranks: sums in another order may round otherwise
    expected.run(3)
    torch.set_num_threads(threads)
    rows = setup._replace(patch=True, with_text=False).rows
    for stage, rank in enumerate(done.ranks):
        assert rank.finite
        hidden = bytes(expected.memories[stage].buffers["activations"][: rows * 128].numpy())
        assert rank.contents["activations"][: rows * 128] == hidden
        places = (*range(patches), -1)
        cache = [torch.cat([expected.kept[stage, place][number] for place in places]) for number in range(2)]
        assert rank.contents["kv_cache"] == torch.cat(cache).contiguous().view(torch.uint8).numpy().tobytes()
