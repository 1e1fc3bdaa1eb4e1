"""What a fit needs of the parameters of each kind of probe; probes may have more."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sim.program import CollectiveKind, HostCopyKind

Number = Annotated[int, Meta(ge=1, le=10**9)]
Ranks = Annotated[int, Meta(ge=1, le=1024)]
Size = Annotated[int, Meta(ge=1, le=10**15)]
"""Bytes."""
Direction = Literal["h2d", "d2h", "d2d"]
Collective = CollectiveKind | Literal["reduce_scatter"]


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What all have: how many GPUs take part."""

    ranks: Ranks = 1


class Copy(Parameters, frozen=True):
    """Trains of copies."""

    directions: Annotated[list[Direction], Meta(min_length=1, max_length=2)]
    bytes: Size
    count: Number


class Train(msgspec.Struct, frozen=True):
    """Copies back to back on one stream."""

    direction: Direction
    bytes: Size
    count: Number


class Engine(Parameters, frozen=True):
    """Trains of copies, each on a stream of its own."""

    trains: Annotated[list[Train], Meta(min_length=1, max_length=8)]
    posted: Literal["together", "in_flight", "held"]
    between: Literal["timed", "nothing", "events", "eventwaits", "waits", "writes"]


class Pageable(Parameters, frozen=True):
    """Copies from and to memory that is not pinned, behind a kernel of `busy` s."""

    direction: HostCopyKind
    bytes: Size
    busy: Annotated[float, Meta(ge=0, le=1e3)]


class PeerCopy(Parameters, frozen=True):
    """Copies from one GPU to another."""

    ranks: Annotated[int, Meta(ge=2, le=2)]
    bytes: Size


class Commands(Parameters, frozen=True):
    """Trains of commands; without copies `bytes` is 0."""

    pattern: str
    bytes: Annotated[int, Meta(ge=0, le=10**15)]
    beside: Literal["kernel"] | None


class Wake(Parameters, frozen=True):
    """Streams that wait for another."""

    by: str
    work: str


class Call(Parameters, frozen=True):
    """Calls that host threads issue."""

    call: str


class Gemm(Parameters, frozen=True):
    """Matrix products of m x k by k x n."""

    m: Number
    n: Number
    k: Number


class Attention(Parameters, frozen=True):
    """Attention without mask."""

    backend: str
    tokens: Number
    heads: Number
    head: Number


class Launch(Parameters, frozen=True):
    """Kernels while copies are in flight."""

    work: str
    direction: HostCopyKind


class Alone(Parameters, frozen=True):
    """Isolated collectives."""

    collective: Collective
    ranks: Annotated[int, Meta(ge=2, le=1024)]
    bytes: Size


class Transfer(Parameters, frozen=True):
    """Sends from one rank to another, and as many in reverse if `both`."""

    ranks: Annotated[int, Meta(ge=2, le=2)]
    bytes: Size
    both: bool


class Beside(Alone, frozen=True):
    """Collectives while copies are in flight."""

    chunk: Size
    direction: HostCopyKind
    events_every: Number


class ConcurrentCollectives(Alone, frozen=True):
    """Concurrent collectives: two communicators at once."""

    other: Collective
    other_bytes: Size


class KernelUnderCollective(Parameters, frozen=True):
    """Kernels while a collective holds SMs."""

    count: Number
    other: Collective
    other_bytes: Size


PARAMETERS: dict[str, type[Parameters]] = {
    "attention": Attention,
    "beside": Beside,
    "collective": Alone,
    "commands": Commands,
    "copy": Copy,
    "crowd": KernelUnderCollective,
    "depth": Call,
    "device": Parameters,
    "device_copy": Parameters,
    "device_overhead": Parameters,
    "engine": Engine,
    "gemm": Gemm,
    "host": Parameters,
    "host_flag_order": Parameters,
    "host_flag_turns": Parameters,
    "host_wake": Parameters,
    "issue": Call,
    "launch": Launch,
    "pageable": Pageable,
    "pair": ConcurrentCollectives,
    "peer_copy": PeerCopy,
    "sampled": Parameters,
    "sm_copy": Parameters,
    "transfer": Transfer,
    "wake": Wake,
}
"""By kind."""
