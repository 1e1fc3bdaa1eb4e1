"""What can be known of a host; None where it is not said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

K = TypeVar("K")


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a PCIe link. Speeds in GT/s, widths in lanes; None where the kernel does not say."""

    bus: str
    speed: float | None = None
    speed_max: float | None = None
    width: int | None = None
    width_max: int | None = None


class Torch(msgspec.Struct, frozen=True, kw_only=True):
    """What torch sees with no GPU hidden, GPUs in the order of their bus addresses."""

    gpus: int
    cuda: str | None = None
    """CUDA that torch was built for; None: built for CPUs only."""
    nccl: str | None = None
    peers: tuple[tuple[bool, ...], ...] = ()
    """Whether GPU a may access the memory of GPU b."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. Power in W, clocks in MHz, temperature in C, memory in MiB; None where it is not said."""

    index: int
    name: str
    uuid: str | None = None
    bus: str | None = None
    link_generation: int | None = None
    link_generation_max: int | None = None
    link_width: int | None = None
    link_width_max: int | None = None
    power_limit: float | None = None
    power_default: float | None = None
    power: float | None = None
    clock: float | None = None
    clock_max: float | None = None
    temperature: float | None = None
    persistence: bool | None = None
    memory: float | None = None
    memory_clock: float | None = None
    memory_clock_max: float | None = None
    ecc: bool | None = None
    mig: bool | None = None
    """Whether it is split into instances."""
    throttle: int | None = None
    """Why the clocks are not higher just now: NVML's bits of clock event reasons."""
    driver: str | None = None
    ports: tuple[Port, ...] = ()
    """The route to the root complex: both ends of each link, the GPU first."""
    iommu: str | None = None
    """What the IOMMU does to its transfers: identity, or DMA and DMA-FQ (it translates)."""
    processes: tuple[int, ...] = ()
    """Process numbers that use it."""


def by_kind(gpus: Sequence[Gpu], kind: Callable[[Gpu], K]) -> dict[K, list[Gpu]]:
    """GPUs that are alike in `kind`, such as their names; in the order of the first of each."""
    kinds: dict[K, list[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault(kind(gpu), []).append(gpu)
    return kinds


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host. Memory in bytes. `links[a][b]` is how GPU a reaches GPU b, as nvidia-smi says: NV18, PIX, PHB, SYS."""

    gpus: tuple[Gpu, ...] = ()
    links: tuple[tuple[str, ...], ...] = ()
    peers: tuple[tuple[str, ...], ...] = ()
    """Whether GPU a may read GPU b, as nvidia-smi says: OK, or CNS, GNS, TNS, NS, DR, U."""
    gpu_nodes: tuple[int | None, ...] = ()
    """NUMA node of each GPU."""
    cpu: str | None = None
    sockets: int | None = None
    cores: int | None = None
    cpus: int = 1
    """Processors that this process may use."""
    cpu_limit: float | None = None
    """Processors' time that the control group may use, s a second."""
    numa_nodes: int = 1
    own_nodes: tuple[int, ...] = ()
    """NUMA nodes whose processors this process may use."""
    memory_total: int | None = None
    memory_available: int | None = None
    memory_limit: int | None = None
    """Of the control group."""
    lock_limit: int | None = None
    """Bytes that may be locked in memory; None: no limit."""
    shared_memory: int | None = None
    """Free bytes in /dev/shm."""
    kernel: str = ""
    virtual: bool = False
    iommu: bool = False
    acs: bool | None = None
    """Whether a port above a GPU sends peer-to-peer traffic up to the root complex; None: not known."""
    torch: Torch | None = None
    cuda: str | None = None
    """The newest CUDA that the driver supports."""
    nccl: str | None = None
    packages: dict[str, str] = {}
    environment: dict[str, str] = {}
