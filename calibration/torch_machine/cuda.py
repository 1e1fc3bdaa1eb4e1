"""The CUDA device of a rank: real streams, events and stream memory operations.

Copies, flags and their waits go through the driver's own calls (cuda-bindings): a call costs about 1 us of host time,
a tenth of what a torch operator does, and small chunks would otherwise be bound by the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from calibration.torch_machine.device import Call, Device, Event, Physical, Stream
from calibration.torch_machine.support import FLAGS

try:
    from cuda.bindings import driver
except ImportError:  # said by CudaDevice, when it is known to be needed
    driver = None


class MissingBindingsError(RuntimeError):
    """cuda-bindings is not installed."""

    def __init__(self) -> None:
        super().__init__("the package cuda-bindings is missing: install it to run programs on CUDA devices")


def _call(function: Any, *arguments: Any) -> Any:
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
    def __init__(self, device: CudaDevice) -> None:
        self.stream = torch.cuda.Stream(device.torch_device)
        self._handle = driver.CUstream(self.stream.cuda_stream)
        self._device = device

    def run(self, call: Call) -> Call:
        def enqueue() -> None:
            if torch.cuda.current_stream() != self.stream:
                torch.cuda.set_stream(self.stream)
            call()

        return enqueue

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Call:
        handle, size, to_device = self._handle, target.nbytes, target.is_cuda
        if to_device:
            pointer, host = driver.CUdeviceptr(target.data_ptr()), source.data_ptr()
            return lambda: _call(driver.cuMemcpyHtoDAsync, pointer, host, size, handle)
        pointer, host = driver.CUdeviceptr(source.data_ptr()), target.data_ptr()
        return lambda: _call(driver.cuMemcpyDtoHAsync, host, pointer, size, handle)

    def record(self, event: Event) -> Call:
        assert isinstance(event, _CudaEvent)
        return lambda: event.event.record(self.stream)

    def wait(self, event: Event) -> Call:
        assert isinstance(event, _CudaEvent)
        return lambda: self.stream.wait_event(event.event)

    def write_flag(self, flag: str, value: int) -> Call:
        handle, word = self._handle, self._device.flag(flag)
        return lambda: _call(driver.cuStreamWriteValue32, handle, word, value, 0)

    def wait_flag(self, flag: str, value: int) -> Call:
        handle, word = self._handle, self._device.flag(flag)
        equal = driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ
        return lambda: _call(driver.cuStreamWaitValue32, handle, word, value, equal)


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
        self._streams: dict[str, _CudaStream] = {}
        self._registered: list[torch.Tensor] = []
        self._handles: list[Any] = []
        self._mappings: list[tuple[_Mapping, list[tuple[int, int]]]] = []
        self._properties = driver.CUmemAllocationProp()
        self._properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self._properties.location.id = index
        minimum = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self.granule = int(_call(driver.cuMemGetAllocationGranularity, self._properties, minimum))
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

    def flag(self, name: str) -> Any:
        """The device address of a flag."""
        index = self._flags.setdefault(name, len(self._flags))
        if index >= FLAGS:  # of several programs: each may have as many
            raise RuntimeError(f"the programs that one machine runs may have {FLAGS} flags in all")
        return driver.CUdeviceptr(self._words.data_ptr() + 4 * index)

    def event(self, timed: bool) -> Event:
        return _CudaEvent(self, timed)

    def pinned(self, size: int) -> torch.Tensor:
        # torch's own pinned allocator rounds up to a power of two
        memory = torch.empty(size, dtype=torch.uint8)
        _call(driver.cuMemHostRegister, memory.data_ptr(), size, 0)
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
        handle = _call(driver.cuMemCreate, size, self._properties, 0) if size else None
        if handle is not None:
            self._handles.append(handle)
        return handle

    def mapped(self, parts: Sequence[tuple[Physical, int]]) -> torch.Tensor:
        total = sum(size for _, size in parts)
        base = int(_call(driver.cuMemAddressReserve, total, 0, driver.CUdeviceptr(0), 0))
        mapping, pieces, at = _Mapping(base, total), [], base
        for handle, size in parts:
            if size:
                _call(driver.cuMemMap, driver.CUdeviceptr(at), size, 0, handle, 0)
                pieces.append((at, size))
            at += size
        access = driver.CUmemAccessDesc()
        access.location = self._properties.location
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        _call(driver.cuMemSetAccess, driver.CUdeviceptr(base), total, [access], 1)
        self._mappings.append((mapping, pieces))
        return torch.as_tensor(mapping, device=self.torch_device)

    def unmap(self) -> None:
        self.synchronize()
        while self._mappings:
            mapping, pieces = self._mappings.pop()
            for address, size in pieces:
                _call(driver.cuMemUnmap, driver.CUdeviceptr(address), size)
            _call(driver.cuMemAddressFree, driver.CUdeviceptr(mapping.address), mapping.size)
        while self._handles:
            _call(driver.cuMemRelease, self._handles.pop())

    def spin(self, seconds: float) -> Call:
        from calibration.torch_machine.kernels import spin

        return lambda: spin(self.torch_device, seconds)

    def enter(self) -> None:
        torch.cuda.set_device(self.torch_device)

    def release(self) -> None:
        self.synchronize()
        while self._registered:
            _call(driver.cuMemHostUnregister, self._registered.pop().data_ptr())

    def trim(self) -> None:
        torch.cuda.empty_cache()

    def close(self) -> None:
        self.release()
