"""The memory of a rank: what it declares, and which of it may still be in use when a command starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sim.program.buffer_use import BufferUse, Span
from sim.program.commands import Buffer, BufferKind, HostBuffer, HostMemory, ProgramError
from sim.program.issue_order import IssueOrder


class MemoryUse(IssueOrder):
    """Buffers of the GPU and of the host, and how commands use them in the order that events make certain."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: dict[str, Buffer] = {}
        self._host_buffers: dict[str, HostBuffer] = {}
        self._use = BufferUse()

    def buffer(self, name: str, bytes: int, kind: BufferKind, static: bool = False) -> str:
        """Declare device memory of `bytes`; returns its name."""
        self._declare(name, bytes)
        self._buffers[name] = Buffer(name, bytes, kind, static)
        return name

    def host_buffer(self, name: str, bytes: int, memory: HostMemory = "pinned", shared: bool = False) -> str:
        """Declare host memory of `bytes`; returns its name. All ranks that declare a `shared` one have the same memory.

        Accesses to shared memory are checked when all ranks are there, by `Program`.
        """
        self._declare(name, bytes)
        if shared and memory != "pinned":
            raise ProgramError(f"host buffer {name!r} is shared: it must be pinned, not {memory}")
        self._host_buffers[name] = HostBuffer(name, bytes, memory, shared)
        return name

    def _declare(self, name: str, bytes: int) -> None:
        if bytes < 0:
            raise ProgramError(f"buffer {name!r} has negative size {bytes}")
        self._use.declare(name)

    def _stage(self, name: str, buffers: tuple[str, ...], span: Span) -> None:
        """Read pageable memory for an h2d copy: the host thread does, from the call on until it returns."""
        host = f"(host thread {self._thread})"
        at = self._position.get(host, 0)
        self._use.touch(host, at, self._host_clock[self._thread], name, dict.fromkeys(buffers, span), {})
        self._position[host] = at + 1
        self._returns_after({host: at + 1})

    def _fits(self, what: str, offset: int, size: int, buffer: str) -> None:
        there = (self._buffers.get(buffer) or self._host_buffers[buffer]).bytes
        if offset < 0 or offset + size > there:
            raise ProgramError(f"{what} reaches byte {offset + size} of buffer {buffer!r}, which has {there}")

    def _on_device(self, what: str, buffers: Iterable[str]) -> None:
        for name in buffers:
            if name in self._host_buffers:
                raise ProgramError(f"{what!r} uses {name!r} as memory of its GPU, but it is a host buffer")

    def _touch(self, stream: str, what: str, reads: Mapping[str, Span], writes: Mapping[str, Span]) -> None:
        self._use.touch(stream, self._position.get(stream, 0), self._clock_of(stream), what, reads, writes)
