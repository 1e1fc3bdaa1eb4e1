"""Skip connections: a layer takes what its mirror in the first half of the layers put out (HunyuanDiT).

Of n layers, layer n - 1 - i takes the hidden vectors behind layer i. Where both are on one rank they wait in memory. In
a pipeline a stage of the first half sends those of all its layers as one message to the stage that mirrors it, on a
communicator of its own and after the hidden vectors for the next stage; that one receives them before it starts. With
patches this is done for each patch, on a stream of its own, and the stage goes on (xDiT, pipeline_hunyuandit.py and
group_coordinator.py). So such a stage sends 2 p h for each of its layers in a step, besides 2 p h for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import msgspec

from sim.inputs.units import Bytes
from sim.program import Recv, Send
from sim.program.ops import AnyOperation, Matrix, Permute
from sim.workloads.activation_memory import ACTIVATIONS
from sim.workloads.block_builder import SKIPS
from sim.workloads.block_items import Compute, Op, Transfers, Wait
from sim.workloads.block_setup import Setup
from sim.workloads.layer_builder import BF16

NAME = "skips"
"""The name of messages between stages, and of the stream on which they go."""


class Skips:
    """What the layers of one stage keep for later ones, for which stages, and where it lies in the rank's memory.

    `group` are the ranks of the pipeline from the first stage to the last one. `takes` says of each layer of all stages
    whether it takes its mirror's hidden vectors; where none does, nothing is kept or sent. The stage works on so many
    `places` of patches in a step.
    """

    def __init__(
        self, setup: Setup, group: tuple[int, ...], stage: int, takes: tuple[bool, ...], places: int = 1
    ) -> None:
        self.setup, self.group, self.stage, self.takes, self.places = setup, group, stage, takes, places

    @cached_property
    def own(self) -> range:
        """The numbers of the stage's layers."""
        return self.setup.layout.stage(self.stage, len(self.takes)) if any(self.takes) else range(0)

    @cached_property
    def sent(self) -> dict[int, list[int]]:
        """Stage -> the layers of this one whose vectors go there: as in xDiT also those that it does not take."""
        return self._elsewhere(self.own, first_half=True)

    @cached_property
    def received(self) -> dict[int, list[int]]:
        """Stage -> the layers of it whose vectors come from there."""
        mirrors = self._elsewhere(self.own, first_half=False)
        return {stage: sorted(map(self.mirror, layers)) for stage, layers in mirrors.items()}

    @cached_property
    def kept(self) -> list[int]:
        """The layers whose vectors a layer of this stage takes."""
        mine = (layer for layer in self.own if layer < self.mirror(layer))
        return [layer for layer in mine if self.mirror(layer) in self.own and self.takes[self.mirror(layer)]]

    def mirror(self, layer: int) -> int:
        """The layer that takes the vectors of this one, or whose vectors this one takes."""
        return len(self.takes) - 1 - layer

    def bytes(self) -> int:
        """Memory of what is kept, sent and received, B."""
        return BF16 * (self._kept_at + len(self.kept) * self._size(self.setup))

    def keep(self, layer: int, setup: Setup, place: int = 0) -> Iterator[Op]:
        """Behind a layer: put its vectors aside, if anything takes them. `place` is that of the patch in its step."""
        every = [other for layers in self.sent.values() for other in layers]
        if layer in every:
            start = self._sent_at(setup, place) + every.index(layer) * self._size(setup)
        elif layer in self.kept:
            start = self._kept_at + self.kept.index(layer) * self._size(setup)
        else:
            return
        size = self._size(setup)
        x, y = (Matrix(buffer, at, 1, size, size) for buffer, at in ((ACTIVATIONS, 0), (SKIPS, start)))
        yield Compute(name="skip", bytes=Bytes(2 * size * BF16), ops=(Permute(x, y, (1, size), (0, 1)),))

    def take(self, layer: int, block: tuple[Op, ...], setup: Setup) -> tuple[Op, ...]:
        """The block of a layer with its mirror's vectors where they are."""
        if not self.takes[layer]:
            return block
        every = [other for layers in self.received.values() for other in layers]
        mirror = self.mirror(layer)
        if mirror in every:
            start = self._received_at + every.index(mirror) * self._size(setup)
        else:
            start = self._kept_at + self.kept.index(mirror) * self._size(setup)
        return tuple(
            msgspec.structs.replace(op, ops=tuple(_moved(o, start) for o in op.ops)) if isinstance(op, Compute) else op
            for op in block
        )

    def receives(self, setup: Setup) -> Iterator[Op]:
        """Before the stage's first layer: what comes from the stages that it mirrors."""
        start = self._received_at
        for stage, layers in self.received.items():
            size = len(layers) * self._size(setup)
            recv = Recv(self.group[stage], size * BF16, SKIPS, start * BF16)
            yield Transfers(NAME, (recv,), communicator=f"{NAME} of stage {stage}")
            start += size

    def sends(self, setup: Setup, place: int = 0, asynchronous: bool = False) -> Iterator[Op]:
        """Behind its last layer: its vectors to the stages that mirror it, and a wait until the next patch has room."""
        start = self._sent_at(setup, place)
        stream = NAME if asynchronous else None
        for stage, layers in self.sent.items():
            size = len(layers) * self._size(setup)
            send = Send(self.group[stage], size * BF16, SKIPS, start * BF16)
            yield Transfers(NAME, (send,), stream, asynchronous, f"{NAME} of stage {self.stage}")
            start += size
        if asynchronous and self.sent:
            yield Wait(stream=NAME, of_layer=True, behind=len(self.sent) * (self.places - 1))

    def _elsewhere(self, layers: range, first_half: bool) -> dict[int, list[int]]:
        """Those of `layers`, of the first half or the other one, whose mirror is on another stage, by stage."""
        found: dict[int, list[int]] = {}
        for layer in layers:
            mirror = self.mirror(layer)
            if mirror != layer and (layer < mirror) == first_half and mirror not in self.own:
                found.setdefault(self._stage_of(mirror), []).append(layer)
        return dict(sorted(found.items()))  # the nearest first: a later stage gets to its receive only after that one

    def _stage_of(self, layer: int) -> int:
        layout = self.setup.layout
        return next(s for s in range(layout.pipeline) if layer in layout.stage(s, len(self.takes)))

    @staticmethod
    def _size(setup: Setup) -> int:
        """Elements of the hidden vectors behind one layer."""
        return setup.rows * setup.model.transformer.hidden * setup.batch

    def _sent_at(self, setup: Setup, place: int) -> int:
        return place * sum(map(len, self.sent.values())) * self._size(setup)

    @property
    def _received_at(self) -> int:
        patch = self._size(self.setup._replace(patch=True))
        return sum(map(len, self.sent.values())) * max(self._size(self.setup), self.places * patch)

    @property
    def _kept_at(self) -> int:
        return self._received_at + sum(map(len, self.received.values())) * self._size(self.setup)


def _moved(op: AnyOperation, start: int) -> AnyOperation:
    changed = {
        name: msgspec.structs.replace(matrix, offset=start)
        for name in op.__struct_fields__
        if isinstance(matrix := getattr(op, name), Matrix) and matrix.buffer == SKIPS
    }
    return msgspec.structs.replace(op, **changed) if changed else op
