"""A rank's process: joins the process group, then runs programs that its parent sends, one after the other."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from multiprocessing.connection import Connection

import msgspec
import torch.distributed as dist

from calibration.torch_machine.device import Device
from calibration.torch_machine.group import join_group, open_device
from calibration.torch_machine.memory import HostWeights
from calibration.torch_machine.rank_result import RankResult
from calibration.torch_machine.runner import Runner
from sim.program import RankProgram


class Job(msgspec.Struct):
    """A program to run, the events to time, and after how many seconds to give up."""

    program: RankProgram
    timed: list[int]
    timeout_s: float


class Failure(msgspec.Struct):
    """Why a job has no result."""

    reason: str
    deadlock: bool = False


class Answer(msgspec.Struct):
    """A job's result, or its failure."""

    result: RankResult | None = None
    failure: Failure | None = None


def serve(rank: int, world_size: int, store: str, kind: str, pipe: Connection) -> None:
    """Run jobs from `pipe` until it closes. `store` is a file that all ranks share, `kind` "cuda" or "cpu"."""
    try:
        device = open_device(kind, rank)
        join_group(device, rank, world_size, store, minutes=10)
        pipe.send_bytes(msgspec.msgpack.encode(Answer()))
    except Exception as error:
        pipe.send_bytes(msgspec.msgpack.encode(Answer(failure=Failure(f"{type(error).__name__}: {error}"))))
        return
    host: HostWeights | None = None
    groups: dict[str, dist.ProcessGroup] = {}
    while True:
        try:
            job = msgspec.msgpack.decode(pipe.recv_bytes(), type=Job)
        except EOFError:
            break
        try:
            sizes = tuple(w.bytes for w in job.program.weights)
            if host is None or host.sizes != sizes:
                host = None
                device.release()
                host = HostWeights(device, sizes)
            answer = _run(device, job, host, rank, world_size, pipe, groups)
        except Exception as error:  # such as pinned memory that there is not
            answer = Answer(failure=Failure(f"rank {rank}: {type(error).__name__}: {error}"))
        pipe.send_bytes(msgspec.msgpack.encode(answer))
    dist.destroy_process_group()
    device.close()


def _run(
    device: Device,
    job: Job,
    host: HostWeights,
    rank: int,
    world_size: int,
    pipe: Connection,
    groups: dict[str, dist.ProcessGroup],
) -> Answer:
    runner: list[Runner] = []

    def give_up() -> None:
        # whatever holds the main thread, a driver call or a full queue, will not let go: say so and end
        where = runner[0].held() if runner else "it was still preparing"
        failure = Failure(f"rank {rank} has not ended after {job.timeout_s:g} s: {where}", deadlock=True)
        pipe.send_bytes(msgspec.msgpack.encode(Answer(failure=failure)))
        os._exit(1)

    timer = threading.Timer(job.timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        runner.append(Runner(device, job.program, host, rank, world_size, set(job.timed), groups))
        return Answer(result=runner[0].run())
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Answer(failure=Failure(f"rank {rank}: {type(error).__name__}: {error} ({where.name})"))
    finally:
        timer.cancel()
        while runner:
            runner.pop().close()
        gc.collect()
        device.trim()
