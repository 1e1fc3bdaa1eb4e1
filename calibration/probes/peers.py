"""Copies from one GPU's memory to another's."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from calibration.probes import driver
from calibration.probes.case import Params
from calibration.probes.context import Context, Measured
from calibration.probes.host_words import shared_memory
from calibration.torch_machine.device import Call, Stream

PAIR = 2
"""Ranks that take part."""

HANDLE_WORDS = 8
"""A handle of memory for other processes has 64 bytes."""


def peer_copy(context: Context, params: Params, background_scale: int) -> Measured:
    """`count` copies of `bytes` bytes from a rank's memory to the other's, back to back.

    Quantities: "seconds" of a copy while the other rank copies nothing, "both_seconds" while it does.
    """
    if why := _unreachable(context):
        return Measured({}, why)
    size, count = params["bytes"], params["count"]
    stream = context.device.stream("peer")
    own = context.random("peer", params["pool"])
    call = _push(stream, own, _other(context, params["pool"]), size)
    samples: dict[str, list[float]] = {"seconds": [], "both_seconds": []}
    for repeat in range(params["repeats"] + 1):
        for name, active in (("seconds", (0,)), ("seconds", (1,)), ("both_seconds", (0, 1))):
            start, end = context.event(), context.event()
            mine = [call] * (count + 1) if context.rank in active else []
            context.run_behind_gate({"peer": [*mine[:1], stream.record(start), *mine[1:], stream.record(end)]}, PAIR)
            if repeat and mine:
                samples[name].append((end.time() - start.time()) / count)
    return Measured(samples)


def _unreachable(context: Context) -> str:
    """Why this rank's GPU cannot reach the other's."""
    if context.cuda and not torch.cuda.can_device_access_peer(context.rank, 1 - context.rank):
        return "the GPUs have no access to each other's memory"
    return ""


def _other(context: Context, size: int) -> Any:
    """The other rank's memory: its address, or on a CPU its bytes. Each rank gives one and takes one."""
    if "peers" not in context.kept:
        context.kept["peers"] = [_given(context, size, owner) for owner in range(PAIR)][1 - context.rank]
    return context.kept["peers"]


def _given(context: Context, size: int, owner: int) -> Any:
    if not context.cuda:
        return torch.frombuffer(shared_memory(context, size, PAIR, owner), dtype=torch.uint8)
    from cuda.bindings import driver as cuda

    mine = context.rank == owner
    handle = cuda.CUipcMemHandle()
    address = 0
    if mine:
        address = int(driver.call("cuMemAlloc", size))
        handle = driver.call("cuIpcGetMemHandle", driver.pointer(address))
    words: Any = (ctypes.c_int64 * HANDLE_WORDS).from_address(int(handle.getPtr()))
    words[:] = context.broadcast(list(words), PAIR, owner)
    if not mine:
        flags = cuda.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
        address = int(driver.call("cuIpcOpenMemHandle", handle, flags.value))
    return address


def _push(stream: Stream, own: torch.Tensor, other: Any, size: int) -> Call:
    if isinstance(other, torch.Tensor):
        return stream.copy(other[:size], own[:size])
    queue, target, source = driver.handle(stream), driver.pointer(other), driver.pointer(own.data_ptr())
    return lambda: driver.call("cuMemcpyDtoDAsync", target, source, size, queue)
