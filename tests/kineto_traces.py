"""Small traces as torch.profiler writes them, in the forms of its versions, for tests of the importer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Event = dict[str, Any]
DATA = Path(__file__).parent / "traces"
"""Traces of our own: FLUX resident and offloaded, Wan resident (diffusers, two H200)."""
RESIDENT = DATA / "diffusers_flux_1024_batch4_ulysses2_resident.json.gz"
OFFLOADED = DATA / "diffusers_flux_1024_batch4_ulysses2_group_offload.json.gz"
WAN = DATA / "diffusers_wan14b_33f_ulysses2_resident.json.gz"

ELEMENTS = 20_000_000
COMPUTE_US, COLLECTIVE_US, LAUNCH_US = 1000.0, 1700.0, 5.0
WEIGHTS = 55_000_000


class Trace:
    """A trace of `passes` passes of `layers` equal layers: two kernels, an all-to-all, one kernel; a kernel at each end.

    `offload`: each layer's weights are copied on stream 65, one layer ahead, and the host waits for them; 20 MB of no
    layer go up from pageable memory first, and down at the end.
    """

    def __init__(
        self,
        passes: int = 2,
        layers: int = 3,
        rank: int = 0,
        world: int = 2,
        offload: bool = False,
        metadata: str = "kernel",
        name: str = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
        collective: str = "all_to_all",
        whole: bool = False,
        start: float = 5_000_000.0,
        calls: bool = True,
        syncs: bool = False,
    ) -> None:
        self.events: list[Event] = []
        self.rank, self.world, self.metadata, self.whole = rank, world, metadata, whole
        self.name, self.collective_name, self.calls, self.syncs = name, collective, calls, syncs
        self.host = self.gpu = start
        self.copied = start
        self.correlation = 0
        for _ in range(passes):
            if offload:
                self.copy("h2d", 20_000_000, 7, pageable=True)
                self.copy("h2d", WEIGHTS, 65)
            self.kernel("embed", 200)
            for layer in range(layers):
                if offload:
                    self.synchronise(self.copied)
                    if layer + 1 < layers:
                        self.copy("h2d", WEIGHTS, 65)
                self.kernel("gemm_a", COMPUTE_US)
                self.kernel("norm", 100)
                self.exchange()
                self.kernel("attention", COMPUTE_US)
            self.kernel("head", 300)
            if offload:
                self.copy("d2h", 20_000_000, 7, pageable=True)

    def call(self, name: str, dur: float = LAUNCH_US) -> int:
        self.correlation += 1
        at = {"ph": "X", "cat": "cuda_runtime", "name": name, "pid": 1, "tid": 1, "ts": self.host, "dur": dur}
        if self.calls:
            self.events.append(at | {"args": {"correlation": self.correlation, "External id": self.correlation}})
            flow = {"id": self.correlation, "pid": 1, "tid": 1, "ts": self.host, "cat": "ac2g", "name": "ac2g"}
            self.events.append(flow | {"ph": "s"})
        self.host += dur + 5
        return self.correlation

    def run(self, cat: str, name: str, start: float, dur: float, stream: int, **args: Any) -> float:
        about = {"device": self.rank, "stream": stream, "correlation": self.correlation} | args
        self.events.append(
            {
                "ph": "X",
                "cat": cat,
                "name": name,
                "pid": self.rank,
                "tid": stream,
                "ts": start,
                "dur": dur,
                "args": about,
            }
        )
        return start + dur

    def kernel(self, name: str, dur: float) -> None:
        issued = self.host
        self.call("cudaLaunchKernel")
        self.gpu = self.run("kernel", name, max(self.gpu + 2, issued + 6), dur, 7)

    def exchange(self) -> None:
        about = {
            "Collective name": self.collective_name,
            "In msg nelems": ELEMENTS,
            "Out msg nelems": ELEMENTS,
            "Group size": self.world,
            "dtype": "BFloat16",
            "Process Group Ranks": str(list(range(self.world))),
        }
        self.order(7, 17)
        issued = self.host
        self.call("cudaLaunchKernelExC")
        known = {"External id": self.correlation} | (about if self.metadata == "kernel" else {})
        self.gpu = self.run("kernel", self.name, max(self.gpu + 4, issued + 6), COLLECTIVE_US, 17, **known)
        if self.metadata == "host":
            self.events.append(
                {"ph": "X", "cat": "cpu_op", "name": "record_param_comms", "pid": 1, "tid": 1, "ts": issued, "dur": 9}
                | {"args": about | {"External id": self.correlation}}
            )
        self.order(17, 7)

    def order(self, first: int, then: int) -> None:
        """Let stream `then` wait for stream `first`."""
        recorded = self.call("cudaEventRecord", 1)
        self.call("cudaStreamWaitEvent", 1)
        self.told("Stream Wait Event", stream=then, wait_on_stream=first, wait_on_cuda_event_record_corr_id=recorded)

    def copy(self, kind: str, size: int, stream: int, pageable: bool = False) -> None:
        arrow = "Pageable" if pageable else "Pinned"
        name = f"Memcpy HtoD ({arrow} -> Device)" if kind == "h2d" else f"Memcpy DtoH (Device -> {arrow})"
        issued = self.host
        dur = size / 8e3 if pageable else size / 55e3
        start = max(issued + 10, self.gpu if stream == 7 else self.copied)
        self.call("cudaMemcpyAsync", start + dur - issued if pageable else 4)
        end = self.run("gpu_memcpy", name, start, dur, stream, bytes=size)
        if stream == 7:
            self.gpu = end
        else:
            self.copied = end

    def synchronise(self, until: float) -> None:
        self.call("cudaStreamSynchronize", max(until + 8 - self.host, 3))
        self.told("Stream Sync", stream=65)

    def told(self, kind: str, **args: int) -> None:
        """What the profiler says of the last call where it was asked for synchronisations."""
        if self.syncs:
            about = {"cuda_sync_kind": kind, "correlation": self.correlation, "device": self.rank} | args
            self.events.append(
                {"ph": "X", "cat": "cuda_sync", "name": kind, "pid": self.rank, "tid": -1, "ts": self.host, "dur": 1}
                | {"args": about}
            )

    def plain(self) -> dict[str, Any]:
        """The document."""
        events = self.events
        if self.whole:
            events = [e | {key: int(e[key]) for key in ("ts", "dur") if key in e} for e in events]
        return {
            "schemaVersion": 1,
            "deviceProperties": [
                {"id": i, "name": "NVIDIA H200", "totalGlobalMem": 150109880320} for i in range(self.world)
            ],
            "distributedInfo": {"backend": "nccl", "rank": self.rank, "world_size": self.world},
            "traceEvents": [{"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "python"}}, *events],
        }

    def write(self, file: Path) -> Path:
        """The trace as a file, compressed where its name says so."""
        content = json.dumps(self.plain()).encode()
        file.write_bytes(gzip.compress(content, mtime=0) if file.name.endswith(".gz") else content)
        return file
