"""What a hardware profile holds: the device, classes of copies and collectives, costs of commands."""

from __future__ import annotations

from sim.hardware.topology import Sourced
from sim.inputs.config import Config
from sim.inputs.units import Bandwidth, Bytes, FlopRate, Number, Seconds

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
    """Time of a kernel while a collective of another stream moves data on its GPU, relative to its isolated time,
    without `streams.crowd_delay`."""


class CopyClass(Config, frozen=True):
    """Copies by a DMA engine: seconds = max(minimum, setup + bytes / cap) if uncontended."""

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
    """From the end of an event's record until a stream that was blocked on it continues."""
    launch_delay: Sourced[Seconds]
    """Extra time of each kernel launch while copies use their full rate on the GPU's link."""
    beside_kernel: Sourced[Seconds]
    """Extra time of each of the commands above, and of a copy's setup, while a kernel runs on the same GPU."""
    crowd_delay: Sourced[Seconds] = Sourced(Seconds(0.0), "not given: taken as 0")
    """Extra time of each kernel launch while a collective of another stream moves data on its GPU: it holds SMs."""
    flag_wake: Sourced[Seconds] = Sourced(Seconds(0.0), "not given: taken as 0")
    """From the end of a flag's write until a stream that it blocked continues."""


class HostIssue(Config, frozen=True):
    """What it costs a host thread to enqueue commands."""

    kernel: Sourced[Seconds]
    copy: Sourced[Seconds]
    collective: Sourced[Seconds]
    event: Sourced[Seconds]
    memop: Sourced[Seconds]
    wake: Sourced[Seconds]
    """From the end of an event until a host thread that was blocked on it continues."""
    queue_depth: Sourced[Number]
    """Commands that may be pending on one stream before the host thread blocks."""
    sync: Sourced[Seconds] = Sourced(Seconds(0.0), "not given: taken as 0")
    """Taking or giving back a lock, changing or looking at a counter, asking for an event to be waited for."""
    wake_spread: Sourced[Number] = Sourced(Number(0.0), "not given: taken as 0")
    """How much `wake` varies from time to time: uniform within 1 - spread to 1 + spread times its value."""
