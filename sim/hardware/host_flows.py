"""What the commands of ranks move over a host's resources, rank by rank; `sim.hardware.quotient` has it by classes."""

from __future__ import annotations

from collections.abc import Sequence

from sim.fluid import FlowSpec, RateLaw, weighted_max_min
from sim.hardware import collectives
from sim.hardware.profile import Profile
from sim.program import CollectiveKind, CopyKind

Group = tuple[int, ...] | None
"""Ranks that take part in a collective; None: all of them."""


class HostFlows:
    """The flows of ranks that sit on `gpus`, each rank for itself. `capacities` are those that flows share, B/s."""

    def __init__(self, profile: Profile, gpus: Sequence[int], law: RateLaw = weighted_max_min) -> None:
        self.profile = profile
        self.gpus = tuple(gpus)
        self.law = law
        self.capacities = profile.capacities
        self._collectives: dict[tuple[CollectiveKind, int, Group], list[collectives.PhaseFlows]] = {}
        self._incoming: dict[tuple[CollectiveKind, int, Group, int], list[list[tuple[FlowSpec, float]]]] = {}
        self._isolated: dict[tuple[CollectiveKind, int, Group], tuple[float, ...]] = {}

    def kernel(self, gpu: int, seconds: float, launches: int) -> FlowSpec:
        """As `Profile.kernel_flow`."""
        return self.profile.kernel_flow(gpu, seconds, launches)

    def copy(self, kind: CopyKind, gpu: int, peer: int | None) -> FlowSpec:
        """As `Profile.copy_flow`."""
        return self.profile.copy_flow(kind, gpu, peer)

    def members(self, group: Group) -> tuple[int, ...]:
        """The ranks of a group that are simulated."""
        return tuple(range(len(self.gpus))) if group is None else group

    def collective(self, kind: CollectiveKind, size: int, group: Group) -> list[collectives.PhaseFlows]:
        """The phases of a collective; ranks of parts are places among `members`. Raises InputError as `flows`."""
        key = kind, size, group
        if key not in self._collectives:
            self._collectives[key] = self._find_collective(*key)
        return self._collectives[key]

    def isolated(self, kind: CollectiveKind, size: int, group: Group) -> tuple[float, ...]:
        """Seconds of a collective for each of `members`, on an idle host with all ranks arriving together."""
        key = kind, size, group
        if key not in self._isolated:
            self._isolated[key] = self._find_isolated(*key)
        return self._isolated[key]

    def incoming(self, kind: CollectiveKind, size: int, group: Group, rank: int) -> list[list[tuple[FlowSpec, float]]]:
        """Of each phase, the flows that `rank` gets something by, and their sizes, B.

        Their routes are over the profile's resources, at least those that copies to the rank's GPU cross.
        """
        key = kind, size, group, rank
        if key not in self._incoming:
            self._incoming[key] = self._find_incoming(*key)
        return self._incoming[key]

    def _find_incoming(
        self, kind: CollectiveKind, size: int, group: Group, rank: int
    ) -> list[list[tuple[FlowSpec, float]]]:
        ranks = tuple(range(len(self.gpus))) if group is None else group
        place, gpus = ranks.index(rank), self._gpus_of(group)
        found = []
        for phase in collectives.phases_of(self.profile, kind, size, gpus, collectives.Pairs(targets={place})):
            flows = collectives.flows_of_phase(self.profile, kind, gpus, phase).flows
            found.append([(spec, part.size) for spec, part in flows if any(to == place for _, to in part.edges)])
        return found

    def place(self, group: Group, rank: int) -> int:
        """The place of `rank` among `members`."""
        return self.members(group).index(rank)

    def _find_collective(self, kind: CollectiveKind, size: int, group: Group) -> list[collectives.PhaseFlows]:
        return collectives.flows(self.profile, kind, size, self._gpus_of(group))

    def _find_isolated(self, kind: CollectiveKind, size: int, group: Group) -> tuple[float, ...]:
        moves = self.collective(kind, size, group)
        return collectives.times_alone(moves, len(self.members(group)), self.capacities, self.law)

    def _gpus_of(self, group: Group) -> tuple[int, ...]:
        return self.gpus if group is None else tuple(self.gpus[rank] for rank in group)
