"""What a hardware profile holds: the device, classes of copies and collectives, costs of commands."""

from __future__ import annotations

import msgspec

from sim.hardware.topology import Sourced
from sim.inputs.config import Config
from sim.inputs.units import Bandwidth, Bytes, FlopRate, Number, Seconds

MAX_GPUS = 1024


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
    overhead: Sourced[Bytes] | msgspec.UnsetType = msgspec.UNSET
    """Memory that the CUDA context and NCCL take, which is in no peak. Not given is not known, and no part of a
    profile's digest."""


class DeviceGroup(Device, frozen=True, kw_only=True):
    """Those of a host's GPUs that are of a kind of their own: what differs from `device`, and which they are."""

    gpus: tuple[int, ...]


class CopyClass(Config, frozen=True):
    """Copies by a DMA engine: seconds = max(minimum, setup + bytes / cap) if uncontended.

    `engines` of them move at once on a GPU; others wait, first come first served.
    """

    cap: Sourced[Bandwidth]
    weight: Sourced[Number]
    setup: Sourced[Seconds]
    minimum: Sourced[Seconds]
    engines: Sourced[Number] = Sourced(Number(1.0), "not given: taken as 1")
    """Copies of this direction and GPU that move at once, to the nearest whole number; the others wait.

    An engine goes on with copies of the stream that it serves, events between them or not, until that stream runs dry,
    is blocked or comes to a flag's write or wait; then it serves the stream that has waited longest.
    """

    switch: Sourced[Seconds] = Sourced(Seconds(0.0), "not given: taken as 0")
    """Extra set-up of a copy that waited for its engine, which turns to its stream."""

    @property
    def copies_at_once(self) -> int:
        """`engines` as a whole number, at least 1."""
        return max(1, round(self.engines.value))


_STAGED = "assumed: as measured on h200x1-20261129m"


class PageableCopies(Config, frozen=True):
    """Copies of one direction from or to host memory that is not pinned: the driver stages them.

    H2D blocks the host thread for `setup` + bytes / `rate`, until the last byte is staged; at most `staging` bytes may
    wait for the stream to move them. D2H blocks it until the copy is complete, from when the stream gets to it for
    `setup` + min(bytes, `staging`) / `d2h.cap` + bytes / `rate`: what is staged first crosses the link before any of
    it is passed on.
    """

    rate: Sourced[Bandwidth]
    setup: Sourced[Seconds]
    staging: Sourced[Bytes]
    """Bytes between the host's memory and the device's."""


class Pageable(Config, frozen=True):
    """Copies from and to pageable host memory."""

    h2d: PageableCopies = PageableCopies(
        Sourced(Bandwidth(7.937e9), _STAGED), Sourced(Seconds(4.915e-6), _STAGED), Sourced(Bytes(2097152), _STAGED)
    )
    d2h: PageableCopies = PageableCopies(
        Sourced(Bandwidth(14.56e9), _STAGED), Sourced(Seconds(13.39e-6), _STAGED), Sourced(Bytes(2097152), _STAGED)
    )


_LIKE_DEVICE: Sourced[Seconds] = Sourced(Seconds(0.0), "")
"""Placeholder: use the number of a flag in device memory."""

_HOST_FLAGS = {"host_flag_write": "write_flag", "host_flag_wait": "wait_flag", "host_flag_wake": "flag_wake"}


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
    host_flag_write: Sourced[Seconds] = _LIKE_DEVICE
    """cuStreamWriteValue32 on registered host memory; as `write_flag` unless given."""
    host_flag_wait: Sourced[Seconds] = _LIKE_DEVICE
    """A satisfied cuStreamWaitValue32 on registered host memory; as `wait_flag` unless given."""
    host_flag_wake: Sourced[Seconds] = _LIKE_DEVICE
    """From the end of such a write until a stream that it blocked continues; as `flag_wake` unless given."""

    def __post_init__(self) -> None:
        for name, like in _HOST_FLAGS.items():
            if getattr(self, name) is _LIKE_DEVICE:
                value = getattr(self, like).value
                msgspec.structs.force_setattr(self, name, Sourced(value, f"not given: as streams.{like}"))

    def write_cost(self, on_host: bool) -> float:
        """Seconds of a flag's write."""
        return (self.host_flag_write if on_host else self.write_flag).value

    def wait_cost(self, on_host: bool) -> float:
        """Seconds of a wait for a flag that already has its value."""
        return (self.host_flag_wait if on_host else self.wait_flag).value

    def wake_cost(self, on_host: bool) -> float:
        """Seconds from a flag's write until a stream that it blocked continues."""
        return (self.host_flag_wake if on_host else self.flag_wake).value


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
    device_copy: Sourced[Seconds] | None = None
    """A copy within a GPU or between two; as `copy` where it is not given."""
    point_to_point: Sourced[Seconds] | None = None
    """A group of sends and receives; as `collective` where it is not given."""
    wake_spread: Sourced[Number] = Sourced(Number(0.0), "not given: taken as 0")
    """Jitter of `wake`: uniform in [1 - wake_spread, 1 + wake_spread] times its value."""
    memory: Sourced[Bytes] | msgspec.UnsetType = msgspec.UNSET
    """The host's memory, of which pinned weights are a part. Not given is not known, and no part of a profile's digest;
    it is never another host's (`like`)."""
