"""What commands cost on the stream that runs them, found without events between them; and how fast streams wake."""

from __future__ import annotations

import torch

from calibration.probes.case import Params
from calibration.probes.context import Context, Measured
from calibration.probes.host_words import host_words
from calibration.torch_machine.device import Call, Stream


def commands(context: Context, params: Params, background_scale: int) -> Measured:
    """A train of `count` turns of `pattern`, each of its commands once a turn. "seconds" of a turn.

    Copies have `bytes` bytes; kernels are small. With `beside` a kernel runs on another stream throughout.
    """
    name = "compute" if params["pattern"].startswith("kernel") else "h2d"
    stream, other = context.device.stream(name), context.device.stream("other")
    samples = []
    too_short = ""
    turn_s = 1e-4
    for repeat in range(params["repeats"] + 1):
        start, end, before, after = (context.event() for _ in range(4))
        calls = [stream.record(start), *_turns(context, stream, params), stream.record(end)]
        work = {name: calls}
        if params["beside"]:
            # full milliseconds: a number that 16 does not divide would make the kernel compile anew
            length = 1e-3 * background_scale * max(round(2e3 * turn_s * params["count"]), 2)
            spin = other.run(context.device.spin(length))
            if repeat <= 1:
                spin()
            work = {"other": [other.record(before), spin, other.record(after)], name: [stream.wait(before), *calls]}
        if repeat == 0:
            for call in calls:
                call()
            context.device.synchronize()
            turn_s = (end.time() - start.time()) / params["count"] if context.cuda else 1e-4
            continue
        context.run_behind_gate(work)
        if params["beside"] and after.time() < end.time():
            too_short = "the kernel beside them ended before the last command"
        samples.append((end.time() - start.time()) / params["count"])
    return Measured({"seconds": samples}, too_short)


def _turns(context: Context, stream: Stream, params: Params) -> list[Call]:
    size, count = params["bytes"], params["count"]
    words = host_words(context)
    words[0] = 0
    flags = {
        "write": stream.write_flag("probe", 0),
        "wait": stream.wait_flag("probe", 0),
        "host_write": words.write(stream, 0, 0),
        "host_wait": words.wait(stream, 0, 0),
    }
    small = context.random("small", 4096).view(torch.bfloat16)
    kernel = stream.run(lambda: small.mul_(-1.0))
    copies = iter(context.copies(stream, "h2d", size, count) if size else [])
    calls = []
    for _ in range(count):
        for command in params["pattern"].split("+"):
            if command == "copy":
                calls.append(next(copies))
            elif command == "kernel":
                calls.append(kernel)
            elif command in ("event", "timed"):
                calls.append(stream.record(context.device.event(command == "timed")))
            else:
                calls.append(flags[command])
    return calls


def wake(context: Context, params: Params, background_scale: int) -> Measured:
    """Stream B waits for an event or a flag of stream A, in device or host memory; A works first.

    "seconds" from the event on A behind its work, after which it writes the flag, to the next event on B.
    """
    device = context.device
    first, second = device.stream("other"), device.stream("compute")
    words = host_words(context)
    samples = []
    for repeat in range(params["repeats"] + 1):
        device.reset()
        words[0] = 0
        signal, woken = context.event(), context.event()
        if params["work"] == "copy":
            work = context.copies(first, "h2d", params["bytes"], 1)
        else:
            work = [first.run(device.spin(params["seconds"]))]
        if params["by"] == "event":
            tell, hear = [first.record(signal)], [second.wait(signal)]
        else:
            # timed before the write: an event behind it would come later than the wake
            write, hear = first.write_flag("wake", 1), [second.wait_flag("wake", 1)]
            if params["by"] == "host_flag":
                write, hear = words.write(first, 0, 1), [words.wait(second, 0, 1)]
            tell = [first.record(signal), write]
        if repeat == 0:
            for call in [*work, *tell, *hear, second.record(woken)]:
                call()
            device.synchronize()
            continue
        context.run_behind_gate({"other": [*work, *tell], "compute": [*hear, second.record(woken)]})
        samples.append(woken.time() - signal.time())
    return Measured({"seconds": samples})
