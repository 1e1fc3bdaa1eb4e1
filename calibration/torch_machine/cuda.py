"""The CUDA device of a rank: real streams, events and stream memory operations.

Copies, flags and their waits go through the driver's own calls (cuda-bindings): a call costs about 1 us of host time,
a tenth of what a torch operator does, and small chunks would otherwise be bound by the host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from calibration.torch_machine.device import Call, Device, Event, PeerMemory, Physical, Stream
from calibration.torch_machine.support import FLAGS
from sim.program import FlagMemory, FlagTest, HostCopyKind

try:
    from cuda.bindings import driver
except ImportError:  # said by CudaDevice, when it is known to be needed
    driver = None


HANDLE_BYTES = 64
"""CU_IPC_HANDLE_SIZE."""


class MissingBindingsError(RuntimeError):
    """cuda-bindings is not installed."""

    def __init__(self) -> None:
        super().__init__("the package cuda-bindings is missing: install it to run programs on CUDA devices")


def checked(function: Any, *arguments: Any) -> Any:
    """What a call to the driver gives. Raises RuntimeError with its error's name."""
    result = function(*arguments)
    if result[0] != 0:
        raise RuntimeError(f"{function.__name__} answered {getattr(result[0], 'name', result[0])}")
    return result[1] if len(result) > 1 else None


class _Mapping(NamedTuple):
    """A range of addresses, as torch takes it: an array of bytes (the CUDA array interface, version 3)."""

    address: int
    size: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.size,), "typestr": "|u1", "data": (self.address, False), "version": 3}


class _CudaEvent(Event):
    def __init__(self, device: CudaDevice, timed: bool) -> None:
        self.event = torch.cuda.Event(enable_timing=timed)
        self._device = device

    def done(self) -> bool:
        return bool(self.event.query())

    def synchronize(self) -> None:
        self.event.synchronize()

    def time(self) -> float:
        return float(self._device.origin.elapsed_time(self.event)) * 1e-3


