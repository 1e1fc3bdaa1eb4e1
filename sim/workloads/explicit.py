"""Workloads: the layers of one pass, as explicit blocks of compute and collectives in program order.

One layer is what is prefetched as a unit. `Workload` is the form that policies read; `Explicit` is the form in
scenario files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypedDict

from sim.inputs.config import Config
from sim.inputs.faults import Fault, FaultsError, refuse
from sim.inputs.units import Bytes, Flops, Seconds
from sim.program import CollectiveKind
from sim.program.ops import AnyOperation


def too_few(config: Config, names: Iterable[str]) -> Iterator[Fault]:
    """Faults of those of `names` that are given and less than 1."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < 1:
            yield Fault(name, f"is {value}, at least 1 is needed")


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
    it computes, for machines that do; models fill them in.
    """

    name: str
    seconds: Seconds | None = None
    flops: Flops | None = None
    bytes: Bytes | None = None
    launches: int = 1
    attention: bool = False
    ops: tuple[AnyOperation, ...] = ()

    def __post_init__(self) -> None:
        if self.seconds is None and not (self.flops or self.bytes):
            raise ValueError("compute needs seconds, or flops or bytes")
        if self.seconds is not None and (self.flops is not None or self.bytes is not None):
            raise ValueError("compute takes either seconds or flops and bytes, not both")
        if self.launches < 1:
            raise FaultsError([Fault("launches", f"is {self.launches}, at least 1 is needed")])

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
    """A collective over all ranks; `bytes` is the per-rank buffer (all_gather: output, reduce_scatter: input)."""

    kind: CollectiveKind
    bytes: Bytes
    name: str = ""

    def __post_init__(self) -> None:
        if self.bytes < 1:
            raise FaultsError([Fault("bytes", "is 0, at least 1 is needed")])

    @property
    def buffer(self) -> str:
        """Name of the buffer it works on."""
        return collective_buffer(self.kind, int(self.bytes))


class Item(Config, frozen=True):
    """One entry of a block: either `compute` or `collective`."""

    compute: Compute | None = None
    collective: CollectiveOp | None = None

    def __post_init__(self) -> None:
        if (self.compute is None) == (self.collective is None):
            raise ValueError("expected exactly one of compute and collective")


class Blocks(Config, frozen=True):
    """`repeat` equal layers."""

    repeat: int
    layer_bytes: Bytes
    block: tuple[Item, ...]

    def __post_init__(self) -> None:
        refuse((*too_few(self, ("repeat",)), *([] if self.block else [Fault("block", "is empty")])))


class Layer(NamedTuple):
    """One layer: its weights in bytes, and its block in program order."""

    bytes: int
    block: tuple[Compute | CollectiveOp, ...]


class Workload(NamedTuple):
    """What one rank does: `passes_per_step` times through `layers` in each of `steps` steps.

    `scratch_bytes` are taken by kernels for themselves, on top of the activations. `synchronous`: the host issues a
    step when the GPU has ended the one before.
    """

    layers: tuple[Layer, ...]
    steps: int
    passes_per_step: int = 1
    activation_bytes: int = 0
    scratch_bytes: int = 0
    synchronous: bool = False


class Explicit(Config, frozen=True):
    """A workload written out: one kind of layer (`layers`, `layer_bytes`, `block`) or several (`blocks`).

    `synchronous`: the host waits for the GPU after each step, as profilers make it do.
    """

    steps: int = 4
    passes_per_step: int = 1
    synchronous: bool = False
    activation_bytes: Bytes = Bytes(0)
    layers: int | None = None
    layer_bytes: Bytes | None = None
    block: tuple[Item, ...] | None = None
    blocks: tuple[Blocks, ...] | None = None

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        single = (self.layers, self.layer_bytes, self.block)
        if self.blocks is None:
            missing = [n for n, v in zip(("layers", "layer_bytes", "block"), single, strict=True) if v is None]
            if missing:
                yield Fault("", f"{', '.join(missing)} missing: expected layers, layer_bytes and block, or blocks")
        elif any(v is not None for v in single):
            yield Fault("", "expected either layers, layer_bytes and block, or blocks, not both")
        elif not self.blocks:
            yield Fault("blocks", "is empty")
        yield from too_few(self, ("steps", "passes_per_step", "layers"))
        if self.block is not None and not self.block:
            yield Fault("block", "is empty")

    def layer_count(self) -> int:
        """Layers of one pass."""
        return self.layers or sum(group.repeat for group in self.blocks or ())

    def resolve(self, world_size: int = 1) -> Workload:
        """The workload with every layer spelt out: the same for any `world_size`, as all figures are per rank."""
        groups = self.blocks
        if groups is None:
            assert self.layers is not None and self.layer_bytes is not None and self.block is not None
            groups = (Blocks(repeat=self.layers, layer_bytes=self.layer_bytes, block=self.block),)
        layers: list[Layer] = []
        for group in groups:
            items = tuple(i.compute or i.collective for i in group.block)
            layers += [Layer(int(group.layer_bytes), items)] * group.repeat  # type: ignore[arg-type]
        return Workload(
            tuple(layers), self.steps, self.passes_per_step, self.activation_bytes, synchronous=self.synchronous
        )
