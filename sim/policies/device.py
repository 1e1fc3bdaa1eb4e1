"""Schedules that the GPU's streams carry out alone: the host issues everything ahead, events and flags decide."""

from __future__ import annotations

from sim.policies.parameters import Policy, WholeLayer, Yielding
from sim.policies.schedule import COMPUTE, COPY, Schedule
from sim.workload import Workload

GATE, BUSY = "gate", "busy"


class DeviceSchedule(Schedule):
    """Whole layers or chunks on the copy stream, gated by a flag where the policy yields."""

    def __init__(self, workload: Workload, policy: Policy) -> None:
        super().__init__(workload, policy)
        self.gated = isinstance(policy, Yielding) and self.offloads
        self.drains = self.gated and isinstance(policy, Yielding) and policy.drain
        self.late = isinstance(policy, WholeLayer) and policy.issue == "after_compute"
        self.quiesces = isinstance(policy, WholeLayer) and policy.quiesce and self.offloads

    def prefetch(self, n: int) -> None:
        """Issue the copies for the n-th layer executed, each behind the gate."""
        rank = self.rank
        chunks = list(self.chunks(n))
        if not chunks:
            return
        if self.late:
            rank.wait(COPY, rank.record(COMPUTE))
        self.wait_for_slot(n)
        for name, offset, size in chunks:
            if self.gated:
                rank.wait_flag(COPY, GATE, 0)
            if self.drains:
                rank.write_flag(COPY, BUSY, 1)
            self.copy(n, name, offset, size)
            if self.drains:
                rank.write_flag(COPY, BUSY, 0)
        self.landed[n] = rank.record(COPY)

    def before_collective(self) -> None:
        """Close the gate, and wait for the copy in flight where the policy says so."""
        if self.quiesces:
            self.rank.wait(COMPUTE, self.rank.record(COPY))
        if self.gated:
            self.rank.write_flag(COMPUTE, GATE, 1)
        if self.drains:
            # a chunk that passed as the gate closed says so one flag write later: look no sooner
            self.rank.write_flag(COMPUTE, GATE, 1)
            self.rank.wait_flag(COMPUTE, BUSY, 0)

    def after_collective(self) -> None:
        """Open the gate."""
        if self.gated:
            self.rank.write_flag(COMPUTE, GATE, 0)
