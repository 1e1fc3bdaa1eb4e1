"""Hardware profiles: what the simulated machine knows of a host, read from YAML, each number with its source.

A profile holds the topology with the capacities of its links and nodes, the classes of flow with their demand caps and
weights, and what commands cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import msgspec

from sim import units
from sim.collective_classes import AloneTime, CollectiveClass, Collectives, Contention
from sim.config import Config, InputError, convert, read_yaml
from sim.fabric import FlowSpec, Route
from sim.profile_like import Kept, merged
from sim.program import CollectiveKind, Kernel
from sim.shelf import Shelf, is_there
from sim.topology import LEAST, Graph, Sourced, Topology
from sim.units import Bandwidth, Bytes, FlopRate, Number, Seconds

__all__ = [
    "AloneTime",
    "CollectiveClass",
    "Collectives",
    "Contention",
    "CopyClass",
    "Device",
    "HostIssue",
    "Kept",
    "Profile",
    "Streams",
    "collective_mark",
    "is_session",
    "load_profile",
    "profile_file",
    "shipped",
    "to_plain",
]

MOST_GPUS = 1024


class Device(Config, frozen=True):
    """One GPU."""

    name: str
    memory: Sourced[Bytes]
    peak_flops: Sourced[FlopRate]
    hbm_bandwidth: Sourced[Bandwidth]
    compute_efficiency: Sourced[Number]
    """Of matrix products."""
    hbm_efficiency: Sourced[Number]
    attention_efficiency: Sourced[Number] | None = None
    """Of attention; that of matrix products where it is not given."""
    beside_collective: Sourced[Number] = Sourced(Number(1.0), "not given: taken as 1")
    """Time of a kernel while a collective of another stream moves data on its GPU, times alone, but for
    `streams.crowd_delay`."""


class CopyClass(Config, frozen=True):
    """Copies by a DMA engine: seconds = max(minimum, setup + bytes / cap) alone."""

    cap: Sourced[Bandwidth]
    weight: Sourced[Number]
    setup: Sourced[Seconds]
    minimum: Sourced[Seconds]


class Streams(Config, frozen=True):
    """What commands cost on the stream that runs them."""

    wait_flag: Sourced[Seconds]
    """cuStreamWaitValue32 on a flag that already has its value."""
    write_flag: Sourced[Seconds]
    """cuStreamWriteValue32."""
    event: Sourced[Seconds]
    """Recording an event."""
    wake: Sourced[Seconds]
    """From the end of an event's record until a stream that was blocked on it goes on."""
    launch_delay: Sourced[Seconds]
    """Extra time of each kernel launch while copies use their full rate on the GPU's link."""
    beside_kernel: Sourced[Seconds]
    """Extra time of each of the commands above, and of a copy's setup, while a kernel runs on the same GPU."""
    crowd_delay: Sourced[Seconds] = Sourced(Seconds(0.0), "not given: taken as 0")
    """Extra time of each kernel launch while a collective of another stream moves data on its GPU: it holds SMs."""
    flag_wake: Sourced[Seconds] = Sourced(Seconds(0.0), "not given: taken as 0")
    """From the end of a flag's write until a stream that was held by it goes on."""


class HostIssue(Config, frozen=True):
    """What it costs a host thread to enqueue commands."""

    kernel: Sourced[Seconds]
    copy: Sourced[Seconds]
    collective: Sourced[Seconds]
    event: Sourced[Seconds]
    memop: Sourced[Seconds]
    wake: Sourced[Seconds]
    """From the end of an event until a host thread that was blocked on it goes on."""
    queue_depth: Sourced[Number]
    """Commands that may be pending on one stream before the host thread blocks."""
    sync: Sourced[Seconds] = Sourced(Seconds(0.0), "not given: taken as 0")
    """Taking or giving back a lock, changing or looking at a counter, asking for an event to be waited for."""
    wake_spread: Sourced[Number] = Sourced(Number(0.0), "not given: taken as 0")
    """How much `wake` varies from time to time: uniform within 1 - spread to 1 + spread times its value."""


