"""What a block does, entry by entry: kernels, collectives, copies, sends, and waits for other streams.

Entries run on the compute stream in program order. One with a `stream` of its own starts when the compute stream gets
to it; the compute stream waits for it where the block says so, or at the block's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple, TypedDict

import msgspec

from sim.inputs.config import Config
from sim.inputs.faults import Fault, FaultsError, refuse
from sim.inputs.units import Bytes, Flops, Seconds
from sim.program import CollectiveKind, HostCopyKind, HostMemory, Recv, Send
from sim.program.ops import AnyOperation
from sim.workloads.engine_collectives import ELEMENT, EngineCollective, EnginePart, copy_streams

TAKEN_STREAMS = ("copy", "gather")
"""Streams of prefetches."""

CommunicationAlgorithm = Literal["nccl", "copy_engine"]
"""What runs a collective: NCCL's kernels, or copy engines through host memory that ranks share."""

Groups = tuple[tuple[int, ...], ...]
"""Groups of ranks, each rank in one at most."""


def too_few(config: Config, names: Iterable[str]) -> Iterator[Fault]:
    """Faults of those of `names` that are given and less than 1."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < 1:
            yield Fault(name, f"is {value}, at least 1 is needed")


def wrong_stream(stream: str | None) -> Iterator[Fault]:
    """The fault of a stream's name, if it has one."""
    if stream in TAKEN_STREAMS:
        yield Fault("stream", f"is {stream}, on which weights are prefetched: expected another name, such as comm")
    elif stream is not None and stream in copy_streams(stream.rpartition(" ")[0]):
        yield Fault("stream", f"is {stream}, a name for copies of collectives: expected another name, such as comm")
    elif stream == "":
        yield Fault("stream", "is empty, expected a name, such as comm")


def wrong_piece(algorithm: CommunicationAlgorithm | None, piece_bytes: int | None) -> Iterator[Fault]:
    """Faults of the size of pieces, beside the algorithm: given with NCCL's it is for a sweep over both."""
    if piece_bytes is None:
        return
    if algorithm is None:
        yield Fault("piece_bytes", "is for algorithm: copy_engine")
    elif piece_bytes < ELEMENT:
        yield Fault("piece_bytes", f"is {int(piece_bytes)}, at least {ELEMENT} is needed")


class KernelWork(TypedDict):
    """What a `Kernel` does, by its fields."""

    seconds: float | None
    flops: float
    hbm_bytes: float
    launches: int
    attention: bool
    ops: tuple[AnyOperation, ...]


class Compute(Config, frozen=True):
    """Work on the compute stream: `seconds`, or `flops` and `bytes` of device memory traffic for the roofline.

    `launches` says how many device kernels it stands for (they count for host issue and pending commands).
    `attention` says that its flops run at the device's efficiency of attention, not of matrix products. `ops` say what
    it computes, for machines that do; models fill them in. It runs on the compute stream unless `stream` names another.
    """

    name: str
    seconds: Seconds | None = None
    flops: Flops | None = None
    bytes: Bytes | None = None
    launches: int = 1
    attention: bool = False
    ops: tuple[AnyOperation, ...] = ()
    stream: str | None = None

    def __post_init__(self) -> None:
        refuse(wrong_stream(self.stream))
        if self.seconds is None and not (self.flops or self.bytes):
            raise ValueError("compute needs seconds, or flops or bytes")
        if self.seconds is not None and (self.flops is not None or self.bytes is not None):
            raise ValueError("compute takes either seconds or flops and bytes, not both")
        if self.launches < 1:
            raise FaultsError([Fault("launches", f"is {self.launches}, at least 1 is needed")])

    def weight(self) -> float:
        """How long it takes relative to others of its block: seconds, or FLOP, or bytes at 200 FLOP each."""
        return float(self.seconds) if self.seconds is not None else float(max(self.flops or 0, 200 * (self.bytes or 0)))

    def work(self) -> KernelWork:
        """The fields of the kernel that this is."""
        return {
            "seconds": None if self.seconds is None else float(self.seconds),
            "flops": float(self.flops or 0),
            "hbm_bytes": float(self.bytes or 0),
            "launches": self.launches,
            "attention": self.attention,
            "ops": self.ops,
        }


