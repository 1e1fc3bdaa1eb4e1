"""What one rank did and found."""

from __future__ import annotations

import msgspec


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
