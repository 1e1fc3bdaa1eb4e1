"""What a host does, as parameters of a policy that decides by it: isolated rates, and what contention makes of them.

A policy knows no hardware profile. The scenario fills these from one (`sim.contention`); a scenario file may also give
them itself. `sim.policies.predicted` says what a schedule then takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.inputs.config import Config
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bandwidth, Bytes, FlopRate, Number, Seconds
from sim.program import CollectiveKind


class PhaseRates(Config, frozen=True):
    """One phase of a collective: `latency`, then its bytes take `isolated` s, or `beside_copies` s where each rank
    copies meanwhile, at `copy_rate`.

    One by copy engines has `beside_copies` 0: it stands still while a copy has the engine. Where the engine turns to it
    after each copy, it makes a piece, which takes `piece` s.
    """

    latency: Seconds
    isolated: Seconds
    beside_copies: Seconds
    copy_rate: Bandwidth
    piece: Seconds = Seconds(0.0)


class CollectiveRates(Config, frozen=True):
    """A collective of `bytes` per rank among `ranks` ranks; `copy_start` is what a copy that starts beside it loses.

    With `piece_bytes` it runs on copy engines.
    """

    kind: CollectiveKind
    bytes: Bytes
    ranks: int
    phases: tuple[PhaseRates, ...]
    copy_start: Seconds = Seconds(0.0)
    piece_bytes: Bytes = Bytes(0)


class HostRates(Config, frozen=True):
    """Rates of one host with copies on all of its ranks at once, and what commands cost there, s.

    `copy_rate` is that of an H2D copy beside nothing but those of other ranks, `d2h_rate` of one to the host. A launch
    loses `launch_delay` while copies move at `copy_rate`. Kernels follow the roofline of `flops`, `attention_flops` and
    `memory_bandwidth`, times `compute_factor`, and of those with a time of their own that time.
    `host_*` is what a host thread takes to issue a command; it blocks with `queue_depth` of them pending on a stream.
    """

    copy_rate: Bandwidth
    d2h_rate: Bandwidth
    flops: FlopRate
    attention_flops: FlopRate
    memory_bandwidth: Bandwidth
    collectives: tuple[CollectiveRates, ...] = ()
    compute_factor: Number = Number(1.0)
    setup: Seconds = Seconds(0.0)
    minimum: Seconds = Seconds(0.0)
    wait_flag: Seconds = Seconds(0.0)
    write_flag: Seconds = Seconds(0.0)
    flag_wake: Seconds = Seconds(0.0)
    event: Seconds = Seconds(0.0)
    wake: Seconds = Seconds(0.0)
    beside_kernel: Seconds = Seconds(0.0)
    launch_delay: Seconds = Seconds(0.0)
    crowd_delay: Seconds = Seconds(0.0)
    beside_collective: Number = Number(1.0)
    host_kernel: Seconds = Seconds(0.0)
    host_copy: Seconds = Seconds(0.0)
    host_collective: Seconds = Seconds(0.0)
    host_event: Seconds = Seconds(0.0)
    host_memop: Seconds = Seconds(0.0)
    queue_depth: int = 1024

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        for name in ("copy_rate", "d2h_rate", "flops", "attention_flops", "memory_bandwidth", "compute_factor"):
            if getattr(self, name) <= 0:
                yield Fault(name, "is 0, expected more")

    def kernel_seconds(self, seconds: float | None, flops: float, moved: float, attention: bool) -> float:
        """Isolated time of a kernel: as given, or by the roofline; times `compute_factor`."""
        if seconds is None:
            seconds = max(flops / (self.attention_flops if attention else self.flops), moved / self.memory_bandwidth)
        return seconds * self.compute_factor
