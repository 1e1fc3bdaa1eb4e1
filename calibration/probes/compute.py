"""What the GPU computes: products, attention, copies in its memory; and how copies over the link slow kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from calibration.probes.context import Context, Measured
from calibration.torch_machine.device import Call, Event

Params = dict[str, Any]


def device(context: Context, params: Params, background_scale: int) -> Measured:
    """ "memory" of the device, B."""
    memory = 2**30
    if context.cuda:
        memory = torch.cuda.get_device_properties(context.device.torch_device).total_memory
    return Measured({"memory": [float(memory)]})


def overhead(context: Context, params: Params, background_scale: int) -> Measured:
    """ "overhead": device memory that this process takes beside its tensors, B: CUDA's context, libraries, NCCL.

    It is to run after all collectives: each communicator has buffers of its own.
    """
    taken = 2**20
    if context.cuda:
        free, total = torch.cuda.mem_get_info(context.device.torch_device)
        taken = total - free - torch.cuda.memory_reserved(context.device.torch_device)
    return Measured({"overhead": [float(taken)]})


def _timed(context: Context, calls: Sequence[Call], repeats: int) -> list[float]:
    """Seconds of `calls` on the compute stream, one after the other, for each repeat; a rehearsal comes first."""
    for call in _chain(context, calls)[0]:
        call()
    context.device.synchronize()
    return [_alone(context, calls) for _ in range(repeats)]


def _chain(context: Context, calls: Sequence[Call]) -> tuple[list[Call], tuple[Event, Event]]:
    """`calls` on the compute stream between two events."""
    stream = context.device.stream("compute")
    start, end = context.event(), context.event()
    return [stream.record(start), *(stream.run(call) for call in calls), stream.record(end)], (start, end)


def _alone(context: Context, calls: Sequence[Call], ranks: int = 1) -> float:
    """Seconds of `calls`."""
    train, (start, end) = _chain(context, calls)
    context.run_behind_gate({"compute": train}, ranks)
    return end.time() - start.time()


class _Background(NamedTuple):
    """Seconds of a chain and of its background; `long_enough`: the background outlasted the chain."""

    seconds: float
    others: float
    long_enough: bool


def _with_background(
    context: Context, calls: Sequence[Call], name: str, others: Sequence[Call], ranks: int = 1
) -> _Background:
    """Run `calls` from when the first of `others`, on the stream `name`, has ended."""
    stream = context.device.stream(name)
    first, last = context.event(), context.event()
    background = [others[0], stream.record(first), *others[1:], stream.record(last)]
    train, (start, end) = _chain(context, calls)
    # the other stream's first event comes before the compute stream waits for it
    context.run_behind_gate(
        {name: background, "compute": [context.device.stream("compute").wait(first), *train]}, ranks
    )
    return _Background(end.time() - start.time(), last.time() - first.time(), last.time() >= end.time())


def _matrix(context: Context, name: str, rows: int, columns: int) -> torch.Tensor:
    memory = context.random(name, 2 * rows * columns)
    return memory.view(torch.bfloat16).view(rows, columns)


def gemm(context: Context, params: Params, background_scale: int) -> Measured:
    """Products of random bf16 matrices m x k and k x n. "seconds" of one."""
    m, n, k = params["m"], params["n"], params["k"]
    a, b, out = _matrix(context, "a", m, k), _matrix(context, "b", n, k), _matrix(context, "out", m, n)
    times = _timed(context, [lambda: torch.mm(a, b.t(), out=out)] * params["count"], params["repeats"])
    return Measured({"seconds": [t / params["count"] for t in times]})


def attention(context: Context, params: Params, background_scale: int) -> Measured:
    """Attention of `heads` heads over `tokens` tokens, by one backend. "seconds" of one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backend = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }[params["backend"]]
    heads, tokens, head = params["heads"], params["tokens"], params["head"]
    memory = context.random("qkv", 6 * heads * tokens * head).view(torch.bfloat16)
    q, k, v = memory.view(3, 1, tokens, heads, head).transpose(2, 3)

    def call() -> None:
        with sdpa_kernel(backend):
            F.scaled_dot_product_attention(q, k, v)

    times = _timed(context, [call] * params["count"], params["repeats"])
    return Measured({"seconds": [t / params["count"] for t in times]})


def device_copy(context: Context, params: Params, background_scale: int) -> Measured:
    """Copies within the device's memory. "rate": B/s read and written."""
    size = params["bytes"]
    source, target = context.random("h2d device", size), context.random("d2h device", size)
    times = _timed(context, [lambda: target.copy_(source)] * params["count"], params["repeats"])
    return Measured({"rate": [2 * size * params["count"] / t for t in times]})


