"""Device memory that copies of other ranks write: the rank's own, and that of its peers."""

from __future__ import annotations

import torch
import torch.distributed as dist

from calibration.torch_machine.cuda import CudaDevice
from calibration.torch_machine.device import Device, PeerMemory
from calibration.torch_machine.shared_memory import Layout, at


class Peers:
    """`own` are the buffers of `rank` that peers write. All ranks make this together.

    On a CPU it lies in the memory that all ranks share. GPUs give it as memory that other processes may open.
    """

    def __init__(self, device: Device, rank: int, world_size: int, layout: Layout, shared: torch.Tensor | None) -> None:
        self._device = device
        self._theirs: dict[tuple[int, str], torch.Tensor | PeerMemory] = {}
        self.own: dict[str, torch.Tensor] = {}
        self.any = any(layout.targets)
        if not self.any:
            return
        if not isinstance(device, CudaDevice):
            assert shared is not None
            self._theirs |= {
                (r, n): at(shared, p) for r, places in enumerate(layout.targets) for n, p in places.items()
            }
            self.own |= {name: at(shared, place) for name, place in layout.targets[rank].items()}
            return
        self.own |= {name: device.exportable(size) for name, (_, size) in layout.targets[rank].items()}
        handles: list[dict[str, bytes]] = [{} for _ in range(world_size)]
        dist.all_gather_object(handles, {name: device.handle(memory) for name, memory in self.own.items()})
        for peer, theirs in enumerate(handles):
            if peer != rank:
                for name, handle in theirs.items():
                    self._theirs[peer, name] = device.opened(handle, layout.targets[peer][name][1])

    @property
    def exported_bytes(self) -> int:
        """GPU memory that the rank has made for its peers to open, which torch knows nothing of."""
        return sum(memory.nbytes for memory in self.own.values() if memory.is_cuda)

    def part(self, peer: int, name: str, start: int, size: int) -> torch.Tensor | PeerMemory:
        """`size` bytes from byte `start` of a buffer of `peer` on."""
        memory = self._theirs[peer, name]
        return memory.part(start, size) if isinstance(memory, PeerMemory) else memory[start : start + size]

    def leave(self) -> None:
        """Give the memory of peers back, with all streams idle."""
        self._theirs.clear()
        if isinstance(self._device, CudaDevice):
            self._device.close_opened()

    def close(self) -> None:
        """Give all memory back, once the peers have left."""
        self.leave()
        self.own.clear()
        if isinstance(self._device, CudaDevice):
            self._device.free_exportable()
