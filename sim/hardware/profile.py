"""A hardware profile: its numbers, each with its source, and the flows that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any, NamedTuple, assert_never, get_args

import msgspec

from sim.fluid import FlowSpec, Route
from sim.hardware.collective_classes import CollectiveClass, Collectives
from sim.hardware.inheritance import Inherited
from sim.hardware.routes import Graph
from sim.hardware.schema import MAX_GPUS, CopyClass, Device, DeviceGroup, HostIssue, Pageable, Streams
from sim.hardware.symmetry import Symmetry, symmetry
from sim.hardware.topology import MIN_CAPACITY, Sourced, Topology
from sim.inputs import units
from sim.inputs.config import MAX_FAULTS, Config, InputError
from sim.inputs.faults import Fault, FaultsError, refuse
from sim.inputs.units import Bandwidth, Number
from sim.program import CollectiveKind, CopyKind, HostCopyKind, Kernel

MIN_KERNEL_S = 1e-18
"""Seconds of the shortest kernel whose launches are delayed in full: what delays shorter ones stays a finite rate."""


class Profile(Config, frozen=True, dict=True):
    """A host: `gpus` GPUs, the resources between them, and what commands cost there."""

    name: str
    description: str
    fingerprint: dict[str, str]
    gpus: int
    device: Device
    """Every GPU, but for those in `devices`."""
    topology: Topology
    h2d: CopyClass
    d2h: CopyClass
    collectives: Collectives
    streams: Streams
    host: HostIssue
    d2d: CopyClass | None = None
    """Copies within a GPU's memory; `device_copies` where it is not given."""
    p2p: CopyClass | None = None
    """Copies from one GPU's memory to another's; None if the host has none."""
    pageable: Pageable = Pageable()
    devices: tuple[DeviceGroup, ...] | msgspec.UnsetType = msgspec.UNSET
    """GPUs of other kinds, where a host has several. In a file each holds only what differs from `device`."""
    compute_factor: Sourced[Number] | msgspec.UnsetType = msgspec.UNSET
    """On every kernel's isolated time, as given or by the roofline: what one measured step says of a device whose
    efficiencies are another one's (`sim.analysis.fit_step`). Not given is 1, and no part of a profile's digest."""
    kept: tuple[Inherited, ...] = ()
    """What it left out and has from the profile that it is `like`."""

    def __post_init__(self) -> None:
        if not 1 <= self.gpus <= MAX_GPUS:
            problem = f"is {self.gpus}, at least 1 is needed and at most {MAX_GPUS} are simulated"
            raise FaultsError([Fault("gpus", problem)])
        refuse(islice(chain(self._wrong_routes(), self._wrong_numbers()), MAX_FAULTS + 1))

    def _wrong_numbers(self) -> Iterator[Fault]:
        positive: dict[str, Sourced[Any]] = {}
        for path, device in {"device": self.device, **self._groups()}.items():
            for name in ("peak_flops", "hbm_bandwidth", "compute_efficiency", "hbm_efficiency", "attention_efficiency"):
                if (number := getattr(device, name)) is not None:
                    positive[f"{path}.{name}"] = number
            if device.beside_collective.value < 1:
                yield Fault(f"{path}.beside_collective", f"is {device.beside_collective.value}, expected at least 1")
        named: list[int] = []
        for path, group in self._groups().items():
            for gpu in group.gpus:
                if not 0 <= gpu < self.gpus:
                    yield Fault(f"{path}.gpus", f"has GPU {gpu}, expected 0 to {self.gpus - 1}")
                elif gpu in named:
                    yield Fault(f"{path}.gpus", f"has GPU {gpu}, which was named before")
                named.append(gpu)
            if not group.gpus:
                yield Fault(f"{path}.gpus", "is empty")
        for name in ("h2d", "d2h", "d2d", "p2p"):
            if (copies := getattr(self, name)) is not None:
                positive |= {f"{name}.{key}": getattr(copies, key) for key in ("cap", "weight", "engines")}
        positive |= {"pageable.h2d.rate": self.pageable.h2d.rate, "pageable.d2h.rate": self.pageable.d2h.rate}
        for kind in get_args(CollectiveKind):
            cls = self.collective_class(kind)
            path = f"collectives.{self.like(kind)}"
            for ranks in (2, *cls.contention_by_ranks):
                where = path + (f".contention_by_ranks[{ranks}]" if ranks != 2 else "")
                share = cls.contention(ranks)
                positive |= {f"{where}.weight": share.weight, f"{where}.overhead": share.overhead}
                if share.isolated_overhead is not None:
                    positive[f"{where}.isolated_overhead"] = share.isolated_overhead
            if kind in cls.beside:
                yield Fault(f"{path}.beside", f"has {kind}: two of a kind share as their weights say")
        positive["host.queue_depth"] = self.host.queue_depth
        if self.compute_factor is not msgspec.UNSET:
            positive["compute_factor"] = self.compute_factor
        if not 0 <= self.host.wake_spread.value <= 1:
            yield Fault("host.wake_spread", f"is {self.host.wake_spread.value}, expected 0 to 1")
        for name, number in positive.items():
            if number.value < MIN_CAPACITY:
                yield Fault(name, f"is {units.plain(number.value)}, expected more than 0, at least {MIN_CAPACITY:g}")

    def _wrong_routes(self) -> Iterator[Fault]:
        """Faults of the topology's routes; those of one GPU end at its first."""
        try:
            graph = self.graph
        except FaultsError as faults:
            yield from faults.faults
            return
        different = sorted(set(self.symmetry_of(range(self.gpus)).rank_class))
        if any(True for _ in self._wrong_routes_of(graph, different)):
            yield from self._wrong_routes_of(graph, range(self.gpus))

    def _wrong_routes_of(self, graph: Graph, gpus: Iterable[int]) -> Iterator[Fault]:
        for gpu in gpus:
            try:
                for kind in get_args(HostCopyKind):
                    if not graph.copy(gpu, kind):
                        problem = f"nothing limits the {kind} copies of gpu{gpu}: give its link a capacity"
                        yield Fault("topology", problem)
                for other in range(self.gpus):
                    if other != gpu:
                        graph.peer(gpu, other)
            except FaultsError as faults:
                yield from faults.faults

    def __repr__(self) -> str:
        return f"<Profile {self.name!r}: {self.cards}>"

    def _groups(self) -> dict[str, DeviceGroup]:
        """`devices` by key path."""
        groups = () if self.devices is msgspec.UNSET else self.devices
        return {f"devices[{i}]": group for i, group in enumerate(groups)}

    def device_of(self, gpu: int) -> Device:
        """What GPU `gpu` is."""
        if self.devices is msgspec.UNSET:
            return self.device
        return next((group for group in self.devices if gpu in group.gpus), self.device)

    @property
    def cards(self) -> str:
        """How many GPUs of which kind the host has, in words."""
        names = Counter(self.device_of(gpu).name for gpu in range(self.gpus))
        return " + ".join(f"{count} x {name}" for name, count in names.items())

    def memory_of(self, gpus: Iterable[int]) -> int:
        """Memory of the smallest of `gpus`, B."""
        return min(int(self.device_of(gpu).memory.value) for gpu in gpus)

    def overhead_of(self, gpus: Iterable[int]) -> int | None:
        """The most that CUDA's context and NCCL take of any of `gpus`, B; None where it is not known."""
        known = [of.overhead for gpu in gpus if (of := self.device_of(gpu)).overhead is not msgspec.UNSET]
        return max((int(one.value) for one in known), default=None)

    @property
    def host_memory(self) -> int | None:
        """Memory of the host, B; None where it is not known."""
        return None if self.host.memory is msgspec.UNSET else int(self.host.memory.value)

    @cached_property
    def graph(self) -> Graph:
        """The topology's resources and routes."""
        return Graph(self.topology, self.gpus)

    def symmetry_of(self, gpus: Sequence[int]) -> Symmetry:
        """How ranks that sit on `gpus` may be permuted."""
        return symmetry(self.graph, gpus, [id(self.device_of(gpu)) for gpu in gpus])

    @cached_property
    def quotients(self) -> dict[tuple[tuple[int, ...], ...], Any]:
        """By the GPUs of ranks, and classes of ranks and resources: the `Quotient` of this host, once it is made."""
        return {}

    @property
    def resource_names(self) -> tuple[str, ...]:
        """Every resource of the host."""
        return tuple(self.graph.names)

    @cached_property
    def capacities(self) -> tuple[float, ...]:
        """Capacity of each of `resource_names`, B/s."""
        return tuple(limit.value for limit in self.graph.limits)

    def copy_class(self, kind: CopyKind, gpu: int = 0) -> CopyClass:
        """The class of a kind of copies on `gpu`. Raises InputError for copies between GPUs that have none."""
        match kind:
            case "h2d":
                return self.h2d
            case "d2h":
                return self.d2h
            case "d2d":
                return self.device_copies_of(gpu)
            case "p2p":
                if self.p2p is None:
                    raise InputError(self.name, "p2p", "is not given: there are no copies between GPUs on this host")
                return self.p2p
            case _:
                assert_never(kind)

    @property
    def device_copies(self) -> CopyClass:
        """`device_copies_of` the first GPU."""
        return self.device_copies_of(0)

    def device_copies_of(self, gpu: int) -> CopyClass:
        """The class of copies within `gpu`'s memory: `d2d`, or half of its bandwidth, which they use twice."""
        if self.d2d is not None:
            return self.d2d
        device = self.device_of(gpu)
        cap = Bandwidth(device.hbm_bandwidth.value * device.hbm_efficiency.value / 2)
        half = "not given: device.hbm_bandwidth x device.hbm_efficiency / 2, as each byte is read and written"
        like = "not given: as h2d"
        return CopyClass(
            cap=Sourced(cap, half),
            weight=Sourced(Number(1.0), "not given: taken as 1"),
            setup=Sourced(self.h2d.setup.value, like),
            minimum=Sourced(self.h2d.minimum.value, like),
        )

    def pageable_seconds(self, kind: HostCopyKind, size: int) -> float:
        """How long a copy of `size` bytes of pageable memory blocks its host thread if nothing else is in the way, s.

        See `PageableCopies`.
        """
        if kind == "h2d":
            return self.pageable.h2d.setup.value + size / min(self.pageable.h2d.rate.value, self.h2d.cap.value)
        if kind == "d2h":
            staged = self.pageable.d2h
            first = min(size, staged.staging.value) / self.d2h.cap.value
            return staged.setup.value + first + size / min(staged.rate.value, self.d2h.cap.value)
        assert_never(kind)

    def collective_class(self, kind: CollectiveKind) -> CollectiveClass:
        """The class of a kind of collective, or of the one that it is like."""
        cls: CollectiveClass = getattr(self.collectives, self.like(kind))
        return cls

    def like(self, kind: CollectiveKind) -> CollectiveKind:
        """`kind` if the profile has it, or else the one that it is like."""
        if getattr(self.collectives, kind, None) is not None:
            return kind
        match kind:
            case "reduce_scatter" | "all_gather":
                return "all_gather"
            case "send_recv" | "all_to_all":
                return "all_to_all"
            case "all_reduce":
                return kind
            case _:
                assert_never(kind)

    def copy_flow(self, kind: CopyKind, gpu: int, peer: int | None = None) -> FlowSpec:
        """The flow of a copy to or from `gpu`; a p2p copy goes to GPU `peer`."""
        cls = self.copy_class(kind, gpu)
        tags = (COPY_TAG,) if self._copies_reroute and kind != "d2d" else ()
        match kind:
            case "h2d" | "d2h":
                route = _route(self.graph.copy(gpu, kind), 1.0)
            case "d2d":
                route = ()
            case "p2p":
                if peer is None:
                    raise ValueError("a p2p copy needs a peer")
                # where NCCL goes through the host, the route of copies between GPUs is not in the topology
                route = () if self.topology.peers == "host" else self.peer_route(((gpu, peer),), 1.0)
            case _:
                assert_never(kind)
        return FlowSpec(route, cls.cap.value, cls.weight.value, tags=tags)

    @cached_property
    def _copies_reroute(self) -> bool:
        """Whether some collective takes another route while copies are in flight."""
        classes = (self.collective_class(kind) for kind in get_args(CollectiveKind))
        shares = (share for cls in classes for share in (cls.contention(2), *cls.contention_by_ranks.values()))
        return any(share.isolated_overhead is not None for share in shares)

    def peer_route(self, edges: tuple[tuple[int, int], ...], overhead: float) -> Route:
        """The resources that one flow over all `edges` (source GPU, destination GPU) crosses, with multipliers."""
        return _route((r for a, b in edges for r in self.graph.peer(a, b)), overhead)

    def kernel_seconds(self, kernel: Kernel, gpu: int = 0) -> float:
        """Isolated duration of a kernel on `gpu`, s: as given, or by the roofline; times `compute_factor`, if given."""
        seconds = self._kernel_seconds(kernel, gpu)
        return seconds if self.compute_factor is msgspec.UNSET else seconds * self.compute_factor.value

    def _kernel_seconds(self, kernel: Kernel, gpu: int) -> float:
        """As given, or max(flops / rate, bytes / bandwidth) (roofline)."""
        if kernel.seconds is not None:
            return kernel.seconds
        device = self.device_of(gpu)
        efficiency = device.compute_efficiency
        if kernel.attention and device.attention_efficiency is not None:
            efficiency = device.attention_efficiency
        return max(
            kernel.flops / (device.peak_flops.value * efficiency.value),
            kernel.hbm_bytes / (device.hbm_bandwidth.value * device.hbm_efficiency.value),
        )

    def kernel_flow(self, gpu: int, seconds: float, launches: int = 1) -> FlowSpec:
        """Progress of a kernel of `seconds`, isolated (1 s a second), on `gpu`.

        Copies slow it while they use the GPU's h2d link, and collectives of other streams while they move data on it.
        """
        lasts = max(seconds, MIN_KERNEL_S)
        drag = self.graph.copy(gpu, "h2d")[-1][0], self.streams.launch_delay.value * launches / lasts
        taken = self.device_of(gpu).beside_collective.value + self.streams.crowd_delay.value * launches / lasts
        return FlowSpec((), 1.0, 1.0, drag, slowed_by=(((CollectiveTag(None, gpu),), 1 / taken),))


COPY_TAG = "copy"
"""What tags flows of copies, on hosts where they change what collectives cross."""


class CollectiveTag(NamedTuple):
    """What tags flows of collectives of `kind` (None: of any) in which `gpu` takes part."""

    kind: CollectiveKind | None
    gpu: int


def _route(crossed: Iterable[tuple[int, float]], multiplier: float) -> Route:
    total: dict[int, float] = {}
    for resource, taken in crossed:
        total[resource] = total.get(resource, 0.0) + taken * multiplier
    return tuple(sorted(total.items()))
