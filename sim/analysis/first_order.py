"""First-order theory of layerwise offload: when a prefetch hides behind compute, without and with contention.

ChunkFlow's model (arXiv 2605.11335, section on the analytical model; closed forms in the authors' notes,
EthanMeng324/sglang, prefetch_comm_contention_analysis.md) compares, for one layer on one rank,

    T_comp = F / (eta_comp P_peak)        F: FLOP of the layer, P_peak: FLOP/s
    T_pref = B / (eta_pref BW_h2d)        B: bytes copied, BW_h2d: B/s

The prefetch hides if T_comp >= T_pref, that is F >= F* = B (eta_comp P_peak) / (eta_pref BW_h2d). It leaves out
collectives. `layer_time` adds them: copies and collectives slow each other at the rates that the hardware profile's
flows have side by side. docs/first_order.md compares both with published figures and with the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import msgspec

from sim.contention import copy_rate, launch_delay, phases
from sim.hardware import Profile
from sim.policies import copied_bytes
from sim.program import Kernel
from sim.workloads.block_items import CollectiveOp, Compute, CopyOp, Exchange
from sim.workloads.named import Named
from sim.workloads.workload import Layer, Workload

H100_PCIE_PEAK = 756e12
"""FLOP/s, dense bf16, of an H100 PCIe: the vendor's datasheet, as ChunkFlow uses it."""
PCIE5_X16 = 63e9
"""B/s of PCIe Gen5 x16 one way, before protocol overhead: 32 GT/s x 16 lanes x 128/130 / 8, as ChunkFlow uses it."""


def compute_seconds(flops: float, peak: float, eta_comp: float = 1.0) -> float:
    """T_comp, s, of `flops` FLOP at `eta_comp` of `peak` FLOP/s."""
    return flops / (eta_comp * peak)


def prefetch_seconds(size: float, bandwidth: float, eta_pref: float = 1.0) -> float:
    """T_pref, s, of `size` bytes at `eta_pref` of `bandwidth` B/s."""
    return size / (eta_pref * bandwidth)


def critical_flops(size: float, peak: float, bandwidth: float, eta_comp: float = 1.0, eta_pref: float = 1.0) -> float:
    """F*, FLOP: the least work of a layer that hides a prefetch of `size` bytes."""
    return prefetch_seconds(size, bandwidth, eta_pref) * eta_comp * peak


class Quadratic(NamedTuple):
    """FLOP of a layer, constant + linear n + square n^2, with n frames or samples and n >= 0."""

    constant: float
    linear: float
    square: float

    def at(self, n: float) -> float:
        """FLOP at `n`."""
        return self.constant + n * (self.linear + n * self.square)

    def reaches(self, flops: float) -> float:
        """The n at which the work is `flops` FLOP; 0 where it is more than that from the start.

        Raises:
            ValueError: the work does not grow with n.
        """
        missing = flops - self.constant
        if missing <= 0:
            return 0.0
        slope = self.linear + math.sqrt(self.linear**2 + 4 * self.square * missing)
        if slope <= 0:
            raise ValueError("the work of a layer does not grow: no crossover")
        return 2 * missing / slope


class Published(NamedTuple):
    """A published F(n) of the average layer on a rank of two, its bytes B, and the crossover given for it."""

    flops: Quadratic
    size: int
    unknown: Literal["frames", "batch"]
    crossover: float


PUBLISHED = {
    "wan2.2-5b": Published(Quadratic(191_900_639_232, 61_256_908_800, 1_244_160_000), 327_155_712, "frames", 35.44),
    "hunyuanvideo": Published(Quadratic(392_520_652_800, 133_561_958_400, 4_976_640_000), 415_236_096, "frames", 19.78),
    "flux.1-dev": Published(Quadratic(0, 660_351_221_760, 0), 415_236_096, "batch", 7.546),
}
"""By model; prefetch_comm_contention_analysis.md, section 6 (Ulysses 2; 720 x 1280 video, 1024 x 1024 images)."""


def layer_flops(model: Named, unknown: Literal["frames", "batch"], world_size: int) -> Quadratic:
    """FLOP of the average layer on a rank, counted from the model's shapes, as a function of frames or batch.

    The count is exactly quadratic in frames and linear in batch, so three points give it; other fields are kept.
    Raises `InputError` as `Named.resolve`.
    """
    temporal = model.setup(world_size).model.vae.temporal
    points = []
    for i in (1, 2, 3):
        n = (i * world_size - 1) * temporal + 1 if unknown == "frames" else i  # tokens that divide evenly
        workload = msgspec.structs.replace(model, **{unknown: n}).resolve(world_size)
        points.append((n, sum(_flops(layer) for layer in workload.layers) / len(workload.layers)))
    (x, a), (y, b), (z, c) = points
    first, second = (b - a) / (y - x), (c - b) / (z - y)
    square = (second - first) / (z - x)
    linear = first - square * (x + y)
    return Quadratic(a - x * (linear + x * square), linear, square)


