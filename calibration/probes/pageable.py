"""Copies from and to pageable host memory, which the driver stages: how long they block the host, and take."""

from __future__ import annotations

import time

from calibration.probes import driver
from calibration.probes.case import Params
from calibration.probes.context import Context, Measured


def pageable(context: Context, params: Params, background_scale: int) -> Measured:
    """A copy of `bytes` bytes between the device and memory that is not pinned.

    Quantities: "call", wall time until the call returns; "seconds", wall time until the copy is complete.
    With `busy` s of a kernel before it on its stream also "ahead", whether the call returned before that kernel had
    ended, and "after", the stream's time from the kernel's end to the copy's.
    """
    size, direction, busy = params["bytes"], params["direction"], params["busy"]
    stream, device = context.device.stream(direction), context.device
    memory = context.random(f"{direction} device", params["pool"])
    host = context.pageable(params["pool"])
    spin = stream.run(device.spin(busy))
    if busy:
        spin()
    samples: dict[str, list[float]] = {}
    for repeat in range(params["repeats"] + 1):
        at = repeat * size % (params["pool"] - size + 1) // 256 * 256
        there, here = memory[at : at + size], host[at : at + size]
        target, source = (there, here) if direction == "h2d" else (here, there)
        free, done = context.event(), context.event()
        copy = driver.staged_copy(stream, target, source)
        device.synchronize()
        device.start(direction)
        if busy:
            spin()
        stream.record(free)()
        began = time.perf_counter()
        copy()
        called = time.perf_counter() - began
        ahead = not free.done()
        stream.record(done)()
        while not done.done():
            pass
        seconds = time.perf_counter() - began
        if repeat == 0:
            continue
        found = {"call": called, "seconds": seconds}
        if busy:
            found |= {"ahead": float(ahead), "after": done.time() - free.time()}
        for name, value in found.items():
            samples.setdefault(name, []).append(value)
    return Measured(samples)
