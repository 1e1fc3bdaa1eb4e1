"""The commands of a block on the compute stream and on streams of its own, and the memory that they use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import assert_never

from sim.program import RankBuilder
from sim.workloads.block_items import (
    CollectiveOp,
    Compute,
    CopyOp,
    Exchange,
    Meeting,
    Op,
    Shift,
    Transfers,
    Wait,
    meeting_name,
)
from sim.workloads.copy_engine import AroundPiece, CopyEngine
from sim.workloads.engine_collectives import EngineCollective, EnginePart

COMPUTE = "compute"

Around = Callable[[str, Meeting], AbstractContextManager[None]]
"""What a policy issues around a collective on the stream of that name."""


class BlockCommands:
    """Issues blocks of one rank; `around` is what a policy issues around each collective.

    `around_piece` is what it issues around the copy of each piece that has come, of a collective by copy engines.
    """

    def __init__(self, rank: RankBuilder, around: Around, around_piece: AroundPiece) -> None:
        self.rank = rank
        self.around = around
        self.copy_engine = CopyEngine(rank, around_piece)
        self._forked: dict[str, list[str]] = {}
        """Stream that the compute stream has not waited for -> buffers that have been copied on it."""
        self._copied: list[str] = []
        """Buffers that kernels read, as they have been copied into."""
        self._detached: dict[tuple[str, int], deque[int]] = {}
        """Stream and layer -> the events behind what is detached there, of the last ones."""
        self._behind = 0
        """How many behind the last one a wait may ask for."""

    def declare(self, ops: Iterable[Op], known: Collection[str]) -> None:
        """Declare the memory of collectives, sends and copies; buffers `known` are declared."""
        collectives: dict[str, int] = {}
        device: dict[str, int] = {}
        host: dict[str, CopyOp] = {}
        engines: list[tuple[EnginePart, str]] = []
        for op in ops:
            if isinstance(op, Wait):
                self._behind = max(self._behind, op.behind)
            elif isinstance(op, CollectiveOp | Exchange):
                collectives[op.buffer] = max(collectives.get(op.buffer, 0), op.buffer_bytes)
            elif isinstance(op, EnginePart):
                collectives[op.whole.buffer] = max(collectives.get(op.whole.buffer, 0), op.whole.buffer_bytes)
                engines.append((op, op.whole.stream or COMPUTE))
            elif isinstance(op, Transfers):
                for t in (t for t in op.transfers if t.buffer not in known):
                    collectives[t.buffer] = max(collectives.get(t.buffer, 0), t.offset + t.bytes)
            elif isinstance(op, CopyOp):
                size = int(op.bytes)
                device[op.device_buffer] = max(device.get(op.device_buffer, 0), size)
                if (largest := host.get(op.host_buffer)) is None or largest.bytes < size:
                    host[op.host_buffer] = op
        for name, size in collectives.items():
            self.rank.buffer(name, size, "collective")
        self.copy_engine.declare(engines)
        for name, size in device.items():
            self.rank.buffer(name, size, "activations")
        for name, copy in host.items():
            self.rank.host_buffer(name, int(copy.bytes), copy.memory)

    def issue(
        self, block: Iterable[Op], step: int, layer: int, reads: tuple[str, ...] = (), writes: tuple[str, ...] = ()
    ) -> None:
        """Issue a block whose kernels use buffers `reads` and `writes`, and wait for its other streams.

        Buffers `writes` are taken while the kernels of one stream run: the compute stream, where it has any.
        """
        block = tuple(block)
        writers = min((op.stream or "" for op in block if isinstance(op, Compute)), default="")
        for op in block:
            match op:
                case Compute():
                    used = (*reads, *self._copied) if self._copied else reads
                    written = writes if (op.stream or "") == writers else ()
                    stream = self._fork(op.stream)
                    self.rank.kernel(stream, op.name, **op.work(), reads=used, writes=written, step=step, layer=layer)
                case CollectiveOp():
                    stream = self._fork(op.stream, op.detached is True)
                    with self._keeping_clear(stream, op, layer):
                        self.rank.collective(
                            stream,
                            meeting_name(op),
                            op.kind,
                            int(op.bytes),
                            writes=(op.buffer,),
                            step=step,
                            layer=layer,
                            group=op.groups[0] if op.groups else None,
                        )
                case Exchange():
                    stream = self._fork(op.stream)
                    with self.around(stream, op):
                        self.rank.collective(
                            stream,
                            op.name,
                            op.kind,
                            op.bytes,
                            writes=(op.buffer,),
                            step=step,
                            layer=layer,
                            offset=op.offset,
                            group=op.groups[0],
                        )
                case Transfers():
                    stream = self._fork(op.stream, op.detached)
                    with self._keeping_clear(stream, op, layer):
                        self.rank.point_to_point(
                            stream, op.name, *op.transfers, step=step, layer=layer, communicator=op.communicator
                        )
                case EnginePart():
                    stream = self._fork(op.whole.stream)
                    with self.around(stream, op):
                        self.copy_engine.issue(op, stream, step, layer)
                case CopyOp():
                    self._copy(op, step, layer)
                case Wait():
                    if not op.of_layer:
                        self._join(op.stream)
                    elif len(events := self._detached.get((op.stream, layer), ())) > op.behind:
                        self.rank.wait(COMPUTE, events[-1 - op.behind])
                case Shift() | EngineCollective():
                    raise TypeError(f"a {type(op).__name__} is of all ranks: Workload.of says what one does")
                case _:
                    assert_never(op)
        for stream in list(self._forked):
            self._join(stream)

    def forget_copies(self) -> None:
        """Let later kernels read nothing of what has been copied."""
        self._copied.clear()

    def _copy(self, op: CopyOp, step: int, layer: int) -> None:
        stream = self._fork(op.stream)
        self.rank.copy(
            stream,
            op.name or op.kind,
            int(op.bytes),
            op.device_buffer,
            kind=op.kind,
            other=op.host_buffer,
            step=step,
            layer=layer,
        )
        if op.kind == "h2d":
            if op.device_buffer in self._copied:  # what was there before is gone
                self._copied.remove(op.device_buffer)
            there = self._copied if stream == COMPUTE else self._forked[stream]
            if op.device_buffer not in there:
                there.append(op.device_buffer)

    def _fork(self, stream: str | None, detached: bool = False) -> str:
        """The stream that an entry goes on; another one than the compute stream waits for that one first."""
        if stream is None or stream == COMPUTE:
            return COMPUTE
        self.rank.wait(stream, self.rank.record(COMPUTE))
        if not detached:
            self._forked.setdefault(stream, [])
        return stream

    @contextmanager
    def _keeping_clear(self, stream: str, op: CollectiveOp | Transfers, layer: int) -> Iterator[None]:
        """Around a collective. Nothing keeps clear of what is detached: it may wait for its peers for long."""
        if op.detached is not True:
            with self.around(stream, op):
                yield
            return
        yield
        self._detached.setdefault((stream, layer), deque(maxlen=self._behind + 1)).append(self.rank.record(stream))

    def _join(self, stream: str) -> None:
        if (copied := self._forked.pop(stream, None)) is not None:
            self.rank.wait(COMPUTE, self.rank.record(stream))
            self._copied += [name for name in copied if name not in self._copied]
