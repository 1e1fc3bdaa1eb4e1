"""Ranks that do the same at the same time are simulated once: one of each class, on the quotient of the host."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Self

from sim import policies
from sim.fluid import weighted_max_min
from sim.hardware.quotient import BrokenSymmetryError, Quotient
from sim.machine import SimulatedMachine
from sim.policies import Policy
from sim.program import (
    Collective,
    Copy,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    HostWork,
    Kernel,
    Program,
    RankProgram,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import Timeline
from sim.workloads.block_items import CollectiveOp
from sim.workloads.workload import Workload

_OWN = frozenset({Kernel, RecordEvent, WaitEvent, HostAdd, HostWait, HostAcquire, HostRelease, HostWork})
"""Commands that concern nobody but their rank, whatever their fields are."""


class Ranks:
    """The ranks that are simulated for those of a run: all of them, or one of each class, on a machine for these."""

    def __init__(
        self,
        machine: SimulatedMachine,
        policy: Policy,
        world_size: int,
        placement: Sequence[int],
        quotient: Quotient | None = None,
    ) -> None:
        self.machine = machine
        self.policy = policy
        self.world_size = world_size
        self.placement = tuple(placement)
        self.quotient = quotient
        self.sizes: tuple[int, ...] = (1,) * world_size
        """How many ranks each one that is simulated stands for."""
        if quotient is not None:
            self.machine = SimulatedMachine(machine.profile, machine.rate_law, quotient)
            self.sizes = tuple(quotient.sizes[number] for number in range(len(quotient.representatives)))

    @classmethod
    def alike(
        cls,
        machine: SimulatedMachine,
        workload: Workload,
        policy: Policy,
        world_size: int,
        placement: Sequence[int],
    ) -> Self | None:
        """One rank of each class of those that are proved to do the same at the same time; None if none are."""
        if world_size < 2 or not (workload.alike and policy.ranks_alike) or machine.rate_law is not weighted_max_min:
            return None
        profile, gpus = machine.profile, tuple(placement) or tuple(range(world_size))
        calls = dict.fromkeys(op for op in workload.entries() if isinstance(op, CollectiveOp))
        for part in profile.symmetry_of(gpus).parts():
            quotient = Quotient.of(profile, gpus, part)
            with suppress(BrokenSymmetryError):
                for op in calls:
                    quotient.collective(op.kind, int(op.bytes), None)
                return cls(machine, policy, world_size, placement, quotient)
        return None

    def build(self, workload: Workload) -> Program:
        """The program of the ranks that are simulated.

        Raises:
            BrokenSymmetryError: it has a command by which ranks see each other in a way that is not known to be alike.
        """
        program = policies.build(workload, self.policy, self.world_size, self.placement)
        if self.quotient is None:
            return program
        for rank in {id(rank): rank for rank in program.ranks}.values():
            if not self._concerns_itself(rank):
                raise BrokenSymmetryError("a command concerns other ranks")
        first = self.quotient.representatives
        return Program(tuple(program.ranks[rank] for rank in first), tuple(program.gpus[rank] for rank in first))

    def shared(self, of: tuple[Hashable, ...], make: Callable[[], Program]) -> Program:
        """What `make` gives of their programs, or gave before of what is equal (`policies.programs_shared`)."""
        ranks = None if self.quotient is None else (self.quotient.representatives, self.quotient.class_of)
        jitter = self.machine.profile.host.wake_spread.value > 0  # which may break the symmetry
        return policies.shared((*of, self.policy, self.world_size, self.placement, ranks, jitter), make)

    def _concerns_itself(self, rank: RankProgram) -> bool:
        """Whether a rank meets others at collectives only, and its host threads take the time that any rank's do."""
        if rank.composed_collectives or any(buffer.shared for buffer in rank.host_memory.values()):
            return False
        jitter = self.machine.profile.host.wake_spread.value > 0
        for thread in rank.threads:
            for command in thread:
                kind = type(command)
                if kind in _OWN or kind is Collective or (kind is HostWaitEvent and not jitter):
                    continue
                if isinstance(command, Copy) and command.kind != "p2p":
                    continue
                if isinstance(command, WriteFlag | WaitFlag) and not command.on_host:
                    continue
                return False
        return True

    def of_all(self, timeline: Timeline) -> Timeline:
        """The timeline of all ranks from one of those that were simulated, whose spans stand for the others'."""
        quotient = self.quotient
        if quotient is None:
            return timeline
        numbers, classes = quotient.representatives, quotient.class_of

        def each(values: Sequence[tuple[float, ...]]) -> tuple[tuple[float, ...], ...]:
            return tuple(values[number] for number in classes) if values else ()

        spans, host = timeline.spans, timeline.host
        if numbers != tuple(range(len(numbers))):
            spans = tuple(span._replace(rank=numbers[span.rank]) for span in spans)
            host = tuple(span._replace(rank=numbers[span.rank]) for span in host)
        return timeline._replace(
            program=Program(tuple(timeline.program.ranks[number] for number in classes), self.placement),
            spans=spans,
            host=host,
            steps=each(timeline.steps),
            simulated_steps=each(timeline.simulated_steps),
            quotient=quotient,
        )


def expanded(timeline: Timeline) -> Timeline:
    """`timeline` with the spans of every rank."""
    quotient = timeline.quotient
    if quotient is None:
        return timeline
    ranks: dict[int, list[int]] = {}
    for rank, first in enumerate(quotient.symmetry.rank_class):
        ranks.setdefault(first, []).append(rank)

    return timeline._replace(
        spans=tuple(span._replace(rank=rank) for span in timeline.spans for rank in ranks[span.rank]),
        host=tuple(span._replace(rank=rank) for span in timeline.host for rank in ranks[span.rank]),
        quotient=None,
    )