def layer_bytes(model: Named, world_size: int) -> float:
    """Weights of the average layer on a rank, B. Raises `InputError` as `Named.resolve`."""
    layers = model.resolve(world_size).layers
    return sum(layer.bytes for layer in layers) / len(layers)


def crossover(
    model: Named,
    unknown: Literal["frames", "batch"],
    world_size: int,
    peak: float = H100_PCIE_PEAK,
    bandwidth: float = PCIE5_X16,
    eta_comp: float = 1.0,
    eta_pref: float = 1.0,
) -> float:
    """The frames or batch from which prefetch hides, by first order, counted from the model's shapes.

    `peak` in FLOP/s and `bandwidth` in B/s. Raises `InputError` as `Named.resolve`.
    """
    target = critical_flops(layer_bytes(model, world_size), peak, bandwidth, eta_comp, eta_pref)
    return layer_flops(model, unknown, world_size).reaches(target)


class LayerTime(NamedTuple):
    """Seconds of a layer under whole-layer prefetch: `total`, `exposed` wait for the copy; `isolated`: no copies."""

    total: float
    exposed: float
    isolated: float


def layer_time(
    profile: Profile, layer: Layer, world_size: int, copied: int, placement: Sequence[int] = ()
) -> LayerTime:
    """Time of `layer` while `copied` bytes of the next are prefetched (whole_layer, async, one layer ahead), s.

    The copy starts with the layer. The block is walked in order. While the copy runs, it moves r B/s under kernels and
    r' under collectives, and a collective whose bytes take d uncontended takes d' = d (uncontended rate) / (contended
    rate): all four are max-min fair rates of the profile's flows on all ranks. So with latencies l and kernels c
    (which slow by the profile's launch delay), a copy that lasts as long as the block leaves

        total = sum c + sum (l + d') + (copied - r (sum c + sum l) - r' sum d') / r

    and one that ends within it only stretches what it has met. Ranks are taken to be alike and in step; rank
    r is on GPU `placement[r]`, or r without it. What has a stream of its own is walked where it starts, and copies that
    the block names take their isolated time. Sends are left out.
    """
    gpus = placement or range(world_size)
    free = copy_rate(profile, gpus)
    delay = launch_delay(profile, gpus[0], free)
    walk = _Walk(copied + profile.h2d.setup.value * free if copied else 0.0)
    for item in layer.block:
        if isinstance(item, Compute):
            seconds = kernel_seconds(profile, item)
            walk.through(seconds, seconds + item.launches * delay, free)
        elif isinstance(item, CopyOp):
            seconds = profile.h2d.setup.value + int(item.bytes) / profile.copy_class(item.kind).cap.value
            if item.memory == "pageable":
                seconds = profile.pageable_seconds(item.kind, int(item.bytes))
            walk.through(seconds, seconds, free)
        elif isinstance(item, CollectiveOp | Exchange):
            for latency, data, contended, copying in phases(profile, item.kind, int(item.bytes), item.groups, gpus):
                walk.through(latency, latency, free)
                walk.through(data, contended, copying)
    exposed = walk.left / free
    return LayerTime(walk.elapsed + exposed, exposed, walk.isolated)


def step_seconds(
    profile: Profile,
    workload: Workload,
    world_size: int,
    resident_fraction: float = 0.0,
    placement: Sequence[int] = (),
) -> float:
    """Predicted seconds of a step under whole-layer prefetch, one layer ahead: `layer_time` of every layer."""
    layers = workload.layers
    following: Sequence[Layer] = (*layers[1:], layers[0])
    times: dict[tuple[int, int, int], float] = {}
    total = 0.0
    for form, (layer, ahead) in product(workload.steady, zip(layers, following, strict=True)):
        key = (id(layer), ahead.bytes, form)
        if key not in times:
            copied = copied_bytes(ahead.bytes, resident_fraction)
            walked = layer._replace(block=layer.blocks[form])
            times[key] = layer_time(profile, walked, world_size, copied, placement).total
        total += times[key]
    return total


def kernel_seconds(profile: Profile, item: Compute) -> float:
    """Isolated seconds of a compute item: as given, or by the profile's roofline."""
    return profile.kernel_seconds(Kernel("", item.name, **item.work()))


class _Walk:
    """Time along a block while a copy with `left` bytes runs."""

    def __init__(self, left: float) -> None:
        self.left = left
        self.elapsed = 0.0
        self.isolated = 0.0

    def through(self, isolated: float, stretched: float, rate: float) -> None:
        """Work that takes `isolated` s, or `stretched` s while the copy moves at `rate` B/s."""
        self.isolated += isolated
        if self.left >= rate * stretched:
            self.left -= rate * stretched
            self.elapsed += stretched
        else:
            met = self.left / rate
            self.left = 0.0
            self.elapsed += met + isolated * (1 - met / stretched)


def _flops(layer: Layer) -> float:
    return sum(float(item.flops or 0) for item in layer.block if isinstance(item, Compute))
