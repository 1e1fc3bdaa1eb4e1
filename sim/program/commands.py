"""The commands of a program, and the memory that they use: plain data, no machine in it.

Fields that are `UNSET` unless given are left out of the JSON that programs are hashed by: a program that does not use
them has the hash that it had before they were there.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sim.program.ops import AnyOperation

COLLECTIVES = ("all_to_all", "all_reduce", "all_gather", "reduce_scatter", "send_recv")
CollectiveKind = Literal["all_to_all", "all_reduce", "all_gather", "reduce_scatter", "send_recv"]
CopyKind = Literal["h2d", "d2h", "d2d", "p2p"]
HostCopyKind = Literal["h2d", "d2h"]
"""Copies that cross the GPU's link to the host."""
HostMemory = Literal["pinned", "pageable"]
FlagMemory = Literal["device", "host"]
FlagTest = Literal["equal", "at_least"]
BufferKind = Literal["weights", "slot", "activations", "collective", "scratch"]


class ProgramError(ValueError):
    """A program that no machine could run correctly."""


class Command(msgspec.Struct, frozen=True, tag_field="op", tag=True, gc=False):
    """Anything a host thread issues. `stream` names the stream it is enqueued on ("" for host-side commands)."""

    stream: str


class Kernel(Command, frozen=True, gc=False):
    """Compute on the GPU: `seconds` if known, else `flops` and `hbm_bytes` for the machine's roofline.

    `launches` is the number of device kernels that this command stands for, `attention` whether its flops run at the
    device's efficiency of attention. `ops` say what it computes; without them it only takes its time.
    """

    name: str
    seconds: float | None = None
    flops: float = 0.0
    hbm_bytes: float = 0.0
    launches: int = 1
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    step: int = -1
    layer: int = -1
    attention: bool = False
    ops: tuple[AnyOperation, ...] = ()


class Copy(Command, frozen=True, gc=False):
    """A DMA copy of `bytes` from or to byte `offset` of device buffer `buffer`.

    `other` is the other side, at its byte `other_offset`: the host buffer that an h2d copy reads or a d2h copy writes;
    the buffer of the same rank that a d2d copy reads into `buffer`; the buffer of rank `peer` that a p2p copy writes
    from `buffer`. An h2d copy without it reads the weights of `layer` from pinned memory: into a slot it brings the
    bytes that follow the layer's resident part by `offset`. A d2h copy without it writes pinned memory of its own.
    """

    name: str
    bytes: int
    buffer: str
    kind: CopyKind = "h2d"
    offset: int = 0
    step: int = -1
    layer: int = -1
    other: str | msgspec.UnsetType = msgspec.UNSET
    other_offset: int | msgspec.UnsetType = msgspec.UNSET
    peer: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def brings_weights(self) -> bool:
        """Whether it copies weights of its layer to the GPU, as prefetches do."""
        return self.kind == "h2d" and self.other is msgspec.UNSET

    @property
    def other_start(self) -> int:
        """Byte of the other side at which it starts."""
        return 0 if self.other_offset is msgspec.UNSET else self.other_offset


Communicator = tuple[tuple[int, ...] | None, str]
"""What ranks meet on: the group (None: all ranks), and a name."""


class Collective(Command, frozen=True, gc=False):
    """One rank's part of a collective. `bytes` is the per-rank buffer (all_gather: the output; reduce_scatter: the
    input; send_recv: what each rank sends to the next one and gets from the one before).

    An all_to_all and a send_recv read the first `bytes` of the buffer they write and leave their output in the next
    `bytes`. The others work in place: the input of an all_gather and the output of a reduce_scatter lie at the rank's
    place. All this lies from byte `offset` of the buffer on.

    `group` are the ranks that take part, in the order of their places; all of them unless given. Ranks meet at the
    collectives of a communicator in the order in which they issue them. A communicator has a group and a name; the
    name is that of the stream unless `communicator` is given.
    """

    name: str
    kind: CollectiveKind
    bytes: int
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    step: int = -1
    layer: int = -1
    offset: int | msgspec.UnsetType = msgspec.UNSET
    group: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET
    communicator: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def start(self) -> int:
        """Byte of the buffer at which it starts."""
        return 0 if self.offset is msgspec.UNSET else self.offset

    @property
    def communicates_on(self) -> Communicator:
        """Its communicator."""
        group = None if self.group is msgspec.UNSET else self.group
        return group, self.stream if self.communicator is msgspec.UNSET else self.communicator

    def members(self, world_size: int) -> tuple[int, ...]:
        """The ranks that take part, in the order of their places."""
        return tuple(range(world_size)) if self.group is msgspec.UNSET else self.group


class Send(msgspec.Struct, frozen=True, tag_field="op", tag=True, gc=False):
    """`bytes` from byte `offset` of `buffer` to rank `peer`, whose receive has the same size."""

    peer: int
    bytes: int
    buffer: str
    offset: int = 0


class Recv(msgspec.Struct, frozen=True, tag_field="op", tag=True, gc=False):
    """`bytes` from rank `peer` into `buffer`, from byte `offset` on."""

    peer: int
    bytes: int
    buffer: str
    offset: int = 0


