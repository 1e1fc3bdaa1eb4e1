"""How the GPUs of a host, or of several, are joined: nodes, links and their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import Generic, Literal, TypeVar

import msgspec

from sim.inputs import units
from sim.inputs.config import Config
from sim.inputs.units import Bandwidth, Number

V = TypeVar("V")

Use = Literal["copies", "peers"]
"""What crosses a resource: copies between host and GPU, or what GPUs send each other."""

MIN_CAPACITY = 1e-30
"""The smallest allowed divisor: a smaller one could leave the range of a float."""


class Sourced(Config, Generic[V], frozen=True):
    """A number and where it comes from."""

    value: V
    source: str
    uncertainty: Number | None = None
    """Relative, one standard deviation."""
    inherited_from: str = ""
    """The profile that gave it, where that is another one than it is in."""


class Capacity(Config, frozen=True):
    """B/s that a resource moves. Traffic that `carries` does not list is free. Other fields as those of `Sourced`."""

    value: Bandwidth
    source: str
    uncertainty: Number | None = None
    carries: Literal["all", "copies", "peers"] = "all"
    inherited_from: str = ""

    def __post_init__(self) -> None:
        if self.value < MIN_CAPACITY:
            raise ValueError(f"is {units.plain(self.value)}, expected more than 0, at least {MIN_CAPACITY:g}")


class Node(Config, frozen=True):
    """A vertex. `into`, `out_of` and `through` limit what enters it, leaves it, and both together.

    What starts or ends at a node crosses `through` once, as does what passes; what goes through a memory is written
    and read, and crosses it twice. What ends at it takes `write_cost` times its bytes of `through`: writes may cost
    more memory bandwidth than reads.
    """

    kind: Literal["memory", "root_complex", "switch", "socket", "nvswitch", "fabric", "nic", "network"]
    into: Capacity | None = None
    out_of: Capacity | None = None
    through: Capacity | None = None
    write_cost: Sourced[Number] | None = None

    def __post_init__(self) -> None:
        if self.write_cost is not None and (self.kind != "memory" or self.through is None):
            raise ValueError("write_cost is for a memory with a limit through it")
        if self.write_cost is not None and self.write_cost.value < MIN_CAPACITY:
            raise ValueError(f"write_cost is {units.plain(self.write_cost.value)}, expected more than 0")


class Link(Config, frozen=True):
    """An edge between two `ends`, one for each of `gpus` if an end holds `{gpu}`; or a `mesh`: an edge between every
    two GPUs of different groups.

    `there` limits the forward direction (first end to second), `back` the reverse one; `each_way` stands for both of
    them; `both_ways` limits their sum. A direction without a limit has unlimited capacity. `hops` is the link's length
    for routes.
    """

    ends: tuple[str, str] | None = None
    mesh: tuple[tuple[int, ...], ...] | None = None
    gpus: tuple[int, ...] | None = None
    kind: str = ""
    there: Capacity | None = None
    back: Capacity | None = None
    each_way: Capacity | None = None
    both_ways: Capacity | None = None
    hops: int = 1

    def __post_init__(self) -> None:
        if (self.ends is None) == (self.mesh is None):
            raise ValueError("expected exactly one of ends and mesh")
        if self.each_way is not None and (self.there is not None or self.back is not None):
            raise ValueError("expected either each_way, or there and back, not both")
        if self.hops < 1:
            raise ValueError(f"hops is {self.hops}, at least 1 is needed")
        if self.gpus is not None and (self.ends is None or not any("{gpu}" in end for end in self.ends)):
            raise ValueError("gpus is for ends with {gpu}")

    def edges(self, gpus: int) -> Iterator[tuple[str, str]]:
        """Every edge's ends."""
        if self.mesh is not None:
            for one, other in combinations(self.mesh, 2):
                yield from ((f"gpu{a}", f"gpu{b}") for a, b in product(one, other))
        elif self.ends is not None:
            first, second = self.ends
            numbers = self.gpus if self.gpus is not None else range(gpus)
            yield from dict.fromkeys((first.replace("{gpu}", str(g)), second.replace("{gpu}", str(g))) for g in numbers)


class Topology(Config, frozen=True):
    """How the GPUs of a host, or of several, are joined.

    `peers` says how GPUs reach each other: `direct`, by the graph only; `host`, through the pinned memory of the
    receiver (NCCL's shared-memory transport); or groups of GPUs that reach each other directly (they may overlap, so
    that a pair is a group), all others through the host. `pinned` says in which memory the pinned buffers of which
    GPUs lie: the nearest unless given. `domains` are groups of GPUs that lie close to each other, for hierarchical
    collectives.
    """

    nodes: dict[str, Node]
    links: tuple[Link, ...]
    peers: Literal["direct", "host"] | tuple[tuple[int, ...], ...] = "direct"
    pinned: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    domains: tuple[tuple[int, ...], ...] = ()
