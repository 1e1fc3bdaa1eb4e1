"""Everything run once before a program: what is loaded or connected while a stream waits for a flag may never end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
import torch.distributed as dist

from calibration.torch_machine.communicators import Communicators
from calibration.torch_machine.device import Call, Device
from calibration.torch_machine.job import Job
from calibration.torch_machine.memory import Memory
from calibration.torch_machine.peer_exchange import exchange
from sim.program import Collective, Communicator, Copy, Kernel, PointToPoint, Recv, Send
from sim.program.ops import AnyOperation, Matrix

STAGED = 1 << 20
"""Bytes of a copy that makes the driver get what it stages copies in."""


class Run(Protocol):
    """A rank's run that is prepared."""

    device: Device
    job: Job
    rank: int
    memory: Memory
    communicators: Communicators

    def kernel_calls(self, command: Kernel) -> Sequence[Call]:
        """What launches the kernels of a command that says what it computes."""

    def collective_call(self, command: Collective) -> Call:
        """What enqueues a collective on the current stream."""


def warm_up(run: Run) -> None:
    """Run kernels, copies and what ranks meet at, each sort once.

    Ranks issue their commands in orders of their own. Here they meet communicator by communicator, in one order.
    """
    main = run.job.program.step_stream()
    warm: set[object] = set()

    def once(key: object, call: Call, stream: str = main) -> None:
        if key not in warm:
            warm.add(key)
            run.device.stream(stream).run(call)()

    for command in run.job.program.commands():
        if isinstance(command, Kernel) and command.ops:
            for op, call in zip(command.ops, run.kernel_calls(command), strict=True):
                once(_shape(op), call)
        elif isinstance(command, Kernel):
            once(Kernel, run.device.spin(0.0))
    for on in run.job.communicators:
        members = on[0]
        if members is not None and run.rank not in members:
            continue
        if members is None or len(members) > 1:
            group, one = run.communicators.of(on), torch.zeros(1, device=run.device.torch_device)
            run.device.stream(main).run(partial(dist.all_reduce, one, group=group))()
        for command in run.job.program.commands():
            key = (on, command.kind, command.bytes) if isinstance(command, Collective) else None
            if isinstance(command, Collective) and command.communicates_on == on and key not in warm:
                # on its own stream, for which libraries may take memory; the one before may have been on another
                run.device.synchronize()
                once(key, run.collective_call(command), command.stream)
        run.device.synchronize()
        _transfers(run, on)
    _copies(run)
    run.device.synchronize()


def _transfers(run: Run, on: Communicator) -> None:
    """The first transfer to and from each peer on a communicator, all at once: every rank takes part with its own."""
    first: dict[tuple[bool, int], Send | Recv] = {}
    layers: dict[tuple[bool, int], int] = {}
    for command in run.job.program.commands():
        if isinstance(command, PointToPoint) and command.communicates_on == on:
            for t in command.transfers:
                if first.setdefault((isinstance(t, Send), t.peer), t) is t:
                    layers[isinstance(t, Send), t.peer] = command.layer
    pieces = {key: (run.memory.part(t.buffer, t.offset, t.bytes, layers[key]), t.peer) for key, t in first.items()}
    sends, receives = ([p for (sends, _), p in pieces.items() if sends is sent] for sent in (True, False))
    group = run.communicators.of(on) if pieces else None
    run.device.stream(run.job.program.step_stream()).run(lambda: exchange(sends, receives, group))()


def _copies(run: Run) -> None:
    """Copies through the driver's own memory, and within the device, between memory that nothing else uses."""
    stream = run.device.stream(run.job.program.step_stream())
    sorts: set[tuple[str, str]] = set()
    for command in run.job.program.commands():
        if isinstance(command, Copy) and command.kind != "p2p":
            host = run.job.program.host_memory.get(command.other or "") if command.kind != "d2d" else None
            sorts.add((command.kind, host.memory if host else "pinned"))
    for kind, memory in sorted(sorts):
        if kind == "d2d" or memory == "pageable":
            mine = run.device.empty(STAGED)
            theirs = run.device.empty(STAGED) if kind == "d2d" else torch.zeros(STAGED, dtype=torch.uint8)
            if kind == "d2h":
                stream.copy(theirs, mine, "d2h")()
            else:
                stream.copy(mine, theirs, "h2d" if kind == "h2d" else None)()


def _shape(op: AnyOperation) -> object:
    """What decides which device kernel an operation runs: its kind, its matrices' shapes, what is left out."""
    values = (getattr(op, name) for name in op.__struct_fields__)
    return type(op), *((v.batch, v.rows, v.columns, v.stride, v.step) if isinstance(v, Matrix) else v for v in values)