def launch(context: Context, params: Params, background_scale: int) -> Measured:
    """A chain of kernels, isolated and during copies of `chunk` bytes in turn.

    Quantities: "alone" and "beside", s of the chain; "launches" in it; "rate" of the copies beside it, B/s.
    """
    direction, chunk = params["direction"], params["chunk"]
    calls = _WORK[params["work"]](context, params)
    device, compute = context.device, context.device.stream("compute")
    samples: dict[str, list[float]] = {"alone": [], "beside": [], "rate": []}
    too_short = ""
    for call in [*(compute.run(c) for c in calls), *context.copies(device.stream(direction), direction, chunk, 1)]:
        call()
    device.synchronize()
    [chain_s] = _timed(context, calls, 1)
    count = min(max(round(background_scale * 2 * chain_s * params["rate"] / chunk), 4), 700)
    for _ in range(params["repeats"]):
        samples["alone"].append(_alone(context, calls))
        copies = context.copies(device.stream(direction), direction, chunk, count + 1)
        found = _with_background(context, calls, direction, copies)
        if not found.long_enough:
            too_short = "the copies ended before the last kernel"
            continue
        samples["beside"].append(found.seconds)
        samples["rate"].append(count * chunk / found.others)
    samples["launches"] = [float(len(calls))]
    enough = len(samples["beside"]) >= 3
    return Measured({k: v for k, v in samples.items() if v}, "" if enough else too_short)


def kernel_under_collective(context: Context, params: Params, background_scale: int) -> Measured:
    """A chain of kernels, isolated and during collectives of another communicator in turn: these take SMs.

    Quantities: "alone" and "beside", s of the chain.
    """
    device, ranks = context.device, params["ranks"]
    compute, stream = device.stream("compute"), device.stream("other")
    calls = _block(context, params)
    gather = stream.run(context.collective(params["other"], params["other_bytes"], ranks, other=True))
    begun, ended = context.event(), context.event()
    for call in [*(compute.run(c) for c in calls), gather, stream.record(begun), gather, stream.record(ended)]:
        call()
    device.synchronize()
    once = context.all_reduce_max(ended.time() - begun.time(), ranks)
    chain_s = context.all_reduce_max(_timed(context, calls, 1)[0], ranks)
    total = min(max(round(background_scale * 2 * chain_s / once), 3), 150)
    samples: dict[str, list[float]] = {"alone": [], "beside": []}
    too_short = ""
    for _ in range(params["repeats"]):
        samples["alone"].append(_alone(context, calls, ranks))
        found = _with_background(context, calls, "other", [gather] * (total + 1), ranks)
        if found.long_enough:
            samples["beside"].append(found.seconds)
        else:
            too_short = "the collectives ended before the last kernel"
    enough = len(samples["beside"]) >= 3
    return Measured({k: v for k, v in samples.items() if v}, "" if enough else too_short)


def _elementwise(context: Context, params: Params) -> list[Callable[[], object]]:
    small = context.random("small", 4096).view(torch.bfloat16)
    return [lambda: small.mul_(-1.0)] * params["count"]


def _gemms(context: Context, params: Params) -> list[Callable[[], object]]:
    m, n, k = params["m"], params["n"], params["k"]
    a, b, out = _matrix(context, "a", m, k), _matrix(context, "b", n, k), _matrix(context, "out", m, n)
    return [lambda: torch.mm(a, b.t(), out=out)] * params["count"]


def _block(context: Context, params: Params) -> list[Callable[[], object]]:
    """`count` transformer blocks: norm, q, k and v, attention, projection, norm, feed-forward layers, residuals."""
    tokens, width, ffn, heads = params["tokens"], params["width"], params["ffn"], params["heads"]
    x, y = _matrix(context, "x", tokens, width), _matrix(context, "y", tokens, width)
    qkv, wide = _matrix(context, "qkv", tokens, 3 * width), _matrix(context, "wide", tokens, ffn)
    into, out = _matrix(context, "w1", 3 * width, width), _matrix(context, "w2", width, width)
    up, down = _matrix(context, "w3", ffn, width), _matrix(context, "w4", width, ffn)
    q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1).unsqueeze(0) for part in qkv.chunk(3, 1))
    mixed = y.view(1, tokens, heads, width // heads).transpose(1, 2)
    steps: list[Callable[[], object]] = [
        lambda: torch.mul(x, 0.02, out=y),
        lambda: torch.mm(y, into.t(), out=qkv),
        lambda: qkv.mul_(0.02),
        lambda: mixed.copy_(F.scaled_dot_product_attention(q, k, v)),
        lambda: torch.mm(y, out.t(), out=x),
        lambda: torch.mul(x, 0.02, out=y),
        lambda: torch.mm(y, up.t(), out=wide),
        lambda: wide.mul_(0.02),
        lambda: torch.mm(wide, down.t(), out=x),
        lambda: x.mul_(0.02),
    ]
    return steps * int(params["count"])


_WORK = {"elementwise": _elementwise, "gemm": _gemms, "block": _block}
