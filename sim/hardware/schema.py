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
    """Time of a kernel while a collective of another stream moves data on its GPU, times alone, but for
    `streams.crowd_delay`."""


class CopyClass(Config, frozen=True):
    """Copies by a DMA engine: seconds = max(minimum, setup + bytes / cap) alone.

    `engines` of them move at once on a GPU; others wait, first come first served.
    """

    cap: Sourced[Bandwidth]
    weight: Sourced[Number]
    setup: Sourced[Seconds]
    minimum: Sourced[Seconds]
    engines: Sourced[Number] = Sourced(Number(1.0), "not given: taken as 1")


class PageableCopies(Config, frozen=True):
    """Copies from or to pageable memory, which the driver stages: at `rate`, after `setup`.

    From the host they return to the host thread when all but `staging` bytes have moved.
    """

    rate: Sourced[Bandwidth]
    setup: Sourced[Seconds]
    staging: Sourced[Bytes]


class Pageable(Config, frozen=True):
    """Copies from (`h2d`) and to (`d2h`) pageable memory."""

    h2d: PageableCopies
    d2h: PageableCopies


_ASSUMED = "assumed"
ASSUMED_PAGEABLE = Pageable(
    PageableCopies(
        Sourced(Bandwidth(10e9), _ASSUMED), Sourced(Seconds(5e-6), _ASSUMED), Sourced(Bytes(4 * 2**20), _ASSUMED)
    ),
    PageableCopies(
        Sourced(Bandwidth(10e9), _ASSUMED), Sourced(Seconds(5e-6), _ASSUMED), Sourced(Bytes(4 * 2**20), _ASSUMED)
    ),
)


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
    host_flag_write: Sourced[Seconds] | None = None
    """As `write_flag`, of a word in host memory; as that of the device where it is not given."""
    host_flag_wait: Sourced[Seconds] | None = None
    host_flag_wake: Sourced[Seconds] | None = None

    def write_cost(self, on_host: bool) -> float:
        """Seconds of a flag's write."""
        return (self.host_flag_write if on_host and self.host_flag_write else self.write_flag).value

    def wait_cost(self, on_host: bool) -> float:
        """Seconds of a wait for a flag that already has its value."""
        return (self.host_flag_wait if on_host and self.host_flag_wait else self.wait_flag).value

    def wake_cost(self, on_host: bool) -> float:
        """Seconds from a flag's write until a stream that it blocked continues."""
        return (self.host_flag_wake if on_host and self.host_flag_wake else self.flag_wake).value


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
