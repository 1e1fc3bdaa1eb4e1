"""Schedules in which host threads decide when a chunk is issued: the published launch and kernel windows.

After the public code of a ChunkFlow author's SGLang fork (github EthanMeng324/sglang, branch v0.5.9-shard,
layerwise_offload_chunkwise.py). One thread runs the model. A second one issues a chunk, waits until it has landed,
and issues the next; before each it waits until the count of active collectives is zero. The model's thread, to launch
a collective, raises the count, takes the copies' lock, and makes the compute stream wait for what the copy stream has
been given. In the launch window it lowers the count when the launch has returned; in the kernel window a third thread
does, when it sees that the collective has ended. The fork holds the lock until a chunk has landed (`lock: landed`), so
that a launch waits for the chunk in flight, and gives it back before the launch: a chunk that had found the count at
zero slips in then.
"""

from __future__ import annotations

from sim.policies.parameters import Yielding
from sim.policies.schedule import COMPUTE, COPY, Schedule
from sim.workload import Workload

ACTIVE, REQUESTED, PREFETCHED, LOCK = "active collectives", "requested layers", "prefetched layers", "copy lock"


class HostSchedule(Schedule):
    """Chunks issued one at a time by a host thread of their own."""

    def __init__(self, workload: Workload, policy: Yielding) -> None:
        super().__init__(workload, policy)
        self.poll = float(policy.poll)
        self.slots = max(policy.slots or 0, self.slots)
        self.model = 0
        self.worker = self.rank.thread() if self.offloads else 0
        self.until_landed = policy.lock == "landed"
        self.poller = self.rank.thread() if self.offloads and policy.window == "kernel" else None
        self.rank.switch(self.model)

    def prefetch(self, n: int) -> None:
        """Ask the worker for the n-th layer executed, and let it issue the chunks."""
        rank = self.rank
        if not self.offloads:
            return
        if n >= self.ahead:  # the first layers need no request
            rank.host_add(REQUESTED, 1)
        rank.switch(self.worker)
        rank.host_wait_counter(REQUESTED, least=n - self.ahead + 1)
        self.wait_for_slot(n)
        for name, offset, size in self.chunks(n):
            rank.host_wait_counter(ACTIVE, most=0)
            rank.host_acquire(LOCK)
            self.copy(n, name, offset, size)
            self.landed[n] = rank.record(COPY)
            if self.until_landed:
                rank.host_wait(self.landed[n])
            rank.host_release(LOCK)
            if not self.until_landed:
                rank.host_wait(self.landed[n])
        rank.host_add(PREFETCHED, 1)
        rank.switch(self.model)

    def before_layer(self, n: int) -> None:
        """Hold the model's thread until the worker has issued the layer's last chunk: its event exists only then."""
        if self.offloads:
            self.rank.host_wait_counter(PREFETCHED, least=n + 1)

    def before_collective(self) -> None:
        """Open the window in which no chunk is issued."""
        if self.offloads:
            self.rank.host_add(ACTIVE, 1)
            self.rank.host_acquire(LOCK)
            self.rank.wait(COMPUTE, self.rank.record(COPY))
            if self.until_landed:
                self.rank.host_release(LOCK)

    def after_collective(self) -> None:
        """End the window: now, or when the poller sees that the collective has ended."""
        rank = self.rank
        if not self.offloads:
            return
        if not self.until_landed:
            rank.host_release(LOCK)
        if self.poller is None:
            rank.host_add(ACTIVE, -1)
            return
        ended = rank.record(COMPUTE)
        rank.switch(self.poller)
        rank.host_wait(ended, self.poll)
        rank.host_add(ACTIVE, -1)
        rank.switch(self.model)
