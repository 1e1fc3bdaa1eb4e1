"""A rank's process: joins the process group, then runs cases that its parent sends, one after the other."""

from __future__ import annotations

import faulthandler
import gc
import sys
import traceback
from multiprocessing.connection import Connection

import msgspec
import torch
import torch.distributed as dist

from calibration.probes import collectives, commands, compute, copies, engines, host, host_flags, pageable, peers
from calibration.probes.case import ProbeCase
from calibration.probes.context import Barrier, Context, Pools
from calibration.torch_machine.group import join_group, open_device

PROBES = {
    "device": compute.device,
    "device_overhead": compute.overhead,
    "gemm": compute.gemm,
    "attention": compute.attention,
    "device_copy": compute.device_copy,
    "launch": compute.launch,
    "copy": copies.copy,
    "engine": engines.engine,
    "pageable": pageable.pageable,
    "peer_copy": peers.peer_copy,
    "commands": commands.commands,
    "host_flag_order": host_flags.order,
    "host_flag_turns": host_flags.turns,
    "wake": commands.wake,
    "issue": host.issue,
    "depth": host.depth,
    "host_wake": host.host_wake,
    "collective": collectives.collective,
    "transfer": collectives.transfer,
    "beside": collectives.beside,
    "pair": collectives.concurrent_collectives,
    "crowd": compute.kernel_under_collective,
    "sm_copy": collectives.sm_copy,
}
"""Probe of a case's kind: (context, parameters, background scale) -> what it measured."""

GRACE_S = 120.0
"""A case may take this much longer than expected before its process ends itself, s: more than a gate is closed."""


class Job(msgspec.Struct):
    """A case to run; its background is `background_scale` times as long as planned."""

    case: ProbeCase
    background_scale: int = 1


class Answer(msgspec.Struct):
    """What a rank found, or why it found nothing. The first answer of a process says what its device is."""

    samples: dict[str, list[float]] = {}
    too_short: str = ""
    window: tuple[float, float] | None = None
    failure: str = ""
    gpu: str = ""


def serve(
    rank: int, world_size: int, store: str, kind: str, pools: Pools, barriers: dict[int, Barrier], pipe: Connection
) -> None:
    """Run jobs from `pipe` until it closes. `barriers`: one for each number of ranks that work together."""
    try:
        torch.manual_seed(rank)
        device = open_device(kind, rank)
        if kind == "cuda":
            for backend in ("flash", "cudnn", "mem_efficient", "math"):
                getattr(torch.backends.cuda, f"enable_{backend}_sdp")(True)  # a probe chooses by itself
        join_group(device, rank, world_size, store, minutes=10)
        context = Context(device, rank, world_size, barriers, pools)
        _send(pipe, Answer(gpu=torch.cuda.get_device_name(rank) if kind == "cuda" else "cpu"))
    except Exception as error:
        _send(pipe, Answer(failure=f"rank {rank} cannot start: {type(error).__name__}: {error}"))
        return
    gc.disable()  # a collection in the middle of a train takes longer than the train
    while True:
        try:
            job = msgspec.msgpack.decode(pipe.recv_bytes(), type=Job)
        except EOFError:
            break
        # a thread of C that needs no lock of Python's: what a driver call holds for ever ends here
        faulthandler.dump_traceback_later(3 * job.case.seconds + GRACE_S, exit=True, file=sys.stderr)
        answer = _run(context, job)
        faulthandler.cancel_dump_traceback_later()
        gc.collect()
        _send(pipe, answer)
    dist.destroy_process_group()
    device.close()


def _run(context: Context, job: Job) -> Answer:
    case = job.case
    try:
        context.barrier(case.ranks)
        found = PROBES[case.kind](context, case.params, job.background_scale)
        samples = {name: list(values) for name, values in found.samples.items()}
        return Answer(samples, found.too_short, found.window)
    except Exception as error:
        frames = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
        return Answer(failure=f"rank {context.rank}: {type(error).__name__}: {error} ({' '.join(frames)})")


def _send(pipe: Connection, answer: Answer) -> None:
    pipe.send_bytes(msgspec.msgpack.encode(answer))
