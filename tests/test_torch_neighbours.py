"""Exchanges in phases, values first and patch pipelines on the torch machine: four ranks on gloo."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_models import tiny

from sim import Scenario
from sim.policies import Resident, build
from sim.program import Collective, Copy, PointToPoint, Program
from sim.workloads.exchanges import PLAIN, ExchangeForm

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from calibration.torch_machine import TorchMachine  # noqa: E402

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
