"""The memory of a rank's program: its buffers on the device, and its layers' weights in pinned host memory.

A layer's weights are its resident bytes, in memory of their own, and its copied bytes, in a slot. A matrix that the
cut runs through is used in two pieces; the row that it runs through is kept whole beside the resident bytes, and a
slot begins at such an address that every later row keeps its alignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from calibration.torch_machine.operations import Piece, Views
from calibration.torch_machine.streams import Device
from sim.program import Kernel, RankProgram
from sim.program.ops import WEIGHTS, AnyOperation, Matrix

BF16 = 2
ALIGNMENT = 256
"""Of memory, B, as CUDA's allocator has it."""

SPREAD = 0.02
"""Standard deviation of random weights: products of thousands of them with normed rows stay of order 1."""


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


class Place(NamedTuple):
    """A layer's weights on the device: resident bytes and, as far as the layer is copied, the slot it is in."""

    resident: torch.Tensor
    cut: int
    """Layer bytes that are resident."""


class Memory:
    """The buffers of `program` on `device`."""

    def __init__(self, device: Device, program: RankProgram, host: HostWeights, rank: int) -> None:
        self.host = host
        self.rank = rank
        self.buffers: dict[str, torch.Tensor] = {}
        shared = device.empty(max((b.bytes for b in program.buffers if b.kind == "collective"), default=0))
        for buffer in program.buffers:
            if buffer.kind == "collective":
                # collectives follow each other on one stream: they may share their memory
                self.buffers[buffer.name] = shared[: buffer.bytes]
            elif buffer.kind == "slot":
                self.buffers[buffer.name] = device.empty(buffer.bytes + ALIGNMENT)
            elif buffer.kind != "weights":
                self.buffers[buffer.name] = device.empty(buffer.bytes)
        ends = _resident_ends(program)
        self.places: list[Place] = []
        for layer, weights in enumerate(program.weights):
            resident = device.empty(ends[layer])
            resident.copy_(host.layers[layer][: ends[layer]])
            self.places.append(Place(resident, weights.resident))

    def randomise(self, device: Device) -> None:
        """Fill the activations with random numbers, the same for the same rank."""
        if (activations := self.buffers.get("activations")) is not None:
            generator = torch.Generator(device.torch_device).manual_seed(1000 + self.rank)
            activations[: activations.nbytes // BF16 * BF16].view(torch.bfloat16).normal_(generator=generator)

    def landing(self, buffer: str, layer: int, offset: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(target on the device, source on the host) of a copy into a slot."""
        cut = self.places[layer].cut
        start = cut % ALIGNMENT + offset
        source = cut + offset
        return self.buffers[buffer][start : start + size], self.host.layers[layer][source : source + size]

    def views(self, layer: int, slot: str | None) -> Views:
        """Where the matrices of a kernel of `layer` lie, whose copied weights are in `slot`."""
        return Views(
            lambda matrix: self._whole(matrix, layer, slot),
            lambda matrix: self._pieces(matrix, layer, slot),
            self.rank,
        )

    def shape(self, matrix: Matrix, layer: int) -> tuple[int, ...]:
        """Rows, columns and stride of a matrix, and the row at which it is cut in two (0: it is whole)."""
        cut = _resident_rows(matrix, self.places[layer].cut) % matrix.rows if matrix.buffer == WEIGHTS else 0
        return matrix.rows, matrix.columns, matrix.stride, cut

    def _whole(self, matrix: Matrix, layer: int, slot: str | None) -> torch.Tensor:
        if matrix.buffer == WEIGHTS:
            (piece,) = self._pieces(matrix, layer, slot)
            return piece.tensor
        offset = matrix.offset + matrix.per_rank * self.rank
        return _strided(self.buffers[matrix.buffer], offset * BF16, matrix)

    def _pieces(self, matrix: Matrix, layer: int, slot: str | None) -> list[Piece]:
        place = self.places[layer]
        rows = _resident_rows(matrix, place.cut)
        pieces = []
        if rows:
            pieces.append(Piece(0, _strided(place.resident, matrix.offset * BF16, matrix.part(rows=rows))))
        if rows < matrix.rows:
            assert slot is not None
            rest = matrix.part(rows)
            start = rest.offset * BF16 - place.cut + place.cut % ALIGNMENT
            pieces.append(Piece(rows, _strided(self.buffers[slot], start, rest)))
        return pieces


def _strided(memory: torch.Tensor, start: int, matrix: Matrix) -> torch.Tensor:
    """[rows, columns] bf16 at byte `start` of `memory`."""
    elements = (matrix.rows - 1) * matrix.stride + matrix.columns
    values = memory[start : start + elements * BF16].view(torch.bfloat16)
    return values.as_strided((matrix.rows, matrix.columns), (matrix.stride, 1))


def _resident_rows(matrix: Matrix, cut: int) -> int:
    """How many rows of a layer's matrix are used from the resident bytes: those that begin before `cut`."""
    return min(max(-(-(cut - matrix.offset * BF16) // (matrix.stride * BF16)), 0), matrix.rows)


def _resident_ends(program: RankProgram) -> list[int]:
    """For each layer how many of its bytes are kept on the device: the resident ones and the row that they end in."""
    ends = [w.resident for w in program.weights]
    seen: set[tuple[int, int]] = set()
    for command in program.commands():
        if isinstance(command, Kernel) and (command.layer, id(command.ops)) not in seen:
            seen.add((command.layer, id(command.ops)))
            cut = program.weights[command.layer].resident if command.layer >= 0 else 0
            for matrix in _weight_operands(command.ops):
                rows = _resident_rows(matrix, cut)
                if rows:
                    end = (matrix.offset + (rows - 1) * matrix.stride + matrix.columns) * BF16
                    ends[command.layer] = max(ends[command.layer], end)
    return ends


def _weight_operands(ops: Sequence[AnyOperation]) -> list[Matrix]:
    return [m for op in ops for m in op.operands() if m.buffer == WEIGHTS]
