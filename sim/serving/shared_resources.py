"""Which groups on a host can slow each other, and which placements of groups are alike."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cache

from sim.hardware import Profile, collectives
from sim.program import Collective, Copy, PointToPoint, Program, Send


def resources_used(profile: Profile, program: Program) -> frozenset[int]:
    """Resources of the fabric, of limited capacity, that a program's copies, collectives and transfers cross."""
    found: set[int] = set()
    seen: set[Hashable] = set()
    for number, rank in enumerate(program.ranks):
        for command in rank.commands():
            what: Hashable
            if isinstance(command, Copy):
                peer = None if not isinstance(command.peer, int) else program.gpus[command.peer]
                what = command.kind, program.gpus[number], peer
                if what not in seen:
                    seen.add(what)
                    found |= {r for r, _ in profile.copy_flow(command.kind, program.gpus[number], peer).route}
            elif isinstance(command, Collective):
                gpus = tuple(program.gpus[member] for member in command.members(program.world_size))
                what = command.kind, command.bytes, gpus
                if what not in seen and len(gpus) > 1:
                    seen.add(what)
                    for phase in collectives.flows(profile, command.kind, command.bytes, gpus):
                        found |= {r for spec, _ in phase.flows for r, _ in spec.route}
                        other = (spec.alternate_route for spec, _ in phase.flows)
                        found |= {r for route in other if route is not None for r, _ in route[1]}
            elif isinstance(command, PointToPoint):
                for t in command.transfers:
                    ends = (number, t.peer) if isinstance(t, Send) else (t.peer, number)
                    what = tuple(program.gpus[end] for end in ends)
                    if what not in seen:
                        seen.add(what)
                        source, target = (program.gpus[end] for end in ends)
                        found |= {r for r, _ in collectives.transfer(profile, t.bytes, source, target)[1].route}
    return frozenset(r for r in found if profile.capacities[r] < float("inf"))


def components(used: Sequence[frozenset[int]]) -> list[list[int]]:
    """Numbers of groups, together where they cross a common resource, directly or by way of others."""
    found: list[tuple[list[int], set[int]]] = []
    for number, of in enumerate(used):
        mine: tuple[list[int], set[int]] = ([number], set(of))
        apart = []
        for other in found:
            if other[1] & mine[1]:
                mine = ([*other[0], *mine[0]], other[1] | mine[1])
            else:
                apart.append(other)
        found = [*apart, mine]
    return [sorted(members) for members, _ in found]


class Alike:
    """Tells placements of groups apart by what their GPUs have in common on the host.

    Two placements are alike where GPUs that stand in the same places have routes to the host, and to each other, of the
    same capacities, and share them with the same other GPUs. A run on one then takes as long as on the other.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._between = cache(self._read)

    def key(self, gpus: Iterable[int]) -> Hashable:
        """Equal for placements that are alike: of GPUs in the order of ranks."""
        placed = tuple(gpus)
        return tuple(self._between(a, b) for i, a in enumerate(placed) for b in placed[: i + 1])

    def _read(self, a: int, b: int) -> Hashable:
        profile = self._profile
        if a == b:
            device = profile.device_of(a)
            return device.name, *(self._route(profile.copy_flow(kind, a).route) for kind in ("h2d", "d2h"))
        there, back = (profile.peer_route((edge,), 1.0) for edge in ((a, b), (b, a)))
        mine, theirs = (dict(profile.copy_flow("h2d", gpu).route) for gpu in (a, b))
        ours, others = (dict(profile.copy_flow("d2h", gpu).route) for gpu in (a, b))
        common = tuple(sorted(self._profile.capacities[r] for r in mine.keys() & theirs.keys()))
        common_back = tuple(sorted(self._profile.capacities[r] for r in ours.keys() & others.keys()))
        return common, common_back, self._route(there), self._route(back)

    def _route(self, route: Iterable[tuple[int, float]]) -> Hashable:
        return tuple(sorted((self._profile.capacities[r], multiplier) for r, multiplier in route))