def collective_buffer(kind: CollectiveKind, size: int) -> str:
    """Name of the buffer of a collective of `size` bytes per rank."""
    return f"{kind}_{size}"


class CollectiveOp(Config, frozen=True):
    """A collective; `bytes` is the per-rank buffer (all_gather: output, reduce_scatter: input).

    All ranks take part; or those of `group`: one group of ranks, or several, of which each rank takes part in its own;
    or the groups of a dimension of the workload's `parallelism`, by its name. It runs on the compute stream unless
    `stream` names another. `algorithm`, with `piece_bytes`, says by what it runs, in place of the workload's
    `collectives`. With `levels` an all_to_all goes in phases (`sim.workloads.exchanges`).
    `detached`: nothing waits for it at its block's end, as it is used by a later step.
    """

    kind: CollectiveKind
    bytes: Bytes
    name: str = ""
    group: str | tuple[int | tuple[int, ...], ...] | None = None
    stream: str | None = None
    algorithm: CommunicationAlgorithm | None = None
    piece_bytes: Bytes | None = None
    detached: bool | msgspec.UnsetType = msgspec.UNSET
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        yield from too_few(self, ("bytes",))
        yield from wrong_stream(self.stream)
        yield from wrong_piece(self.algorithm, self.piece_bytes)
        if self.levels and (self.kind != "all_to_all" or min(self.levels) < 1):
            yield Fault(
                "levels", f"are {list(self.levels)} of an {self.kind}: expected numbers from 1 on, of an all_to_all"
            )
        if self.detached is True and self.stream is None:
            yield Fault("detached", "is true, but it runs on the compute stream: give it a stream of its own")
        if self.levels and self.algorithm == "copy_engine":
            yield Fault("levels", "are of NCCL's all-to-alls: algorithm copy_engine has none")
        if self.detached is True and self.algorithm == "copy_engine":
            yield Fault("algorithm", "is copy_engine, but nothing waits for what is detached: only nccl can run it")
        if self.group is None or isinstance(self.group, str):
            return
        lists = [isinstance(part, tuple) for part in self.group]
        if any(lists) and not all(lists):
            yield Fault("group", "mixes ranks and groups of ranks: expected [0, 1] or [[0, 1], [2, 3]]")
            return
        members = list(chain.from_iterable(self.groups))
        if not members or not all(self.groups):
            yield Fault("group", "is empty, expected ranks, such as [0, 1]")
        elif min(members) < 0:
            yield Fault("group", f"has {min(members)}, expected ranks, from 0 on")
        elif twice := [rank for rank in members if members.count(rank) > 1]:
            yield Fault("group", f"has rank {twice[0]} twice: expected each rank at most once")

    @property
    def groups(self) -> Groups:
        """The groups of ranks that are given; none where all ranks take part."""
        if self.group is None:
            return ()
        assert not isinstance(self.group, str), "names of dimensions are resolved by the workload"
        if self.group and isinstance(self.group[0], tuple):
            return self.group  # type: ignore[return-value]
        return (self.group,)  # type: ignore[return-value]

    @property
    def buffer(self) -> str:
        """Name of the buffer it works on."""
        return collective_buffer(self.kind, int(self.bytes)) + (f"@{self.stream}" if self.stream else "")

    @property
    def buffer_bytes(self) -> int:
        """Size of that buffer."""
        # an all_to_all and a send_recv keep their input until the output is complete, others work in place
        return int(self.bytes) * (2 if self.kind in ("all_to_all", "send_recv") else 1)


