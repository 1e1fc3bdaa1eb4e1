"""What it costs a host thread to issue commands, how far it may run ahead, and how fast it wakes."""

from __future__ import annotations

import time
from typing import Any

import torch

from calibration.probes.context import Context, Measured
from calibration.torch_machine.device import Call

Params = dict[str, Any]


def issue(context: Context, params: Params, background_scale: int) -> Measured:
    """Wall time of a call, over `count` calls on an idle stream whose queue stays short. "seconds" of one."""
    call = _call(context, params["call"], params["bytes"], params["ranks"])
    samples = []
    for repeat in range(params["repeats"] + 1):
        context.barrier(params["ranks"])
        began = time.perf_counter()
        for _ in range(params["count"]):
            call()
        took = time.perf_counter() - began
        context.device.synchronize()
        if repeat:
            samples.append(took / params["count"])
    return Measured({"seconds": samples})


def depth(context: Context, params: Params, background_scale: int) -> Measured:
    """How many commands the driver takes on a parked stream before it blocks the host.

    The gate opens by itself after `hold_s`; calls that have returned by then were accepted. "commands" counts them
    with the one that parks the stream; "full" is 1 if a call was blocked, 0 if `limit` calls were not enough.
    """
    stream = context.device.stream("compute")
    calls = [_call(context, name, params["bytes"], 1) for name in params["call"].split("+")]
    for call in calls:
        call()
    accepted, full = [], []
    for _ in range(params["repeats"]):
        context.device.synchronize()
        context.gate.close(params["hold_s"])
        context.gate.park(stream)
        number, longest, taken = 1, 0.0, params["limit"]
        before = time.perf_counter()
        while number < params["limit"] and not context.gate.forced:
            calls[number % len(calls)]()
            after = time.perf_counter()
            if after - before > longest:
                longest, taken = after - before, number
            before = after
            number += 1
        # the call that was blocked until the gate opened took most of the time that it was closed
        blocked = longest > params["hold_s"] / 4
        context.gate.open()
        context.device.synchronize()
        accepted.append(float(taken if blocked else number))
        full.append(float(blocked))
    return Measured({"commands": accepted, "full": full})


def host_wake(context: Context, params: Params, background_scale: int) -> Measured:
    """Wall time of a kernel of known length until the host continues: "blocked" on its event, and "polling" it, s."""
    stream = context.device.stream("compute")
    spin = stream.run(context.device.spin(params["seconds"]))
    spin()
    samples: dict[str, list[float]] = {"blocked": [], "polling": []}
    for _ in range(params["repeats"]):
        for how, times in samples.items():
            event = context.event()
            context.device.synchronize()
            began = time.perf_counter()
            spin()
            stream.record(event)()
            if how == "blocked":
                event.synchronize()
            else:
                while not event.done():
                    pass
            times.append(time.perf_counter() - began)
    return Measured(samples)


def _call(context: Context, name: str, size: int, ranks: int) -> Call:
    """A call of the kind `name`, on the compute stream or a copy stream."""
    device = context.device
    compute = device.stream("compute")
    if name == "gemm":
        a = context.random("gemm", 3 * 512).view(torch.bfloat16).view(3, 16, 16)
        bias = context.random("bias", 32).view(torch.bfloat16)
        return compute.run(lambda: torch.addmm(bias, a[0], a[1], out=a[2]))
    if name == "elementwise":
        small = context.random("small", 4096).view(torch.bfloat16)
        return compute.run(lambda: small.mul_(-1.0))
    if name == "triton":
        return compute.run(device.spin(0.0))
    if name == "copy":
        [call] = context.copies(compute, "h2d", size, 1)
        return call
    if name == "device_copy":
        [call] = context.copies(compute, "d2d", size, 1)
        return call
    if name == "event":
        return compute.record(device.event(False))
    if name == "event_wait":
        event = device.event(False)
        compute.record(event)()
        return compute.wait(event)
    if name == "exchange":
        return compute.run(context.transfer(size, True))
    if name == "collective":
        return compute.run(context.collective("all_to_all", size, ranks))
    return compute.write_flag("probe", 0) if name == "write_flag" else compute.wait_flag("probe", 0)
