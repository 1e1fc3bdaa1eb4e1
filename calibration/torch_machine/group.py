"""How a rank's process begins: its device, and the process group."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from calibration.torch_machine.cpu import CpuDevice
from calibration.torch_machine.device import Device


def open_device(kind: str, gpu: int) -> Device:
    """GPU `gpu`, or the CPU; `kind` is "cuda" or "cpu"."""
    if kind == "cpu":
        torch.set_num_threads(1)
        return CpuDevice()
    from calibration.torch_machine.cuda import CudaDevice

    return CudaDevice(gpu)


def join_group(device: Device, rank: int, world_size: int, store: str, minutes: float) -> None:
    """Join the process group, whose collectives may take `minutes`; `store` is a file that all ranks share."""
    dist.init_process_group(
        device.backend,
        store=dist.FileStore(store, world_size),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(minutes=minutes),
        device_id=device.torch_device if device.kind == "cuda" else None,
    )