class _CudaStream(Stream):
    """A stream that can be ended, which those of torch cannot.

    A stream whose last command was a copy issues its flags on the copy engine's channel, where they wait for the
    copies of other streams: 40 turns by flags take 0.85 ms beside copies instead of 0.66 ms (docs/measurements).
    """

    def __init__(self, device: CudaDevice) -> None:
        self._handle = checked(driver.cuStreamCreate, driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self.stream = torch.cuda.ExternalStream(int(self._handle), device.torch_device)
        self._device = device

    def run(self, call: Call) -> Call:
        def enqueue() -> None:
            if torch.cuda.current_stream() != self.stream:
                torch.cuda.set_stream(self.stream)
            call()

        return enqueue

    def copy(self, target: torch.Tensor | PeerMemory, source: torch.Tensor, staged: HostCopyKind | None = None) -> Call:
        # what `staged` promises is what these calls do on pageable memory
        handle, size = self._handle, target.nbytes
        to, at = target.data_ptr(), source.data_ptr()
        if target.is_cuda and source.is_cuda:
            there, here = driver.CUdeviceptr(to), driver.CUdeviceptr(at)
            return lambda: checked(driver.cuMemcpyDtoDAsync, there, here, size, handle)
        if target.is_cuda:
            there = driver.CUdeviceptr(to)
            return lambda: checked(driver.cuMemcpyHtoDAsync, there, at, size, handle)
        here = driver.CUdeviceptr(at)
        return lambda: checked(driver.cuMemcpyDtoHAsync, to, here, size, handle)

    def record(self, event: Event) -> Call:
        assert isinstance(event, _CudaEvent)
        return lambda: event.event.record(self.stream)

    def wait(self, event: Event) -> Call:
        assert isinstance(event, _CudaEvent)
        return lambda: self.stream.wait_event(event.event)

    def write_flag(self, flag: str, value: int, memory: FlagMemory = "device") -> Call:
        handle, word = self._handle, self._device.flag(flag, memory)
        return lambda: checked(driver.cuStreamWriteValue32, handle, word, value, 0)

    def wait_flag(self, flag: str, value: int, test: FlagTest = "equal", memory: FlagMemory = "device") -> Call:
        handle, word = self._handle, self._device.flag(flag, memory)
        kinds = driver.CUstreamWaitValue_flags
        kind = kinds.CU_STREAM_WAIT_VALUE_EQ if test == "equal" else kinds.CU_STREAM_WAIT_VALUE_GEQ
        return lambda: checked(driver.cuStreamWaitValue32, handle, word, value, kind)

    def idle(self) -> bool:
        return bool(self.stream.query())

    def end(self) -> None:
        checked(driver.cuStreamDestroy, self._handle)


class CudaDevice(Device):
    """GPU `index`. Raises MissingBindingsError without cuda-bindings."""

    kind = "cuda"
    backend = "nccl"

    def __init__(self, index: int) -> None:
        if driver is None:
            raise MissingBindingsError
        self.torch_device = torch.device("cuda", index)
        torch.cuda.set_device(self.torch_device)
        torch.cuda.init()
        self._words = torch.zeros(FLAGS, dtype=torch.int32, device=self.torch_device)
        self._flags: dict[str, int] = {}
        self._host_words: dict[str, torch.Tensor] = {}
        self._exported: list[int] = []
        self._opened: list[int] = []
        self._streams: dict[str, _CudaStream] = {}
        self._registered: list[torch.Tensor] = []
        self._handles: list[Any] = []
        self._mappings: list[tuple[_Mapping, list[tuple[int, int]]]] = []
        self._properties = driver.CUmemAllocationProp()
        self._properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self._properties.location.id = index
        minimum = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self.granule = int(checked(driver.cuMemGetAllocationGranularity, self._properties, minimum))
        self.origin = torch.cuda.Event(enable_timing=True)
        # one attention kernel whatever the shapes: results must be the same bits under every policy
        self.attention = "cudnn" if torch.cuda.get_device_capability(self.torch_device)[0] >= 9 else "flash"
        torch.backends.cuda.enable_cudnn_sdp(self.attention == "cudnn")
        torch.backends.cuda.enable_flash_sdp(self.attention == "flash")
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)

    def stream(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = _CudaStream(self)
        return self._streams[name]

    def end_streams(self) -> None:
        torch.cuda.set_stream(torch.cuda.default_stream())
        for stream in self._streams.values():
            stream.end()
        self._streams.clear()
        torch._C._cuda_clearCublasWorkspaces()  # one a stream, kept for good

    def flag(self, name: str, memory: FlagMemory = "device") -> Any:
        """The device address of a flag."""
        if memory == "host":
            return checked(driver.cuMemHostGetDevicePointer, self._host_words[name].data_ptr(), 0)
        index = self._flags.setdefault(name, len(self._flags))
        if index >= FLAGS:  # of several programs: each may have as many
            raise RuntimeError(f"the programs that one machine runs may have {FLAGS} flags in all")
        return driver.CUdeviceptr(self._words.data_ptr() + 4 * index)

    def use_host_flags(self, words: Mapping[str, torch.Tensor]) -> None:
        self._host_words = dict(words)

    def flag_now(self, flag: str, memory: FlagMemory) -> int | None:
        if memory == "device":
            return None
        return ctypes.c_uint32.from_address(self._host_words[flag].data_ptr()).value

    def register(self, memory: torch.Tensor) -> None:
        mapped = driver.CU_MEMHOSTREGISTER_PORTABLE | driver.CU_MEMHOSTREGISTER_DEVICEMAP
        checked(driver.cuMemHostRegister, memory.data_ptr(), memory.nbytes, mapped)

    def unregister(self, memory: torch.Tensor) -> None:
        checked(driver.cuMemHostUnregister, memory.data_ptr())

    def exportable(self, size: int) -> torch.Tensor:
        """`size` bytes of device memory that other processes may open."""
        address = int(checked(driver.cuMemAlloc, size))
        self._exported.append(address)
        return torch.as_tensor(_Mapping(address, size), device=self.torch_device)

    def handle(self, memory: torch.Tensor) -> bytes:
        """By which another process opens exportable memory."""
        handle = checked(driver.cuIpcGetMemHandle, driver.CUdeviceptr(memory.data_ptr()))
        return ctypes.string_at(handle.getPtr(), HANDLE_BYTES)

    def opened(self, handle: bytes, size: int) -> PeerMemory:
        """The memory that another process has given `handle` of.

        Raises:
            RuntimeError: among others, where this GPU cannot reach the other one's memory.
        """
        opened = driver.CUipcMemHandle()
        ctypes.memmove(opened.getPtr(), handle, HANDLE_BYTES)
        lazily = driver.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
        address = int(checked(driver.cuIpcOpenMemHandle, opened, lazily))
        self._opened.append(address)
        return PeerMemory(address, size)

    def close_opened(self) -> None:
        """Close the memory of other processes, with all streams idle."""
        while self._opened:
            checked(driver.cuIpcCloseMemHandle, driver.CUdeviceptr(self._opened.pop()))

    def free_exportable(self) -> None:
        """Give back what is exportable, once nobody has it open."""
        while self._exported:
            checked(driver.cuMemFree, driver.CUdeviceptr(self._exported.pop()))

    def event(self, timed: bool) -> Event:
        return _CudaEvent(self, timed)

    def pinned(self, size: int) -> torch.Tensor:
        # torch's own pinned allocator rounds up to a power of two
        memory = torch.empty(size, dtype=torch.uint8)
        checked(driver.cuMemHostRegister, memory.data_ptr(), size, 0)
        self._registered.append(memory)
        return memory

    def reset(self) -> None:
        self._words.zero_()
        self.synchronize()

    def start(self, stream: str) -> None:
        self.origin.record(self._streams[stream].stream)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def physical(self, size: int) -> Physical:
        handle = checked(driver.cuMemCreate, size, self._properties, 0) if size else None
        if handle is not None:
            self._handles.append(handle)
        return handle

    def mapped(self, parts: Sequence[tuple[Physical, int]]) -> torch.Tensor:
        total = sum(size for _, size in parts)
        base = int(checked(driver.cuMemAddressReserve, total, 0, driver.CUdeviceptr(0), 0))
        mapping, pieces, at = _Mapping(base, total), [], base
        for handle, size in parts:
            if size:
                checked(driver.cuMemMap, driver.CUdeviceptr(at), size, 0, handle, 0)
                pieces.append((at, size))
            at += size
        access = driver.CUmemAccessDesc()
        access.location = self._properties.location
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        checked(driver.cuMemSetAccess, driver.CUdeviceptr(base), total, [access], 1)
        self._mappings.append((mapping, pieces))
        return torch.as_tensor(mapping, device=self.torch_device)

    def unmap(self) -> None:
        self.synchronize()
        while self._mappings:
            mapping, pieces = self._mappings.pop()
            for address, size in pieces:
                checked(driver.cuMemUnmap, driver.CUdeviceptr(address), size)
            checked(driver.cuMemAddressFree, driver.CUdeviceptr(mapping.address), mapping.size)
        while self._handles:
            checked(driver.cuMemRelease, self._handles.pop())

    def spin(self, seconds: float) -> Call:
        from calibration.torch_machine.kernels import spin

        return lambda: spin(self.torch_device, seconds)

    def enter(self) -> None:
        torch.cuda.set_device(self.torch_device)

    def release(self) -> None:
        self.synchronize()
        while self._registered:
            checked(driver.cuMemHostUnregister, self._registered.pop().data_ptr())

    def trim(self) -> None:
        torch.cuda.empty_cache()

    def close(self) -> None:
        self.release()