class Profile(Config, frozen=True, dict=True):
    """A host: `gpus` GPUs, the resources between them, and what commands cost there."""

    name: str
    description: str
    fingerprint: dict[str, str]
    gpus: int
    device: Device
    topology: Topology
    h2d: CopyClass
    d2h: CopyClass
    collectives: Collectives
    streams: Streams
    host: HostIssue
    kept: tuple[Kept, ...] = ()
    """What it left out and has from the profile that it is `like`."""

    def __post_init__(self) -> None:
        if not 1 <= self.gpus <= MOST_GPUS:
            raise ValueError(f"gpus is {self.gpus}, at least 1 is needed and at most {MOST_GPUS} are simulated")
        self._check_routes()
        positive: dict[str, Sourced[Any]] = {}
        for name in ("peak_flops", "hbm_bandwidth", "compute_efficiency", "hbm_efficiency", "attention_efficiency"):
            if (number := getattr(self.device, name)) is not None:
                positive[f"device.{name}"] = number
        for name, copies in (("h2d", self.h2d), ("d2h", self.d2h)):
            positive |= {f"{name}.cap": copies.cap, f"{name}.weight": copies.weight}
        for kind in get_args(CollectiveKind):
            cls = self.collective_class(kind)
            for ranks in (2, *cls.contention_by_ranks):
                where = f"collectives.{kind}" + (f".contention_by_ranks[{ranks}]" if ranks != 2 else "")
                share = cls.contention(ranks)
                positive |= {f"{where}.weight": share.weight, f"{where}.overhead": share.overhead}
                if share.isolated_overhead is not None:
                    positive[f"{where}.isolated_overhead"] = share.isolated_overhead
            if kind in cls.beside:
                name = self.like(kind)
                raise ValueError(f"collectives.{name}.beside has {kind}: two of a kind share as their weights say")
        positive["host.queue_depth"] = self.host.queue_depth
        if self.device.beside_collective.value < 1:
            raise ValueError(f"device.beside_collective is {self.device.beside_collective.value}, expected at least 1")
        if not 0 <= self.host.wake_spread.value <= 1:
            raise ValueError(f"host.wake_spread is {self.host.wake_spread.value}, expected 0 to 1")
        for name, number in positive.items():
            if number.value < LEAST:
                raise ValueError(f"{name} is {units.plain(number.value)}, expected more than 0, at least {LEAST:g}")

    def _check_routes(self) -> None:
        for gpu in range(self.gpus):
            for kind in ("h2d", "d2h"):
                if not self.graph.copy(gpu, kind):
                    raise ValueError(
                        f"topology: nothing limits the {kind} copies of gpu{gpu}: give its link a capacity"
                    )
            for other in range(self.gpus):
                if other != gpu:
                    self.graph.peer(gpu, other)

    @cached_property
    def graph(self) -> Graph:
        """The topology's resources and routes."""
        return Graph(self.topology, self.gpus)

    @property
    def resource_names(self) -> tuple[str, ...]:
        """Every resource of the host."""
        return tuple(self.graph.names)

    @cached_property
    def capacities(self) -> tuple[float, ...]:
        """Capacity of each of `resource_names`, B/s."""
        return tuple(limit.value for limit in self.graph.limits)

    def copy_class(self, kind: str) -> CopyClass:
        """The class of h2d or d2h copies."""
        return self.h2d if kind == "h2d" else self.d2h

    def collective_class(self, kind: CollectiveKind) -> CollectiveClass:
        """The class of a kind of collective, or of the one that it is like."""
        cls: CollectiveClass = getattr(self.collectives, self.like(kind))
        return cls

    def like(self, kind: CollectiveKind) -> CollectiveKind:
        """`kind` if the profile has it, or else the one that it is like."""
        if getattr(self.collectives, kind) is not None:
            return kind
        return "all_gather" if kind == "reduce_scatter" else "all_to_all"

    def copy_flow(self, kind: str, gpu: int) -> FlowSpec:
        """The flow of a copy to or from `gpu`."""
        cls = self.copy_class(kind)
        marks = (COPY_MARK,) if self._copies_crowd else ()
        return FlowSpec(_route(self.graph.copy(gpu, kind), 1.0), cls.cap.value, cls.weight.value, marks=marks)

    @cached_property
    def _copies_crowd(self) -> bool:
        """Whether some collective crosses the host otherwise while copies are in flight."""
        classes = (self.collective_class(kind) for kind in get_args(CollectiveKind))
        shares = (share for cls in classes for share in (cls.contention(2), *cls.contention_by_ranks.values()))
        return any(share.isolated_overhead is not None for share in shares)

    def peer_route(self, edges: tuple[tuple[int, int], ...], overhead: float) -> Route:
        """The resources that one flow over all `edges` (source GPU, destination GPU) crosses, with multipliers."""
        return _route((r for a, b in edges for r in self.graph.peer(a, b)), overhead)

    def kernel_seconds(self, kernel: Kernel) -> float:
        """Duration of a kernel alone: as given, or max(flops / rate, bytes / bandwidth) (roofline), s."""
        if kernel.seconds is not None:
            return kernel.seconds
        device = self.device
        efficiency = device.compute_efficiency
        if kernel.attention and device.attention_efficiency is not None:
            efficiency = device.attention_efficiency
        return max(
            kernel.flops / (device.peak_flops.value * efficiency.value),
            kernel.hbm_bytes / (device.hbm_bandwidth.value * device.hbm_efficiency.value),
        )

    def kernel_flow(self, gpu: int, seconds: float, launches: int = 1, together: bool = False) -> FlowSpec:
        """Progress of a kernel of `seconds` alone (1 s a second), slowed while copies use the h2d link of `gpu`.

        With `together` it may meet collectives of other streams, which slow it too.
        """
        slowdown = self.streams.launch_delay.value * launches / seconds
        beside: tuple[tuple[tuple[str, ...], float], ...] = ()
        if together:
            taken = self.device.beside_collective.value + self.streams.crowd_delay.value * launches / seconds
            beside = (((collective_mark("", gpu),), 1 / taken),)
        return FlowSpec((), 1.0, 1.0, (self.graph.copy(gpu, "h2d")[-1][0], slowdown), beside=beside)


