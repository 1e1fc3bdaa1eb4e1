"""The CPU as a device: a stream is a thread that takes calls from a bounded queue.

Order, overlap, blocking and deadlocks are real there, times mean nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue

import torch

from calibration.torch_machine.device import Call, Device, Event, PeerMemory, Physical, Stream
from sim.program import FlagMemory, FlagTest, HostCopyKind, WaitFlag

POLL_S = 20e-6
"""How often a stream looks at a word of host memory, s."""


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
        self._counting = threading.Lock()
        self._pending = 0
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"stream {name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException as error:  # reported by synchronize: a thread has nobody to raise to
                self._device.fail(error)
            with self._counting:
                self._pending -= 1
            self._room.release()

    def _put(self, call: Call) -> None:
        self._room.acquire()
        with self._counting:
            self._pending += 1
        self._queue.put(call)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def run(self, call: Call) -> Call:
        return lambda: self._put(call)

    def copy(self, target: torch.Tensor | PeerMemory, source: torch.Tensor, staged: HostCopyKind | None = None) -> Call:
        assert isinstance(target, torch.Tensor)

        def put() -> None:
            taken = source.clone() if staged == "h2d" else source
            self._put(lambda: target.copy_(taken))
            if staged == "d2h":
                ended = _CpuEvent(self._device)
                self._put(ended.complete)
                ended.synchronize()

        return put

    def record(self, event: Event) -> Call:
        assert isinstance(event, _CpuEvent)
        return lambda: self._put(event.complete)

    def wait(self, event: Event) -> Call:
        return lambda: self._put(event.synchronize)

    def write_flag(self, flag: str, value: int, memory: FlagMemory = "device") -> Call:
        device = self._device

        def write() -> None:
            with device.flags_changed:
                device.flags[flag] = value
                device.flags_changed.notify_all()

        def write_word() -> None:
            device.words[flag].value = value

        return lambda: self._put(write_word if memory == "host" else write)

    def wait_flag(self, flag: str, value: int, test: FlagTest = "equal", memory: FlagMemory = "device") -> Call:
        device = self._device
        holds = WaitFlag("", flag, value, test=test).holds

        def wait() -> None:
            with device.flags_changed:
                device.flags_changed.wait_for(lambda: holds(device.flags.get(flag, 0)))

        def poll() -> None:
            word = device.words[flag]
            while not holds(word.value):
                time.sleep(POLL_S)

        return lambda: self._put(poll if memory == "host" else wait)

    def idle(self) -> bool:
        return self._pending == 0


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
        self.words: dict[str, ctypes.c_uint32] = {}
        self.failure: BaseException | None = None
        self.on_failure: Callable[[BaseException], object] | None = None
        """Called when a command fails on its stream, whose host threads may be waiting for it."""
        self._streams: dict[str, _CpuStream] = {}
        self._files: list[int] = []
        self._mappings: list[tuple[int, int]] = []

    def stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = _CpuStream(name, self, self.depth)
        return self._streams[name]

    def event(self, timed: bool) -> Event:
        return _CpuEvent(self)

    def pinned(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def use_host_flags(self, words: Mapping[str, torch.Tensor]) -> None:
        self.words = {flag: ctypes.c_uint32.from_address(word.data_ptr()) for flag, word in words.items()}

    def flag_now(self, flag: str, memory: FlagMemory) -> int | None:
        if memory == "device":
            return self.flags.get(flag, 0)
        return self.words[flag].value

    def fail(self, error: BaseException) -> None:
        """Note that a command has failed."""
        self.failure = self.failure or error
        if self.on_failure:
            self.on_failure(error)

    def reset(self) -> None:
        self.flags.clear()

    def start(self, stream: str) -> None:
        self.synchronize()
        self.origin = time.perf_counter()

    granule = mmap.PAGESIZE

    def physical(self, size: int) -> Physical:
        file = os.memfd_create("weights")
        os.ftruncate(file, size)
        self._files.append(file)
        return file

    def mapped(self, parts: Sequence[tuple[Physical, int]]) -> torch.Tensor:
        total = sum(size for _, size in parts)
        base = _map(None, total, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        self._mappings.append((base, total))
        at = base
        for file, size in parts:
            if size:
                assert isinstance(file, int)
                _map(at, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, file)
            at += size
        return torch.frombuffer((ctypes.c_uint8 * total).from_address(base), dtype=torch.uint8)

    def unmap(self) -> None:
        while self._mappings:
            _LIBC.munmap(*self._mappings.pop())
        while self._files:
            os.close(self._files.pop())

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


_PROT_NONE = 0  # neither is in Python's own module before 3.13
_MAP_FIXED = 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _map(at: int | None, size: int, protection: int, flags: int, file: int) -> int:
    """mmap(2), which Python's own module does not offer at a chosen address."""
    address = _LIBC.mmap(at, size, protection, flags, file, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap failed")
    return int(address)