class PointToPoint(Command, frozen=True, gc=False):
    """Sends and receives that NCCL runs as one group: together, and ended when all of them have.

    A send and its receive start when both ranks have posted them. The n-th send to a rank on a communicator meets the
    n-th receive of that rank from this one. The communicator is of all ranks, with the name of the stream unless given.
    """

    name: str
    transfers: tuple[Send | Recv, ...]
    step: int = -1
    layer: int = -1
    communicator: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def communicates_on(self) -> Communicator:
        """Its communicator."""
        return None, self.stream if self.communicator is msgspec.UNSET else self.communicator

    @property
    def reads(self) -> tuple[str, ...]:
        """Buffers that it sends from."""
        return tuple(t.buffer for t in self.transfers if isinstance(t, Send))

    @property
    def writes(self) -> tuple[str, ...]:
        """Buffers that it receives into."""
        return tuple(t.buffer for t in self.transfers if isinstance(t, Recv))

    @property
    def bytes(self) -> int:
        """Bytes that it sends, or receives if that is more."""
        sent = sum(t.bytes for t in self.transfers if isinstance(t, Send))
        return max(sent, sum(t.bytes for t in self.transfers) - sent)


class RecordEvent(Command, frozen=True, gc=False):
    """Complete event `event` when all earlier commands of the stream have ended."""

    event: int


class WaitEvent(Command, frozen=True, gc=False):
    """Hold the stream until `event` has completed."""

    event: int


WORD = 2**32
"""Values of a flag are less than this."""


class WriteFlag(Command, frozen=True, gc=False):
    """cuStreamWriteValue32: set word `flag`, of the device or of host memory that all ranks share."""

    flag: str
    value: int
    memory: FlagMemory | msgspec.UnsetType = msgspec.UNSET

    @property
    def on_host(self) -> bool:
        """Whether the word lies in host memory."""
        return self.memory == "host"


class WaitFlag(Command, frozen=True, gc=False):
    """cuStreamWaitValue32: hold the stream until word `flag` is `value`, or at least that. Flags start at 0.

    "At least" is cyclic, as CUDA's: the difference, taken as a signed number of 32 bits, is not negative.
    """

    flag: str
    value: int
    memory: FlagMemory | msgspec.UnsetType = msgspec.UNSET
    test: FlagTest | msgspec.UnsetType = msgspec.UNSET

    @property
    def on_host(self) -> bool:
        """Whether the word lies in host memory."""
        return self.memory == "host"

    def holds(self, word: int) -> bool:
        """Whether it lets the stream continue when the flag is `word`.

        >>> WaitFlag("copy", "turn", 0xFFFFFFFF, test="at_least").holds(1)
        True
        """
        return at_least(word, self.value) if self.test == "at_least" else word == self.value


def at_least(word: int, value: int) -> bool:
    """Whether `word` is `value` or follows it by less than half of all values, cyclically."""
    return (word - value) % WORD < WORD // 2


class HostWaitEvent(Command, frozen=True, gc=False):
    """cudaEventSynchronize: hold the issuing host thread until `event` has completed.

    With `poll`, the thread looks (cudaEventQuery) only every `poll` seconds.
    """

    event: int
    poll: float = 0.0


class HostAdd(Command, frozen=True, gc=False):
    """Add `delta` to `counter`, an integer in the memory of the rank's process that starts at 0."""

    counter: str
    delta: int


class HostWait(Command, frozen=True, gc=False):
    """Hold the issuing host thread until `least` <= `counter` <= `most` (None: no bound), looking every `poll` seconds.

    With `poll` 0 the thread continues at once, as on a condition variable.
    """

    counter: str
    least: int | None = None
    most: int | None = None
    poll: float = 0.0


class HostAcquire(Command, frozen=True, gc=False):
    """Hold the issuing host thread until it has `lock`; threads get it in the order of their asking."""

    lock: str


class HostRelease(Command, frozen=True, gc=False):
    """Give `lock` back."""

    lock: str


class HostWork(Command, frozen=True, gc=False):
    """The issuing host thread works for `seconds` before it goes on: what a program does between its calls."""

    name: str
    seconds: float


Communication = Collective | PointToPoint
"""Commands at which ranks meet."""
StreamCommand = Kernel | Copy | Collective | PointToPoint | RecordEvent | WaitEvent | WriteFlag | WaitFlag
HostCommand = HostWaitEvent | HostAdd | HostWait | HostAcquire | HostRelease | HostWork
AnyCommand = StreamCommand | HostCommand


class Buffer(msgspec.Struct, frozen=True, gc=False):
    """Device memory. `static` buffers live for the whole program, others from first write to last access.

    "scratch" is what kernels take for themselves while they run.
    """

    name: str
    bytes: int
    kind: BufferKind
    static: bool = False


class HostBuffer(msgspec.Struct, frozen=True, gc=False):
    """Host memory of `bytes`. A `shared` one is the same memory for all ranks that declare its name, and is pinned."""

    name: str
    bytes: int
    memory: HostMemory = "pinned"
    shared: bool = False


class LayerWeights(msgspec.Struct, frozen=True, gc=False):
    """Where a layer's `bytes` of weights lie: the first `resident` ones from byte `offset` of buffer "resident" on."""

    bytes: int
    resident: int
    offset: int
