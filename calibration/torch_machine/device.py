"""What a rank's program needs of a device: streams, events, flags, memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from sim.program import FlagMemory, FlagTest, HostCopyKind

Call = Callable[[], object]

Physical = object
"""Device memory without an address."""


class PeerMemory(NamedTuple):
    """Memory of another GPU, at an address of this process. In copies it is what a tensor of bytes is."""

    address: int
    nbytes: int
    is_cuda: bool = True

    def data_ptr(self) -> int:
        """Where it starts."""
        return self.address

    def part(self, start: int, size: int) -> PeerMemory:
        """`size` bytes from byte `start` on."""
        return PeerMemory(self.address + start, size)


class Event(ABC):
    """An event of a rank; recorded once."""

    @abstractmethod
    def done(self) -> bool:
        """Whether it has completed."""

    @abstractmethod
    def synchronize(self) -> None:
        """Hold the calling host thread until it has completed."""

    @abstractmethod
    def time(self) -> float:
        """When it completed, s since the device's `start`. Only of timed events."""


class Stream(ABC):
    """A FIFO of commands. All methods return at once unless the queue is full."""

    @abstractmethod
    def run(self, call: Call) -> Call:
        """A call that enqueues the kernels which `call` launches."""

    @abstractmethod
    def copy(self, target: torch.Tensor | PeerMemory, source: torch.Tensor, staged: HostCopyKind | None = None) -> Call:
        """A call that enqueues a copy of equal bytes between host memory, this device and its peers.

        `staged`: the host's side is pageable. The call then returns when the copy is complete ("d2h"), or when all of
        `source` has been taken ("h2d").
        """

    @abstractmethod
    def record(self, event: Event) -> Call:
        """A call that enqueues an event's record."""

    @abstractmethod
    def wait(self, event: Event) -> Call:
        """A call that enqueues a wait for an event."""

    @abstractmethod
    def write_flag(self, flag: str, value: int, memory: FlagMemory = "device") -> Call:
        """A call that enqueues a write to a flag."""

    @abstractmethod
    def wait_flag(self, flag: str, value: int, test: FlagTest = "equal", memory: FlagMemory = "device") -> Call:
        """A call that enqueues a wait until a flag equals `value`, or is at least that (cyclically)."""

    @abstractmethod
    def idle(self) -> bool:
        """Whether all that was enqueued has ended."""


class Device(ABC):
    """One rank's device. `kind` is "cuda" or "cpu"."""

    kind: str
    torch_device: torch.device
    backend: str
    """Of torch.distributed."""

    @abstractmethod
    def stream(self, name: str) -> Stream:
        """The stream of that name, made on first use."""

    def end_streams(self) -> None:  # noqa: B027, threads of a CPU keep nothing of what they did
        """End the streams, all idle: a stream of the next program has not done anything yet."""

    @abstractmethod
    def event(self, timed: bool) -> Event:
        """A new event."""

    @abstractmethod
    def pinned(self, size: int) -> torch.Tensor:
        """`size` bytes of pinned host memory."""

    def register(self, memory: torch.Tensor) -> None:  # noqa: B027, a CPU needs nothing
        """Pin host memory that was made elsewhere."""

    def unregister(self, memory: torch.Tensor) -> None:  # noqa: B027
        """Undo `register`."""

    @abstractmethod
    def use_host_flags(self, words: Mapping[str, torch.Tensor]) -> None:
        """Let host flags be these words of 4 bytes, which are registered, until the next call."""

    @abstractmethod
    def flag_now(self, flag: str, memory: FlagMemory) -> int | None:
        """What a flag is, if that can be read while streams are busy."""

    @abstractmethod
    def reset(self) -> None:
        """Set every flag of the device to 0, with all streams idle."""

    @abstractmethod
    def start(self, stream: str) -> None:
        """Let time begin when `stream` gets here."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until every stream is idle."""

    @abstractmethod
    def spin(self, seconds: float) -> Call:
        """A call that keeps the device busy for `seconds`, to be run on a stream."""

    def empty(self, size: int) -> torch.Tensor:
        """`size` bytes of device memory."""
        return torch.empty(size, dtype=torch.uint8, device=self.torch_device)

    def enter(self) -> None:  # noqa: B027, a CPU needs nothing
        """Make the calling host thread one that may use the device."""

    granule: int
    """Physical memory comes in multiples of this many bytes."""

    @abstractmethod
    def physical(self, size: int) -> Physical:
        """`size` bytes of device memory without an address; `size` is a multiple of `granule`."""

    @abstractmethod
    def mapped(self, parts: Sequence[tuple[Physical, int]]) -> torch.Tensor:
        """Memory and its size, each whole (CUDA maps no less), at adjacent addresses; it may be mapped often."""

    @abstractmethod
    def unmap(self) -> None:
        """Give back all physical memory; tensors over it may not be used any more."""

    def release(self) -> None:  # noqa: B027
        """Give back all pinned memory."""

    def trim(self) -> None:  # noqa: B027
        """Give back memory that is cached."""

    def close(self) -> None:  # noqa: B027
        """Give back streams and pinned memory."""
