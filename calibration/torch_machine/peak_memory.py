"""The most memory that was allocated on a device."""

from __future__ import annotations

import torch

from calibration.torch_machine.device import Device


def allocated_bytes(device: Device) -> int:
    """Bytes that are allocated now."""
    return torch.cuda.memory_allocated(device.torch_device) if device.kind == "cuda" else 0


def reset_peak_bytes(device: Device) -> None:
    """Begin to look for the peak anew."""
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats(device.torch_device)


def peak_bytes(device: Device) -> int:
    """The most bytes that were allocated."""
    return torch.cuda.max_memory_allocated(device.torch_device) if device.kind == "cuda" else 0
