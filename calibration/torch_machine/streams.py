"""What a rank's program needs of a device: streams, events, flags, memory. The CPU's is made of threads.

A CPU stream is a thread that takes calls from a bounded queue, so that order, overlap, blocking and deadlocks are real.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import SimpleQueue

import torch

Call = Callable[[], object]


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
    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Call:
        """A call that enqueues a copy of equal bytes between pinned host memory and the device."""

    @abstractmethod
    def record(self, event: Event) -> Call:
        """A call that enqueues an event's record."""

    @abstractmethod
    def wait(self, event: Event) -> Call:
        """A call that enqueues a wait for an event."""

    @abstractmethod
    def write_flag(self, flag: str, value: int) -> Call:
        """A call that enqueues a write to a flag of the device."""

    @abstractmethod
    def wait_flag(self, flag: str, value: int) -> Call:
        """A call that enqueues a wait until a flag equals `value`."""


class Device(ABC):
    """One rank's device. `kind` is "cuda" or "cpu"."""

    kind: str
    torch_device: torch.device
    backend: str
    """Of torch.distributed."""

    @abstractmethod
    def stream(self, name: str) -> Stream:
        """The stream of that name, made on first use."""

    @abstractmethod
    def event(self, timed: bool) -> Event:
        """A new event."""

    @abstractmethod
    def pinned(self, size: int) -> torch.Tensor:
        """`size` bytes of pinned host memory."""

    @abstractmethod
    def reset(self) -> None:
        """Set every flag to 0, with all streams idle."""

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

    def release(self) -> None:  # noqa: B027
        """Give back all pinned memory."""

    def close(self) -> None:  # noqa: B027
        """Give back streams and pinned memory."""


class _CpuEvent(Event):
    def __init__(self, device: CpuDevice) -> None:
        self._device = device
        self._set = threading.Event()
        self._time = 0.0

    def complete(self) -> None:
        self._time = time.perf_counter()
        self._set.set()

    def done(self) -> bool:
        return self._set.is_set()

    def synchronize(self) -> None:
        self._set.wait()

    def time(self) -> float:
        return self._time - self._device.origin


class _CpuStream(Stream):
    def __init__(self, name: str, device: CpuDevice, depth: int) -> None:
        self._device = device
        self._room = threading.Semaphore(depth)
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"stream {name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException as error:  # reported by synchronize: a thread has nobody to raise to
                self._device.failure = self._device.failure or error
            self._room.release()

    def _put(self, call: Call) -> None:
        self._room.acquire()
        self._queue.put(call)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def run(self, call: Call) -> Call:
        return lambda: self._put(call)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Call:
        return lambda: self._put(lambda: target.copy_(source))

    def record(self, event: Event) -> Call:
        assert isinstance(event, _CpuEvent)
        return lambda: self._put(event.complete)

    def wait(self, event: Event) -> Call:
        return lambda: self._put(event.synchronize)

    def write_flag(self, flag: str, value: int) -> Call:
        device = self._device

        def write() -> None:
            with device.flags_changed:
                device.flags[flag] = value
                device.flags_changed.notify_all()

        return lambda: self._put(write)

    def wait_flag(self, flag: str, value: int) -> Call:
        device = self._device

        def wait() -> None:
            with device.flags_changed:
                device.flags_changed.wait_for(lambda: device.flags.get(flag, 0) == value)

        return lambda: self._put(wait)


class CpuDevice(Device):
    """Threads as streams; a stream takes `depth` pending commands before its host thread blocks."""

    kind = "cpu"
    backend = "gloo"

    def __init__(self, depth: int = 1024) -> None:
        self.torch_device = torch.device("cpu")
        self.depth = depth
        self.origin = 0.0
        self.flags: dict[str, int] = {}
        self.flags_changed = threading.Condition()
        self.failure: BaseException | None = None
        self._streams: dict[str, _CpuStream] = {}

    def stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = _CpuStream(name, self, self.depth)
        return self._streams[name]

    def event(self, timed: bool) -> Event:
        return _CpuEvent(self)

    def pinned(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def reset(self) -> None:
        self.flags.clear()

    def start(self, stream: str) -> None:
        self.synchronize()
        self.origin = time.perf_counter()

    def synchronize(self) -> None:
        """Wait until every stream is idle. Raises what a command raised."""
        for stream in self._streams.values():
            event = _CpuEvent(self)
            stream.record(event)()
            event.synchronize()
        if self.failure:
            raise self.failure

    def spin(self, seconds: float) -> Call:
        return lambda: time.sleep(seconds)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
