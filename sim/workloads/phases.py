"""What a request does once, around its steps: encoders, a VAE, components that are swapped in and out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.inputs.config import Config
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bytes
from sim.workloads.block_entries import Item, wrong_block
from sim.workloads.block_items import too_few
from sim.workloads.exchanges import phases_of
from sim.workloads.layouts import Layout, with_ranks, wrong_group
from sim.workloads.workload import Layer


class Phase(Config, frozen=True):
    """`repeat` equal blocks, one after the other.

    The policy brings `layer_bytes` of weights for each, as for layers of a step. `memory_bytes` of device memory are
    taken while their kernels run.
    """

    block: tuple[Item, ...]
    repeat: int = 1
    layer_bytes: Bytes = Bytes(0)
    memory_bytes: Bytes = Bytes(0)

    def __post_init__(self) -> None:
        refuse((*too_few(self, ("repeat",)), *wrong_block(self.block)))


def phase_layers(phases: Sequence[Phase], layout: Layout | None, world_size: int) -> tuple[Layer, ...]:
    """The layers of phases, with the ranks of their groups."""
    layers: list[Layer] = []
    for phase in phases:
        found = (with_ranks(item.op, layout, world_size) for item in phase.block)
        block = tuple(part for op in found for part in phases_of(op, world_size))
        layers += [Layer(int(phase.layer_bytes), block, int(phase.memory_bytes))] * phase.repeat
    return tuple(layers)


def wrong_phases(phases: Sequence[Phase], key: str, layout: Layout | None, world_size: int) -> Iterator[Fault]:
    """Faults of the groups of phases that stand under `key`."""
    for i, phase in enumerate(phases):
        for j, item in enumerate(phase.block):
            for fault in wrong_group(item.op, layout, world_size):
                yield Fault(f"{key}[{i}].block[{j}].{fault.path}", fault.problem)
