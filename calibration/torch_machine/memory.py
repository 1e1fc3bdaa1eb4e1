"""The memory of a rank's program: its buffers on the device, and its layers' weights in pinned host memory.

A layer's weights are its resident bytes, in memory of their own, and its copied bytes, in a slot. Both are mapped to
adjacent addresses, so that every matrix lies whole wherever the cut between them runs: a kernel reads the same
shapes under every policy. A layer has an address range for each slot that it is ever in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch

from calibration.torch_machine.buffer_plan import BufferPlan
from calibration.torch_machine.device import Device
from calibration.torch_machine.operations import Views
from sim.program import Communicator, RankProgram
from sim.program.ops import WEIGHTS, Matrix

BF16 = 2

SPREAD = 0.02
"""Standard deviation of random weights: products of thousands of them with normed rows stay of order 1."""


def seed(rank: int, name: str) -> int:
    """Of the random numbers that a buffer of a rank starts with."""
    return int.from_bytes(hashlib.sha256(f"{rank} {name}".encode()).digest()[:7], "big")


def fill(memory: torch.Tensor, seed: int) -> None:
    """Make `memory`, of bytes, random bf16 numbers; what is left over at its end is 0."""
    generator = torch.Generator(memory.device).manual_seed(seed)
    whole = memory.nbytes // BF16 * BF16
    memory[whole:] = 0
    memory[:whole].view(torch.bfloat16).normal_(generator=generator)


class HostWeights:
    """Every layer's weights in pinned memory, random but the same for the same layer number and size."""

    def __init__(self, device: Device, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.memory = device.pinned(sum(sizes) or 1)
        self.layers: list[torch.Tensor] = []
        start = 0
        for layer, size in enumerate(sizes):
            part = self.memory[start : start + size]
            generator = torch.Generator(device.torch_device).manual_seed(layer)
            values = torch.empty(-(-size // BF16), dtype=torch.bfloat16, device=device.torch_device)
            values.normal_(0.0, SPREAD, generator=generator)
            part.copy_(values.view(torch.uint8)[:size])
            self.layers.append(part)
            start += size


class Memory:
    """The buffers of `program` on `device`. Those of `given` lie in memory that is there already."""

    def __init__(
        self,
        device: Device,
        program: RankProgram,
        host: HostWeights,
        rank: int,
        given: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.device = device
        self.host = host
        self.rank = rank
        self.weights = program.weights
        self.plan = BufferPlan(program, given or ())
        self.buffers: dict[str, torch.Tensor] = dict(given or {})
        sizes = {b.name: b.bytes for b in program.buffers}
        shared = device.empty(max((sizes[name] for name in self.plan.sharing), default=0))
        self.buffers |= {name: shared[: sizes[name]] for name in self.plan.sharing}
        for buffer in self.plan.plain:
            if buffer.name not in self.buffers:
                self.buffers[buffer.name] = device.empty(buffer.bytes)
        slot_sizes = {name: sizes[name] for name in sizes if name in self.plan.layered}
        self.mapped_bytes = 0
        self._own_sizes = [self._round_up(w.resident) if w.resident else 0 for w in self.weights]
        self._own = [self._physical(size) for size in self._own_sizes]
        rounded = {name: self._round_up(size) for name, size in slot_sizes.items()}
        self._slots = {name: (self._physical(size), size) for name, size in rounded.items()}
        self._slot_sizes = slot_sizes
        self._layers: dict[tuple[int, str | None], torch.Tensor] = {}
        self._shards: dict[tuple[int, int], torch.Tensor] = {}
        self._nameless: dict[Communicator, torch.Tensor] = {}
        for number, weights in enumerate(self.weights):
            if weights.resident:
                own = device.mapped([(self._own[number], self._own_sizes[number])])
                own[: weights.resident].copy_(host.layers[number][: weights.resident])

    def layer(self, number: int, slot: str | None) -> torch.Tensor:
        """All bytes of a layer whose copied ones are in `slot` (None: it has none), at adjacent addresses."""
        return self._mapped(number, slot)[: self.weights[number].bytes]

    def _mapped(self, number: int, slot: str | None) -> torch.Tensor:
        key = number, slot
        if key not in self._layers:
            weights, own = self.weights[number], self._own_sizes[number]
            parts = [(self._own[number], own)]
            if slot is not None and weights.resident + self._slot_sizes[slot] > own:
                parts.append(self._slots[slot])
            self._layers[key] = self.device.mapped(parts)
        return self._layers[key]

    def part(self, name: str, offset: int, size: int, layer: int) -> torch.Tensor:
        """`size` bytes from byte `offset` of a buffer on. In a slot, and among resident bytes, they are of `layer`."""
        if name in self.plan.layered:
            start = self.weights[layer].resident + offset
            return self._mapped(layer, name)[start : start + size]
        if name in self.buffers:
            return self.buffers[name][offset : offset + size]
        start = offset - self.weights[layer].offset
        return self._mapped(layer, None)[start : start + size]

    def nameless(self, on: Communicator, size: int) -> torch.Tensor:
        """`size` bytes for collectives of a communicator that name no buffer."""
        if (memory := self._nameless.get(on)) is None or memory.nbytes < size:
            self._nameless[on] = memory = torch.zeros(size, dtype=torch.uint8, device=self.device.torch_device)
        return memory[:size]

    def shard(self, layer: int, offset: int, size: int) -> torch.Tensor:
        """A rank's own part of a layer's copied bytes, kept on the device; zeros beyond the layer's end."""
        key = layer, offset
        if key not in self._shards:
            start = self.weights[layer].resident + offset
            source = self.host.layers[layer][start : start + size]
            self._shards[key] = torch.zeros(size, dtype=torch.uint8, device=self.device.torch_device)
            self._shards[key][: source.nbytes].copy_(source)
        return self._shards[key]

    def randomise(self) -> None:
        """Fill all buffers but layers' weights with random numbers, the same for the same rank and name."""
        for name, memory in self.buffers.items():
            if name not in self.plan.sharing[:-1]:
                fill(memory, 1000 + self.rank if name == "activations" else seed(self.rank, name))

    def landing(self, slot: str, layer: int, offset: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(target on the device, source on the host) of a copy into a slot."""
        start = self.weights[layer].resident + offset
        return self.layer(layer, slot)[start : start + size], self.host.layers[layer][start : start + size]

    def views(self, layer: int, slot: str | None) -> Views:
        """Where the matrices of a kernel of `layer` lie, whose copied weights are in `slot`."""

        def view(matrix: Matrix) -> torch.Tensor:
            if matrix.buffer == WEIGHTS:
                return _strided(self.layer(layer, slot), matrix.offset, matrix)
            return _strided(self.buffers[matrix.buffer], matrix.offset + matrix.per_rank * self.rank, matrix)

        return Views(view, self.rank)

    def close(self) -> None:
        """Give all memory back."""
        self.buffers.clear()
        self._layers.clear()
        self._shards.clear()
        self._nameless.clear()
        self.device.unmap()

    def _round_up(self, size: int) -> int:
        return -(-size // self.device.granule) * self.device.granule

    def _physical(self, size: int) -> object:
        self.mapped_bytes += size
        return self.device.physical(size)


def _strided(memory: torch.Tensor, offset: int, matrix: Matrix) -> torch.Tensor:
    """[rows, columns], of a batch [samples, rows, columns], from element `offset` of `memory` on."""
    elements = (matrix.batch - 1) * matrix.step + (matrix.rows - 1) * matrix.stride + matrix.columns
    values = memory[offset * BF16 : (offset + elements) * BF16].view(torch.bfloat16)
    size, strides = (matrix.rows, matrix.columns), (matrix.stride, 1)
    if matrix.batch == 1:
        return values.as_strided(size, strides)
    return values.as_strided((matrix.batch, *size), (matrix.step, *strides))
