"""What one rank did and found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
import torch

from calibration.torch_machine.host_memory import HostMemory
from calibration.torch_machine.memory import BF16, Memory
from sim.program import Copy, RankProgram


class RankResult(msgspec.Struct):
    """What one rank's run gives; times in s since all ranks left a common collective."""

    events: dict[int, float]
    """Event -> time, of timed events."""
    issue_s: float
    """How long host thread 0 took to issue its commands."""
    output: str
    """SHA-256 of the activations after the last command."""
    finite: bool
    """Whether all activations are finite numbers."""
    landed: bool
    """Whether every slot holds the bytes of the layer last copied into it."""
    memory_bytes: int
    """Peak device memory of the program's buffers and of what its kernels allocated: torch's peak and mapped memory."""
    workspace_bytes: int
    """Device memory that libraries keep: cuBLAS workspaces, compiled kernels' constants."""
    digests: dict[str, str] = {}
    """SHA-256 of every buffer that was written, on the device or the host, after the last command of all ranks.

    Slots with layers' weights have none (`landed` checks them), nor have buffers of collectives whose memory others
    used later.
    """
    contents: dict[str, bytes] = {}
    """What is in the buffers that were asked for, at the same moment."""


def contents(names: Sequence[str], memory: Memory, host: HostMemory) -> dict[str, bytes]:
    """What is in the buffers of these names that the rank has."""
    found = {**memory.buffers, **host.buffers}
    return {name: found[name].cpu().numpy().tobytes() for name in names if name in found}


def digests(program: RankProgram, memory: Memory, host: HostMemory) -> dict[str, str]:
    """SHA-256 of each buffer of `program` that it writes and that still has what was written."""
    found = {
        name: _digest(buffer)
        for name, buffer in memory.buffers.items()
        if name in memory.plan.written and name not in memory.plan.sharing[:-1]
    }
    written = {c.other for c in program.commands() if isinstance(c, Copy) and c.kind == "d2h"}
    shared = {b.name for b in program.host_memory.values() if b.shared}
    return found | {name: _digest(b) for name, b in host.buffers.items() if name in written | shared}


def output(memory: Memory) -> str:
    """SHA-256 of the activations."""
    activations = memory.buffers.get("activations")
    return _digest(torch.empty(0, dtype=torch.uint8) if activations is None else activations)


def finite(memory: Memory) -> bool:
    """Whether all activations are finite numbers."""
    activations = memory.buffers.get("activations")
    if activations is None:
        return True
    values = activations[: activations.nbytes // BF16 * BF16].view(torch.bfloat16)
    return bool(torch.isfinite(values).all())


def landed(memory: Memory, copies: Mapping[str, tuple[int, int]]) -> bool:
    """Whether slots hold what was copied into them last: slot -> (layer, bytes)."""
    for buffer, (layer, size) in copies.items():
        target, source = memory.landing(buffer, layer, 0, size)
        if not torch.equal(target, source.to(target.device)):
            return False
    return True


def _digest(memory: torch.Tensor) -> str:
    return hashlib.sha256(memory.cpu().numpy()).hexdigest()
