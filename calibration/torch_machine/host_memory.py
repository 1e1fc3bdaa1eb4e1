"""The host memory that a rank's copies name: pinned, pageable, or shared by all ranks; and the words of host flags."""

from __future__ import annotations

import torch

from calibration.torch_machine.device import Device
from calibration.torch_machine.memory import fill, seed
from calibration.torch_machine.shared_memory import Layout, at
from sim.program import Copy, CopyKind, RankProgram

SLAB = 1 << 28
"""Bytes of random numbers that are generated on the device at once."""


class HostMemory:
    """Host buffers of `program` on `device`, by name. `shared` is the memory of all ranks, laid out as `layout`.

    A rank's own buffers start with random numbers if copies read them. All others start with zeros.
    """

    def __init__(
        self, device: Device, program: RankProgram, rank: int, layout: Layout, shared: torch.Tensor | None
    ) -> None:
        self.device = device
        self.buffers: dict[str, torch.Tensor] = {}
        self._registered: list[torch.Tensor] = []
        self._nameless: dict[str, torch.Tensor] = {}
        self._rank = rank
        read = {c.other for c in program.commands() if isinstance(c, Copy) and c.kind == "h2d"}
        for buffer in program.host_memory.values():
            if buffer.shared:
                assert shared is not None
                memory = at(shared, layout.host[buffer.name])
            else:
                memory = torch.empty(buffer.bytes, dtype=torch.uint8).zero_()  # which touches all pages
                if buffer.name in read:
                    self._fill(memory, seed(rank, buffer.name))
            if buffer.memory == "pinned" and buffer.bytes:
                self._register(memory)
            self.buffers[buffer.name] = memory
        if layout.flags:
            assert shared is not None
            first, last = min(layout.flags.values()), max(layout.flags.values())
            self._register(shared[first[0] : sum(last)])
            device.use_host_flags({name: at(shared, place) for name, place in layout.flags.items()})
        nameless = (c.bytes for c in program.commands() if isinstance(c, Copy) and not isinstance(c.other, str))
        self._nameless_bytes = max(nameless, default=0)

    def nameless(self, kind: CopyKind, size: int) -> torch.Tensor:
        """`size` bytes of pinned memory for copies of a kind that name no host buffer."""
        if kind not in self._nameless:
            self._nameless[kind] = torch.zeros(self._nameless_bytes, dtype=torch.uint8)
            if kind == "h2d":
                self._fill(self._nameless[kind], seed(self._rank, ""))
            self._register(self._nameless[kind])
        return self._nameless[kind][:size]

    def close(self) -> None:
        """Give the memory back, with all streams idle."""
        self.device.use_host_flags({})
        self.buffers.clear()
        while self._registered:
            self.device.unregister(self._registered.pop())

    def _register(self, memory: torch.Tensor) -> None:
        self.device.register(memory)
        self._registered.append(memory)

    def _fill(self, memory: torch.Tensor, number: int) -> None:
        for start in range(0, memory.nbytes, SLAB):
            piece = memory[start : start + SLAB]
            made = torch.empty(piece.nbytes, dtype=torch.uint8, device=self.device.torch_device)
            fill(made, number + start)
            piece.copy_(made)
