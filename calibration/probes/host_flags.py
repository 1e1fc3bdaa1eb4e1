"""Flags in host memory: what they order, and how fast a stream hears of a write, on its GPU and from another."""

from __future__ import annotations

import time

from calibration.probes.case import Params
from calibration.probes.context import Context, Measured
from calibration.probes.host_words import host_words
from sim.program.commands import at_least

ORDER = (
    (5, 5),
    (6, 5),
    (5, 6),
    (0x00000001, 0xFFFFFFFF),
    (0xFFFFFFFF, 0x00000001),
    (0x7FFFFFFF, 0x00000000),
    (0x80000000, 0x00000000),
    (0x00000000, 0x80000001),
    (0x00000000, 0x80000000),
)
"""(word in memory, "at least" value that is waited for): the last ones are half a circle apart, or nearly."""

LOOK_S = {"cuda": 0.01, "cpu": 0.3}
"""A wait that has not ended after so long is not satisfied; a busy processor's threads may be late."""

LIMIT_S = 30.0
"""A released wait that has not ended after so long never will."""


def order(context: Context, params: Params, background_scale: int) -> Measured:
    """Which waits for "at least" a value are satisfied: 1 or 0 for each of `ORDER`, and whether all are "as_stated".

    Raises:
        RuntimeError: a wait does not end once its word has the value.
    """
    words, stream = host_words(context), context.device.stream("compute")
    found, stated = {}, True
    look_s = LOOK_S[context.device.torch_device.type]
    for memory, wanted in ORDER:
        context.device.synchronize()
        words[0] = memory
        done = context.device.event(False)
        words.wait(stream, 0, wanted)()
        stream.record(done)()
        began = time.perf_counter()
        while not (passed := done.done()) and time.perf_counter() - began < look_s:
            time.sleep(0)
        words[0] = wanted
        while not done.done():
            if time.perf_counter() - began > LIMIT_S:
                raise RuntimeError(f"a wait for at least {wanted:#x} does not end at {wanted:#x}")
        found[f"{memory:08x} for {wanted:08x}"] = [float(passed)]
        stated = stated and passed == at_least(memory, wanted)
    return Measured(found | {"as_stated": [float(stated)]})


def turns(context: Context, params: Params, background_scale: int) -> Measured:
    """Two streams that hand over to each other `count` times and back, by words. "seconds" from one to the other.

    Both are on one GPU, or on one each of two. Each write follows a wait, so it includes them.
    """
    ranks, count = params["ranks"], params["count"]
    words = host_words(context, ranks)
    names = ["compute", "other"] if ranks == 1 else ["compute"]
    samples = []
    for repeat in range(params["repeats"] + 1):
        base = repeat * count  # the words only ever grow
        start, end = context.event(), context.event()
        work = {}
        for player, name in enumerate(names, context.rank if ranks > 1 else 0):
            stream = context.device.stream(name)
            calls = []
            for turn in range(base + 1, base + count + 1):
                write, wait = words.write(stream, player, turn), words.wait(stream, 1 - player, turn)
                calls += [write, wait] if player == 0 else [wait, write]
            work[name] = calls
        first = context.device.stream("compute")
        work["compute"] = [first.record(start), *work["compute"], first.record(end)]
        if context.rank == 0:
            words[0] = words[1] = base
        context.run_behind_gate(work, ranks)
        if repeat:
            samples.append((end.time() - start.time()) / (2 * count))
    return Measured({"seconds": samples})
