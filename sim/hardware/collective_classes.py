"""What a hardware profile knows of collectives: isolated times, latencies, and their shares under contention."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import msgspec

from sim.hardware.topology import Sourced
from sim.inputs import units
from sim.inputs.config import Config
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bytes, Number, Seconds
from sim.program import CollectiveKind

Algorithm = Literal["direct", "ring", "hierarchical"]
"""How a collective moves its bytes; `sim.hardware.collectives` says what each does."""

_SCALED = re.compile(r"([\w.-]+), rates ")


class IsolatedTimes(Config, frozen=True):
    """Measured isolated times of a collective, s, by `bytes` that each rank sends, ascending.

    Times that were scaled from those of another profile say so in their source: "PROFILE, rates ...".
    """

    bytes: tuple[Bytes, ...]
    seconds: tuple[Seconds, ...]
    source: str
    inherited_from: str = ""
    """The profile that gave it, where that is another one than it is in."""
    another_topology: bool = False
    """Whether it was measured on a topology that this profile does not have."""

    def __post_init__(self) -> None:
        if len(self.bytes) != len(self.seconds) or not self.bytes:
            raise ValueError(f"bytes and seconds differ in length: {len(self.bytes)} and {len(self.seconds)}")
        for values in (self.bytes, self.seconds):
            if values[0] <= 0 or any(a >= b for a, b in pairwise(values)):
                raise ValueError("bytes and seconds must be positive and ascend")

    @property
    def scaled_from(self) -> str:
        """The profile of another host whose times these were scaled from; "" if they were not."""
        found = _SCALED.match(self.source)
        return "" if found is None else found[1]

    def at(self, size: float) -> float:
        """Seconds for `size` bytes: linear between rows, the first row's below it, the last slope beyond."""
        sizes, times = self.bytes, self.seconds
        if size <= sizes[0] or len(sizes) == 1:
            return times[0] * max(size / sizes[0], 1.0)
        i = next((i for i in range(1, len(sizes)) if size <= sizes[i]), len(sizes) - 1)
        slope = (times[i] - times[i - 1]) / (sizes[i] - sizes[i - 1])
        return times[i] + slope * (size - sizes[i])


class Contention(Config, frozen=True):
    """Shares of a collective while copies are in flight; fields as those of `CollectiveClass`."""

    weight: Sourced[Number]
    overhead: Sourced[Number]
    isolated_overhead: Sourced[Number] | None = None


class CollectiveClass(Config, frozen=True):
    """A kind of collective.

    `latency` passes between the arrival of the last rank and the first byte, `latency_per_rank` more for each rank
    beyond two. The bytes then flow with the demand cap that gives the measured isolated time.
    `weight` is the max-min weight of one rank's traffic (a copy has weight 1), `overhead` the link capacity that a byte
    takes, relative to a copied byte. `copy_start` is the extra start-up time of a copy that starts during it.

    Where `isolated_overhead` is given, a byte takes that while no copy is in flight on the host, and `overhead` while
    one is, or `overhead` always if that is less: buffers that stay in the processor's cache are pushed out of it by
    what is copied past them.
    """

    alone: IsolatedTimes
    """Of two ranks; where `alone_by_ranks` has no table of its own, of any number."""
    latency: Sourced[Seconds]
    latency_per_rank: Sourced[Seconds]
    weight: Sourced[Number]
    overhead: Sourced[Number]
    copy_start: Sourced[Seconds]
    isolated_overhead: Sourced[Number] | None = None
    alone_by_ranks: dict[int, IsolatedTimes] = msgspec.field(default_factory=dict)
    contention_by_ranks: dict[int, Contention] = msgspec.field(default_factory=dict)
    """Number of ranks -> what replaces `weight`, `overhead` and `isolated_overhead`."""
    algorithm: Algorithm | None = None
    """`sim.hardware.collectives` says what each is, and which one is meant unless given."""
    one_way: Sourced[Number] | None = None
    """Rate of a send to a receiver that sends nothing back, relative to one that does; 1 if not given."""
    beside: dict[CollectiveKind, Sourced[Number]] = msgspec.field(default_factory=dict)
    """Rate relative to its uncontended rate while a collective of that kind, of another stream, uses the GPU."""

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        for kind, factor in self.beside.items():
            if not 0.01 <= factor.value <= 1:
                yield Fault(f"beside.{kind}", f"is {units.plain(factor.value)}, expected 0.01 to 1")
        if self.latency.value >= self.alone.seconds[0]:
            yield Fault("", "latency must be shorter than the shortest isolated time measured")
        for ranks in self.contention_by_ranks:
            if ranks < 2:
                yield Fault("contention_by_ranks", f"has {ranks}, at least 2 is needed")
        for ranks, table in self.alone_by_ranks.items():
            if ranks < 2:
                yield Fault("alone_by_ranks", f"has {ranks}, at least 2 is needed")
            elif self.latency_of(ranks) >= table.seconds[0]:
                problem = f"the latency of {ranks} ranks must be shorter than their shortest isolated time"
                yield Fault(f"alone_by_ranks.{ranks}", problem)

    def latency_of(self, ranks: int) -> float:
        """Seconds from the arrival of the last of `ranks` to the first byte."""
        return self.latency.value + self.latency_per_rank.value * max(ranks - 2, 0)

    def demand_cap(self, ranks: int, sent: float) -> float:
        """B/s at which each of `ranks` sends `sent` B once bytes flow, at most: as in its table of isolated times."""
        if ranks in self.alone_by_ranks:
            return sent / (self.alone_by_ranks[ranks].at(sent) - self.latency_of(ranks))
        return sent / (self.alone.at(sent) - self.latency.value)

    def contention(self, ranks: int) -> Contention:
        """Its shares under contention with copies, with `ranks` ranks."""
        given = self.contention_by_ranks.get(ranks)
        return given if given is not None else Contention(self.weight, self.overhead, self.isolated_overhead)


class Collectives(Config, frozen=True):
    """Collectives by kind. If reduce_scatter is missing, all_gather's values are used; for send_recv, all_to_all's."""

    all_to_all: CollectiveClass
    all_reduce: CollectiveClass
    all_gather: CollectiveClass
    reduce_scatter: CollectiveClass | None = None
    send_recv: CollectiveClass | None = None
