"""Parameters of the policies, as scenario files give them."""

from __future__ import annotations

from typing import Literal

from sim.config import Config
from sim.units import Bytes, Number, Seconds


class _Offload(Config, frozen=True):
    """Parameters of every policy that copies. `resident_fraction` of a layer's bytes stays on the GPU.

    Of `resident_layers`, counted from 0 through all blocks, all bytes do.
    """

    resident_fraction: Number = Number(0.0)
    prefetch_layers: int = 1
    resident_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.resident_fraction <= 1.0:
            raise ValueError(f"resident_fraction is {self.resident_fraction}, expected 0 to 1")
        if self.prefetch_layers < 0:
            raise ValueError(f"prefetch_layers is {self.prefetch_layers}, expected 0 or more")


class Resident(Config, frozen=True, tag_field="kind", tag="resident"):
    """All weights on the GPU."""


class WholeLayer(_Offload, frozen=True, tag_field="kind", tag="whole_layer"):
    """One copy a layer. With `issue: after_compute` it also waits for all compute queued when it is issued.

    With `quiesce` a collective waits until the copies issued before it have ended, as in the fork (see host.py).
    """

    issue: Literal["async", "after_compute"] = "async"
    quiesce: bool = False


class Chunked(_Offload, frozen=True, kw_only=True, tag_field="kind", tag="chunked"):
    """Copies of `chunk_bytes`, back to back."""

    chunk_bytes: Bytes

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_bytes < 1:
            raise ValueError("chunk_bytes is 0, at least 1 is needed")


class Yielding(Chunked, frozen=True, tag_field="kind", tag="yielding"):
    """Chunks that keep clear of collectives; `window` says when copies yield.

    - `device_gate`: the compute stream sets a flag right before each collective and clears it right after; the copy
      stream waits for 0 before each chunk. With `drain` the collective also waits until the chunk in flight has ended.
    - `launch`: a host thread issues one chunk at a time and waits for it; it issues none while another host thread is
      launching a collective. What the GPU does then is not known to either.
    - `kernel`: as `launch`, but the window lasts until the collective has ended on the GPU, which a third host thread
      sees by polling every `poll`.

    The host threads of `launch` and `kernel` may have `slots` layers on the GPU (prefetch_layers + 1 unless given): the
    published code takes memory for each layer from an allocator, so its host runs ahead until a queue is full. A lock
    keeps a chunk and the launch of a collective apart: `lock: issued` until either has been issued; `lock: landed`, as
    in the published code, until the chunk has landed, and only until the collective's stream has been made to wait.
    """

    window: Literal["device_gate", "launch", "kernel"] = "device_gate"
    drain: bool = False
    poll: Seconds = Seconds(1e-3)
    slots: int | None = None
    lock: Literal["issued", "landed"] = "issued"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lock != "issued" and self.window == "device_gate":
            raise ValueError("lock is for windows launch and kernel")
        if self.drain and self.window != "device_gate":
            raise ValueError("drain needs window: device_gate")
        if 0 < self.poll < 1e-9:
            raise ValueError(f"poll is {float(self.poll)} s, expected 0 or at least 1 ns")
        if self.slots is not None and (self.window == "device_gate" or self.slots <= self.prefetch_layers):
            raise ValueError("slots is for windows launch and kernel, and more than prefetch_layers")


class Sharded(_Offload, frozen=True, tag_field="kind", tag="sharded"):
    """Every rank brings 1/N of a layer's copied bytes, an all_gather brings the rest.

    A rank copies its part at once, or `chunk_bytes` of it at a time; each is gathered as soon as it is there. With
    `store: device` the parts stay on the GPUs and nothing is copied. `prefetch_layers: 0` gathers a layer only when
    the one before has ended, as FSDP does without prefetch.
    """

    chunk_bytes: Bytes | None = None
    store: Literal["host", "device"] = "host"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_bytes is not None and self.chunk_bytes < 2:
            raise ValueError(f"chunk_bytes is {int(self.chunk_bytes)}, at least 2 is needed")


Policy = Resident | WholeLayer | Chunked | Yielding | Sharded
