"""A rank's process: joins the process group, then runs programs that its parent sends, one after the other."""

from __future__ import annotations

import gc
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import NoReturn

import msgspec
import torch.distributed as dist

from calibration.torch_machine.communicators import Communicators
from calibration.torch_machine.cpu import CpuDevice
from calibration.torch_machine.device import Device
from calibration.torch_machine.group import join_group, open_device
from calibration.torch_machine.job import Job
from calibration.torch_machine.memory import HostWeights
from calibration.torch_machine.rank_result import RankResult
from calibration.torch_machine.runner import Runner
from calibration.torch_machine.shared_memory import mapped


class Failure(msgspec.Struct):
    """Why a job has no result."""

    reason: str
    deadlock: bool = False


class Answer(msgspec.Struct):
    """A job's result, or its failure."""

    result: RankResult | None = None
    failure: Failure | None = None


def serve(rank: int, world_size: int, store: str, kind: str, placement: Sequence[int], pipe: Connection) -> None:
    """Run jobs from `pipe` until it closes, on GPU `placement[rank]` if `kind` is "cuda" (or it is "cpu").

    `store` is a file that all ranks share. Where a job has shared memory, its file follows it.
    """
    try:
        device = open_device(kind, placement[rank])
        join_group(device, rank, world_size, store, minutes=10)
        _send(pipe, Answer())
    except Exception as error:
        _send(pipe, Answer(failure=Failure(f"rank {rank}: {type(error).__name__}: {error}")))
        return
    host: HostWeights | None = None
    communicators = Communicators(rank)
    while True:
        try:
            job = msgspec.msgpack.decode(pipe.recv_bytes(), type=Job)
            shared = mapped(recv_handle(pipe), job.layout.bytes) if job.layout.bytes else None
        except EOFError:
            break
        try:
            sizes = tuple(w.bytes for w in job.program.weights)
            if host is None or host.sizes != sizes:
                host = None
                device.release()
                host = HostWeights(device, sizes)
            run = partial(Runner, device, job, host, rank, world_size, communicators, shared)
            answer = _run(device, job, rank, pipe, run)
            del run
        except Exception as error:  # such as pinned memory that there is not
            answer = Answer(failure=Failure(f"rank {rank}: {type(error).__name__}: {error}"))
        del shared
        if not _send(pipe, answer):
            break
    dist.destroy_process_group()
    device.close()


def _run(device: Device, job: Job, rank: int, pipe: Connection, make: Callable[[], Runner]) -> Answer:
    runner: list[Runner] = []

    def end(failure: Failure) -> NoReturn:
        # whatever holds the main thread, a driver call or a full queue, will not let go: say so and end
        try:
            _send(pipe, Answer(failure=failure))
        finally:
            os._exit(1)

    def give_up() -> None:
        where = "it was still preparing"
        with suppress(Exception):  # there is something to say in any case
            where = runner[0].blocked() if runner else where
        end(Failure(f"rank {rank} has not ended after {job.timeout_s:g} s: {where}", deadlock=True))

    if isinstance(device, CpuDevice):
        device.on_failure = lambda error: end(_failure(rank, error))
    timer = threading.Timer(job.timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        runner.append(make())
        return Answer(result=runner[0].run())
    except Exception as error:
        end(_failure(rank, error))  # giving back what a stream still waits for would never end
    finally:
        timer.cancel()
        while runner:
            runner.pop().close()
        gc.collect()
        device.trim()


def _failure(rank: int, error: BaseException) -> Failure:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Failure(f"rank {rank}: {type(error).__name__}: {error} ({where.name})")


def _send(pipe: Connection, answer: Answer) -> bool:
    """Send an answer; whether the parent is there to hear it."""
    try:
        pipe.send_bytes(msgspec.msgpack.encode(answer))
    except OSError:
        return False
    return True