class CopyOp(Config, frozen=True):
    """A copy between the GPU and host memory, of what is not a layer's weights.

    It runs on the compute stream unless `stream` names another. Copies that name the same `buffer` use the same device
    memory, which lives from the first of them to the last. What an h2d copy of its own buffer brings lives until its
    block ends, and what only d2h copies read from the first of them to the last.
    """

    kind: HostCopyKind
    bytes: Bytes
    memory: HostMemory = "pinned"
    name: str = ""
    buffer: str = ""
    stream: str | None = None

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        yield from too_few(self, ("bytes",))
        yield from wrong_stream(self.stream)

    @property
    def device_buffer(self) -> str:
        """Name of its memory on the GPU."""
        own = f"{self.kind}_{int(self.bytes)}" + (f"@{self.stream}" if self.stream else "")
        return f"copied {self.buffer or own}"

    @property
    def host_buffer(self) -> str:
        """Name of its memory on the host."""
        return f"{self.device_buffer} {self.kind} {self.memory}"


class Wait(Config, frozen=True):
    """The compute stream waits for all that was issued on another stream.

    `of_layer`: for what is `detached` on it and was issued last in a block of this layer, if anything was; or so many
    `behind` the last.
    """

    stream: str
    of_layer: bool = False
    behind: int = 0


class Transfers(NamedTuple):
    """Sends and receives of one rank that run together, on the communicator of the stream's name unless given.

    What is `detached`, on a stream of its own, goes on beyond its block: nothing waits for it at the block's end.
    """

    name: str
    transfers: tuple[Send | Recv, ...]
    stream: str | None = None
    detached: bool = False
    communicator: str | None = None


class Exchange(NamedTuple):
    """A phase of an all_to_all, within each of `groups`, from byte `offset` of a buffer of `buffer_bytes`."""

    name: str
    bytes: int
    buffer: str
    offset: int
    buffer_bytes: int
    groups: Groups
    stream: str | None = None
    kind: Literal["all_to_all"] = "all_to_all"

    def of(self, rank: int) -> Exchange:
        """What `rank` does."""
        return self._replace(groups=(next(group for group in self.groups if rank in group),))


class Shift(NamedTuple):
    """Every rank sends `bytes` of `buffer`, from byte `source` on, to the next one of its group.

    It gets as many from the one before, to byte `target` on.
    """

    name: str
    bytes: int
    buffer: str
    source: int
    target: int
    groups: Groups
    stream: str | None = None

    def of(self, rank: int) -> Transfers:
        """What `rank` does."""
        group = next(group for group in self.groups if rank in group)
        at = group.index(rank)
        after, before = group[(at + 1) % len(group)], group[at - 1]
        send = Send(after, self.bytes, self.buffer, self.source)
        return Transfers(self.name, (send, Recv(before, self.bytes, self.buffer, self.target)), self.stream)


Op = Compute | CollectiveOp | CopyOp | Wait | Transfers | Shift | Exchange | EngineCollective | EnginePart
Meeting = CollectiveOp | Transfers | Shift | Exchange | EngineCollective | EnginePart
MEETINGS = CollectiveOp, Transfers, Shift, Exchange, EngineCollective, EnginePart
"""Entries at which ranks meet."""


def stream_of(op: Op) -> str | None:
    """The stream of its own that an entry names, if it does."""
    match op:
        case EnginePart():
            return op.whole.stream
        case _:
            return op.stream


def meeting_name(op: Meeting) -> str:
    """What a collective, or sends and receives, are called: the kind of a collective without a name."""
    whole = op.whole if isinstance(op, EnginePart) else op
    return (whole.name or whole.kind) if isinstance(whole, CollectiveOp | EngineCollective) else whole.name


def side_streams(block: Sequence[Op]) -> tuple[str, ...]:
    """Streams besides the compute stream that a block issues on, in order of first use."""
    streams = (stream_of(op) for op in block if not isinstance(op, Wait))
    return tuple(dict.fromkeys(stream for stream in streams if stream))


def command_count(block: Sequence[Op]) -> int:
    """Commands that one rank issues for a block: each entry, and an event and its wait for each change of streams."""
    forks = sum(2 for op in block if stream_of(op))
    copied = sum(op.commands for op in block if isinstance(op, EngineCollective | EnginePart))
    return len(block) + forks + 2 * len(side_streams(block)) + copied