COPY_MARK = "copy"
"""What marks flows of copies, on hosts where they change what collectives cross."""


def collective_mark(kind: str, gpu: int) -> str:
    """What marks flows of collectives of `kind` (any: "") in which `gpu` takes part."""
    return f"{kind} {gpu}"


def _route(way: Iterable[tuple[int, float]], multiplier: float) -> Route:
    total: dict[int, float] = {}
    for resource, taken in way:
        total[resource] = total.get(resource, 0.0) + taken * multiplier
    return tuple(sorted(total.items()))


SESSION = re.compile(r"-\d{8}[a-z]$")
"""How the name of a profile ends that was fitted in one session on a host, after the name of the host's kind."""


def is_session(name: str) -> bool:
    """Whether a profile's name is that of one measurement session; plain names are of hosts that users mean."""
    return SESSION.search(name) is not None


_SHELF = Shelf("hardware", "hardware profile", dated=SESSION)
shipped = _SHELF.names
profile_file = _SHELF.file


def load_profile(name: str) -> Profile:
    """Load a shipped profile by name, or a YAML file by path.

    Raises:
        InputError: no such profile or file, or its content is wrong.
    """
    file = profile_file(name)
    return convert(_with_base(read_yaml(file), file, ()), Profile, str(file))


def _with_base(data: Any, file: Path, above: tuple[Path, ...]) -> Any:
    """The plain data of a profile; what it leaves out is as in the profile that its key `like` names."""
    if not isinstance(data, dict) or "like" not in data:
        return data
    data = dict(data)
    name = data.pop("like")
    if not isinstance(name, str):
        raise InputError(str(file), "like", "expected the name of a hardware profile, or a YAML file")
    beside = file.parent / name
    base = beside if is_there(beside) and beside.is_file() else profile_file(name)
    if base in (file, *above):
        raise InputError(str(file), "like", f"{name} is like this profile itself")
    return merged(_with_base(read_yaml(base), base, (file, *above)), base.stem, data)


def to_plain(profile: Profile) -> dict[str, object]:
    """The profile as plain data, as its YAML file would hold it."""
    plain: dict[str, object] = msgspec.to_builtins(profile, enc_hook=units.plain)
    return plain
