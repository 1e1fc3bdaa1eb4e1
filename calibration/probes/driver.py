"""Calls of the CUDA driver that probes make by themselves: on host words, and copies that no program has yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calibration.torch_machine.device import Call, Stream

if TYPE_CHECKING:
    import torch


def call(name: str, *arguments: Any) -> Any:
    """What the driver's function `name` gives. Raises RuntimeError with its error's name."""
    from cuda.bindings import driver

    from calibration.torch_machine.cuda import checked

    return checked(getattr(driver, name), *arguments)


def handle(stream: Stream) -> Any:
    """The driver's stream of a CUDA device's `stream`."""
    from cuda.bindings import driver

    return driver.CUstream(stream.stream.cuda_stream)  # type: ignore[attr-defined]


def pointer(address: int) -> Any:
    """An address as the driver takes it."""
    from cuda.bindings import driver

    return driver.CUdeviceptr(address)


def register(address: int, size: int) -> int:
    """Register host memory with every context of the process; the address by which devices know it."""
    from cuda.bindings import driver

    flags = driver.CU_MEMHOSTREGISTER_PORTABLE | driver.CU_MEMHOSTREGISTER_DEVICEMAP
    call("cuMemHostRegister", address, size, flags)
    return int(call("cuMemHostGetDevicePointer", address, 0))


def write_value(stream: Stream, address: int, value: int) -> Call:
    """A call that enqueues a write of `value` (32 bits) to `address`."""
    queue, word = handle(stream), pointer(address)
    return lambda: call("cuStreamWriteValue32", queue, word, value, 0)


def wait_at_least(stream: Stream, address: int, value: int) -> Call:
    """A call that enqueues a wait until (int32)(word at `address` - `value`) >= 0."""
    from cuda.bindings import driver

    at_least = driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ
    queue, word = handle(stream), pointer(address)
    return lambda: call("cuStreamWaitValue32", queue, word, value, at_least)


def device_copy(stream: Stream, target: torch.Tensor, source: torch.Tensor) -> Call:
    """A call that enqueues a copy within the device's memory."""
    if not target.is_cuda:
        return stream.copy(target, source)
    to, of, size, queue = pointer(target.data_ptr()), pointer(source.data_ptr()), target.nbytes, handle(stream)
    return lambda: call("cuMemcpyDtoDAsync", to, of, size, queue)


def staged_copy(stream: Stream, target: torch.Tensor, source: torch.Tensor) -> Call:
    """A call that enqueues a copy between the device and pageable host memory; it may hold the host."""
    if target.is_cuda:
        to, of, size, queue = pointer(target.data_ptr()), source.data_ptr(), target.nbytes, handle(stream)
        return lambda: call("cuMemcpyHtoDAsync", to, of, size, queue)
    if source.is_cuda:
        into, device, size, queue = target.data_ptr(), pointer(source.data_ptr()), target.nbytes, handle(stream)
        return lambda: call("cuMemcpyDtoHAsync", into, device, size, queue)
    return stream.copy(target, source)
